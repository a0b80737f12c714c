package ring

import "unsafe"

// Msghdr is a struct msghdr with its iovecs, laid out in memory that the caller owns and
// that the kernel may read until the request's completion.
type Msghdr struct {
	h    *msghdr
	iov  []Iovec
	used int
}

// msghdr is struct user_msghdr on 64-bit systems.
type msghdr struct {
	Name       uintptr
	NameLen    uint32
	_          uint32
	Iov        uintptr
	IovLen     uint64
	Control    uintptr
	ControlLen uint64
	Flags      uint32
	_          uint32
}

var (
	_ = [1]struct{}{}[unsafe.Sizeof(msghdr{})-56]
	_ = [1]struct{}{}[unsafe.Sizeof(Iovec{})-16]
)

// MsghdrSize is how many bytes a Msghdr of n iovecs takes.
func MsghdrSize(n int) int { return int(unsafe.Sizeof(msghdr{})) + n*int(unsafe.Sizeof(Iovec{})) }

// NewMsghdr lays a Msghdr out in mem, which must be mmap'd, aligned to 8 bytes, and of
// MsghdrSize(n) bytes for n iovecs.
func NewMsghdr(mem []byte) Msghdr {
	h := (*msghdr)(unsafe.Pointer(&mem[0]))
	rest := mem[unsafe.Sizeof(*h):]
	n := len(rest) / int(unsafe.Sizeof(Iovec{}))
	return Msghdr{h: h, iov: unsafe.Slice((*Iovec)(unsafe.Pointer(&rest[0])), n)}
}

// Reset empties it.
func (m *Msghdr) Reset() {
	*m.h = msghdr{Iov: uintptr(unsafe.Pointer(&m.iov[0]))}
	m.used = 0
}

// Append adds a vector. It panics past the capacity.
func (m *Msghdr) Append(addr uintptr, n uint32) {
	m.iov[m.used] = Iovec{addr, uint64(n)}
	m.used++
	m.h.IovLen = uint64(m.used)
}

// Addr is the address for PrepSendMsg and PrepSendMsgZC.
func (m *Msghdr) Addr() uintptr { return uintptr(unsafe.Pointer(m.h)) }

// addressOf is where b begins; b must not be on the Go heap or stack.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// Vectors are the vectors of a msghdr at the start of mem, for who plays the kernel's part.
func Vectors(mem []byte) []Iovec {
	h := (*msghdr)(unsafe.Pointer(&mem[0]))
	return unsafe.Slice(*(**Iovec)(unsafe.Pointer(&h.Iov)), h.IovLen)
}
