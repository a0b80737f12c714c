package simring_test

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/internal/simring"
)

// session is a handler, with what its peer should see and what the oracles must know.
type session struct {
	m        *sim
	c        *engine.Conn
	peer     *simring.Socket
	want     []byte // queued, in order
	checked  int    // how much of it has been compared
	files    []int
	rest     *fileRest // of the newest of them; nil: nothing
	fed      []byte    // sent by the peer
	consumed int
	seen     int           // the end of the input that was presented
	eofs     bool          // it is an EOFHandler
	drains   bool          // it is a DrainHandler
	begun    bool          // Close was called
	aborted  bool          // Abort was called
	dying    time.Duration // since when it is being aborted, as far as was seen
	resumed  bool          // Resume was called, and nothing presented since
	short    bool          // a file it sends is shorter than announced
	reports  int           // asked for, and not told yet
	closed   bool
	err      error

	starving bool  // a lease was refused, and Writable not called since
	shared   bool  // for the sake of others
	leased   int64 // of the arena at that time
	began    time.Duration
	beganAt  time.Time     // bytes became outstanding
	heard    time.Duration // new input was presented
	heardAt  time.Time
	deadline time.Duration // 0: none
	soonest  time.Time     // of all deadlines

	lent  []lent // what it was sent of shared memory, and has
	lends bool   // or ever had
}

// lent is shared memory that a connection was sent.
type lent struct {
	at       time.Duration // in punctual time
	since    time.Time
	from, to int // in the stream
}

// Kinds of handlers, by what they decide for themselves.
type (
	eofHandler   struct{ *session }
	drainHandler struct{ *session }
	bothHandler  struct{ *session }
)

func (h eofHandler) EOF(*engine.Conn)     { h.halfClosed() }
func (h drainHandler) Drain(*engine.Conn) { h.drained() }
func (h bothHandler) EOF(*engine.Conn)    { h.halfClosed() }
func (h bothHandler) Drain(*engine.Conn)  { h.drained() }

func (m *sim) accept(c *engine.Conn) engine.Handler {
	for _, s := range m.watched {
		if s.c == nil && s.peer.FD == c.FD() {
			s.c = c
			s.heard, s.heardAt = m.Punctual(), c.Now()
			if m.flood {
				s.flood()
			}
			kind := m.Intn(4)
			s.eofs, s.drains = kind&1 != 0, kind&2 != 0
			return []engine.Handler{s, eofHandler{s}, drainHandler{s}, bothHandler{s}}[kind]
		}
	}
	m.failf("accepted a connection on descriptor %d that nobody made", c.FD())
	return &session{m: m, c: c}
}

// Received checks the input and consumes some of it.
func (s *session) Received(c *engine.Conn, p []byte) int {
	s.alive("Received")
	if len(p) == 0 || !bytes.HasPrefix(s.fed[s.consumed:], p) {
		s.m.failf("input of %d bytes at %d of %d is not what the peer sent", len(p), s.consumed, len(s.fed))
		return 0
	}
	if s.consumed+len(p) > s.seen {
		s.seen, s.heard, s.heardAt = s.consumed+len(p), s.m.Punctual(), c.Now()
	}
	s.resumed = false
	n := len(p)
	if s.m.Intn(3) == 2 {
		n = s.m.Intn(len(p) + 1)
	}
	s.consumed += n
	s.act()
	return n
}

func (s *session) Writable(c *engine.Conn) {
	s.alive("Writable")
	s.starving = false
	s.resume()
	s.act()
}

func (s *session) Closed(c *engine.Conn, err error) {
	s.alive("Closed")
	if s.reports != 0 {
		s.m.failf("connection %d closed without %d reports", s.peer.FD, s.reports)
	}
	_ = c.Explain()
	if s.rest != nil {
		s.rest.f.Release()
	}
	s.closed, s.err = true, err
	s.ended(err)
}

func (s *session) halfClosed() {
	s.alive("EOF")
	s.act()
	if s.m.closing || s.m.Intn(2) == 0 {
		s.close()
	} // else it goes on sending
}

func (s *session) drained() {
	s.alive("Drain")
	s.act()
	if s.m.Intn(4) != 3 {
		s.close()
	} // else it takes longer than it may
}

func (s *session) alive(what string) {
	if s.closed {
		s.m.failf("%s after Closed", what)
	}
}

func (s *session) close() {
	s.begun = true
	s.c.Close()
}

func (s *session) resume() {
	s.resumed = true
	s.c.Resume()
}

// act does some of what a server may do, on the connection's loop.
func (s *session) act() {
	if s.closed || s.m.closing {
		return
	}
	for range s.m.Intn(4) {
		s.actOnce()
	}
}

func (s *session) actOnce() {
	m, c := s.m, s.c
	switch m.Intn(16) {
	case 1, 2, 3:
		n := m.size()
		if m.Intn(30) == 29 {
			n = bufreg.MaxBuffer
		}
		b, ok := s.lease(n)
		if !ok {
			return
		}
		if n > 8 && m.Intn(4) == 3 { // a view: its lease goes with it
			b = b.View(n/4, n/2)
		}
		s.send(b)
	case 4, 5, 6, 7:
		s.write(m.size())
	case 8, 9:
		s.sendFile(int64(m.size()) << m.Intn(4))
	case 10: // fan-out on this loop
		b, ok := s.lease(m.size())
		if !ok {
			return
		}
		for _, o := range m.watched {
			if o.c != nil && !o.closed && o.c.Loop() == c.Loop() && m.Intn(2) == 0 {
				o.send(b.Retain())
			}
		}
		m.release(b)
	case 11:
		if m.Intn(4) == 3 {
			d := time.Duration(m.Intn(3000)) * time.Millisecond
			c.SetDeadline(d)
			if s.deadline = 0; d > 0 {
				s.deadline = m.Punctual() + d
				if at := c.Now().Add(d); s.soonest.IsZero() || at.Before(s.soonest) {
					s.soonest = at
				}
			}
		}
	case 12:
		s.resume()
	case 13:
		if m.Intn(10) == 9 {
			s.close()
		}
	case 14:
		if m.Intn(20) == 19 {
			s.aborted = true
			c.Abort()
		}
	case 15:
		s.report()
	}
}

// report asks for a report of what is queued, and checks what it says.
func (s *session) report() {
	want := uint64(s.c.Queued())
	if s.reports > 0 {
		return // part of it is another's
	}
	s.reports++
	s.c.Report(func(r engine.Report) {
		s.reports--
		sum := uint64(0)
		for _, w := range r.Ways {
			sum += w.Bytes
			if w.Fate == engine.Awaited && r.Delivered {
				s.m.failf("connection %d reports delivery with %d bytes awaited", s.peer.FD, w.Bytes)
			}
		}
		if sum > want || r.Delivered != (sum == want && !awaited(r)) {
			s.m.failf("connection %d reports %d of %d bytes, delivered %v", s.peer.FD, sum, want, r.Delivered)
		}
	})
}

func awaited(r engine.Report) bool {
	return slices.ContainsFunc(r.Ways, func(w engine.Way) bool { return w.Fate == engine.Awaited })
}

// size is that of something to send: as likely small as large.
func (m *sim) size() int { return m.Between(1, 1<<m.Between(0, 17)) }

// fill makes bytes that no other part of a stream has.
func (m *sim) fill(p []byte) {
	m.pattern += 31
	for i := range p {
		p[i] = m.pattern + byte(i*7) + byte(i>>8)
	}
}

// lease takes a buffer and fills it.
func (s *session) lease(n int) (bufreg.Buffer, bool) {
	b, err := s.c.Lease(n)
	switch {
	case err == nil:
		s.m.fill(b.Bytes())
		return b, true
	case errors.Is(err, engine.ErrNoBuffers):
		s.starve()
	default:
		s.m.failf("lease: %v", err)
	}
	return b, false
}

// starve notes that a lease was refused: when it would not be any more, Writable must be called. Where
// the arena had enough, and not in one piece, that is when less is leased.
func (s *session) starve() {
	s.starving, s.leased, s.shared = true, s.m.eng.Totals().Arena.Leased, !s.m.eng.Forgotten(s.c)
}

// queue has do queue something, and notes when that makes bytes outstanding.
func (s *session) queue(do func() error) error {
	before := s.outstanding()
	err := do()
	if !before && !errors.Is(err, engine.ErrClosed) {
		s.began, s.beganAt = s.m.Punctual(), s.c.Now()
	}
	return err
}

// send queues a buffer, and expects it at the peer when that was taken.
func (s *session) send(b bufreg.Buffer) {
	p, shared := bytes.Clone(b.Bytes()), b.Refs() > 1
	if s.queue(func() error { return s.c.Send(b) }) == nil {
		s.want = append(s.want, p...)
		if shared {
			s.lent = append(s.lent, lent{s.m.Punctual(), s.c.Now(), len(s.want) - len(p), len(s.want)})
			s.lends = true
		}
	}
}

func (s *session) write(n int) {
	p := make([]byte, n)
	s.m.fill(p)
	err := s.queue(func() (err error) { n, err = s.c.Write(p); return err })
	s.want = append(s.want, p[:n]...)
	switch {
	case errors.Is(err, engine.ErrNoBuffers):
		s.starve()
	case err == nil && n != len(p):
		s.m.failf("Write took %d of %d bytes without an error", n, len(p))
	}
}

func (s *session) sendFile(size int64) {
	m := s.m
	if s.rest != nil {
		s.sendPiece(s.rest)
		return
	}
	fd, content := m.OpenFile(size)
	m.files[fd] = true
	direct, align := m.OpenDirect(fd)
	f := m.eng.File(fd, direct, size, align, "file", func() error {
		delete(m.files, fd)
		s.files = slices.DeleteFunc(s.files, func(open int) bool { return open == fd }) // another's soon
		m.World.CloseFile(fd)
		return nil
	})
	off := int64(m.Intn(int(size)))
	rest := &fileRest{f: f, off: off, want: content(off, size-off), fd: fd}
	s.files = append(s.files, fd)
	s.sendPiece(rest)
}

// fileRest is what a session has not sent yet of a file.
type fileRest struct {
	f    *engine.File
	fd   int
	off  int64
	want []byte
}

// sendPiece sends some of it, or all. What is left comes later, maybe.
func (s *session) sendPiece(r *fileRest) {
	n := len(r.want)
	if s.m.Intn(3) == 2 {
		n = 1 + s.m.Intn(n)
	}
	s.rest = nil
	if n < len(r.want) {
		next := n
		if s.m.Intn(4) == 3 { // elsewhere in the same file
			next += s.m.Intn(len(r.want) - n)
		}
		s.rest = &fileRest{r.f.Retain(), r.fd, r.off + int64(next), r.want[next:]}
	}
	short := s.m.Truncated(r.fd, r.off+int64(n))
	if s.queue(func() error { return s.c.SendFile(r.f, r.off, int64(n)) }) == nil {
		s.want = append(s.want, r.want[:n]...)
		s.short = s.short || short
	}
}

// release gives a reference up, now or from another goroutine later.
func (m *sim) release(b bufreg.Buffer) {
	if m.Intn(2) == 0 {
		b.Release()
	} else {
		m.held = append(m.held, b)
	}
}

// otherGoroutine does what may be done from outside of the loops, at any point.
func (m *sim) otherGoroutine() {
	if len(m.held) > 0 && m.Intn(2) == 0 {
		b := m.held[len(m.held)-1]
		m.held = m.held[:len(m.held)-1]
		b.Release()
		return
	}
	if m.closing || len(m.watched) == 0 {
		return
	}
	switch m.Intn(8) {
	case 7:
		m.broadcast()
	case 6:
		if m.scarce { // a buffer that is not sent
			if b, err := m.eng.Engine().Lease(bufreg.MaxBuffer >> m.Intn(3)); err == nil {
				m.held = append(m.held, b)
			}
		}
	case 5:
		if m.jumps && m.Intn(16) == 15 { // the loop's thread is not scheduled, in the middle of a turn
			m.jump()
		}
	default:
		s := m.watched[m.Intn(len(m.watched))]
		m.post(s, func() { s.act() })
	}
}

// broadcast sends one buffer on connections of all loops.
func (m *sim) broadcast() {
	b, err := m.eng.Engine().Lease(m.size())
	if err != nil {
		return
	}
	m.fill(b.Bytes())
	for _, s := range m.watched {
		if m.Intn(2) == 0 {
			if b.Retain(); !m.post(s, func() { s.send(b) }) {
				b.Release()
			}
		}
	}
	m.release(b)
}

// post has do run on a connection's loop.
func (m *sim) post(s *session, do func()) bool {
	if s.c == nil || !s.c.Post(func(*engine.Conn) { m.ran++; do() }) {
		return false
	}
	m.posted++
	return true
}

func (m *sim) jump() { m.Advance(time.Duration(m.Intn(1<<m.Between(0, 12))) * time.Millisecond) }

// connect has a peer connect.
func (m *sim) connect() *session {
	s := &session{m: m, peer: m.Connect(m.listeners[m.Intn(len(m.listeners))])}
	if s.peer == nil {
		return nil // the engine drains
	}
	s.peer.Peer.Slow = m.Intn(8) == 7
	s.peer.Peer.Closes = m.Intn(4) != 3
	m.conns = append(m.conns, s)
	m.watched = append(m.watched, s)
	return s
}

// peerAction is what the world outside does.
func (m *sim) peerAction() {
	if m.closing {
		return
	}
	if len(m.watched) == 0 || m.Intn(8) == 0 {
		if len(m.watched) < 24 {
			m.connect()
		}
		return
	}
	s := m.watched[m.Intn(len(m.watched))]
	switch m.Intn(12) {
	case 0, 1, 2, 3, 4:
		p := make([]byte, m.Between(1, 1<<m.Between(0, 13)))
		m.fill(p)
		// What a loop is given at once it may look at only in its next turn.
		at := len(s.fed)
		s.fed = append(s.fed, p...)
		s.fed = s.fed[:at+s.peer.Feed(p)]
	case 5:
		s.peer.Peer.Stalled = true
	case 6, 7:
		s.peer.Resume()
	case 8:
		s.peer.Peer.Slow = m.Intn(2) == 1
	case 9:
		if m.Intn(4) == 3 {
			s.peer.FIN()
		}
	case 10:
		if m.Intn(8) == 7 {
			s.peer.Reset()
		}
	case 11:
		if m.jumps && m.Intn(4) == 3 {
			m.jump()
		}
	}
}

const (
	// floodRuns is how rare a run is in which the sends' slots run out, which takes many.
	floodRuns = 128
	// floodConns × floodSends are a few more than maxSends.
	floodConns = 100
	floodSends = 700
)

// beginFlood connects the peers of a flood.
func (m *sim) beginFlood() {
	for range floodConns {
		m.connect().peer.Widen(1 << 16)
	}
}

// flood queues many small pieces of one buffer, which leave one by one.
func (s *session) flood() {
	b, ok := s.lease(256)
	if !ok {
		return
	}
	for i := range floodSends {
		s.send(b.View(i%256, 1).Retain())
	}
	b.Release()
}
