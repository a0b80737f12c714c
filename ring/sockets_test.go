//go:build linux

package ring

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a descriptor that the test closes, at its end or before. As an io.Reader and
// io.Writer it makes plain system calls, bounded by patience.
type socket struct {
	t  testing.TB
	fd int
}

func newSocket(t testing.TB, fd int) *socket {
	t.Helper()
	s := &socket{t, fd}
	t.Cleanup(s.close)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &limit); err != nil {
			t.Fatalf("set a socket's time limit: %v", err)
		}
	}
	return s
}

func (s *socket) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
	}
	s.fd = -1
}

// reset closes the connection with RST, which also frees what it pins (SO_LINGER, 0 s).
func (s *socket) reset() {
	s.t.Helper()
	if err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		s.t.Fatalf("SO_LINGER: %v", err)
	}
	s.close()
}

func (s *socket) shutdown(how int) {
	s.t.Helper()
	if err := unix.Shutdown(s.fd, how); err != nil {
		s.t.Fatalf("shutdown: %v", err)
	}
}

func (s *socket) setBuffer(opt, size int) {
	s.t.Helper()
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt, size); err != nil {
		s.t.Fatalf("set a socket's buffer to %d: %v", size, err)
	}
}

func (s *socket) setNonblock() {
	s.t.Helper()
	if err := unix.SetNonblock(s.fd, true); err != nil {
		s.t.Fatalf("O_NONBLOCK: %v", err)
	}
}

func (s *socket) Read(b []byte) (int, error) {
	for {
		switch n, err := unix.Read(s.fd, b); {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (s *socket) Write(b []byte) (int, error) {
	for {
		if n, err := unix.Write(s.fd, b); err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// send writes all of b.
func (s *socket) send(b []byte) {
	s.t.Helper()
	if _, err := io.Copy(s, bytes.NewReader(b)); err != nil {
		s.t.Fatalf("write %d bytes: %v", len(b), err)
	}
}

// expect reads len(want) bytes and compares them.
func (s *socket) expect(want []byte) {
	s.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(s, got); err != nil {
		s.t.Fatalf("read %d of %d bytes: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		s.t.Fatalf("received %d bytes that differ from those sent", len(got))
	}
}

// expectEnd reads the end of the stream.
func (s *socket) expectEnd() {
	s.t.Helper()
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		s.t.Fatalf("read %d bytes, error %v, instead of the end of the stream", n, err)
	}
}

// fill writes until the connection takes no more, which the peer must not be reading.
// Acknowledgements may make room once more, so it ends only after a while without any.
func (s *socket) fill() {
	s.t.Helper()
	for junk := make([]byte, 64<<10); ; {
		settled := s.settled() // before the attempt: what is on the way could still make room after it
		switch _, err := unix.SendmsgN(s.fd, junk, nil, nil, unix.MSG_DONTWAIT); {
		case err == nil || err == unix.EINTR:
		case err != unix.EAGAIN:
			s.t.Fatalf("fill a socket: %v", err)
		case settled:
			return
		default:
			s.poll(unix.POLLOUT, time.Millisecond)
		}
	}
}

// settled reports whether the peer has acknowledged everything that was transmitted, and its
// window lets nothing more pass.
func (s *socket) settled() bool {
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return true // no TCP: nothing is ever on the way
	}
	return info.Unacked == 0 && info.Notsent_bytes > 0
}

// poll waits for events, and reports whether there were any.
func (s *socket) poll(events int16, limit time.Duration) bool {
	s.t.Helper()
	for end := time.Now().Add(limit); ; {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		n, err := unix.Poll(fds, int(max(0, time.Until(end))/time.Millisecond)+1) // less than 0 would mean for ever
		if err != nil && err != unix.EINTR {
			s.t.Fatalf("poll: %v", err)
		}
		if n > 0 || !time.Now().Before(end) {
			return n > 0
		}
	}
}

// awaitReset waits until the peer's reset has arrived, without consuming its error.
func (s *socket) awaitReset() {
	s.t.Helper()
	if !s.poll(0, patience) { // POLLERR and POLLHUP are always reported
		s.t.Fatal("the connection was not reset")
	}
}

// reading runs read in the background. The test's end waits for it, so that it touches
// neither the socket nor memory when they are gone.
func (s *socket) reading(read func() error) <-chan error {
	result, over := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(over)
		result <- read()
	}()
	s.t.Cleanup(func() {
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // ends a read; fails if the peer is gone
		<-over
	})
	return result
}

// listen is a listening TCP socket on loopback. Its protocol is plain TCP: Go's own
// listeners may be MPTCP, which refuses zero-copy sends.
func listen(t testing.TB) (*socket, *unix.SockaddrInet4) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatalf("socket: %v", err)
	}
	s := newSocket(t, fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatalf("bind: %v", err)
	}
	if err := unix.Listen(fd, 64); err != nil {
		t.Fatalf("listen: %v", err)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatalf("getsockname: %v", err)
	}
	return s, addr.(*unix.SockaddrInet4)
}

func dial(t testing.TB, addr unix.Sockaddr) *socket {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatalf("socket: %v", err)
	}
	// Before the time limits, with which a signal would end it.
	if err := unix.Connect(fd, addr); err != nil {
		t.Fatalf("connect: %v", err)
	}
	return newSocket(t, fd)
}

// tcpPair is a connection over loopback.
func tcpPair(t testing.TB) (local, peer *socket) {
	t.Helper()
	l, addr := listen(t)
	local = dial(t, addr)
	fd, err := -1, error(unix.EINTR)
	for err == unix.EINTR {
		fd, _, err = unix.Accept4(l.fd, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	l.close()
	return local, newSocket(t, fd)
}

// unixPair is a connected pair of unix stream sockets.
func unixPair(t testing.TB) (local, peer *socket) {
	t.Helper()
	fds, err := socketPair()
	if err != nil {
		t.Fatalf("socketpair: %v", err)
	}
	return newSocket(t, fds[0]), newSocket(t, fds[1])
}
