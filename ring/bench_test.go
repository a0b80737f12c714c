//go:build linux

package ring

import (
	"fmt"
	"testing"
)

// turn is one batch through the ring, as an event loop does it.
func turn(r *Ring, cqes []CQE) error {
	for range cqes {
		e := r.SQE()
		e.PrepNop()
		e.UserData = 1
	}
	if err := r.SubmitAndWait(uint32(len(cqes)), patience); err != nil {
		return err
	}
	if n := r.Reap(cqes); n != len(cqes) {
		return fmt.Errorf("reaped %d of %d", n, len(cqes))
	}
	return nil
}

func TestTurnOfTheRingAllocatesNothing(t *testing.T) {
	d := newRing(t, Config{Entries: 64})
	cqes := make([]CQE, 64)
	for name, run := range map[string]func() error{
		"SQE, SubmitAndWait, Reap": func() error { return turn(d.Ring, cqes) },
		"Submit":                   d.Submit,
	} {
		n := testing.AllocsPerRun(100, func() {
			if err := run(); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestRecyclingABufferAllocatesNothing(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	b := newBufRing(t, d, 1, 4, 64)
	n := testing.AllocsPerRun(100, func() {
		b.Bytes(1)[0]++
		b.Recycle(1)
		b.Publish()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkNop is what a request costs when the kernel has nothing to do for it.
func BenchmarkNop(b *testing.B) {
	d := newRing(b, Config{Entries: 64})
	cqes := make([]CQE, 64)
	b.ReportAllocs()
	for b.Loop() {
		if err := turn(d.Ring, cqes); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(cqes)), "ns/request")
}

// BenchmarkSubmitEmpty is the system call alone.
func BenchmarkSubmitEmpty(b *testing.B) {
	d := newRing(b, Config{Entries: 64})
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Submit(); err != nil {
			b.Fatal(err)
		}
	}
}
