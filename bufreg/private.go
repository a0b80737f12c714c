package bufreg

import (
	"fmt"
	"unsafe"
)

// Private is memory of n bytes, at most MaxBuffer, outside of the arena, with one reference: for copies of what an owner
// must let go of and still has to send. It is not registered, and goes back to the system with its last
// reference. It takes two system calls.
//
// All private memory together is no more than the arena's size: beyond it, ErrNoBuffers.
func (r *Registry) Private(n int) (Buffer, error) {
	cl := classFor(n)
	size := int64(cl.size())
	if r.private.Add(size) > r.Size() {
		r.private.Add(-size)
		return Buffer{}, ErrNoBuffers
	}
	mem, err := mapArena(cl.size(), false)
	if err != nil {
		r.private.Add(-size)
		return Buffer{}, fmt.Errorf("map private memory of %d bytes: %w", n, err)
	}
	s := &slot{reg: r, class: cl, base: unsafe.Pointer(&mem[0]), private: mem}
	s.state.Store(1)
	return Buffer{s: s, n: uint32(n)}, nil
}

func (r *Registry) putPrivate(s *slot) {
	_ = unmapArena(s.private) // fails only for memory that is not a mapping
	r.private.Add(-int64(s.class.size()))
}
