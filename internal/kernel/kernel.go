// Package kernel is everything that the engine asks of the operating system, as interfaces
// with two implementations: the running kernel's, in this package, and a simulated one in
// internal/simring. What the engine does is the same on both.
package kernel

import (
	"net/netip"
	"syscall"
	"time"

	"sluice/bufreg"
	"sluice/ring"
	"sluice/zc"
)

// Ring is what a loop uses of a [ring.Ring], with the same meaning.
type Ring interface {
	SQE() *ring.SQE
	Pending() int
	Submit() error
	SubmitAndWait(min uint32, timeout time.Duration) error
	Ready() int
	Reap(dst []ring.CQE) int
	Overflowed() bool
	Entered() uint64
	Close() error
}

// Residency is whether the page cache holds a stretch of a file.
type Residency uint8

const (
	ResidencyUnknown Residency = iota // the kernel does not say
	Resident
	NotResident // some of it is missing, or on its way from the disk
)

// BufRing is what a loop uses of a [ring.BufRing].
type BufRing interface {
	Bytes(id uint16) []byte
	Recycle(id uint16)
	Publish()
}

// System makes rings and does what the engine does to sockets without one. All calls but
// Wake and UnmapFile belong to the thread of the loop that they are for. Descriptors are numbers that
// Ring's requests take.
type System interface {
	// Now is the time.
	Now() time.Time
	// ThreadCPU is the CPU time that the calling thread has used, in ns.
	ThreadCPU() int64
	// Open makes a ring on the calling thread, registers the arena with it, and provides
	// receive buffers to it as the given group. A kernel without multishot accepts and
	// receives (before 6.0) returns no BufRing, and sockets are read by Recv.
	Open(c ring.Config, arena *bufreg.Registry, group uint16, buffers, size int) (Ring, BufRing, error)
	// EventFD makes a counter whose increments a poll of the ring sees.
	EventFD() (fd int, err error)
	// Wake increments it, from any goroutine.
	Wake(fd int)
	// ResetEvent sets it to zero.
	ResetEvent(fd int)
	// Recv receives what a socket holds, up to len(p), without waiting; 0 without an error is
	// the end of the stream.
	Recv(fd int, p []byte) (int, syscall.Errno)
	// Close closes a descriptor.
	Close(fd int)
	// ShutdownWrite ends a socket's outgoing stream.
	ShutdownWrite(fd int) error
	// ResetOnClose has Close reset the connection and drop what the socket holds.
	ResetOnClose(fd int)
	// Cork has a TCP socket hold back segments that are not full, or no longer. It does not where the congestion control
	// paces.
	Cork(fd int, on bool)
	// Residency tells, without waiting, whether the page cache holds n bytes of a file from off.
	Residency(fd int, off int64, n int) Residency
	// MapFile maps a file of at most the given size, whole, so that zero-copy sends can take its pages
	// out of the page cache. Nobody looks at the memory: what is not in the page cache would be waited
	// for, and what the file no longer has would be a SIGBUS; a send of that fails with EFAULT instead.
	MapFile(fd int, most int64) ([]byte, error)
	// UnmapFile ends a mapping. No send of it may be without its completion; pages that the socket
	// has taken are the socket's. Any goroutine may call it.
	UnmapFile(mem []byte)
	// Sendfile sends up to n bytes of file in from off, without waiting for the socket. It waits
	// for the disk when the page cache does not hold them: Residency is asked first.
	Sendfile(out, in int, off int64, n int) (int, syscall.Errno)
	// BytesAcked is how many bytes the peer's TCP has acknowledged, and whether the socket holds
	// more for it. Where that is not known it is 0 and false.
	BytesAcked(fd int) (acked uint64, held bool)
	// SocketFacts is what can be known of a connected socket.
	SocketFacts(fd int) Facts
}

// Facts is what can be known of a connected socket, as far as routes depend on it.
type Facts struct {
	Peer   netip.AddrPort // zero for what is not IP
	Device string         // that has the socket's own address; "" if none is known to have it
	Local  bool           // the peer is on this host
	Kind   zc.Kind
}
