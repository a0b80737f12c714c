package metrics

import (
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	dto "github.com/prometheus/client_model/go"

	"sluice/engine"
	"sluice/zc"
)

// exports is what a scrape of these numbers says.
func exports(tb testing.TB, s engine.Stats) []*dto.MetricFamily {
	tb.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(Collector(func() engine.Stats { return s }))
	families, err := r.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	return families
}

// text is the same as Prometheus reads it.
func text(tb testing.TB, s engine.Stats) string {
	var b strings.Builder
	for _, f := range exports(tb, s) {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			tb.Fatal(err)
		}
	}
	return b.String()
}

func TestNumbersHaveTheirNameUnitAndLabels(t *testing.T) {
	var s engine.Stats
	s.Sends.Add(zc.ZeroCopy, zc.AboveThreshold, 1000)
	s.Sends.Add(zc.ZeroCopy, zc.AboveThreshold, 234)
	s.Sends.Add(zc.Copy, zc.OverBudget, 7)
	s.Sends.NotifiedZeroCopy, s.Sends.NotifiedCopied, s.Sends.NotifiedUnknown = 5, 6, 8
	s.ClosedInOrder, s.Resets[0] = 9, 10
	s.States = [engine.NumConnStates]int{11, 12, 13, 14}
	s.Arena.Total, s.Arena.Free, s.Arena.Cached, s.Arena.Leased = 60, 10, 20, 30
	s.Arena.LeasedByClass[0], s.Arena.LeasedByClass[1] = 16, 17
	s.Pinned, s.MaxPinned, s.OldestPin.Age = 100, 200, 1500*time.Millisecond
	got := text(t, s)
	for _, want := range []string{
		`sluice_sends_total{reason="above-threshold",route="zero-copy"} 2`,
		`sluice_sent_bytes_total{reason="above-threshold",route="zero-copy"} 1234`,
		`sluice_sends_total{reason="over-budget",route="copy"} 1`,
		`sluice_sent_bytes_total{reason="over-budget",route="copy"} 7`,
		`sluice_sends_total{reason="path-copies",route="sendfile"} 0`, // from the start
		`sluice_notifications_total{result="zero-copied"} 5`,
		`sluice_notifications_total{result="copied-by-kernel"} 6`,
		`sluice_notifications_total{result="unknown"} 8`,
		`sluice_connections_closed_total{how="in-order"} 9`,
		`sluice_connections_closed_total{how="stalled"} 10`,
		`sluice_connections{state="open"} 11`,
		`sluice_connections{state="closing"} 12`,
		`sluice_connections{state="half-closed"} 13`,
		`sluice_connections{state="aborting"} 14`,
		`sluice_arena_bytes{state="free"} 10`,
		`sluice_arena_bytes{state="cached"} 20`,
		`sluice_arena_bytes{state="leased"} 30`,
		`sluice_arena_leased_bytes{class="4096"} 16`,
		`sluice_arena_leased_bytes{class="8192"} 17`,
		`sluice_pinned_bytes 100`,
		`sluice_pinned_limit_bytes 200`,
		`sluice_oldest_pin_seconds 1.5`,
		"# TYPE sluice_sends_total counter\n",
		"# TYPE sluice_pinned_bytes gauge\n",
		"# TYPE sluice_response_time_seconds histogram\n",
	} {
		if !strings.Contains(got, strings.TrimSuffix(want, "\n")+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// A histogram's buckets are cumulative and end at a doubling number of microseconds.
func TestHistogramsKeepEveryDurationInItsBucket(t *testing.T) {
	var s engine.Stats
	for _, d := range []time.Duration{0, 500 * time.Nanosecond, time.Microsecond, 3 * time.Microsecond, 1500 * time.Microsecond, time.Minute} {
		s.NotifyDelay.Observe(int64(d))
	}
	for _, f := range exports(t, s) {
		if f.GetName() != "sluice_notification_delay_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != 6 || h.GetSampleSum() != 60.0015045 {
			t.Errorf("%d durations of %v s together, want 6 of 60.0015045", h.GetSampleCount(), h.GetSampleSum())
		}
		want := map[float64]uint64{1e-6: 2, 2e-6: 3, 4e-6: 4, 1024e-6: 4, 2048e-6: 5, 33.554432: 5}
		for _, b := range h.GetBucket() {
			if n, ok := want[b.GetUpperBound()]; ok && n != b.GetCumulativeCount() {
				t.Errorf("%d durations up to %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), n)
			}
			delete(want, b.GetUpperBound())
		}
		if len(want) > 0 {
			t.Errorf("no buckets that end at %v", want)
		}
		return
	}
	t.Fatal("no such histogram")
}

func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := testutil.CollectAndLint(Collector(func() engine.Stats { return engine.Stats{} }))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// unexported are the numbers that nobody needs: sums of others, and what is for people to read.
var unexported = map[string]bool{"Conns": true, "Aborted": true, "CloseError": true, "Arena.Total": true, "OldestPin.Peer": true, "Paths": true}

// A number that is added to Stats and forgotten here fails this test: each, set alone, must
// change what is exported.
func TestEveryNumberIsExported(t *testing.T) {
	none := text(t, engine.Stats{})
	var s engine.Stats
	var walk func(name string, v reflect.Value)
	walk = func(name string, v reflect.Value) {
		switch {
		case unexported[name]:
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				walk(strings.TrimPrefix(name+"."+v.Type().Field(i).Name, "."), v.Field(i))
			}
		case v.Kind() == reflect.Array:
			for i := range v.Len() {
				walk(name, v.Index(i))
			}
		default:
			if v.CanInt() {
				v.SetInt(1)
			} else {
				v.SetUint(1)
			}
			if text(t, s) == none {
				t.Errorf("%s is not exported", name)
			}
			v.SetZero()
		}
	}
	walk("", reflect.ValueOf(&s).Elem())
}

func TestAScrapeAsksTheEngineOnce(t *testing.T) {
	asked := 0
	h := Handler(func() engine.Stats { asked++; return engine.Stats{Accepted: 5} })
	for n := range 3 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if w.Code != 200 || asked != n+1 {
			t.Errorf("status %d, the engine was asked %d times in %d scrapes", w.Code, asked, n+1)
		}
		for _, want := range []string{"sluice_connections_accepted_total 5\n", "go_goroutines ", "go_build_info{", "process_start_time_seconds "} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("no %s", want)
			}
		}
	}
}

// BenchmarkScrape is what a scrape costs, on a goroutine and not on the loops.
func BenchmarkScrape(b *testing.B) {
	h := Handler(func() engine.Stats { return engine.Stats{} })
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
	}
}
