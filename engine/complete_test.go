//go:build linux

package engine

import (
	"net"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCompletionsStayInOrderWhenSomeAreKept: in the middle of a full batch the kernel wants
// completions reaped, which are kept for later, and another one arrives. It must not
// overtake them: a notification before its completion would never be matched.
func TestCompletionsStayInOrderWhenSomeAreKept(t *testing.T) {
	e := newEngine(t, Config{})
	l := e.loops[0]
	var order []string
	accepting := func(name string, then func()) *Listener {
		return listen(t, e, func(*Conn) Handler {
			order = append(order, name)
			then()
			return &handler{}
		})
	}
	second := accepting("second", func() {})
	third := accepting("third", func() {})
	first := accepting("first", func() {
		arrive(t, l, second)
		l.keepCompletions(syscall.EBUSY)
		arrive(t, l, third)
	})
	onLoop(t, l, func() {
		arrive(t, l, first)
		for range len(l.batch) + 10 {
			s := l.sqe()
			s.PrepNop()
			s.UserData = userData(kindIgnored, requestID{})
		}
		l.submit()
		l.reap()
	})
	onLoop(t, l, func() {
		if !slices.Equal(order, []string{"first", "second", "third"}) {
			t.Errorf("accepted %v, want the order of arrival", order)
		}
	})
}

// arrive connects to ln, on the loop, and returns when the completion of the accept is
// there.
func arrive(tb testing.TB, l *loop, ln *Listener) {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Error(err)
		return
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: ln.Addr().(*net.TCPAddr).Port}); err != nil {
		tb.Error(err)
		return
	}
	for before := l.ring.Ready(); l.ring.Ready() == before; {
		if err := l.ring.Submit(); err != nil {
			tb.Error(err)
			return
		}
	}
}
