// Package metrics shows an engine's counters to Prometheus.
//
// A scrape asks the engine once, which asks each loop once, between two turns; nothing is
// counted here. Names, units and labels are those that docs/OPERATING.md lists and the
// dashboard in ops/grafana uses.
package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/zc"
)

// Collector exports what stats returns, which is called once for each scrape: a method value of
// [engine.Engine.Stats].
func Collector(stats func() engine.Stats) prometheus.Collector { return collector(stats) }

type collector func() engine.Stats

// single is a metric without labels.
type single struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*engine.Stats) float64
}

func counter(name, help string, value func(*engine.Stats) uint64) single {
	return single{describe(name, help), prometheus.CounterValue, func(s *engine.Stats) float64 { return float64(value(s)) }}
}

func gauge(name, help string, value func(*engine.Stats) float64) single {
	return single{describe(name, help), prometheus.GaugeValue, value}
}

// describe gives a metric the project's name and its unit at the end, as Prometheus wants it.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sluice_"+name, help, labels, nil)
}

var singles = []single{
	counter("connections_accepted_total", "Connections accepted and dialed.",
		func(s *engine.Stats) uint64 { return s.Accepted }),
	counter("accept_errors_total", "Accepts that failed, for want of descriptors for example.",
		func(s *engine.Stats) uint64 { return s.AcceptErrors }),
	counter("received_bytes_total", "Bytes received from peers.",
		func(s *engine.Stats) uint64 { return s.BytesReceived }),
	counter("send_errors_total", "Sends that failed and ended their connection.",
		func(s *engine.Stats) uint64 { return s.SendErrors }),
	counter("short_sends_total", "Sends that the socket accepted in part; the rest was sent again.",
		func(s *engine.Stats) uint64 { return s.Sends.ShortSends }),
	counter("undelivered_bytes_total", "Bytes that were queued when their connection ended.",
		func(s *engine.Stats) uint64 { return s.Undelivered }),
	counter("leases_refused_total", "Leases refused because the arena was used up.",
		func(s *engine.Stats) uint64 { return s.NoBuffers }),
	counter("receives_without_buffer_total", "Receives that found no provided buffer and were armed again.",
		func(s *engine.Stats) uint64 { return s.RecvNoBuffers }),
	counter("cq_overflows_total", "Turns that found the completion queue overflowed.",
		func(s *engine.Stats) uint64 { return s.CQOverflows }),
	counter("stray_completions_total", "Completions and notifications that nothing waited for.",
		func(s *engine.Stats) uint64 { return s.Sends.Stray }),
	counter("direct_read_bytes_total", "Bytes read from files around the page cache.",
		func(s *engine.Stats) uint64 { return s.DirectBytes }),
	counter("demoted_bytes_total", "Bytes copied so that shared memory could be released.",
		func(s *engine.Stats) uint64 { return s.Demoted }),
	counter("loop_turns_total", "Turns of all loops.",
		func(s *engine.Stats) uint64 { return s.Turns }),
	counter("enters_total", "Calls of io_uring_enter.",
		func(s *engine.Stats) uint64 { return s.Enters }),

	gauge("queued_bytes", "Bytes in the send queues, of memory and of files.",
		func(s *engine.Stats) float64 { return float64(s.Queued) }),
	gauge("starved_connections", "Connections that wait for memory or a send slot.",
		func(s *engine.Stats) float64 { return float64(s.Starved) }),
	gauge("pinned_bytes", "Bytes of zero-copy sends whose notification has not come.",
		func(s *engine.Stats) float64 { return float64(s.Pinned) }),
	gauge("pinned_limit_bytes", "The most bytes that may be pinned; what goes beyond it is copied.",
		func(s *engine.Stats) float64 { return float64(s.MaxPinned) }),
	gauge("oldest_pin_seconds", "Age of the zero-copy send that has waited longest for its notification; 0 without one.",
		func(s *engine.Stats) float64 { return s.OldestPin.Age.Seconds() }),
	gauge("oldest_pin_bytes", "Bytes of that send.",
		func(s *engine.Stats) float64 { return float64(s.OldestPin.Bytes) }),
	gauge("arena_in_sends_bytes", "Bytes of the arena in sends that the kernel has not finished; a shared buffer counts for each send.",
		func(s *engine.Stats) float64 { return float64(s.Arena.Pinned) }),
	gauge("private_copies_bytes", "Bytes of copies outside of the arena, made to release shared memory.",
		func(s *engine.Stats) float64 { return float64(s.Arena.Private) }),
}

var (
	sends         = describe("sends_total", "Sends by route and the reason for it.", "route", "reason")
	sentBytes     = describe("sent_bytes_total", "Bytes accepted by sockets, by route and the reason for it.", "route", "reason")
	notifications = describe("notifications_total", "Notifications of zero-copy sends by what they say.", "result")
	closed        = describe("connections_closed_total", "Connections that ended, in order or by a reset for the given reason.", "how")
	connections   = describe("connections", "Connections by state.", "state")
	arena         = describe("arena_bytes", "The registered memory by state.", "state")
	leased        = describe("arena_leased_bytes", "Leased bytes of the arena by the size of the piece.", "class")

	notifyDelay  = describe("notification_delay_seconds", "From a zero-copy send's completion to its notification.")
	responseTime = describe("response_time_seconds", "From a queue's first byte until the socket has accepted all of it.")
	turnTime     = describe("loop_turn_seconds", "One turn of a loop without the wait at its end; one turn in 64 is measured.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range singles {
		out <- m.desc
	}
	for _, d := range []*prometheus.Desc{sends, sentBytes, notifications, closed, connections, arena, leased, notifyDelay, responseTime, turnTime} {
		out <- d
	}
}

// Collect implements prometheus.Collector. Every label value is there from the start, so that
// the first event is an increase and not the beginning of a series.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	level := func(d *prometheus.Desc, n int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for _, m := range singles {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&s))
	}
	for route := range zc.Route(zc.NumRoutes) {
		for why := range zc.Reason(zc.NumReasons) {
			n := s.Sends.By[route][why]
			count(sends, n.Sends, route.String(), why.String())
			count(sentBytes, n.Bytes, route.String(), why.String())
		}
	}
	count(notifications, s.Sends.NotifiedZeroCopy, engine.ZeroCopied.String())
	count(notifications, s.Sends.NotifiedCopied, engine.CopiedByKernel.String())
	count(notifications, s.Sends.NotifiedUnknown, engine.Unknown.String())
	count(closed, s.ClosedInOrder, "in-order")
	for i, n := range s.Resets {
		count(closed, n, engine.ResetName(i))
	}
	for i, n := range s.States {
		level(connections, int64(n), engine.ConnStates[i])
	}
	level(arena, s.Arena.Free, "free")
	level(arena, s.Arena.Cached, "cached")
	level(arena, s.Arena.Leased, "leased")
	for i, n := range s.Arena.LeasedByClass {
		level(leased, n, strconv.Itoa(bufreg.MinBuffer<<i))
	}
	out <- histogram(notifyDelay, &s.NotifyDelay)
	out <- histogram(responseTime, &s.ResponseTime)
	out <- histogram(turnTime, &s.TurnTime)
}

// histogram says in seconds and cumulatively what h says in doubling microseconds.
func histogram(d *prometheus.Desc, h *zc.Histogram) prometheus.Metric {
	const bounded = zc.HistogramBuckets - 1
	buckets := make(map[float64]uint64, bounded)
	n := uint64(0)
	for i, in := range h.Counts[:bounded] {
		n += in
		buckets[float64(uint64(1)<<i)/1e6] = n
	}
	return prometheus.MustNewConstHistogram(d, n+h.Counts[bounded], float64(h.Sum)/1e9, buckets)
}
