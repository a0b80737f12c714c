package bufreg

import (
	"fmt"
	"sync/atomic"
)

// Cache is one loop's supply of free buffers. Lease, Pin and Unpin belong to the loop's
// goroutine; buffers come back from any.
type Cache struct {
	reg   *Registry
	wake  func()
	local [numClasses]localList
	limit int // bytes kept in each class before the rest goes back to the slabs

	returned stack        // released buffers that the owner has not sorted yet
	waiting  atomic.Bool  // wake is owed
	leased   atomic.Int64 // bytes of capacity
	pinned   atomic.Int64 // bytes of views that the kernel has
}

type localList struct {
	head *slot
	n    int
}

// localBytes bounds what a loop keeps of each class for itself: two batches of small
// buffers, none of the largest.
const localBytes = 512 << 10

// NewCache makes a cache. wake is called, from any goroutine and without blocking, once
// after each ErrNoBuffers, when a buffer has returned.
func (r *Registry) NewCache(wake func()) *Cache {
	c := &Cache{reg: r, wake: wake, limit: min(localBytes, len(r.mem)/128)}
	r.mu.Lock()
	defer r.mu.Unlock()
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
	s := c.local[cl].pop(c.reg)
	if s == nil {
		if s = c.refill(cl); s == nil {
			return Buffer{}, ErrNoBuffers
		}
	}
	c.leased.Add(int64(s.class.size()))
	return s.lease(c, n), nil
}

// refill finds a buffer of class cl or larger: what came back, the slabs, other caches'
// returns, then what this cache keeps of other classes.
func (c *Cache) refill(cl class) *slot {
	if c.sort(); c.local[cl].n > 0 {
		return c.local[cl].pop(c.reg)
	}
	if s := c.refillFromSlabs(cl); s != nil {
		return s
	}
	// The promise to wake is made before the last look, so that a return in between is
	// seen by one or the other.
	if c.waiting.CompareAndSwap(false, true) {
		c.reg.waiting.Add(1)
	}
	c.Flush()
	s := c.refillFromSlabs(cl)
	if s != nil && c.waiting.CompareAndSwap(true, false) {
		c.reg.waiting.Add(-1)
	}
	return s
}

func (c *Cache) refillFromSlabs(cl class) *slot {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	s := c.reg.takeLocked(cl)
	if s == nil {
		c.reg.reclaimLocked()
		for k := cl; k < numClasses && s == nil; k++ {
			s = c.reg.takeLocked(k)
		}
		return s
	}
	for range c.limit / cl.size() / 2 { // a batch, so that the lock is taken rarely
		more := c.reg.takeLocked(cl)
		if more == nil {
			break
		}
		c.local[cl].push(more)
	}
	return s
}

// sort moves returned buffers to the local lists, and what is over the limit to the slabs.
func (c *Cache) sort() {
	for s := c.returned.take(c.reg); s != nil; {
		next := c.reg.slotAt(s.next)
		if l := &c.local[s.class]; (l.n+1)*s.class.size() <= c.limit {
			l.push(s)
		} else {
			c.reg.mu.Lock()
			c.reg.giveLocked(s)
			c.reg.mu.Unlock()
		}
		s = next
	}
}

// Flush gives every free buffer back to the slabs: at a loop's end, or when memory is short.
func (c *Cache) Flush() {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	c.reg.reclaimLocked()
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
