package bufreg

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"sluice/ring"
)

// ErrNoBuffers says that every piece of the arena that could hold the lease is out. From a
// [Cache] it also promises one call of the cache's wake function when one returns.
var ErrNoBuffers = errors.New("no free buffer in the arena")

// ErrTooLarge says that a lease was asked for that no size class holds.
var ErrTooLarge = fmt.Errorf("a lease holds at most %d bytes: use several", MaxBuffer)

const (
	// DefaultSize is the arena's size when none is asked for: room for 64 sends of 1 MiB.
	DefaultSize = 64 << 20
	// MaxSize is the largest arena: a limit against typing errors, not of the kernel, which
	// takes 16,384 buffers of 1 GiB.
	MaxSize = 1 << 40

	regionSize = 1 << 30 // the largest registered buffer that the kernel takes
)

// Registry is an arena and its accounts. All methods may be called from any goroutine,
// except where they say otherwise.
type Registry struct {
	mem   []byte
	slots []slot // one for each page of MinBuffer bytes

	mu        sync.Mutex
	slabs     []slab
	freeSlabs []uint32                 // slabs that serve no class
	partial   [NumClasses][]uint32     // slabs of a class with a free buffer, unordered
	freeBytes int64                    // in free slabs and in the slabs' free buffers
	caches    atomic.Pointer[[]*Cache] // replaced, never changed
	waiting   atomic.Int32             // caches that wait for a return
	direct    byClass                  // buffers leased from the Registry itself

	private atomic.Int64 // bytes of private copies

	home *ring.Ring // holds the registration that is cloned; nil where it cannot be
}

// slab is 1 MiB of the arena.
type slab struct {
	free  [4]uint64 // bit i: buffer i is free
	nfree uint16
	at    uint32 // index in partial, while nfree > 0 and the slab serves a class
	class class
}

// New maps an arena of size bytes, rounded up to whole slabs of 1 MiB; zero means
// [DefaultSize]. Nothing is pinned before [Registry.Attach].
func New(size int) (*Registry, error) { return newArena(size, false) }

// NewHuge is New, and asks for transparent huge pages (madvise(2), MADV_HUGEPAGE). Packets of a BIG TCP device are then larger
// than 64 KiB, since their 17 fragments are. But the kernel charges each piece of a zero-copy send to its socket by its offset in
// the huge page, as if it were up to 2 MiB: unless net.ipv4.tcp_wmem allows some ten times of what is to be in flight, sends stall.
func NewHuge(size int) (*Registry, error) { return newArena(size, true) }

func newArena(size int, huge bool) (*Registry, error) {
	if size == 0 {
		size = DefaultSize
	}
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("an arena of %d bytes: it must have 1 to %d", size, MaxSize)
	}
	size = (size + MaxBuffer - 1) &^ (MaxBuffer - 1)
	mem, err := mapArena(size, huge)
	if err != nil {
		return nil, fmt.Errorf("map an arena of %d bytes: %w", size, err)
	}
	r := &Registry{mem: mem, slots: make([]slot, size>>minShift), slabs: make([]slab, size>>maxShift), freeBytes: int64(size)}
	r.caches.Store(new([]*Cache))
	for i := range r.slots {
		s := &r.slots[i]
		s.reg, s.index, s.base = r, uint32(i), pointerTo(mem, i<<minShift)
	}
	for i := range r.slabs {
		r.freeSlabs = append(r.freeSlabs, uint32(len(r.slabs)-1-i))
	}
	if invariants {
		poison(mem)
	}
	return r, nil
}

// Attach registers the arena with g, by cloning where the kernel can. It must be called on
// g's thread.
func (r *Registry) Attach(g *ring.Ring) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.home == nil {
		if err := r.makeHome(); err != nil {
			return fmt.Errorf("register the arena: %w", err)
		}
	}
	if r.home == nil {
		return g.RegisterBuffers(r.regions())
	}
	return g.CloneBuffers(r.home)
}

// makeHome registers the arena with a ring of its own when registrations can be cloned,
// so that no loop's end can take it away.
func (r *Registry) makeHome() error {
	caps, err := ring.Probe()
	if err != nil || !caps.CloneBuffers {
		return err
	}
	home, err := ring.New(ring.Config{Entries: 1, Shared: true})
	if err != nil {
		return err
	}
	if err := home.RegisterBuffers(r.regions()); err != nil {
		return errors.Join(err, home.Close())
	}
	r.home = home
	return nil
}

// regions are the pieces of the arena that are registered, in the order of their index.
func (r *Registry) regions() [][]byte {
	var out [][]byte
	for m := r.mem; len(m) > 0; m = m[min(regionSize, len(m)):] {
		out = append(out, m[:min(regionSize, len(m))])
	}
	return out
}

// Close unmaps the arena. It refuses while leases are out, naming how much: the
// kernel, or somebody, could still read or write them.
//
// Afterwards there are no buffers to lease.
func (r *Registry) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reclaimLocked()
	if out := int64(len(r.mem)) - r.freeBytes; out != 0 {
		return fmt.Errorf("close the arena: %d bytes are still leased, with %d in sends that the kernel has", out, r.pinned())
	}
	if n := r.private.Load(); n != 0 {
		return fmt.Errorf("close the arena: %d bytes of private copies are still leased", n)
	}
	if r.mem == nil {
		return nil
	}
	var err error
	if r.home != nil {
		err = r.home.Close()
	}
	err = errors.Join(err, unmapArena(r.mem))
	r.mem, r.slots, r.home = nil, nil, nil
	r.freeSlabs, r.freeBytes = nil, 0
	return err
}

// Lease takes n bytes, at most MaxBuffer, with one reference. Loops lease through their
// [Cache], which shares no lock while it has buffers at hand.
func (r *Registry) Lease(n int) (Buffer, error) {
	if n < 0 || n > MaxBuffer {
		return Buffer{}, fmt.Errorf("lease %d bytes: %w", n, ErrTooLarge)
	}
	for c := classFor(n); c < NumClasses; c++ {
		if s := r.takeOne(c); s != nil {
			r.direct[c].Add(1)
			return s.lease(nil, n), nil
		}
	}
	return Buffer{}, ErrNoBuffers
}

func (s *slot) lease(home *Cache, n int) Buffer {
	s.home = home
	gen := uint32(s.state.Load() >> 32)
	s.debug.leased(s)
	s.state.Store(uint64(gen)<<32 | 1)
	return Buffer{s: s, gen: gen, n: uint32(n)}
}

func (r *Registry) takeOne(c class) *slot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.takeLocked(c); s != nil {
		return s
	}
	r.reclaimLocked()
	return r.takeLocked(c)
}

// takeLocked takes a free buffer of class c out of the slabs, or returns nil.
func (r *Registry) takeLocked(c class) *slot {
	if len(r.partial[c]) == 0 {
		n := len(r.freeSlabs)
		if n == 0 {
			return nil
		}
		r.assignLocked(r.freeSlabs[n-1], c)
		r.freeSlabs = r.freeSlabs[:n-1]
	}
	i := r.partial[c][len(r.partial[c])-1]
	sl := &r.slabs[i]
	for w, word := range sl.free {
		if word != 0 {
			bit := bits.TrailingZeros64(word)
			sl.free[w] &^= 1 << bit
			sl.nfree--
			if sl.nfree == 0 {
				r.unlistLocked(i)
			}
			r.freeBytes -= int64(c.size())
			s := &r.slots[int(i)<<(maxShift-minShift)+(w*64+bit)<<c]
			s.class = c
			return s
		}
	}
	panic("bufreg: a slab with free buffers has none")
}

func (r *Registry) assignLocked(i uint32, c class) {
	sl := &r.slabs[i]
	sl.class, sl.nfree = c, uint16(c.perSlab())
	for n := range sl.nfree {
		sl.free[n/64] |= 1 << (n % 64)
	}
	r.listLocked(i)
}

func (r *Registry) listLocked(i uint32) {
	c := r.slabs[i].class
	r.slabs[i].at = uint32(len(r.partial[c]))
	r.partial[c] = append(r.partial[c], i)
}

func (r *Registry) unlistLocked(i uint32) {
	p := r.partial[r.slabs[i].class]
	last := p[len(p)-1]
	p[r.slabs[i].at] = last
	r.slabs[last].at = r.slabs[i].at
	r.partial[r.slabs[i].class] = p[:len(p)-1]
}

// giveLocked puts a buffer back into its slab; a slab that is whole again may serve any class.
func (r *Registry) giveLocked(s *slot) {
	i := s.index >> (maxShift - minShift)
	sl := &r.slabs[i]
	n := s.index & (1<<(maxShift-minShift) - 1) >> s.class
	sl.free[n/64] |= 1 << (n % 64)
	sl.nfree++
	r.freeBytes += int64(s.class.size())
	if sl.nfree == 1 {
		r.listLocked(i)
	}
	if int(sl.nfree) == s.class.perSlab() {
		r.unlistLocked(i)
		sl.free = [4]uint64{}
		sl.nfree = 0
		r.freeSlabs = append(r.freeSlabs, i)
	}
}

// reclaimLocked collects everything that caches keep. A loop that has gone quiet would
// otherwise starve the rest for ever: with nothing leased, nothing returns and wakes them.
func (r *Registry) reclaimLocked() {
	for _, c := range *r.caches.Load() {
		c.flushLocked()
	}
}

// put returns a piece whose last reference went, from any goroutine.
func (r *Registry) put(s *slot) {
	if c := s.home; c != nil {
		c.leased[s.class].Add(-1)
		c.returned.push(s)
	} else {
		r.direct[s.class].Add(-1)
		r.mu.Lock()
		r.giveLocked(s)
		r.mu.Unlock()
	}
	if r.waiting.Load() > 0 {
		r.wakeWaiting()
	}
}

func (r *Registry) wakeWaiting() {
	for _, c := range *r.caches.Load() {
		if c.waiting.CompareAndSwap(true, false) {
			r.waiting.Add(-1)
			c.wake()
		}
	}
}

func (r *Registry) slotAt(indexPlusOne uint32) *slot {
	if indexPlusOne == 0 {
		return nil
	}
	return &r.slots[indexPlusOne-1]
}

// Stats is the arena by state, in bytes of capacity. Total = Free + Cached + Leased.
type Stats struct {
	Total  int64
	Free   int64 // in slabs, for anyone
	Cached int64 // free, kept by a loop or on its way back
	Leased int64
	Pinned int64 // sum over sends that the kernel has not finished, in bytes of the views; a shared buffer counts for each

	Private int64 // bytes of private copies, which are not the arena's

	LeasedByClass [NumClasses]int64 // of Leased, by the size of the piece: MinBuffer << i
}

// byClass counts buffers of each class.
type byClass [NumClasses]atomic.Int64

func (n *byClass) addTo(st *Stats) {
	for c := range n {
		bytes := n[c].Load() * int64(class(c).size())
		st.LeasedByClass[c] += bytes
		st.Leased += bytes
	}
}

// Size is the arena's size in bytes.
func (r *Registry) Size() int64 { return int64(len(r.mem)) }

// Leased is the number of bytes that are leased now. It takes no lock.
func (r *Registry) Leased() int64 {
	var st Stats
	r.addLeased(&st)
	return st.Leased
}

func (r *Registry) addLeased(st *Stats) {
	r.direct.addTo(st)
	for _, c := range *r.caches.Load() {
		c.leased.addTo(st)
	}
}

// Stats reads the counters. They are exact when nothing moves, and each is exact by itself.
func (r *Registry) Stats() Stats {
	st := Stats{Pinned: r.pinned(), Private: r.private.Load()}
	r.addLeased(&st)
	r.mu.Lock()
	st.Total, st.Free = int64(len(r.mem)), r.freeBytes
	r.mu.Unlock()
	st.Cached = max(0, st.Total-st.Free-st.Leased)
	return st
}

func (r *Registry) pinned() (n int64) {
	for _, c := range *r.caches.Load() {
		n += c.pinned.Load()
	}
	return n
}
