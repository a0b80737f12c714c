package engine

import (
	"math"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The system calls that prepare sockets and memory; what a loop does to them goes through
// its ring and internal/kernel.

const (
	msgNoSignal = unix.MSG_NOSIGNAL
	msgWaitAll  = unix.MSG_WAITALL
	msgMore     = unix.MSG_MORE
	msgEOR      = unix.MSG_EOR
	pollIn      = unix.POLLIN
	pollOut     = unix.POLLOUT
	// Non-blocking for sendfile; requests of the ring wait all the same.
	sockFlags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
)

// userTimeouts is TCP_USER_TIMEOUT in write stalls. The engine keeps its deadline to a quarter
// of it, see stallLooks.
const userTimeouts = 2

func sysDup(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return n, err
}

// sysTune sets a connection's options, or a listener's, which accepted sockets inherit.
//
// TCP_USER_TIMEOUT is for what the kernel alone still holds, after the close. While the
// connection is open the engine's own deadline comes before it, because the kernel would
// not say why: its ETIMEDOUT goes to whoever asks first, and the next one gets EPIPE.
func sysTune(fd int, writeStall time.Duration) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	ms := min(userTimeouts*writeStall.Milliseconds(), math.MaxInt32)
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ms))
}

func sysReusePort(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	if err == nil {
		err = cerr
	}
	return err
}

func sysPinThread(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

func mapMemory(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func unmapMemory(m []byte) { _ = unix.Munmap(m) }
