package engine

import (
	"fmt"
	"slices"
)

// The way down of a connection. In order:
//
//	open ─Close─▶ closing ─queue empty─▶ half-closed ─peer's end and notifications─▶ closed
//	  └───────┴──────── abort: error, deadline, Abort ────────┴─▶ aborting ─requests ended─▶ closed

// Close ends the connection in order: what is queued is sent, the write side is shut down,
// and the socket closes when the peer has closed too, or after Config.Linger.
func (c *Conn) Close() {
	if c.state == connOpen {
		c.become(connClosing)
		c.dropInput()
		c.markStep()
	}
}

// become takes the next step of the way down.
func (c *Conn) become(s connState) {
	states := &c.loop.stats.States
	states[c.state]--
	if c.state = s; s != connClosed {
		states[s]++
	}
}

// Abort ends the connection now: what is queued is dropped and the peer is sent a reset,
// which also makes the kernel let go of pinned pages.
func (c *Conn) Abort() { c.loop.abort(c, ErrAborted) }

// stepClose takes the next step of an orderly close, if it is time for one.
func (l *loop) stepClose(c *Conn) {
	if c.state == connClosing {
		if c.queue.len() > 0 || c.sending != nil {
			return
		}
		c.become(connHalfClosed)
		c.closeBy = l.now + int64(l.cfg.Linger)
		c.schedule(c.closeBy)
		if c.polling { // for a stretch of a file that then left by another route
			l.cancel(userData(kindPoll, c.id))
		}
		if !c.eof {
			// Closing with the peer still sending could destroy, by a reset, what it has not
			// read yet: shut down, and let it close first.
			if err := l.sys.ShutdownWrite(c.fd); err != nil {
				l.abort(c, fmt.Errorf("shutdown: %w", err))
				return
			}
			l.armRecv(c)
		}
	}
	if c.eof && c.notifying == 0 && !c.requests() {
		l.release(c)
	}
}

// endLinger stops waiting for the peer to close. What the socket still holds is delivered
// by the kernel, which TCP_USER_TIMEOUT bounds.
func (l *loop) endLinger(c *Conn) {
	c.closeBy, c.eof = 0, true
	if c.recv == recvArmed {
		c.recv = recvCancelling
		l.cancel(userData(kindRecv, c.id))
	}
	c.markStep()
}

// abort starts the way down that waits for nobody: requests are cancelled, and the socket is
// reset when the last of them has ended.
func (l *loop) abort(c *Conn, why error) {
	if c.state >= connAborting {
		return
	}
	c.become(connAborting)
	c.err = why
	c.dropInput()
	if c.sending != nil {
		l.cancel(userData(kindSend, c.sending.id))
	}
	if c.recv == recvArmed {
		l.cancel(userData(kindRecv, c.id))
	}
	if c.polling {
		l.cancel(userData(kindPoll, c.id))
	}
	if c.reading {
		l.cancel(userData(kindRead, c.id))
		c.schedule(l.now + int64(cancelAgain))
	}
	l.aborting = append(l.aborting, c)
}

// stepAbort closes the socket of an aborting connection when no request uses it.
func (l *loop) stepAbort(c *Conn) {
	if c.state == connAborting && !c.requests() {
		l.release(c)
	}
}

// requests reports whether a request of the connection may still post a completion, other
// than a notification.
func (c *Conn) requests() bool {
	return c.sending != nil || c.reading || c.polling || c.recv != recvIdle
}

// release closes the socket and ends the connection, of which no request is in flight.
func (l *loop) release(c *Conn) {
	if c.state == connAborting {
		l.sys.ResetOnClose(c.fd)
		l.stats.Aborted++
		l.stats.Resets[resetFor(c.err)]++
	} else {
		l.stats.ClosedInOrder++
	}
	l.stats.Undelivered += uint64(c.queue.bytes)
	for c.queue.len() > 0 {
		if it := c.queue.at(0); it.file != nil {
			l.fileDone(c, 0)
		} else {
			it.buf.Release()
			c.queue.remove(0)
		}
	}
	l.sys.Close(c.fd)
	c.become(connClosed)
	if i := slices.Index(l.starved, c); i >= 0 {
		l.starved = slices.Delete(l.starved, i, i+1) // nobody is under pressure for its sake any more
	}
	l.unschedule(c)
	l.conns.remove(c.id)
	l.ended = append(l.ended, c)
	l.mayRetry()
	l.resumeAccept()
}

// endConns makes the last call of the connections that closed.
func (l *loop) endConns() {
	for i := 0; i < len(l.aborting); i++ {
		l.stepAbort(l.aborting[i])
	}
	clear(l.aborting)
	l.aborting = l.aborting[:0]
	for i := 0; i < len(l.ended); i++ {
		c := l.ended[i]
		c.endReports()
		c.handler.Closed(c, c.err)
	}
	clear(l.ended)
	l.ended = l.ended[:0]
}

func (c *Conn) dropInput() {
	if c.input != nil {
		c.loop.inputs.put(c.input)
		c.input = nil
	}
}

// cancel asks the kernel to end the request with this user data.
func (l *loop) cancel(ud uint64) {
	e := l.sqe()
	e.PrepCancel(ud, 0)
	e.UserData = userData(kindIgnored, requestID{})
}
