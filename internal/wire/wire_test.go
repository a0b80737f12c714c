package wire

import (
	"strings"
	"testing"
	"time"
)

func TestOptionsThatMakeNoSense(t *testing.T) {
	for name, o := range map[string]Options{
		"MTU":         {MTU: 100},
		"GSO":         {GSO: 1 << 20},
		"in-flight":   {InFlight: -1},
		"loss":        {Loss: -1},
		"and bytes":   {Loss: 10, InFlight: 1 << 20},
		"port":        {Clients: &Clients{Port: 70000}},
		"connections": {Clients: &Clients{Connections: 60000}},
		"outstanding": {Clients: &Clients{Connections: 2, Outstanding: 3}},
		"slash":       {Clients: &Clients{Path: "x"}},
		"space":       {Clients: &Clients{Path: "/a b"}},
		"length":      {Clients: &Clients{Path: "/" + strings.Repeat("x", maxPath)}},
	} {
		if _, err := o.withDefaults(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: the error is %v, want one that says %q", o, err, name)
		}
	}
}

func TestOptionsOfTheCallerStayAsTheyAre(t *testing.T) {
	var c Clients
	o, err := Options{Clients: &c}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if c != (Clients{}) {
		t.Errorf("the caller's clients have become %+v", c)
	}
	if want := (Clients{Port: 8080, Connections: 1, Outstanding: 1, Path: "/"}); *o.Clients != want {
		t.Errorf("clients by default are %+v, want %+v", *o.Clients, want)
	}
}

func TestQuantile(t *testing.T) {
	var l Latencies
	if got := l.Quantile(.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
	for i := range l.n { // each bucket's end is beyond the one before, by at most 1/16
		end := bucketEnd(i)
		if i > 0 && i < 959 && (end <= bucketEnd(i-1) || i >= 16 && end-bucketEnd(i-1) > end/16) {
			t.Fatalf("bucket %d ends at %d, the one before at %d", i, end, bucketEnd(i-1))
		}
	}
	l.n[5], l.n[100] = 99, 1
	if got := l.Quantile(.99); got != 6 {
		t.Errorf("p99 of 99 times 5 ns is %v, want 6ns, where the bucket ends", got)
	}
	if got, want := l.Quantile(1), bucketEnd(100); got != want {
		t.Errorf("the maximum is %v, want %v", got, want)
	}
	if l.Quantile(.5) > time.Microsecond {
		t.Error("the median is where nothing was counted")
	}
}

func TestTroubleIsSaid(t *testing.T) {
	clean := Totals{Packets: 1, Bytes: 2, ACKs: 3, Opened: 4, Finished: 5, Requests: 6, Responses: 7, Repeated: 8, Lost: 9, Largest: 10}
	if got := clean.Trouble(); got != "" {
		t.Errorf("trouble where there is none: %s", got)
	}
	if got := (Totals{Reset: 1, Refused: 2, Unparsed: 3, Stray: 4, Failed: 5}).Trouble(); strings.Count(got, ",") != 4 {
		t.Errorf("five kinds of trouble are told as %q", got)
	}
}
