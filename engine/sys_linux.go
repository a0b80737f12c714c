package engine

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Every system call of the package, other than through the ring, is in this file.

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

func sysEventFD() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) }

func sysWake(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:]) // fails only when the counter is full, and then a wake-up is pending
}

func sysClose(fd int) { _ = unix.Close(fd) }

func sysDup(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	return n, err
}

func sysShutdownWrite(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) }

// sysResetOnClose has close send a reset and drop what the socket holds (tcp(7), SO_LINGER).
func sysResetOnClose(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// sysSendfile may block on a disk, so the Go scheduler is told.
func sysSendfile(out, in int, off int64, n int) (int, syscall.Errno) {
	n, err := unix.Sendfile(out, in, &off, n)
	if err != nil {
		return 0, err.(syscall.Errno)
	}
	return n, 0
}

// sysBytesAcked is how many bytes the peer's TCP has acknowledged (tcpi_bytes_acked, 4.1), and
// whether the socket holds more for it. Other sockets have 0 and false.
func sysBytesAcked(fd int) (acked uint64, held bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.Bytes_acked, info.Unacked > 0 || info.Notsent_bytes > 0
}

// sysSocketFacts tells whether the peer is on this host, where zero-copy sends are copied, and
// whether the socket is of a kind that takes none: anything but plain TCP.
func sysSocketFacts(fd int) (local, noZC bool) {
	if p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || p != unix.IPPROTO_TCP {
		return false, true
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return false, false
	}
	p := addrOf(peer)
	if p.IsLoopback() {
		return true, false
	}
	own, err := unix.Getsockname(fd)
	return err == nil && p == addrOf(own), false
}

func addrOf(sa unix.Sockaddr) netip.Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

// sysTuneListener sets what accepted sockets inherit.
func sysTuneListener(fd int, userTimeout time.Duration) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
}

func sysTuneConn(fd int, userTimeout time.Duration) error { return sysTuneListener(fd, userTimeout) }

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
