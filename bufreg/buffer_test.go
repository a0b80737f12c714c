package bufreg

import (
	"math"
	"sync"
	"testing"
	"unsafe"
)

func TestLeaseHasTheLengthAskedForAndOneReference(t *testing.T) {
	r := newRegistry(t, 2<<20)
	for name, from := range map[string]leaser{"cache": r.NewCache(noWake), "registry": r} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{0, 1, 4095, 4096, 4097, 65536, MaxBuffer - 1, MaxBuffer} {
				b := lease(t, from, n)
				if b.Len() != n || len(b.Bytes()) != n || cap(b.Bytes()) != n {
					t.Errorf("lease of %d bytes: Len %d, %d bytes of capacity %d", n, b.Len(), len(b.Bytes()), cap(b.Bytes()))
				}
				if want := classFor(n).size(); b.Cap() != want {
					t.Errorf("lease of %d bytes: Cap %d, want %d", n, b.Cap(), want)
				}
				if got := b.Refs(); got != 1 {
					t.Errorf("lease of %d bytes: %d references, want 1", n, got)
				}
				b.Release()
			}
		})
	}
}

func TestBytesLieInTheArenaAtAddr(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 10_000)
	defer b.Release()
	v := b.View(5000, 100)
	if got := uintptr(unsafe.Pointer(&v.Bytes()[0])); got != v.Addr() {
		t.Errorf("Bytes start at %#x, Addr is %#x", got, v.Addr())
	}
	low := uintptr(unsafe.Pointer(&r.mem[0]))
	if v.Addr() < low || v.Addr()+100 > low+uintptr(len(r.mem)) {
		t.Errorf("Addr %#x is outside the arena at %#x", v.Addr(), low)
	}
	if b.Addr()%MinBuffer != 0 {
		t.Errorf("a lease starts at %#x, not at a page", b.Addr())
	}
}

func TestIndexChangesWithEveryGiB(t *testing.T) {
	for _, c := range []struct {
		page uint32
		want uint16
	}{{0, 0}, {1<<18 - 1, 0}, {1 << 18, 1}, {5<<18 + 7, 5}, {1<<28 - 1, 1023}} {
		if got := (Buffer{s: &slot{index: c.page}}).Index(); got != c.want {
			t.Errorf("page %d is in registered buffer %d, want %d", c.page, got, c.want)
		}
	}
}

func TestZeroBufferHoldsNothing(t *testing.T) {
	if !(Buffer{}).IsZero() {
		t.Error("the zero Buffer says that it holds something")
	}
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 1)
	defer b.Release()
	if b.IsZero() {
		t.Error("a lease says that it is zero")
	}
}

func TestReleasedMemoryIsLeasedAgainInANewGeneration(t *testing.T) {
	r := newRegistry(t, 1<<20)
	first := lease(t, r, MaxBuffer)
	first.Release()
	second := lease(t, r, MaxBuffer)
	defer second.Release()
	if second.s != first.s {
		t.Fatal("an arena of one slab leased two pieces of 1 MiB")
	}
	if second.Same(first) {
		t.Error("two leases of one piece are Same")
	}
	if !second.Same(second.View(3, 4)) {
		t.Error("a view is not Same as its lease")
	}
}

// A stale Buffer must fail in each state that its piece can be in: free, and leased by
// somebody else. And its failure must not change that state.
func TestUseAfterReleasePanics(t *testing.T) {
	uses := map[string]func(Buffer){
		"Bytes":   func(b Buffer) { b.Bytes() },
		"Retain":  func(b Buffer) { b.Retain() },
		"Release": func(b Buffer) { b.Release() },
		"Refs":    func(b Buffer) { b.Refs() },
		"view":    func(b Buffer) { b.View(1, 2).Bytes() },
	}
	for name, use := range uses {
		t.Run(name+" while free", func(t *testing.T) {
			r := newRegistry(t, 1<<20)
			stale := lease(t, r, MaxBuffer)
			stale.Release()
			panicOf(t, func() { use(stale) })
			next := lease(t, r, MaxBuffer)
			panicOf(t, func() { use(stale) })
			next.Release()
		})
		t.Run(name+" while leased again", func(t *testing.T) {
			r := newRegistry(t, 1<<20)
			stale := lease(t, r, MaxBuffer)
			stale.Release()
			next := lease(t, r, MaxBuffer)
			panicOf(t, func() { use(stale) })
			if got := next.Refs(); got != 1 {
				t.Errorf("the new lease has %d references after a stale %s, want 1", got, name)
			}
			next.Release()
		})
	}
}

func TestDoubleReleasePanics(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r.NewCache(noWake), 100)
	b.Release()
	panicOf(t, b.Release)
	panicOf(t, b.Release)
}

func TestGenerationWrapsAround(t *testing.T) {
	r := newRegistry(t, 1<<20)
	lease(t, r, MaxBuffer).Release()
	r.slots[0].state.Store(math.MaxUint32 << 32)
	last := lease(t, r, MaxBuffer)
	last.Release()
	next := lease(t, r, MaxBuffer)
	if next.gen != 0 || next.Refs() != 1 {
		t.Errorf("after generation 2³²-1 came %d with %d references, want 0 with 1", next.gen, next.Refs())
	}
	panicOf(t, func() { last.Bytes() })
	next.Release()
}

func TestMemoryReturnsWithTheLastReference(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, MaxBuffer)
	if c := b.Retain(); !c.Same(b) || b.Refs() != 2 {
		t.Errorf("after Retain: %d references, want 2", b.Refs())
	}
	b.Release()
	wantNoBuffers(t, r, 1)
	if got := b.Refs(); got != 1 {
		t.Errorf("%d references, want 1", got)
	}
	b.Release()
	lease(t, r, MaxBuffer).Release()
}

func TestViewSharesMemoryAndReference(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 1000)
	v := b.View(100, 50)
	if v.Len() != 50 || v.Cap() != b.Cap() || v.Refs() != 1 {
		t.Errorf("view: %d bytes of a lease of %d with %d references", v.Len(), v.Cap(), v.Refs())
	}
	v.Bytes()[0] = 7
	if b.Bytes()[100] != 7 {
		t.Error("a write through the view is not seen in the lease")
	}
	if w := v.View(49, 1); w.Addr() != b.Addr()+149 {
		t.Errorf("a view of a view starts at %d, want 149", w.Addr()-b.Addr())
	}
	v.Release()
	panicOf(t, func() { b.Bytes() })
}

func TestViewOutsideTheBufferPanics(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 1000)
	defer b.Release()
	for _, in := range [][2]int{{0, 0}, {0, 1000}, {1000, 0}, {999, 1}} {
		if v := b.View(in[0], in[1]); v.Len() != in[1] || len(v.Bytes()) != in[1] {
			t.Errorf("view of %d bytes from %d has %d", in[1], in[0], v.Len())
		}
	}
	for _, out := range [][2]int{
		{-1, 1}, {0, -1}, {0, 1001}, {1000, 1}, {1001, 0}, {1001, -1},
		{math.MaxInt, 1}, {1, math.MaxInt}, {math.MaxInt, math.MaxInt}, {math.MinInt, 0}, {0, math.MinInt},
	} {
		panicOf(t, func() { b.View(out[0], out[1]) })
	}
	panicOf(t, func() { b.View(10, 10).View(0, 11) })
}

func TestExtendReachesToTheEndOfTheLease(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 5000)
	defer b.Release()
	if got := b.Room(); got != 8192-5000 {
		t.Errorf("a lease of 5000 bytes has room for %d more, want %d", got, 8192-5000)
	}
	v := b.View(100, 5)
	if got := v.Room(); got != 8192-105 {
		t.Errorf("a view that ends at 105 has room for %d more, want %d", got, 8192-105)
	}
	all := v.Extend(8192 - 105)
	if all.Len() != 8192-100 || all.Addr() != v.Addr() || all.Room() != 0 || !all.Same(b) {
		t.Errorf("extended to the end: %d bytes at %d with room for %d", all.Len(), all.Addr()-b.Addr(), all.Room())
	}
	all.Bytes()[all.Len()-1] = 1
	if got := v.Extend(0); got != v {
		t.Errorf("extended by nothing: %+v, want %+v", got, v)
	}
}

func TestExtendPastTheLeasePanics(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 5000)
	defer b.Release()
	for _, n := range []int{-1, math.MinInt, 8192 - 5000 + 1, math.MaxInt} {
		panicOf(t, func() { b.Extend(n) })
	}
	panicOf(t, func() { b.View(100, 5).Extend(8192 - 104) })
}

func TestRetainAndReleaseByManyGoroutines(t *testing.T) {
	const goroutines, rounds = 8, 2000
	r := newRegistry(t, 1<<20)
	c := r.NewCache(noWake)
	b := lease(t, c, 100)
	b.Bytes()[0] = 42
	var wg sync.WaitGroup
	for range goroutines {
		own := b.Retain()
		wg.Go(func() {
			defer own.Release()
			for range rounds {
				more := own.Retain()
				if more.Bytes()[0] != 42 {
					t.Error("bytes changed while a reference was held")
				}
				more.Release()
			}
		})
	}
	b.Release() // the last goroutine's reference is the last
	wg.Wait()
	panicOf(t, func() { b.Bytes() })
	wantStats(t, r, 0)
}

func TestConcurrentLastReleaseReturnsMemoryOnce(t *testing.T) {
	r := newRegistry(t, 1<<20)
	c := r.NewCache(noWake)
	for range 500 {
		b := lease(t, c, MinBuffer)
		b.Retain()
		b.Retain()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(b.Release)
		}
		wg.Wait()
	}
	wantStats(t, r, 0)
	all := leaseAll(t, c, MinBuffer) // twice returned, a buffer would be leased twice
	if want := 1 << 20 / MinBuffer; len(all) != want {
		t.Errorf("leased %d buffers, want %d", len(all), want)
	}
	releaseAll(all)
}
