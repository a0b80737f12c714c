package bufreg

import (
	"fmt"
	"unsafe"
)

// Private is a copy of b's bytes in memory of its own, with one reference: for an owner
// that must let go of b and still has to send it. The memory is not registered, and goes back
// to the system with its last reference. It takes two system calls.
//
// All private copies together take no more than the arena's size: beyond it, ErrNoBuffers.
func (r *Registry) Private(b Buffer) (Buffer, error) {
	cl := classFor(b.Len())
	size := int64(cl.size())
	if r.private.Add(size) > r.Size() {
		r.private.Add(-size)
		return Buffer{}, ErrNoBuffers
	}
	mem, err := mapArena(cl.size(), false)
	if err != nil {
		r.private.Add(-size)
		return Buffer{}, fmt.Errorf("map a private copy of %d bytes: %w", b.Len(), err)
	}
	copy(mem, b.Bytes())
	s := &slot{reg: r, class: cl, base: unsafe.Pointer(&mem[0]), private: mem}
	s.state.Store(1)
	return Buffer{s: s, n: b.n}, nil
}

func (r *Registry) putPrivate(s *slot) {
	_ = unmapArena(s.private) // fails only for memory that is not a mapping
	r.private.Add(-int64(s.class.size()))
}
