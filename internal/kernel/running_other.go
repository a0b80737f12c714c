//go:build !linux

package kernel

import (
	"syscall"
	"time"

	"sluice/bufreg"
	"sluice/ring"
	"sluice/zc"
)

// Running is the kernel that this process runs on, which has no io_uring: Open fails, and
// nothing else is ever reached.
type Running struct{}

var _ System = Running{}

// Now is the time.
func (Running) Now() time.Time { return time.Now() }

// ThreadCPU does not know.
func (Running) ThreadCPU() int64 { return 0 }

// Open fails.
func (Running) Open(ring.Config, *bufreg.Registry, uint16, int, int) (Ring, BufRing, error) {
	return nil, nil, ring.ErrUnsupported
}

// EventFD fails.
func (Running) EventFD() (int, error) { return -1, ring.ErrUnsupported }

// Wake does nothing.
func (Running) Wake(int) {}

// ResetEvent does nothing.
func (Running) ResetEvent(int) {}

// Recv fails.
func (Running) Recv(int, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// Close does nothing.
func (Running) Close(int) {}

// ShutdownWrite fails.
func (Running) ShutdownWrite(int) error { return ring.ErrUnsupported }

// Cork does nothing.
func (Running) Cork(int, bool) {}

// ResetOnClose does nothing.
func (Running) ResetOnClose(int) {}

// Residency does not know.
func (Running) Residency(int, int64, int) Residency { return ResidencyUnknown }

// MapFile fails.
func (Running) MapFile(int, int64) ([]byte, error) { return nil, ring.ErrUnsupported }

// UnmapFile does nothing.
func (Running) UnmapFile([]byte) {}

// Sendfile fails.
func (Running) Sendfile(int, int, int64, int) (int, syscall.Errno) { return 0, syscall.ENOSYS }

// BytesAcked does not know.
func (Running) BytesAcked(int) (uint64, bool) { return 0, false }

// SocketFacts says that nothing goes by zero-copy.
func (Running) SocketFacts(int) Facts { return Facts{Kind: zc.OtherSocket} }
