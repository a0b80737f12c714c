package bufreg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// model is an arena as anyone would describe it: which pages belong to whom.
type model struct {
	t     *testing.T
	r     *Registry
	rng   *rand.Rand
	from  []leaser
	cache []*Cache
	owner []int // by page; 0: nobody
	live  []modelLease
	next  int // leases so far

	refused int // failures, rightly
}

type modelLease struct {
	Buffer
	id   int
	refs int
	pins []modelPin
}

type modelPin struct {
	cache *Cache
	view  Buffer
	pin   Pin
}

func newModel(t *testing.T, size int, seed uint64) *model {
	r := newRegistry(t, size)
	a, b := r.NewCache(noWake), r.NewCache(noWake)
	return &model{
		t: t, r: r, rng: rand.New(rand.NewPCG(seed, 1)),
		from: []leaser{a, b, r}, cache: []*Cache{a, b},
		owner: make([]int, size>>minShift),
	}
}

// step does one thing at random.
func (m *model) step() {
	switch n := len(m.live); {
	case n == 0 || m.rng.IntN(100) < 45:
		m.lease()
	default:
		i := m.rng.IntN(n)
		switch k := m.rng.IntN(100); {
		case k < 10:
			m.live[i].Retain()
			m.live[i].refs++
		case k < 20:
			m.pin(i)
		case k < 30:
			m.unpin(i)
		case k == 30:
			m.cache[m.rng.IntN(len(m.cache))].Flush()
		default:
			m.release(i)
		}
	}
}

func (m *model) lease() {
	n := m.rng.IntN(MinBuffer<<min(m.rng.IntN(NumClasses), m.rng.IntN(NumClasses))) + 1 // mostly small
	from := m.rng.IntN(len(m.from))
	want, ok := m.expect(n)
	b, err := m.from[from].Lease(n)
	if errors.Is(err, ErrNoBuffers) && !ok {
		m.refused++
		return
	}
	if err != nil || !ok {
		m.t.Fatalf("lease %d bytes from %d: %v, but fits: %v", n, from, err, ok)
	}
	if b.Cap() != want.size() {
		m.t.Fatalf("lease %d bytes from %d: capacity %d, want %d", n, from, b.Cap(), want.size())
	}
	m.next++
	own := m.pages(b)
	for i, holder := range own {
		if holder != 0 {
			m.t.Fatalf("lease %d overlaps lease %d", m.next, holder)
		}
		own[i] = m.next
	}
	l := modelLease{Buffer: b, id: m.next, refs: 1}
	l.write()
	m.live = append(m.live, l)
}

// expect is the class that a lease of n bytes must get: the smallest that fits of which
// a buffer is free, or can be cut from a slab that nobody uses; and whether there is one.
func (m *model) expect(n int) (class, bool) {
	var free [NumClasses]int
	whole := 0
	used, cl := make([]int, len(m.r.slabs)), make([]class, len(m.r.slabs))
	for l := range m.live {
		s := m.live[l].s
		i := s.index >> (maxShift - minShift)
		used[i]++
		cl[i] = s.class
	}
	for i := range used {
		if used[i] == 0 {
			whole++
		} else {
			free[cl[i]] += cl[i].perSlab() - used[i]
		}
	}
	for c := classFor(n); c < NumClasses; c++ {
		if free[c] > 0 || whole > 0 {
			return c, true
		}
	}
	return 0, false
}

// pages are the owners of b's pages.
func (m *model) pages(b Buffer) []int {
	first := int(b.Addr()-uintptr(pointerTo(m.r.mem, 0))) >> minShift
	return m.owner[first : first+b.Cap()>>minShift]
}

// write marks the lease as its own: its end, and the start of every page, or of some eight.
func (l *modelLease) write() {
	l.marks(func(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) })
}

func (l *modelLease) intact() (err error) {
	l.marks(func(b []byte, v uint64) {
		if got := binary.LittleEndian.Uint64(b); got != v {
			err = fmt.Errorf("lease %d holds %#x, want %#x", l.id, got, v)
		}
	})
	return err
}

func (l *modelLease) marks(f func([]byte, uint64)) {
	b := l.Bytes()
	for at := 0; at+8 <= len(b); at += MinBuffer * (1 + len(b)/(8*MinBuffer)) {
		f(b[at:], uint64(l.id)<<32|uint64(at))
	}
	if last := len(b) - 8; last >= 0 && last%MinBuffer >= 8 { // beside the page's mark
		f(b[last:], uint64(l.id))
	}
}

func (m *model) check(i int) {
	l := &m.live[i]
	if err := l.intact(); err != nil {
		m.t.Fatal(err)
	}
	if got := l.Refs(); got != l.refs {
		m.t.Fatalf("lease %d has %d references, want %d", l.id, got, l.refs)
	}
}

func (m *model) pin(i int) {
	l := &m.live[i]
	v := l.View(0, m.rng.IntN(l.Len()+1))
	c := m.cache[m.rng.IntN(len(m.cache))]
	l.pins = append(l.pins, modelPin{c, v, c.Pin(v)})
	l.Retain()
	l.refs++
}

func (m *model) unpin(i int) {
	m.check(i)
	l := &m.live[i]
	if n := len(l.pins); n > 0 {
		p := l.pins[n-1]
		l.pins = l.pins[:n-1]
		p.cache.Unpin(p.view, p.pin)
		m.drop(i)
	}
}

// release gives up one reference, unless only pins hold the rest.
func (m *model) release(i int) {
	m.check(i)
	if l := &m.live[i]; l.refs > len(l.pins) {
		m.drop(i)
	} else {
		m.unpin(i)
	}
}

func (m *model) drop(i int) {
	l := &m.live[i]
	b := l.Buffer
	if l.refs--; l.refs == 0 {
		clear(m.pages(b))
		m.live[i] = m.live[len(m.live)-1]
		m.live = m.live[:len(m.live)-1]
	}
	b.Release()
}

func (m *model) account() {
	var leased, pinned int64
	for _, l := range m.live {
		leased += int64(l.Cap())
		for _, p := range l.pins {
			pinned += int64(p.view.Len())
		}
	}
	if st := wantStats(m.t, m.r, leased); st.Pinned != pinned {
		m.t.Fatalf("Pinned = %d, want %d", st.Pinned, pinned)
	}
}

func TestArenaBehavesLikeItsModel(t *testing.T) {
	const size = 6 << 20
	seeds, steps := uint64(4), 50_000
	if invariants {
		steps = 5_000 // every lease and release goes over its bytes
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := newModel(t, size, seed)
			for i := range steps {
				m.step()
				if i%500 == 0 {
					m.account()
				}
			}
			if m.next < steps/4 || m.refused < steps/100 {
				t.Errorf("%d leases and %d failures in %d steps test little", m.next, m.refused, steps)
			}
			for len(m.live) > 0 {
				m.release(m.rng.IntN(len(m.live)))
			}
			m.account()
			for _, c := range m.cache {
				c.Flush()
			}
			if st := m.r.Stats(); st.Free != size || st.Pinned != 0 {
				t.Errorf("at the end: %+v, want %d bytes free", st, size)
			}
		})
	}
}

// Loops lease from a small arena, and half of what they lease is released by others.
func TestConcurrentLeasesNeverOverlap(t *testing.T) {
	const loops, size = 4, 2 << 20
	leases := 20_000
	if invariants {
		leases = 1_000
	}
	r := newRegistry(t, size)
	owner := make([]atomic.Uint64, size>>minShift)
	handed := make(chan owned, loops)
	base := uintptr(pointerTo(r.mem, 0))
	pages := func(b Buffer) []atomic.Uint64 {
		first := (b.Addr() - base) >> minShift
		return owner[first : first+uintptr(b.Cap()>>minShift)]
	}
	release := func(o owned) {
		if got := binary.LittleEndian.Uint64(o.Bytes()); got != o.id {
			t.Errorf("lease %#x was overwritten with %#x", o.id, got)
		}
		p := pages(o.Buffer)
		for i := range p {
			if !p[i].CompareAndSwap(o.id, 0) {
				t.Errorf("lease %#x lost a page", o.id)
			}
		}
		o.Release()
	}
	var others, loopsDone sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for o := range handed {
				release(o)
			}
		})
	}
	for l := range loops {
		loopsDone.Go(func() {
			c := r.NewCache(noWake)
			rng := rand.New(rand.NewPCG(uint64(l), 2))
			var held []owned
			for i := range leases {
				n := 8 + rng.IntN(MinBuffer<<min(rng.IntN(NumClasses), rng.IntN(NumClasses))-8)
				b, err := c.Lease(n)
				if err != nil { // exhausted: give back, and let others
					for _, o := range held {
						release(o)
					}
					held = held[:0]
					continue
				}
				o := owned{b, uint64(l+1)<<32 | uint64(i+1)}
				p := pages(b)
				for j := range p {
					if !p[j].CompareAndSwap(0, o.id) {
						t.Errorf("lease %#x overlaps lease %#x", o.id, p[j].Load())
					}
				}
				binary.LittleEndian.PutUint64(b.Bytes(), o.id)
				if rng.IntN(2) == 0 {
					handed <- o
				} else if held = append(held, o); len(held) == 8 {
					for _, o := range held {
						release(o)
					}
					held = held[:0]
				}
			}
			for _, o := range held {
				release(o)
			}
		})
	}
	loopsDone.Wait()
	close(handed)
	others.Wait()
	wantStats(t, r, 0)
	all := leaseAll(t, r, MaxBuffer)
	if len(all) != size/MaxBuffer {
		t.Errorf("leased %d MiB of %d at the end", len(all), size/MaxBuffer)
	}
	releaseAll(all)
}

type owned struct {
	Buffer
	id uint64
}
