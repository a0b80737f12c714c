package engine

import (
	"fmt"
	"slices"
	"syscall"

	"sluice/ring"
)

// recvState is whether the kernel has a receive of the connection.
type recvState uint8

const (
	recvIdle       recvState = iota // none: paused, ended, or waiting to be armed again
	recvArmed                       // a multishot receive is in flight, or a poll before a receive
	recvCancelling                  // in flight, and asked to end
)

// arrival is received data that waits for its handler.
type arrival struct {
	c      *Conn
	buffer uint16
	n      int
	eof    bool
	ready  bool // the data is still in the socket
}

// multishot reports whether one request accepts many connections, and one receives for ever
// into buffers that the kernel picks. Without it (before 6.0, for copy-only engines) accepts
// are one at a time, and a poll says when to receive: a receive in flight would hold a
// buffer for each idle connection.
func (l *loop) multishot() bool { return l.recvRing != nil }

// armRecv starts receiving, unless input is at its limit or at its end.
func (l *loop) armRecv(c *Conn) {
	if c.recv != recvIdle || c.eof || c.state >= connAborting {
		return
	}
	if c.state == connOpen && len(c.input) >= l.cfg.InputLimit {
		return // taken up again when the handler consumes
	}
	e := l.sqe()
	if l.multishot() {
		e.PrepRecvMultishot(c.fd, recvGroup)
	} else {
		e.PrepPoll(c.fd, pollIn)
	}
	e.UserData = userData(kindRecv, c.id)
	c.recv = recvArmed
}

// received takes a completion of a receive, or of the poll before one.
func (l *loop) received(c *Conn, e *ring.CQE) {
	if !e.More() {
		c.recv = recvIdle
	}
	switch errno := syscall.Errno(-e.Res); {
	case e.Res > 0 && !l.multishot():
		l.arrivals = append(l.arrivals, arrival{c: c, ready: true})
	case e.Res > 0:
		l.stats.BytesReceived += uint64(e.Res)
		l.arrivals = append(l.arrivals, arrival{c: c, buffer: e.BufferID(), n: int(e.Res)})
	case e.Res == 0:
		if e.Flags&ring.CQEBuffer != 0 {
			l.recvRing.Recycle(e.BufferID())
		}
		l.arrivals = append(l.arrivals, arrival{c: c, eof: true})
		return
	case errno == syscall.ENOBUFS:
		l.stats.RecvNoBuffers++
	case errno == syscall.ECANCELED || errno == syscall.EINTR || errno == syscall.EAGAIN:
	default:
		l.abort(c, fmt.Errorf("receive: %w", errno))
		return
	}
	switch {
	case c.recv != recvIdle:
	case c.eof:
		c.markStep() // the linger is over: the last request of the connection has ended
	default:
		l.rearm = append(l.rearm, c)
	}
}

// deliver calls the handlers of what arrived, in order, and gives the buffers back.
func (l *loop) deliver() {
	for i := range l.arrivals {
		a := &l.arrivals[i]
		switch {
		case a.eof:
			l.endOfStream(a.c)
		case a.ready:
			l.receive(a.c)
		default:
			a.c.activeAt = l.now
			if a.c.state == connOpen {
				l.present(a.c, l.recvRing.Bytes(a.buffer)[:a.n])
			} // else the peer talks to a connection that is being closed: dropped
			l.recvRing.Recycle(a.buffer)
		}
	}
	if len(l.arrivals) > 0 {
		clear(l.arrivals)
		l.arrivals = l.arrivals[:0]
		if l.multishot() {
			l.recvRing.Publish()
		}
	}
	for i := 0; i < len(l.writable); i++ {
		if c := l.writable[i]; c.state == connOpen {
			c.handler.Writable(c)
		}
	}
	clear(l.writable)
	l.writable = l.writable[:0]
	// Only those listed so far: a handler may ask again, and is heard in the next turn.
	n := len(l.resumed)
	for i := range n {
		c := l.resumed[i]
		c.resume = false
		if c.state == connOpen && len(c.input) > 0 {
			l.present(c, nil)
			l.rearm = append(l.rearm, c)
		}
	}
	l.resumed = slices.Delete(l.resumed, 0, n)
	// After the buffers went back, or the receive would end with ENOBUFS again at once.
	for _, c := range l.rearm {
		l.armRecv(c)
	}
	clear(l.rearm)
	l.rearm = l.rearm[:0]
}

// receive takes what a readable socket holds, up to a buffer of it: the next poll tells of
// the rest.
func (l *loop) receive(c *Conn) {
	if c.state >= connAborting {
		return
	}
	n, errno := l.sys.Recv(c.fd, l.scratch)
	switch {
	case n > 0:
		l.stats.BytesReceived += uint64(n)
		c.activeAt = l.now
		if c.state == connOpen {
			l.present(c, l.scratch[:n])
		}
	case errno == 0:
		l.endOfStream(c)
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
	default:
		l.abort(c, fmt.Errorf("receive: %w", errno))
	}
}

// present gives the handler its unconsumed input together with p, and keeps the rest.
func (l *loop) present(c *Conn, p []byte) {
	if len(c.input) == 0 {
		if n := c.consume(p); n < len(p) && c.state == connOpen {
			c.input = append(l.inputs.get(), p[n:]...)
		}
	} else {
		in := append(c.input, p...)
		c.input = nil // the handler may close the connection, which drops it
		n := c.consume(in)
		if n < len(in) && c.state == connOpen {
			c.input = in[:copy(in, in[n:])]
		} else {
			l.inputs.put(in)
		}
	}
	// A receive that has ended is armed only after everything that arrived was presented: the
	// limit may be reached by then, and the kernel would fill all buffers before the cancel.
	if c.state == connOpen && len(c.input) >= l.cfg.InputLimit && c.recv == recvArmed {
		c.recv = recvCancelling
		l.cancel(userData(kindRecv, c.id))
	}
}

func (c *Conn) consume(p []byte) int {
	n := c.handler.Received(c, p)
	if n < 0 || n > len(p) {
		panic(fmt.Sprintf("engine: %T.Received consumed %d of %d bytes", c.handler, n, len(p)))
	}
	return n
}

// endOfStream takes the peer's end of stream.
func (l *loop) endOfStream(c *Conn) {
	c.eof = true
	if c.state != connOpen {
		c.markStep()
		return
	}
	if h, ok := c.handler.(EOFHandler); ok {
		h.EOF(c)
	} else {
		c.Close()
	}
}

// inputPool keeps the memory of unconsumed input for the next connection that has some.
// Most input is consumed where it arrived and takes none.
type inputPool [][]byte

// maxPooledInputs and maxPooledInput bound what the pool keeps: 1 MiB.
const (
	maxPooledInputs = 64
	maxPooledInput  = 16 << 10
)

func (p *inputPool) get() []byte {
	if n := len(*p); n > 0 {
		b := (*p)[n-1]
		*p = (*p)[:n-1]
		return b
	}
	return make([]byte, 0, recvBufferSize)
}

func (p *inputPool) put(b []byte) {
	if len(*p) < maxPooledInputs && cap(b) <= maxPooledInput {
		*p = append(*p, b[:0])
	}
}
