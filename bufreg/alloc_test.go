//go:build !invariants

package bufreg

import "testing"

// With the invariants tag a lease is checked byte by byte and its history is kept; nobody
// asks then what it costs.
func TestLoopPathAllocatesNothing(t *testing.T) {
	r := newRegistry(t, 16<<20)
	c := r.NewCache(noWake)
	for n := MinBuffer; n <= MaxBuffer; n *= 2 {
		if got := testing.AllocsPerRun(1000, func() {
			b, err := c.Lease(n)
			if err != nil {
				t.Fatal(err)
			}
			v := b.View(1, n-1).Retain()
			p := c.Pin(v)
			c.Unpin(v, p)
			v.Release()
			b.Release()
		}); got != 0 {
			t.Errorf("a lease of %d bytes, pinned and released: %v allocations, want 0", n, got)
		}
	}
}

func TestExhaustionAllocatesNothing(t *testing.T) {
	r := newRegistry(t, 1<<20)
	c := r.NewCache(noWake)
	if got := testing.AllocsPerRun(1000, func() {
		b, _ := c.Lease(MaxBuffer)
		if _, err := c.Lease(1); err != ErrNoBuffers {
			t.Fatal(err)
		}
		b.Release()
	}); got != 0 {
		t.Errorf("a lease, a failure and a release: %v allocations, want 0", got)
	}
}
