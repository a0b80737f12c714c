package simring_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"syscall"
	"time"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/internal/simring"
	"sluice/zc"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay this seed alone")
	stepsFlag = flag.Int("steps", 0, "steps of each run; 0: the default")
	totalFlag = flag.Int("total", 1_000_000, "steps of all runs together")
	runsFlag  = flag.Int("runs", 0, "runs at most; 0: as many as -total takes")
	firstFlag = flag.Uint64("first", 0, "the first seed; 0: chosen by the clock")
)

// defaultSteps is the length of one run: long enough for connections to begin, to stall, to
// end and to be followed by others, short enough to shrink.
const defaultSteps = 3000

// sim is one run: an engine on a simulated kernel, servers made of random handlers, and what
// everyone should have received.
type sim struct {
	*simring.World
	eng       *engine.Stepped
	loops     int
	ended     []bool
	listeners []int
	conns     []*session // every one there ever was
	held      []bufreg.Buffer
	files     map[int]bool
	draining  bool
	closing   bool // the end of the run: handlers begin nothing more
	jumps     bool // time may move on by itself
	pattern   byte
	posted    int
	ran       int
	err       error
}

// session is a handler, with what its peer should see.
type session struct {
	m        *sim
	c        *engine.Conn
	peer     *simring.Socket
	want     []byte    // queued, in order
	checked  int       // how much of it has been compared
	fed      []byte    // sent by the peer
	unseen   time.Time // since when some of it was not presented
	consumed int
	seen     int // the end of the input that was presented
	closed   bool
	err      error
	begun    bool // Close or Abort was called
	drain    bool // it is a DrainHandler's kind
	doomed   bool // something happened after which losing bytes is right
	short    bool // a file it sends is shorter than announced
	dead     bool // the peer reset it
	lazy     bool // the peer did not read all the time
}

func (m *sim) failf(format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf(format, args...)
	}
}

// fill makes bytes that no other part of a stream has.
func (m *sim) fill(p []byte) {
	m.pattern += 31
	for i := range p {
		p[i] = m.pattern + byte(i*7) + byte(i>>8)
	}
}

func newSim(c *simring.Choices) (*sim, error) {
	m := &sim{files: make(map[int]bool)}
	f := simring.Faults{}
	if c.Intn(8) != 0 { // now and then a kernel without faults
		odds := []int{0, 0, 3, 10, 40}
		pick := func() int { return odds[c.Intn(len(odds))] }
		f = simring.Faults{
			ShortSend: pick(), SendError: 10 * pick(), NoMemory: pick(), FalseCopied: pick(), LateNotify: pick(), Stray: pick(),
			Enter: pick(), NoRecvBuffer: pick(), RecvEnd: pick(), Accept: pick(), ShortRead: pick(), ReadError: 10 * pick(),
			Truncated: 3 * pick(), PollSpurious: pick(), NoZeroCopy: pick(), Joined: pick(), Reordered: pick(),
		}
	}
	m.World = simring.New(c, f)
	m.loops = c.Between(1, 2)
	m.jumps = c.Intn(2) == 1
	cfg := engine.Config{
		Loops: m.loops, ArenaSize: c.Between(1, 3) << 20, HighWater: 1 << c.Between(10, 18), MaxQueued: 1 << 19,
		InputLimit: 4096 << c.Intn(3), WriteStall: time.Second, IdleTimeout: 3 * time.Second, Linger: 500 * time.Millisecond,
		MaxConns: c.Between(2, 20), Policy: []zc.Policy{{}, {Mode: zc.Fixed, Threshold: 1}, {Mode: zc.Fixed, Threshold: 3000}, {Mode: zc.Off}}[c.Intn(4)],
	}
	cfg.LowWater = max(1, cfg.HighWater/c.Between(1, 8))
	can := zc.Kernel{SendZC: true, FixedVectors: c.Intn(2) == 0, Threshold: 8 << 10}
	var err error
	if m.eng, err = engine.NewStepped(cfg, m.World, can); err != nil {
		return nil, err
	}
	m.ended = make([]bool, m.loops)
	for i := range m.loops {
		fd := m.World.Listen()
		m.listeners = append(m.listeners, fd)
		m.eng.Listen(i, fd, m.accept)
	}
	m.Hook = func() {
		if m.OneIn(50) {
			m.otherGoroutine()
		}
	}
	return m, nil
}

func (m *sim) accept(c *engine.Conn) engine.Handler {
	for _, s := range m.conns {
		if s.c == nil && s.peer.FD == c.FD() {
			s.c = c
			if s.drain = m.Intn(3) == 0; s.drain {
				return drainer{s}
			}
			return s
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
	s.seen, s.unseen = s.consumed+len(p), s.m.Now()
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
	c.Resume()
	s.act()
}

func (s *session) Closed(c *engine.Conn, err error) {
	s.alive("Closed")
	s.closed, s.err = true, err
	// Where buffers are short all the time, one connection may starve beside the others.
	scarce := s.m.jumps || s.m.Faults.NoRecvBuffer > 0 || s.m.FewestBuffers() < 32
	if age := s.m.Now().Sub(s.unseen); !scarce && errors.Is(err, engine.ErrIdle) && s.seen < len(s.fed) && s.seen-s.consumed < 4096 && age > time.Second {
		s.m.failf("connection %d was closed as idle, with %d bytes from its peer not looked at for %v", s.peer.FD, len(s.fed)-s.seen, age)
	}
}

func (s *session) alive(what string) {
	if s.closed {
		s.m.failf("%s after Closed", what)
	}
}

// drainer is a session that closes by itself when the engine drains.
type drainer struct{ *session }

func (d drainer) Drain(c *engine.Conn) {
	d.alive("Drain")
	d.act()
	d.begun = true
	c.Close()
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
	size := func() int { return m.Between(1, 1<<m.Between(0, 17)) }
	switch m.Intn(16) {
	case 1, 2, 3:
		n := size()
		if m.Intn(30) == 29 {
			n = bufreg.MaxBuffer
		}
		b, err := c.Lease(n)
		if err != nil {
			if !errors.Is(err, engine.ErrNoBuffers) {
				m.failf("lease: %v", err)
			}
			return
		}
		m.fill(b.Bytes())
		if n > 8 && m.Intn(4) == 3 { // a view: its lease goes with it
			b = b.View(n/4, n/2)
		}
		s.send(b)
	case 4, 5, 6, 7:
		p := make([]byte, size())
		m.fill(p)
		n, err := c.Write(p)
		s.want = append(s.want, p[:n]...)
		if err == nil && n != len(p) {
			m.failf("Write took %d of %d bytes without an error", n, len(p))
		}
	case 8, 9:
		s.sendFile(int64(size()) << m.Intn(4))
	case 10: // fan-out on this loop
		b, err := c.Lease(size())
		if err != nil {
			return
		}
		m.fill(b.Bytes())
		for _, o := range m.conns {
			if o.c != nil && !o.closed && o.c.Loop() == c.Loop() && m.Intn(2) == 0 {
				o.send(b.Retain())
			}
		}
		m.release(b)
	case 11:
		c.SetDeadline(time.Duration(m.Intn(3000)) * time.Millisecond)
		s.doomed = true
	case 12:
		c.Resume()
	case 13:
		if m.Intn(10) == 9 {
			s.begun = true
			c.Close()
		}
	case 14:
		if m.Intn(20) == 19 {
			s.doomed = true
			c.Abort()
		}
	}
}

// send queues a buffer, and expects it at the peer when that was taken.
func (s *session) send(b bufreg.Buffer) {
	p := bytes.Clone(b.Bytes())
	if err := s.c.Send(b); err == nil {
		s.want = append(s.want, p...)
	}
}

func (s *session) sendFile(size int64) {
	m := s.m
	fd, content := m.OpenFile(size)
	m.files[fd] = true
	direct, align := m.OpenDirect(fd)
	f := m.eng.File(fd, direct, align, "file", func() error {
		delete(m.files, fd)
		m.World.CloseFile(fd)
		return nil
	})
	off := int64(m.Intn(int(size)))
	n := size - off
	truncated := m.Truncated(fd, size)
	want := content(off, n)
	if err := s.c.SendFile(f, off, n); err == nil {
		s.want = append(s.want, want...)
		s.short = s.short || truncated
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
	if m.closing || len(m.conns) == 0 {
		return
	}
	s := m.conns[m.Intn(len(m.conns))]
	if s.c == nil {
		return
	}
	if s.c.Post(func(*engine.Conn) { m.ran++; s.act() }) {
		m.posted++
	}
}

// peerAction is what the world outside does.
func (m *sim) peerAction() {
	if m.closing {
		return
	}
	if len(m.conns) == 0 || m.Intn(8) == 0 {
		if live := m.live(); live < 24 && !m.draining {
			s := &session{m: m}
			s.peer = m.Connect(m.listeners[m.Intn(m.loops)])
			s.peer.Peer.Slow = m.Intn(8) == 7
			s.lazy = s.peer.Peer.Slow
			s.peer.Peer.Closes = m.Intn(4) != 3
			m.conns = append(m.conns, s)
		}
		return
	}
	s := m.conns[m.Intn(len(m.conns))]
	switch m.Intn(12) {
	case 0, 1, 2, 3, 4:
		p := make([]byte, m.Between(1, 1<<m.Between(0, 13)))
		m.fill(p)
		if !s.peer.Ended() {
			if s.seen == len(s.fed) {
				s.unseen = m.Now()
			}
			s.fed = append(s.fed, p...)
			s.peer.Feed(p)
		}
	case 5:
		s.peer.Peer.Stalled, s.lazy = true, true
	case 6, 7:
		s.peer.Resume()
	case 8:
		s.peer.Peer.Slow, s.lazy = m.Intn(2) == 1, true
	case 9:
		if m.Intn(4) == 3 {
			s.peer.FIN()
		}
	case 10:
		if m.Intn(8) == 7 {
			s.dead = true
			s.peer.Reset()
		}
	case 11:
		if m.jumps && m.Intn(4) == 3 {
			m.Advance(time.Duration(m.Intn(1500)) * time.Millisecond)
		}
	}
}

func (m *sim) live() (n int) {
	for _, s := range m.conns {
		if !s.closed {
			n++
		}
	}
	return n
}

// step lets one thing happen somewhere.
func (m *sim) step() {
	switch m.Intn(8) {
	case 0, 1, 2:
		m.turn(m.Intn(m.loops))
	case 3, 4, 5:
		// Time moves on when every loop sleeps: no loop is late.
		if !m.Due() && m.awake() || !m.World.Step() {
			m.turn(m.Intn(m.loops))
		}
	case 6:
		m.peerAction()
	case 7:
		if m.Intn(4) == 3 {
			m.otherGoroutine()
		}
		m.turn(m.Intn(m.loops))
	}
}

func (m *sim) awake() bool {
	for i, ended := range m.ended {
		if !ended && m.Runnable(i) {
			return true
		}
	}
	return false
}

// turn runs a loop that is awake, and checks that one which sleeps has nothing to do.
func (m *sim) turn(i int) {
	switch {
	case m.ended[i]:
	case m.Runnable(i):
		m.ended[i] = m.eng.Turn(i)
	case m.eng.Owed(i):
		m.failf("loop %d sleeps, and something waits for it: a wake-up was lost", i)
	}
}

// check compares what every peer has got with what it was sent.
func (m *sim) check() error {
	if m.err == nil {
		m.err = m.Violation()
	}
	for _, s := range m.conns {
		got := s.peer.Peer.Got
		if len(got) == s.checked {
			continue
		}
		if len(got) > len(s.want) || !bytes.Equal(got[s.checked:], s.want[s.checked:len(got)]) {
			m.failf("peer of connection %d got %d bytes that are not the first of the %d sent", s.peer.FD, len(got), len(s.want))
		}
		s.checked = len(got)
	}
	return m.err
}

// finish ends the run and checks that everything ends with it.
func (m *sim) finish() error {
	m.closing = true
	if m.Intn(2) == 0 { // let the peers have everything first
		for _, s := range m.conns {
			s.peer.Peer.Slow = false
			s.peer.Resume()
		}
		m.settle(200_000, func() bool { return !m.Pending() && m.live() == 0 })
		if m.err == nil && m.jumps == false && m.backlog() > 0 && m.open() == 0 {
			m.failf("%d connections wait to be accepted, and there is room for them", m.backlog())
		}
	}
	m.draining = true
	m.eng.Drain(time.Duration(m.Between(1, 4000)) * time.Millisecond)
	for _, b := range m.held {
		b.Release()
	}
	m.held = nil
	if !m.settle(400_000, func() bool {
		for _, e := range m.ended {
			if !e {
				return false
			}
		}
		return true
	}) {
		if m.err == nil {
			m.failf("the drain did not end in 400,000 steps: %s", m.state())
		}
		return m.err
	}
	m.settle(200_000, func() bool { return !m.Pending() })
	return m.final()
}

// settle runs until done, within a bound.
func (m *sim) settle(bound int, done func() bool) bool {
	for range bound {
		if m.err != nil || m.check() != nil {
			return false
		}
		if done() {
			return true
		}
		ran := false
		for i := range m.loops {
			if !m.ended[i] && m.Runnable(i) {
				ran = true
			}
			m.turn(i)
		}
		if !m.Due() && m.awake() {
			continue
		}
		if !m.World.Step() && !ran && !done() {
			return false
		}
	}
	return false
}

func (m *sim) state() string {
	t := m.eng.Totals()
	return fmt.Sprintf("%d connections open, %d bytes leased, %d pinned, sockets open %d", t.Conns, t.Arena.Leased, t.Arena.Pinned, m.OpenSockets())
}

// final are the oracles of a run that has ended.
func (m *sim) final() error {
	if m.check() != nil {
		return m.err
	}
	for _, s := range m.conns {
		if s.c == nil {
			continue // never accepted
		}
		switch {
		case !s.closed:
			m.failf("connection %d was never told that it closed", s.peer.FD)
		case s.err == nil && !s.peer.Peer.SawRST && s.peer.Gone() && len(s.peer.Peer.Got) != len(s.want):
			m.failf("connection %d closed in order and lost %d of %d bytes", s.peer.FD, len(s.want)-len(s.peer.Peer.Got), len(s.want))
		case errors.Is(s.err, engine.ErrStalled) && !s.lazy && !m.jumps && m.Faults.LateNotify == 0 && m.Faults.Joined == 0 && !s.dead:
			m.failf("connection %d was cut off as stalled, and its peer read all the time", s.peer.FD)
		case errors.Is(s.err, syscall.EINVAL):
			m.failf("connection %d failed with %v: a file system that refuses a way of reading has another", s.peer.FD, s.err)
		case s.err == nil && s.short:
			m.failf("connection %d closed in order after a truncated file", s.peer.FD)
		case s.err != nil && s.peer.Peer.SawFIN && len(s.peer.Peer.Got) != len(s.want):
			m.failf("connection %d failed with %v, and its peer saw an orderly end %d bytes early", s.peer.FD, s.err, len(s.want)-len(s.peer.Peer.Got))
		}
	}
	t := m.eng.Totals()
	switch {
	case t.Arena.Leased != 0 || t.Arena.Pinned != 0 || t.Conns != 0:
		m.failf("left over: %s", m.state())
	case m.OpenSockets() != 0:
		m.failf("descriptors left over: %d", m.OpenSockets())
	case len(m.files) != 0:
		m.failf("%d files were not released", len(m.files))
	case m.posted != m.ran:
		m.failf("%d functions were posted and %d ran", m.posted, m.ran)
	case m.BuffersOut() != 0:
		m.failf("%d receive buffers were not given back", m.BuffersOut())
	}
	if err := m.eng.End(); err != nil {
		m.failf("%v", err)
	}
	return m.err
}

// open is how many connections the engine has.
func (m *sim) open() (n int) {
	for _, s := range m.conns {
		if s.c != nil && !s.closed {
			n++
		}
	}
	return n
}

func (m *sim) backlog() (n int) {
	for _, fd := range m.listeners {
		n += m.Backlog(fd)
	}
	return n
}
