package ring

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// BufRing is a ring of provided buffers: memory that the kernel picks from when data
// arrives, so that an idle connection owns none (5.19). It belongs to the ring's thread.
//
// A buffer is the kernel's from Recycle until a completion names it with
// [CQE.BufferID]; then it is the caller's until it is recycled again.
type BufRing struct {
	r       *Ring
	group   uint16
	entries []buf
	mask    uint16
	tail    uint16
	size    uint32
	ringMem []byte
	mem     []byte
}

// NewBufRing provides count buffers (a power of two, at most 32,768) of size bytes each,
// as buffer group. It is freed with the ring.
func (r *Ring) NewBufRing(group uint16, count, size int) (*BufRing, error) {
	if count <= 0 || count > 1<<15 || count&(count-1) != 0 || size <= 0 {
		return nil, fmt.Errorf("provide %d buffers of %d bytes: the count must be a power of two up to 32768, the size positive", count, size)
	}
	b := &BufRing{r: r, group: group, mask: uint16(count - 1), size: uint32(size)}
	var err error
	if b.ringMem, err = mapAnonymous(count * int(unsafe.Sizeof(buf{}))); err != nil {
		return nil, fmt.Errorf("map a provided-buffer ring: %w", err)
	}
	if b.mem, err = mapAnonymous(count * size); err != nil {
		b.unmap()
		return nil, fmt.Errorf("map %d provided buffers of %d bytes: %w", count, size, err)
	}
	b.entries = unsafe.Slice((*buf)(unsafe.Pointer(&b.ringMem[0])), count)
	arg := bufReg{RingAddr: uint64(uintptr(unsafe.Pointer(&b.ringMem[0]))), RingEntries: uint32(count), BGID: group}
	if _, errno := register(r.fd, RegisterPbufRing, unsafe.Pointer(&arg), 1); errno != 0 {
		b.unmap()
		return nil, setupError(fmt.Sprintf("register a ring of %d provided buffers", count), errno)
	}
	for i := range count {
		b.Recycle(uint16(i))
	}
	b.Publish()
	r.bufRings = append(r.bufRings, b)
	return b, nil
}

// Bytes is buffer id's memory.
func (b *BufRing) Bytes(id uint16) []byte {
	off := int(id) * int(b.size)
	return b.mem[off : off+int(b.size) : off+int(b.size)]
}

// Recycle hands buffer id back to the kernel at the next Publish.
func (b *BufRing) Recycle(id uint16) {
	e := &b.entries[b.tail&b.mask]
	e.Addr = uint64(uintptr(unsafe.Pointer(&b.mem[int(id)*int(b.size)])))
	e.Len = b.size
	e.BID = id
	b.tail++
}

// Publish makes recycled buffers visible to the kernel.
func (b *BufRing) Publish() {
	// The ring's tail lies in the last 16 bits of the first entry, beside that entry's buffer
	// id: both are stored as one 32-bit word, because Go has no atomic 16-bit store. The kernel
	// reads the tail with load-acquire and the id only of entries below it.
	word := (*uint32)(unsafe.Pointer(&b.entries[0].BID))
	atomic.StoreUint32(word, packTail(b.entries[0].BID, b.tail))
}

// packTail builds the word that holds an entry's buffer id and the ring's tail, in the
// host's byte order.
func packTail(bid, tail uint16) uint32 {
	half := [2]uint16{bid, tail}
	return *(*uint32)(unsafe.Pointer(&half))
}

func (b *BufRing) unmap() {
	for _, m := range [][]byte{b.ringMem, b.mem} {
		if m != nil {
			_ = unmap(m) // fails only for memory that is not a mapping
		}
	}
	b.ringMem, b.mem, b.entries = nil, nil, nil
}
