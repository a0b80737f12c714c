package bufreg

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Cache is one loop's supply of free buffers. Lease, Pin and Unpin belong to the loop's
// goroutine; buffers come back from any.
type Cache struct {
	reg   *Registry
	wake  func()
	limit int // bytes kept in each class before the rest goes back to the slabs

	// mu is the owner's, and costs it two atomic operations, until somebody is short of
	// memory and takes what local holds. It is locked after Registry.mu.
	mu    sync.Mutex
	local [NumClasses]localList

	returned stack        // released buffers that the owner has not sorted yet
	waiting  atomic.Bool  // wake is owed
	leased   byClass      // buffers
	pinned   atomic.Int64 // bytes of views that the kernel has
}

type localList struct {
	head *slot
	n    int
}

// localBytes bounds what a loop keeps of each class at hand: two batches of small
// buffers, none of the largest.
const localBytes = 512 << 10

// NewCache makes a cache. wake is called, from any goroutine and without blocking, when a
// buffer has returned: once for all ErrNoBuffers since the last call. That may be before the
// failing Lease has returned, and the buffer may be too small: on wake, lease again.
func (r *Registry) NewCache(wake func()) *Cache {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &Cache{reg: r, wake: wake, limit: min(localBytes, len(r.mem)/128)}
	all := append(append([]*Cache(nil), *r.caches.Load()...), c)
	r.caches.Store(&all)
	return c
}

// Lease takes n bytes, at most MaxBuffer, with one reference. It allocates nothing.
// On ErrNoBuffers the cache's wake function will be called when a buffer returns.
func (c *Cache) Lease(n int) (Buffer, error) {
	if n < 0 || n > MaxBuffer {
		return Buffer{}, fmt.Errorf("lease %d bytes: %w", n, ErrTooLarge)
	}
	cl := classFor(n)
	c.mu.Lock()
	s := c.local[cl].pop(c.reg)
	c.mu.Unlock()
	if s == nil {
		if s = c.refill(cl); s == nil {
			return Buffer{}, ErrNoBuffers
		}
	}
	c.leased[s.class].Add(1)
	return s.lease(c, n), nil
}

// Await promises a call of the wake function as after ErrNoBuffers, to an owner that leaves free
// buffers to others.
func (c *Cache) Await() {
	c.reg.waiting.Add(1) // before the promise, see refill
	if !c.waiting.CompareAndSwap(false, true) {
		c.reg.waiting.Add(-1)
	}
}

// refill finds a buffer of class cl or larger.
func (c *Cache) refill(cl class) *slot {
	if s := c.search(cl); s != nil {
		return s
	}
	if c.waiting.Load() {
		return nil // promised to an earlier Lease, which must not lose it to this one
	}
	// The promise to wake is made before the last look, so that a return in between is
	// seen by one or the other. It is counted before it is made, and until it is taken back:
	// a count that can be too low would hide another cache's promise.
	c.reg.waiting.Add(1)
	c.waiting.Store(true)
	s := c.search(cl)
	if s != nil && c.waiting.CompareAndSwap(true, false) {
		c.reg.waiting.Add(-1)
	}
	return s
}

// search looks at what came back, the slabs, then whatever any cache keeps. It holds the
// lock throughout: nobody finds the arena empty because buffers are on the way.
func (c *Cache) search(cl class) *slot {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	if s := c.restockLocked(cl); s != nil {
		return s
	}
	c.reg.reclaimLocked()
	for k := cl; k < NumClasses; k++ {
		if s := c.reg.takeLocked(k); s != nil {
			return s
		}
	}
	return nil
}

func (c *Cache) restockLocked(cl class) *slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sortLocked()
	if s := c.local[cl].pop(c.reg); s != nil {
		return s
	}
	s := c.reg.takeLocked(cl)
	if s == nil {
		return nil
	}
	for range c.limit / cl.size() / 2 { // a batch, so that the Registry's lock is taken rarely
		more := c.reg.takeLocked(cl)
		if more == nil {
			break
		}
		c.local[cl].push(more)
	}
	return s
}

// sortLocked moves returned buffers to the local lists, and what is over the limit to the slabs.
func (c *Cache) sortLocked() {
	for s := c.returned.take(c.reg); s != nil; {
		next := c.reg.slotAt(s.next)
		if l := &c.local[s.class]; (l.n+1)*s.class.size() <= c.limit {
			l.push(s)
		} else {
			c.reg.giveLocked(s)
		}
		s = next
	}
}

// Flush gives every free buffer back to the slabs, at a loop's end.
func (c *Cache) Flush() {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	c.flushLocked()
}

// flushLocked is Flush for anyone who holds Registry.mu.
func (c *Cache) flushLocked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.returned.take(c.reg); s != nil; {
		next := c.reg.slotAt(s.next)
		c.reg.giveLocked(s)
		s = next
	}
	for cl := range c.local {
		for s := c.local[cl].pop(c.reg); s != nil; s = c.local[cl].pop(c.reg) {
			c.reg.giveLocked(s)
		}
	}
}

// Pin accounts for a send of b that the kernel may read from now on; Unpin ends it with
// the value that Pin returned. Under the invariants build tag Unpin panics when
// the bytes changed in between.
func (c *Cache) Pin(b Buffer) Pin {
	c.pinned.Store(c.pinned.Load() + int64(b.n)) // one writer
	return pinned(b)
}

// Unpin ends a Pin of b.
func (c *Cache) Unpin(b Buffer, p Pin) {
	c.pinned.Store(c.pinned.Load() - int64(b.n))
	p.verify(b)
}

// Pinned is the number of bytes that the kernel has of this loop's sends.
func (c *Cache) Pinned() int64 { return c.pinned.Load() }

func (l *localList) push(s *slot) {
	s.next = 0
	if l.head != nil {
		s.next = l.head.index + 1
	}
	l.head = s
	l.n++
}

func (l *localList) pop(r *Registry) *slot {
	s := l.head
	if s != nil {
		l.head = r.slotAt(s.next)
		l.n--
	}
	return s
}

// stack is a list that any goroutine pushes to and that is only ever taken whole, so that
// no push can mistake one head for another.
type stack struct{ head atomic.Uint32 }

func (st *stack) push(s *slot) {
	for {
		head := st.head.Load()
		s.next = head
		if st.head.CompareAndSwap(head, s.index+1) {
			return
		}
	}
}

func (st *stack) take(r *Registry) *slot {
	if st.head.Load() == 0 {
		return nil
	}
	return r.slotAt(st.head.Swap(0))
}
