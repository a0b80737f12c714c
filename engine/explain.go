package engine

import (
	"math"
	"time"

	"sluice/zc"
)

// Fate is what became of the bytes of a send.
type Fate uint8

const (
	ByRoute        Fate = iota // what the route says: copied into the socket, or handed to it by sendfile
	Awaited                    // accepted by zero-copy; the notification has not come yet
	ZeroCopied                 // the notification says that nothing was copied
	CopiedByKernel             // it says that the kernel copied after all; falsely so for small sends that it joined
	Unknown                    // it says nothing: a failed send, or a kernel before 6.2
)

func (f Fate) String() string {
	return [...]string{"by-route", "awaited", "zero-copied", "copied-by-kernel", "unknown"}[f]
}

// Decision is how one send of a connection went.
type Decision struct {
	At     time.Time // of the loop turn that decided
	Bytes  int       // submitted, and once it has completed: accepted
	Route  zc.Route
	Reason zc.Reason
	Fate   Fate
	Delay  time.Duration // from the completion to the notification
}

// trailLen is how many decisions a connection remembers: 400 bytes, from its first send on.
const trailLen = 16

// trail is a connection's last decisions.
type trail struct {
	n    uint32 // noted so far
	last [trailLen]trailMark
}

type trailMark struct {
	at     int64
	delay  uint32 // µs
	bytes  uint32
	route  zc.Route
	reason zc.Reason
	fate   Fate
}

// note remembers a decision and returns its number.
func (c *Conn) note(r zc.Route, why zc.Reason, bytes uint32) uint32 {
	if c.trail == nil {
		c.trail = new(trail)
	}
	t := c.trail
	t.last[t.n%trailLen] = trailMark{at: c.loop.now, bytes: bytes, route: r, reason: why}
	t.n++
	return t.n - 1
}

// settle says what became of a decision, unless it has been forgotten.
func (t *trail) settle(number, bytes uint32, f Fate, delay int64) {
	if t.n-number <= trailLen {
		m := &t.last[number%trailLen]
		m.bytes, m.fate, m.delay = bytes, f, uint32(min(delay/1000, math.MaxUint32))
	}
}

// Explain returns the connection's last decisions, at most 16, the oldest first.
func (c *Conn) Explain() []Decision {
	if c.trail == nil {
		return nil
	}
	t := c.trail
	var out []Decision
	for i := t.n - min(t.n, trailLen); i != t.n; i++ {
		m := t.last[i%trailLen]
		out = append(out, Decision{
			At: c.loop.start.Add(time.Duration(m.at)), Bytes: int(m.bytes), Route: m.route, Reason: m.reason,
			Fate: m.fate, Delay: time.Duration(m.delay) * time.Microsecond,
		})
	}
	return out
}

// Report is how a stretch of a connection's stream went: a response.
type Report struct {
	Ways      []Way
	Delivered bool          // every byte was accepted, and of every byte the fate is known
	Took      time.Duration // from queued to accepted, or to the connection's end
	Err       error         // why the connection ended before that; nil if it was delivered, or closed in order
	Delay     time.Duration // the longest from a completion to its notification
}

// Way is how many bytes of a stretch went one way.
type Way struct {
	Route  zc.Route
	Reason zc.Reason
	Fate   Fate
	Bytes  uint64
}

// tracked is a stretch [from, to) of the stream that is still to be reported.
type tracked struct {
	from, to uint64
	accepted uint64
	queuedAt int64
	awaited  uint64 // bytes whose notification is to come
	report   Report
	tell     func(Report)
}

// Report has tell called, on the loop, about everything that was queued since the previous
// Report: when it has been accepted and its notifications have come, or when the connection ends.
// It allocates; connections without reports pay nothing for it.
func (c *Conn) Report(tell func(Report)) {
	from := c.reported
	c.reported = c.accepted + uint64(c.queue.bytes)
	t := tracked{from: max(from, c.accepted), to: c.reported, queuedAt: c.loop.now, tell: tell}
	if t.to == t.from {
		tell(Report{Delivered: true})
		return
	}
	c.reports = append(c.reports, t)
}

// reportSent attributes accepted bytes, before they are counted as such.
func (c *Conn) reportSent(n int, r zc.Route, why zc.Reason, f Fate) {
	from, to := c.accepted, c.accepted+uint64(n)
	c.accepted = to
	if len(c.reports) == 0 {
		return
	}
	for i := range c.reports {
		t := &c.reports[i]
		if part := t.overlap(from, to); part > 0 {
			t.accepted += part
			t.add(Way{r, why, f, part})
			if f == Awaited {
				t.awaited += part
			}
			t.report.Took = time.Duration(c.loop.now - t.queuedAt)
		}
	}
	c.loop.reporting = append(c.loop.reporting, c)
}

// reportNotified takes the fate of bytes that was awaited.
func (c *Conn) reportNotified(op *sendOp, f Fate, delay int64) {
	if len(c.reports) == 0 {
		return
	}
	for i := range c.reports {
		t := &c.reports[i]
		if part := t.overlap(op.from, op.from+uint64(op.Sent)); part > 0 {
			t.awaited -= part
			t.take(Way{op.Route, op.reason, Awaited, part})
			t.add(Way{op.Route, op.reason, f, part})
			t.report.Delay = max(t.report.Delay, time.Duration(delay))
		}
	}
	c.loop.reporting = append(c.loop.reporting, c)
}

func (t *tracked) overlap(from, to uint64) uint64 {
	from, to = max(from, t.from), min(to, t.to)
	if from >= to {
		return 0
	}
	return to - from
}

func (t *tracked) add(w Way) {
	for i := range t.report.Ways {
		if have := &t.report.Ways[i]; have.Route == w.Route && have.Reason == w.Reason && have.Fate == w.Fate {
			have.Bytes += w.Bytes
			return
		}
	}
	t.report.Ways = append(t.report.Ways, w)
}

// take undoes an add of part of the bytes.
func (t *tracked) take(w Way) {
	for i := range t.report.Ways {
		if have := &t.report.Ways[i]; have.Route == w.Route && have.Reason == w.Reason && have.Fate == w.Fate {
			if have.Bytes -= w.Bytes; have.Bytes == 0 {
				t.report.Ways = append(t.report.Ways[:i], t.report.Ways[i+1:]...)
			}
			return
		}
	}
}

// report calls those who wait to be told, outside of the way up.
func (l *loop) report() {
	for i := 0; i < len(l.reporting); i++ {
		l.reporting[i].tellReports()
	}
	clear(l.reporting)
	l.reporting = l.reporting[:0]
}

// tellReports tells, in their order, of the stretches that are over.
func (c *Conn) tellReports() {
	for len(c.reports) > 0 {
		t := c.reports[0]
		if t.accepted < t.to-t.from || t.awaited > 0 {
			return
		}
		t.report.Delivered = true
		c.reports = c.reports[1:]
		t.tell(t.report)
	}
}

// endReports tells of the rest when the connection has ended.
func (c *Conn) endReports() {
	c.tellReports()
	rest := c.reports
	c.reports = nil
	for i := range rest {
		if rest[i].accepted < rest[i].to-rest[i].from {
			rest[i].report.Took = time.Duration(c.loop.now - rest[i].queuedAt)
		}
		rest[i].report.Err = c.err
		rest[i].tell(rest[i].report)
	}
}
