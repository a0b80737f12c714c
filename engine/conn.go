package engine

import (
	"net/netip"
	"time"

	"sluice/bufreg"
	"sluice/zc"
)

// Handler is what an embedder makes of a connection. Its methods are called on the
// connection's loop and must not block.
type Handler interface {
	// Received is given all bytes that arrived and were not consumed yet. It returns how
	// many it consumed; the rest is presented again when more arrives, or after Resume. p is
	// valid only during the call.
	Received(c *Conn, p []byte) (consumed int)
	// Writable is called when a congested connection's queue has fallen below the low-water
	// mark, and when a buffer returned after ErrNoBuffers.
	Writable(c *Conn)
	// Closed is the last call. err is nil when everything queued was delivered to the
	// socket and the connection closed in order.
	Closed(c *Conn, err error)
}

// EOFHandler is a Handler that decides what the peer's end of stream means. Without it the
// connection is closed, after what is queued has been sent.
type EOFHandler interface {
	EOF(c *Conn)
}

// DrainHandler is a Handler that finishes what it has begun when the engine stops, and then
// closes the connection itself. Without it the connection is closed, after what is
// queued has been sent.
type DrainHandler interface {
	Drain(c *Conn)
}

// connState is where a connection is on its way down.
type connState uint8

const (
	// connOpen: Send is allowed.
	connOpen connState = iota
	// connClosing: what is queued is being sent, nothing more is accepted.
	connClosing
	// connHalfClosed: everything is sent and the write side shut down; the peer's end of
	// stream and the last notifications are awaited.
	connHalfClosed
	// connAborting: requests are being cancelled; the socket closes when the last one ends.
	connAborting
	// connClosed: the socket is closed and Closed was called.
	connClosed
)

// Conn is one connection. Its methods, except Post, belong to its loop's goroutine.
type Conn struct {
	loop    *loop
	handler Handler
	fd      int
	id      requestID // index in the loop's table, and generation
	state   connState
	sock    zc.Socket
	flow    zc.Flow
	peer    netip.AddrPort
	err     error // why the connection is being aborted

	// Sending.
	queue     sendQueue
	sending   *sendOp // the send between submission and completion
	notifying int     // sends between completion and notification
	reading   bool    // a file read is in flight
	asked     int     // bytes that it may bring into the arena
	polling   bool    // a wait for writability is in flight
	corked    bool    // the socket holds back what does not fill a packet
	full      bool    // the socket had no room for all that it was last given
	accepted  uint64  // bytes that the socket has taken, by any route
	queuedAt  int64   // when the first byte was queued after none was
	pins      zc.Account
	trail     *trail    // last decisions; nil before the first
	reports   []tracked // stretches of the stream that are told about when they have left
	reported  uint64    // where the last of them ended
	linked    int       // bytes of zero-copy sends since the last that ended with MSG_EOR
	copyOnce  bool      // the next send is a copy, for want of kernel memory
	congested bool
	starved   bool // waits for a buffer or a send slot, and is listed for it
	wantSlot  bool // for a send
	wantLease bool // the handler got ErrNoBuffers for so many bytes:
	wants     int
	lagging   bool // shared memory in the queue is to be given back when no send has it
	dirty     bool // listed for this turn's flush

	// Receiving.
	recv   recvState
	eof    bool // the peer's end of stream was received
	resume bool // listed to have its input presented again
	input  []byte

	// Deadlines.
	timer     timer
	activeAt  int64 // when bytes last moved in either direction
	takenAt   int64 // when the peer last took bytes, as far as is known, or began to have some to take
	acked     uint64
	userUntil int64 // SetDeadline; 0: none
	closeBy   int64 // end of the linger; 0: none
}

// Handler is the handler that the connection was made with.
func (c *Conn) Handler() Handler { return c.handler }

// FD is the socket's descriptor, which stays the engine's: for socket options and for
// telling connections apart.
func (c *Conn) FD() int { return c.fd }

// RemoteAddr is the peer's address; the zero AddrPort for what is not IP.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.peer }

// Now is the time, read once in each turn of the loop.
func (c *Conn) Now() time.Time { return c.loop.clock }

// Loop is the index of the connection's loop: everything on one loop runs one at a time.
func (c *Conn) Loop() int { return c.loop.id }

// Lease takes n bytes of registered memory, at most bufreg.MaxBuffer, to fill and Send. On
// ErrNoBuffers Writable is called when a buffer has returned.
func (c *Conn) Lease(n int) (bufreg.Buffer, error) {
	b, err := c.loop.lease(c, n)
	if err == ErrNoBuffers {
		c.loop.stats.NoBuffers++
		if c.state == connOpen {
			c.wantLease, c.wants = true, n
			c.starve()
		}
	}
	return b, err
}

// Send queues b and takes over one reference to it, also when it fails. The bytes must not
// change until the engine has released that reference. A buffer that has other references, whoever's
// they are, is shared: Config.LagAfter bounds how long this connection may keep it.
//
// Errors: ErrClosed, ErrBacklogFull.
func (c *Conn) Send(b bufreg.Buffer) error {
	if err := c.admit(b.Len()); err != nil || b.Len() == 0 {
		b.Release()
		return err
	}
	it := item{buf: b}
	if b.Refs() > 1 {
		it.sharedAt = max(c.loop.now, 1)
	}
	c.enqueue(it)
	return nil
}

// Write copies p into registered memory and queues it; small writes share a buffer. It
// returns how many bytes it took: fewer than len(p) only with an error.
//
// Errors: ErrClosed, ErrBacklogFull, ErrNoBuffers.
func (c *Conn) Write(p []byte) (n int, err error) {
	if err := c.admit(len(p)); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		last := c.queue.last()
		if last == nil || !last.writable || last.filling || last.buf.Room() == 0 {
			b, err := c.Lease(min(len(p), fileChunk))
			if err != nil {
				return n, err
			}
			c.enqueue(item{buf: b.View(0, 0), writable: true})
			last = c.queue.last()
		}
		k := copy(last.buf.Extend(min(len(p), last.buf.Room())).Bytes()[last.buf.Len():], p)
		c.queue.extend(last, k)
		p = p[k:]
		n += k
	}
	c.mark()
	return n, nil
}

// admit says whether n more bytes of memory may be queued.
func (c *Conn) admit(n int) error {
	switch {
	case c.state != connOpen:
		return ErrClosed
	case c.queue.len() >= maxItems || c.queue.memory+int64(n) > int64(c.loop.cfg.MaxQueued) && c.queue.len() > 0:
		return ErrBacklogFull
	}
	if !c.outstanding() {
		c.watch()
	}
	if c.queue.len() == 0 {
		c.queuedAt = c.loop.now
	}
	return nil
}

func (c *Conn) enqueue(it item) {
	c.queue.push(it)
	c.mark()
}

// mark lists the connection for this turn's flush, and notices congestion.
func (c *Conn) mark() {
	if c.queue.bytes > int64(c.loop.cfg.HighWater) {
		c.congested = true
	}
	c.markStep()
}

// Queued is the number of bytes, of memory and of files, that the socket has not accepted.
func (c *Conn) Queued() int64 { return c.queue.bytes }

// Congested reports whether the queue went above the high-water mark and has not been
// below the low-water mark since. Send still accepts; a handler that stops here will be
// called by Writable.
func (c *Conn) Congested() bool { return c.congested }

// Resume has input that was not consumed presented again, in this turn or the next.
func (c *Conn) Resume() {
	if !c.resume && c.state == connOpen {
		c.resume = true
		c.loop.resumed = append(c.loop.resumed, c)
	}
}

// SetDeadline aborts the connection with ErrDeadline after d; zero or less removes it.
func (c *Conn) SetDeadline(d time.Duration) {
	c.userUntil = 0
	if d > 0 {
		c.userUntil = c.loop.now + int64(d)
		c.schedule(c.userUntil)
	}
}

// Post has fn run on the connection's loop, from any goroutine. It reports false when the
// loop has ended and fn will not run. fn also runs when the connection has closed
// meanwhile; its operations then return ErrClosed.
func (c *Conn) Post(fn func(c *Conn)) bool {
	return c.loop.post(func() { fn(c) })
}

// starve lists the connection for another try when a buffer or a send slot returns.
func (c *Conn) starve() {
	if !c.starved {
		c.starved = true
		c.loop.starved = append(c.loop.starved, c)
	}
}
