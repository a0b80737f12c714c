package bufreg

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestCacheLeasesAgainWhatItReleased(t *testing.T) {
	r := newRegistry(t, 16<<20)
	c := r.NewCache(noWake)
	for n := 1; n <= MaxBuffer; n *= 2 {
		for range 10_000 / n {
			lease(t, c, n).Release()
		}
	}
	if st := wantStats(t, r, 0); st.Free == 0 {
		t.Errorf("one buffer at a time used up the arena: %+v", st)
	}
}

func TestReleaseOnAnotherGoroutineComesBackToTheOwnersCache(t *testing.T) {
	r := newRegistry(t, 16<<20)
	c, other := r.NewCache(noWake), r.NewCache(noWake)
	lease(t, other, 100).Release()
	first, second := lease(t, c, 100), lease(t, c, 100)
	var held []Buffer // what the owner keeps is used before what came back
	for range c.local[0].n {
		held = append(held, lease(t, c, 100))
	}
	onGoroutine(func() {
		first.Release()
		second.Release()
	})
	if got := c.leased[0].Load(); got != int64(len(held)) {
		t.Errorf("the owner counts %d buffers as leased, want %d", got, len(held))
	}
	free := r.Stats().Free
	third, fourth := lease(t, c, 100), lease(t, c, 100)
	for _, b := range []Buffer{third, fourth} {
		if b.s != first.s && b.s != second.s {
			t.Errorf("leased page %d, want one that came back", b.s.index)
		}
	}
	if got := r.Stats().Free; got != free {
		t.Errorf("the slabs went from %d to %d free bytes while the cache had its own", free, got)
	}
	releaseAll(append(held, third, fourth))
}

func TestConcurrentReturnsAreAllFound(t *testing.T) {
	const goroutines, size = 4, 8 << 20
	rounds := 50
	if invariants {
		rounds = 5
	}
	r := newRegistry(t, size)
	c := r.NewCache(noWake)
	for range rounds {
		all := leaseAll(t, c, MinBuffer)
		if want := size / MinBuffer; len(all) != want {
			t.Fatalf("leased %d buffers, want %d", len(all), want)
		}
		var wg sync.WaitGroup
		for part := range slices.Chunk(all, len(all)/goroutines) {
			wg.Go(func() { releaseAll(part) })
		}
		wg.Wait()
	}
}

func TestExhaustedArenaGivesErrNoBuffers(t *testing.T) {
	for _, n := range []int{MinBuffer, 60_000, MaxBuffer} {
		r := newRegistry(t, 2<<20)
		c := r.NewCache(noWake)
		all := leaseAll(t, c, n)
		if want := 2 << 20 / classFor(n).size(); len(all) != want {
			t.Errorf("leased %d times %d bytes of 2 MiB, want %d", len(all), n, want)
		}
		wantNoBuffers(t, c, 1)
		wantNoBuffers(t, r, 1)
		wantStats(t, r, 2<<20)
		releaseAll(all)
	}
}

func TestNoBuffersIsFollowedByOneWake(t *testing.T) {
	cases := map[string]struct {
		holder  func(r *Registry, c *Cache) leaser
		release func(Buffer)
	}{
		"own lease on own goroutine":     {func(_ *Registry, c *Cache) leaser { return c }, Buffer.Release},
		"own lease on another goroutine": {func(_ *Registry, c *Cache) leaser { return c }, func(b Buffer) { onGoroutine(b.Release) }},
		"another cache's lease":          {func(r *Registry, _ *Cache) leaser { return r.NewCache(noWake) }, Buffer.Release},
		"another cache's lease on another goroutine": {func(r *Registry, _ *Cache) leaser { return r.NewCache(noWake) },
			func(b Buffer) { onGoroutine(b.Release) }},
		"a Registry lease": {func(r *Registry, _ *Cache) leaser { return r }, Buffer.Release},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, 2<<20)
			var w wakes
			c := r.NewCache(w.wake)
			holder := tc.holder(r, c)
			one, two := lease(t, holder, MaxBuffer), lease(t, holder, MaxBuffer)
			wantNoBuffers(t, c, MaxBuffer)
			w.want(t, 0)
			tc.release(one)
			w.want(t, 1)
			tc.release(two)
			w.want(t, 1)
			lease(t, c, MaxBuffer).Release()
			w.want(t, 1)
		})
	}
}

func TestReferenceThatIsNotTheLastWakesNobody(t *testing.T) {
	r := newRegistry(t, 1<<20)
	var w wakes
	c := r.NewCache(w.wake)
	b := lease(t, r, MaxBuffer)
	b.Retain()
	wantNoBuffers(t, c, 1)
	b.Release()
	w.want(t, 0)
	b.Release()
	w.want(t, 1)
}

func TestFailuresBeforeAReturnShareOneWake(t *testing.T) {
	r := newRegistry(t, 1<<20)
	var w wakes
	c := r.NewCache(w.wake)
	for round := range int32(3) {
		b := lease(t, r, MaxBuffer)
		wantNoBuffers(t, c, 1)
		wantNoBuffers(t, c, MaxBuffer)
		b.Release()
		w.want(t, round+1)
	}
}

func TestEveryCacheThatFailedIsWoken(t *testing.T) {
	r := newRegistry(t, 1<<20)
	var first, second, content wakes
	a, b := r.NewCache(first.wake), r.NewCache(second.wake)
	r.NewCache(content.wake)
	held := lease(t, r, MaxBuffer)
	wantNoBuffers(t, a, 1)
	wantNoBuffers(t, b, 1)
	held.Release()
	first.want(t, 1)
	second.want(t, 1)
	content.want(t, 0)
}

// Each round lets every loop lease the whole arena once. When a wake-up is lost nobody
// returns anything in that round any more, and the loop waits for ever.
func TestNoWakeUpIsLost(t *testing.T) {
	const loops = 4
	rounds := 3000
	if invariants {
		rounds = 60 // each lease and release goes over a MiB
	}
	r := newRegistry(t, 1<<20)
	released := make(chan Buffer, loops) // half of the leases are released on another goroutine
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := range released {
			b.Release()
		}
	}()
	lost := time.After(patience)
	start := make([]chan struct{}, loops)
	finished := make(chan error, loops)
	for i := range loops {
		start[i] = make(chan struct{})
		woken := make(chan struct{}, 1)
		c := r.NewCache(func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
		go func() {
			for range start[i] {
				var b Buffer
				for err := error(ErrNoBuffers); err != nil; {
					if b, err = c.Lease(MaxBuffer); errors.Is(err, ErrNoBuffers) {
						select {
						case <-woken:
						case <-lost:
							finished <- errors.New("waited too long for a wake-up")
							return
						}
					}
				}
				if i%2 == 0 {
					b.Release()
				} else {
					released <- b
				}
				finished <- nil
			}
		}()
	}
	for range rounds {
		for _, s := range start {
			s <- struct{}{}
		}
		for range loops {
			if err := <-finished; err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range start {
		close(s)
	}
	close(released)
	<-done
	if got := r.waiting.Load(); got != 0 {
		t.Errorf("%d caches are counted as waiting, want 0", got)
	}
}

// A loop that has gone quiet keeps nothing from the others, however its free buffers lie in
// the arena: with nothing leased no return would ever wake who waits.
func TestAnIdleCacheStarvesNobody(t *testing.T) {
	const size = 8 << 20
	takers := map[string]func(r *Registry) leaser{
		"another cache": func(r *Registry) leaser { return r.NewCache(noWake) },
		"the Registry":  func(r *Registry) leaser { return r },
	}
	for name, taker := range takers {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, size)
			idle := r.NewCache(noWake)
			all := leaseAll(t, idle, MinBuffer)
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			releaseAll(all)
			lease(t, idle, MinBuffer).Release() // sorts what came back: the last that its owner does
			got := leaseAll(t, taker(r), MaxBuffer)
			if len(got) != size/MaxBuffer {
				t.Errorf("leased %d MiB of %d, with nothing else leased", len(got), size/MaxBuffer)
			}
			releaseAll(got)
		})
	}
}

func TestACacheKeepsNoMoreThanItsLimit(t *testing.T) {
	const size = 32 << 20
	r := newRegistry(t, size)
	c := r.NewCache(noWake)
	for n := MinBuffer; n <= MaxBuffer; n *= 2 {
		var bufs []Buffer
		for range size / 8 / n {
			bufs = append(bufs, lease(t, c, n))
		}
		releaseAll(bufs)
	}
	lease(t, c, MaxBuffer).Release() // sorts what came back, and comes back itself
	limit := int64(NumClasses*c.limit + MaxBuffer)
	if st := wantStats(t, r, 0); st.Cached > limit {
		t.Errorf("an idle cache keeps %d bytes, want at most %d", st.Cached, limit)
	}
}

func TestFlushGivesEverythingBack(t *testing.T) {
	r := newRegistry(t, 16<<20)
	c := r.NewCache(noWake)
	for n := MinBuffer; n <= MaxBuffer; n *= 2 {
		lease(t, c, n).Release()
	}
	if st := wantStats(t, r, 0); st.Cached == 0 {
		t.Error("a cache in use keeps nothing: every lease takes the lock")
	}
	c.Flush()
	if st := wantStats(t, r, 0); st.Cached != 0 || st.Free != st.Total {
		t.Errorf("after Flush: %+v, want everything free", st)
	}
}

func TestPinnedGoesUpAndDown(t *testing.T) {
	r := newRegistry(t, 4<<20)
	c, d := r.NewCache(noWake), r.NewCache(noWake)
	want := func(n, total int64) {
		t.Helper()
		if got := c.Pinned(); got != n {
			t.Errorf("the cache has %d bytes pinned, want %d", got, n)
		}
		if got := r.Stats().Pinned; got != total {
			t.Errorf("the arena has %d bytes pinned, want %d", got, total)
		}
	}
	b := lease(t, c, 10_000)
	want(0, 0)
	whole := c.Pin(b)
	want(10_000, 10_000)
	part := c.Pin(b.View(4, 96)) // a shared buffer counts for each send
	want(10_096, 10_096)
	elsewhere := d.Pin(b)
	want(10_096, 20_096)
	c.Unpin(b, whole)
	want(96, 10_096)
	c.Unpin(b.View(4, 96), part)
	d.Unpin(b, elsewhere)
	want(0, 0)
	b.Release()
}
