//go:build linux

package engine

import (
	"errors"
	"testing"

	"sluice/zc"
)

func TestExplainHasTheLastDecisions(t *testing.T) {
	e := newEngine(t, Config{Policy: zc.Policy{Mode: zc.Fixed, Threshold: 16 << 10}})
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) {
		if d := c.Explain(); d != nil {
			t.Errorf("before the first send: %v", d)
		}
	})
	for i := range trailLen + 3 {
		n := 100
		if i%2 == 1 {
			n = 20 << 10
		}
		k.do(func(c *Conn) { sendPieces(t, c, 0, n, 1) })
		k.peer.hear(poolBytes(0, n))
	}
	settled(t, e)
	k.do(func(c *Conn) {
		d := c.Explain()
		if len(d) != trailLen {
			t.Fatalf("%d decisions, want the last %d", len(d), trailLen)
		}
		for i := range d {
			want := Decision{Bytes: 100, Route: zc.Copy, Reason: zc.FixedPolicy, Fate: ByRoute}
			if i%2 == 0 { // the fourth of all is the first that is remembered
				want = Decision{Bytes: 20 << 10, Route: zc.ZeroCopy, Reason: zc.FixedPolicy, Fate: CopiedByKernel} // by the loopback
			}
			got := d[i]
			if got.At.IsZero() || got.At.After(c.Now()) || i > 0 && got.At.Before(d[i-1].At) {
				t.Errorf("decision %d at %v", i, got.At)
			}
			got.At, got.Delay = want.At, 0
			if got != want {
				t.Errorf("decision %d is %+v, want %+v", i, got, want)
			}
		}
	})
}

// TestAReportHasEveryByteOfItsStretch queues three responses at once, of which a send gathers
// more than one, and one more later.
func TestAReportHasEveryByteOfItsStretch(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy})
			k := connect(t, e, &handler{}, 0)
			told := make(chan Report, 8)
			sizes := []int{5000, 300_000, 17}
			off := 0
			k.do(func(c *Conn) {
				for _, n := range sizes {
					sendPieces(t, c, off, n, 1)
					c.Report(func(r Report) { told <- r })
					off += n
				}
				c.Report(func(r Report) { told <- r }) // nothing since
			})
			k.peer.hear(poolBytes(0, off))
			for i, want := range append([]int{0}, sizes...) { // the empty one is told at once
				r := await(t, told, "a report")
				sum := uint64(0)
				for _, w := range r.Ways {
					sum += w.Bytes
					if w.Fate == Awaited {
						t.Errorf("report %d comes while %+v is awaited", i, w)
					}
				}
				if sum != uint64(want) || !r.Delivered {
					t.Errorf("report %d: %+v, want %d bytes, delivered", i, r, want)
				}
			}
		})
	}
}

func TestAnAbortedConnectionReportsWhatWasSent(t *testing.T) {
	e := newEngine(t, Config{Policy: copying})
	k := connect(t, e, &handler{}, 4096)
	k.stuff(1<<20, 2<<20)
	told := make(chan Report, 1)
	k.do(func(c *Conn) {
		c.Report(func(r Report) { told <- r })
		c.Abort()
	})
	k.wantEnd(ErrAborted)
	if r := await(t, told, "the report"); r.Delivered || !errors.Is(r.Err, ErrAborted) {
		t.Errorf("%+v, want that it was not delivered, because of an abort", r)
	}
}
