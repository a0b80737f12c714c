package bufreg

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
)

func TestNewRoundsUpToWholeSlabs(t *testing.T) {
	for _, c := range []struct{ ask, want int }{
		{0, DefaultSize}, {1, 1 << 20}, {1<<20 - 1, 1 << 20}, {1 << 20, 1 << 20}, {1<<20 + 1, 2 << 20},
	} {
		r := newRegistry(t, c.ask)
		if st := r.Stats(); st.Total != int64(c.want) || st.Free != st.Total {
			t.Errorf("New(%d): %+v, want %d bytes, all free", c.ask, st, c.want)
		}
	}
}

func TestNewRefusesSizesWithoutMeaning(t *testing.T) {
	for _, size := range []int{-1, math.MinInt, MaxSize + 1, math.MaxInt} {
		if r, err := New(size); err == nil {
			t.Errorf("New(%d) made an arena", size)
			_ = r.Close()
		} else if !strings.Contains(err.Error(), fmt.Sprint(size)) {
			t.Errorf("New(%d): %q does not say what was asked for", size, err)
		}
	}
}

func TestLeaseRefusesSizesThatNoClassHolds(t *testing.T) {
	r := newRegistry(t, 2<<20)
	var w wakes
	for name, from := range map[string]leaser{"cache": r.NewCache(w.wake), "registry": r} {
		for _, n := range []int{-1, math.MinInt, MaxBuffer + 1, math.MaxInt} {
			if _, err := from.Lease(n); !errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNoBuffers) {
				t.Errorf("%s: lease of %d bytes: %v, want ErrTooLarge", name, n, err)
			}
		}
	}
	wantStats(t, r, 0)
	lease(t, r, 1).Release()
	w.want(t, 0)
}

// leasers are fresh arenas, leased from through a cache or directly.
func leasers(size int) map[string]func(testing.TB) (*Registry, leaser) {
	return map[string]func(testing.TB) (*Registry, leaser){
		"cache":    func(tb testing.TB) (*Registry, leaser) { r := newRegistry(tb, size); return r, r.NewCache(noWake) },
		"registry": func(tb testing.TB) (*Registry, leaser) { r := newRegistry(tb, size); return r, r },
	}
}

func TestLargerClassServesWhenTheRightOneIsExhausted(t *testing.T) {
	for name, fresh := range leasers(2 << 20) {
		t.Run(name, func(t *testing.T) {
			r, from := fresh(t)
			half := lease(t, r, MaxBuffer/2) // the only free buffer is its neighbour
			whole := lease(t, r, MaxBuffer)
			small := lease(t, from, 100)
			if small.Cap() != MaxBuffer/2 || small.Len() != 100 {
				t.Errorf("leased %d of %d bytes, want 100 of %d", small.Len(), small.Cap(), MaxBuffer/2)
			}
			wantStats(t, r, 2<<20)
			wantNoBuffers(t, from, 1)
			half.Release()
			small.Release()
			whole.Release()
			wantStats(t, r, 0)
		})
	}
}

func TestTheRightClassServesBeforeALargerOne(t *testing.T) {
	for name, fresh := range leasers(3 << 20) {
		t.Run(name, func(t *testing.T) {
			_, from := fresh(t)
			large := lease(t, from, MaxBuffer/2)
			small := lease(t, from, 1)
			if small.Cap() != MinBuffer {
				t.Errorf("leased %d bytes for 1 with a slab free, want %d", small.Cap(), MinBuffer)
			}
			large.Release()
			small.Release()
		})
	}
}

func TestSlabsChangeClassWhenWholeAgain(t *testing.T) {
	const size = 3 << 20
	for name, fresh := range leasers(size) {
		t.Run(name, func(t *testing.T) {
			r, from := fresh(t)
			for n := MinBuffer; n <= MaxBuffer; n *= 2 {
				for _, n := range []int{n, MaxBuffer, MinBuffer} {
					all := leaseAll(t, from, n)
					if len(all) != size/n {
						t.Fatalf("leased %d times %d bytes of %d", len(all), n, size)
					}
					wantStats(t, r, size)
					releaseAll(all)
					wantStats(t, r, 0)
				}
			}
		})
	}
}

func TestASlabWithOneBufferOutKeepsItsClass(t *testing.T) {
	r := newRegistry(t, 1<<20)
	all := leaseAll(t, r, MinBuffer)
	releaseAll(all[1:])
	wantNoBuffers(t, r, MinBuffer+1)
	releaseAll(leaseAll(t, r, MinBuffer))
	all[0].Release()
	lease(t, r, MaxBuffer).Release()
}

func TestStatsAddUp(t *testing.T) {
	r := newRegistry(t, 4<<20)
	c, d := r.NewCache(noWake), r.NewCache(noWake)
	held := []Buffer{lease(t, c, 1), lease(t, d, 5000), lease(t, r, 300_000), lease(t, c, MaxBuffer)}
	leased := int64(4096 + 8192 + 512<<10 + 1<<20)
	wantStats(t, r, leased)
	held[0].Retain() // shares, and leases nothing more
	wantStats(t, r, leased)
	for i, b := range held {
		b.Release()
		if i > 0 {
			leased -= int64(b.Cap())
		}
		wantStats(t, r, leased)
	}
	held[0].Release()
	wantStats(t, r, 0)
	// Cached is what is left of Total, so look once where nothing can be cached.
	c.Flush()
	d.Flush()
	if st := r.Stats(); st.Free != st.Total {
		t.Errorf("%d of %d bytes are free after everything went back", st.Free, st.Total)
	}
}

func TestCloseRefusesWhileLeased(t *testing.T) {
	for name, fresh := range leasers(2 << 20) {
		t.Run(name, func(t *testing.T) {
			r, from := fresh(t)
			c := r.NewCache(noWake)
			b := lease(t, from, 10_000)
			p := c.Pin(b)
			err := r.Close()
			if err == nil {
				t.Fatal("closed with a lease out")
			}
			for _, want := range []string{"16384", "10000"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name the %s bytes", err, want)
				}
			}
			c.Unpin(b, p)
			b.Bytes()[9_999] = 1 // still mapped: this does not fault
			b.Release()
		})
	}
}

func TestCloseTakesBackWhatCachesKeep(t *testing.T) {
	r := mapRegistry(t, 4<<20)
	c := r.NewCache(noWake)
	lease(t, c, 1).Release()
	onGoroutine(lease(t, c, 100_000).Release)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestClosedArenaHasNoBuffers(t *testing.T) {
	r := mapRegistry(t, 4<<20)
	c := r.NewCache(noWake)
	lease(t, c, 1).Release() // leaves buffers in the cache
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, MaxBuffer} {
		wantNoBuffers(t, c, n)
		wantNoBuffers(t, r, n)
	}
	if st := r.Stats(); st != (Stats{}) {
		t.Errorf("a closed arena has %+v", st)
	}
}

// Whoever leases while another goroutine closes gets memory or an error, never an
// unmapped page.
func TestCloseAgainstLease(t *testing.T) {
	for range 100 {
		r := mapRegistry(t, 1<<20)
		c := r.NewCache(noWake)
		lease(t, c, 1).Release()
		started, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; ; i++ {
				b, err := c.Lease(1)
				if err != nil {
					return
				}
				b.Bytes()[0] = 1
				b.Release()
				r.Stats()
				if i == 10 {
					close(started)
				}
			}
		}()
		<-started
		for r.Close() != nil { // refused while the lease is out
			runtime.Gosched()
		}
		<-done
	}
}

func TestRegionsCoverTheArenaInPiecesThatTheKernelTakes(t *testing.T) {
	const size = 2*regionSize + 3<<20
	mem, err := mapArena(size, false) // never touched: it costs nothing
	if err != nil {
		t.Skip(err)
	}
	defer unmapArena(mem)
	var at int
	for i, m := range (&Registry{mem: mem}).regions() {
		if len(m) > regionSize {
			t.Errorf("region %d has %d bytes, the kernel takes %d", i, len(m), regionSize)
		}
		if &m[0] != &mem[at] {
			t.Errorf("region %d does not start where the one before ends", i)
		}
		first := Buffer{s: &slot{index: uint32(at >> minShift)}}
		if first.Index() != uint16(i) {
			t.Errorf("the first page of region %d has index %d", i, first.Index())
		}
		at += len(m)
	}
	if at != size {
		t.Errorf("the regions cover %d of %d bytes", at, size)
	}
}
