package simring

import (
	"syscall"
	"time"

	"sluice/ring"
)

// listener is a listening socket.
type listener struct {
	w        *World
	fd       int
	backlog  []*Socket
	accept   *request
	failedAt time.Duration
}

// Listen makes a listening socket.
func (w *World) Listen() int {
	l := &listener{w: w}
	l.fd = w.open(l)
	return l.fd
}

// pump has waiting connections accepted.
func (l *listener) pump() {
	for q := l.accept; q != nil && len(l.backlog) > 0; q = l.accept {
		if l.w.odds(l.w.Faults.Accept) {
			l.accept = nil
			l.failedAt = l.w.Punctual()
			q.finish(negative([]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR}[l.w.Intn(5)]))
			return
		}
		s := l.backlog[0]
		l.backlog = l.backlog[1:]
		s.FD = l.w.open(s)
		if q.sqe.IoPrio&ring.AcceptMultishot == 0 || l.w.odds(l.w.Faults.MultishotEnd) {
			l.accept = nil
			q.finish(int32(s.FD))
			return
		}
		q.r.post(q.sqe.UserData, int32(s.FD), ring.CQEMore)
	}
}

// Backlog is how many connections wait to be accepted.
func (w *World) Backlog(listenFD int) int {
	if l, ok := w.fds[listenFD].(*listener); ok {
		return len(l.backlog)
	}
	return 0
}
