package bufreg

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Buffer is a view of leased memory together with a claim on one reference to it. It is a
// small value: copying it copies no reference. The zero Buffer holds nothing.
type Buffer struct {
	s   *slot
	gen uint32
	off uint32
	n   uint32
}

// slot is the state of one piece of the arena. There is one for each page; the piece's
// first page's is the one in use.
type slot struct {
	// state is generation<<32 | references. The generation counts leases of this slot,
	// and moves on when the last reference goes.
	state atomic.Uint64
	base  unsafe.Pointer // first byte of the piece, in the arena
	home  *Cache         // who leased it; nil: the Registry
	reg   *Registry
	next  uint32 // index+1 of the next slot in a free list
	index uint32 // page number in the arena
	class class
	debug slotDebug

	private []byte // the memory of a private copy, which is a mapping of its own; else nil
}

// Bytes is the view's memory. It must not be used after the reference it came with is
// released, nor written to while a send of it is under way.
func (b Buffer) Bytes() []byte {
	b.check("Bytes")
	return unsafe.Slice((*byte)(unsafe.Add(b.s.base, b.off)), b.n)
}

// Len is the view's length in bytes.
func (b Buffer) Len() int { return int(b.n) }

// Cap is the capacity of the whole lease in bytes.
func (b Buffer) Cap() int { return b.s.class.size() }

// IsZero reports whether b holds nothing.
func (b Buffer) IsZero() bool { return b.s == nil }

// View is n bytes of b from off. It shares b's reference: retain it if it outlives b.
// It panics when the range is not inside b.
func (b Buffer) View(off, n int) Buffer {
	if off < 0 || n < 0 || off > int(b.n)-n {
		panic(fmt.Sprintf("bufreg: view [%d:%d+%d] of a buffer of %d bytes", off, off, n, b.n))
	}
	b.off += uint32(off)
	b.n = uint32(n)
	return b
}

// Room is how many bytes of the lease lie behind the view.
func (b Buffer) Room() int { return b.Cap() - int(b.off) - int(b.n) }

// Extend is the view with n more bytes at its end, which the lease's sole owner may have
// written there. It panics past the lease's capacity.
func (b Buffer) Extend(n int) Buffer {
	if n < 0 || n > b.Room() {
		panic(fmt.Sprintf("bufreg: extend by %d bytes a view with room for %d", n, b.Room()))
	}
	b.n += uint32(n)
	return b
}

// Same reports whether both are views of one lease.
func (b Buffer) Same(c Buffer) bool { return b.s == c.s && b.gen == c.gen }

// Retain adds a reference and returns b. Each reference is released once.
func (b Buffer) Retain() Buffer {
	for {
		state := b.s.state.Load()
		if uint32(state>>32) != b.gen || uint32(state) == 0 {
			b.fault("Retain", state)
		}
		if b.s.state.CompareAndSwap(state, state+1) {
			b.s.debug.record(eventRetain)
			return b
		}
	}
}

// Release gives up one reference; the last one returns the memory to where it was leased.
// Any goroutine may call it. Releasing more often than retained panics.
func (b Buffer) Release() {
	b.s.debug.record(eventRelease)
	for {
		// Not a plain subtraction: releasing once too often would then take the next
		// owner's reference, or bring the ended generation back, before it panics.
		state := b.s.state.Load()
		if uint32(state>>32) != b.gen || uint32(state) == 0 {
			b.fault("Release", state)
		}
		if uint32(state) > 1 {
			if b.s.state.CompareAndSwap(state, state-1) {
				return
			}
		} else if b.s.state.CompareAndSwap(state, uint64(b.gen+1)<<32) {
			b.s.debug.poison(b.s)
			if b.s.private != nil {
				b.s.reg.putPrivate(b.s)
			} else {
				b.s.reg.put(b.s)
			}
			return
		}
	}
}

// Refs is the number of references at the moment, for tests and diagnostics.
func (b Buffer) Refs() int {
	b.check("Refs")
	return int(uint32(b.s.state.Load()))
}

// Addr is the address of the view's first byte, for a request to the kernel.
func (b Buffer) Addr() uintptr { return uintptr(b.s.base) + uintptr(b.off) }

// Registered reports whether the memory is the arena's, rather than a private copy's.
func (b Buffer) Registered() bool { return b.s.private == nil }

// Index is the index of the registered buffer that the view lies in.
func (b Buffer) Index() uint16 { return uint16(uint64(b.s.index) << minShift / regionSize) }

func (b Buffer) check(op string) {
	if got := b.s.state.Load(); uint32(got>>32) != b.gen {
		b.fault(op, got)
	}
}

// fault panics: a reference was used that its holder no longer had. Going on could hand
// one owner's bytes to another.
func (b Buffer) fault(op string, state uint64) {
	panic(fmt.Sprintf("bufreg: %s of a released buffer (lease %d of page %d; now lease %d with %d references)%s",
		op, b.gen, b.s.index, state>>32, int32(state), b.s.debug.history()))
}
