package engine

import (
	"fmt"
	"math"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
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

// unsentLimit is TCP_NOTSENT_LOWAT: what a socket holds beyond what the peer's window lets out. By itself
// a socket takes up to tcp_wmem's 4 MiB for a peer that does not read. A thousand of those use up what
// the host has for TCP (tcp_mem), which slows down every other connection of it; and what
// many connections have waiting in their sockets is in no cache any more when it leaves.
const unsentLimit = 256 << 10

// sysTune sets a connection's options, or a listener's, which accepted sockets inherit.
//
// TCP_USER_TIMEOUT is for what the kernel alone still holds, after the close. While the
// connection is open the engine's own deadline comes before it, because the kernel would
// not say why: its ETIMEDOUT goes to whoever asks first, and the next one gets EPIPE.
func sysTune(fd int, writeStall time.Duration) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit); err != nil {
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

// sysOpenDirect opens a file once more, for reads around the page cache, and says what their
// offsets and lengths must be multiples of: by statx where it knows (6.1), else a page, which
// suits every usual block size. It returns -1 where the file system, or what the arena's
// buffers begin at, does not permit such reads.
func sysOpenDirect(fd int) (direct int, align int64) {
	align = bufreg.MinBuffer
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st) == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		align = int64(st.Dio_offset_align)
		if align == 0 || fileChunk%align != 0 || st.Dio_mem_align > bufreg.MinBuffer {
			return -1, 0
		}
	}
	direct, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0
	}
	return direct, align
}

func sysClose(fd int) error { return unix.Close(fd) }

func sysPinThread(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

func mapMemory(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func unmapMemory(m []byte) { _ = unix.Munmap(m) }
