package simring_test

import (
	"bytes"
	"flag"
	"fmt"
	"time"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/internal/simring"
	"sluice/zc"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "replay this seed alone")
	stepsFlag  = flag.Int("steps", 0, "steps of each run; 0: the default")
	totalFlag  = flag.Int("total", 1_000_000, "steps of all runs together")
	runsFlag   = flag.Int("runs", 0, "runs at most; 0: as many as -total takes")
	firstFlag  = flag.Uint64("first", 0, "the first seed; 0: chosen by the clock")
	shrinkFlag = flag.Duration("shrink", 10*time.Second, "how long to look for a shorter history of a failure")
)

// defaultSteps is the length of one run: long enough for connections to begin, to stall, to
// end and to be followed by others, short enough to shrink.
const defaultSteps = 3000

// sim is one run: an engine on a simulated kernel, servers made of random handlers, and what
// everyone should have received.
type sim struct {
	*simring.World
	cfg       engine.Config
	eng       *engine.Stepped
	ended     []bool
	listeners []int
	conns     []*session // every one there ever was
	watched   []*session // those of which something may still change
	held      []bufreg.Buffer
	files     map[int]bool
	draining  bool
	drainBy   time.Duration
	closing   bool // the end of the run: handlers begin nothing more
	jumps     bool // time may move on by itself
	scarce    bool // other goroutines lease most of the arena now and then
	flood     bool // connections queue more sends than the engine has slots for
	pattern   byte
	posted    int
	ran       int
	err       error
}

func (m *sim) failf(format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf(format, args...)
	}
}

func newSim(c *simring.Choices) (*sim, error) {
	m := &sim{files: make(map[int]bool)}
	f := simring.Faults{}
	if c.Intn(8) != 0 { // now and then a kernel without faults
		odds := []int{0, 0, 3, 10, 40}
		pick := func() int { return odds[c.Intn(len(odds))] }
		f = simring.Faults{
			ShortSend: pick(), SendError: 10 * pick(), NoMemory: pick(), FalseCopied: pick(), LateNotify: pick(), Batched: pick(),
			Stray: pick(), Enter: pick(), LateWake: pick(), LateCancel: pick(), NoRecvBuffer: pick(), MultishotEnd: pick(),
			Accept: pick(), ShortRead: pick(), ReadError: 10 * pick(), Truncated: 3 * pick(), BadPage: pick(), PollSpurious: pick(),
			NoZeroCopy: pick(), Joined: pick(), Reordered: pick(),
		}
	}
	m.jumps, m.scarce, m.flood = c.Intn(2) == 1, c.Intn(3) == 2, c.OneIn(floodRuns)
	m.cfg = engine.Config{
		Loops: c.Between(1, 2), ArenaSize: c.Between(1, 3) << 20, HighWater: 1 << c.Between(10, 18), MaxQueued: 1 << 19,
		InputLimit: 4096 << c.Intn(3), WriteStall: time.Second, IdleTimeout: 3 * time.Second, Linger: 500 * time.Millisecond,
		MaxConns: c.Between(2, 20), Policy: []zc.Policy{{}, {Mode: zc.Fixed, Threshold: 1}, {Mode: zc.Fixed, Threshold: 3000}, {Mode: zc.Off}}[c.Intn(4)],
	}
	if c.Intn(4) == 3 {
		m.cfg.MaxConns = 10_000 // more than the completion queue holds: accepts are multishot
	}
	m.cfg.PressureStall = m.cfg.WriteStall / time.Duration(c.Between(1, 4))
	if c.Intn(3) == 2 {
		m.cfg.LagAfter, m.cfg.Laggards = 100*time.Millisecond<<c.Intn(4), engine.Laggards(c.Intn(2))
	}
	if c.Intn(2) == 1 {
		m.cfg.PinLimit = m.cfg.WriteStall * time.Duration(c.Between(1, 3))
	}
	if c.Intn(3) == 2 {
		m.cfg.MaxPinned = m.cfg.ArenaSize / 8
	}
	m.cfg.LowWater = max(1, m.cfg.HighWater/c.Between(1, 8))
	can := zc.Kernel{SendZC: true, Vectors: c.Intn(4) != 3, FixedVectors: c.Intn(2) == 0, Threshold: 8 << 10}
	if m.flood {
		f = simring.Faults{Batched: 1, Enter: f.Enter, FalseCopied: f.FalseCopied, LateWake: f.LateWake, Reordered: f.Reordered}
		m.cfg.MaxPinned = m.cfg.ArenaSize
		m.cfg.Loops, m.cfg.MaxConns, m.cfg.Policy = 1, 10_000, zc.Policy{Mode: zc.Fixed, Threshold: 1}
		can.FixedVectors = false // one piece a send
	}
	m.World = simring.New(c, f)
	var err error
	if m.eng, err = engine.NewStepped(m.cfg, m.World, can); err != nil {
		return nil, err
	}
	m.ended = make([]bool, m.cfg.Loops)
	for i := range m.ended {
		fd := m.World.Listen()
		m.listeners = append(m.listeners, fd)
		m.eng.Listen(i, fd, m.accept)
	}
	if m.flood {
		m.beginFlood()
	}
	m.Hook = func() {
		if m.OneIn(50) {
			m.otherGoroutine()
		}
	}
	return m, nil
}

// step lets one thing happen somewhere.
func (m *sim) step() {
	switch m.Intn(8) {
	case 0, 1, 2:
		m.turn(m.Intn(m.cfg.Loops))
	case 3, 4, 5:
		// Time moves on when every loop sleeps: no loop is late.
		if !m.Due() && m.awake() || !m.World.Step() {
			m.turn(m.Intn(m.cfg.Loops))
		}
	case 6:
		m.peerAction()
	case 7:
		switch m.Intn(256) {
		case 255:
			if m.Intn(8) == 7 && !m.draining {
				m.drain()
			}
		default:
			if m.Intn(4) == 3 {
				m.otherGoroutine()
			}
		}
		m.turn(m.Intn(m.cfg.Loops))
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
	if m.ended[i] {
		return
	}
	if m.Runnable(i) {
		m.ended[i] = m.eng.Turn(i)
	}
	switch {
	case m.ended[i] || m.Runnable(i):
	case !m.Waking() && m.eng.Owed(i):
		m.failf("loop %d sleeps, and something waits for it: a wake-up was lost", i)
	default:
		m.asleep(i) // also if it slept before: others may have done something since
	}
}

// drain has the engine finish within some time.
func (m *sim) drain() {
	timeout := time.Duration(m.Between(0, 4000)) * time.Millisecond
	by := m.Punctual() + timeout
	if m.draining { // a second one only hastens the first
		timeout, by = 0, min(m.drainBy, m.Punctual())
	}
	m.draining, m.drainBy = true, by
	m.eng.Drain(timeout)
}

// finish ends the run and checks that everything ends with it.
func (m *sim) finish() error {
	m.closing = true
	if m.Intn(2) == 0 { // let the peers have everything first
		bytes := 0
		for _, s := range m.watched {
			s.peer.Peer.Slow = false
			s.peer.Resume()
			s.peer.Widen(len(s.want)) // or a peer reads a byte at a time, after all
			bytes += len(s.want) + len(s.fed)
		}
		if !m.settle(200_000+bytes, func() bool { return m.open() == 0 && m.backlog() == 0 && !m.Pending() }) && m.err == nil {
			m.failf("every peer reads, and yet something waits for ever: %s", m.state())
		}
	}
	if !m.draining || m.Intn(2) == 0 {
		m.drain()
	}
	for _, b := range m.held {
		b.Release()
	}
	m.held = nil
	// With one receive buffer for all connections, a byte may take a turn of all of them.
	fed := 0
	for _, s := range m.watched {
		fed += len(s.fed)
	}
	if !m.settle(400_000+len(m.watched)*fed, func() bool {
		for _, e := range m.ended {
			if !e {
				return false
			}
		}
		return true
	}) {
		if m.err == nil {
			m.failf("the drain did not end: %s", m.state())
		}
		return m.err
	}
	m.settle(200_000, func() bool { return !m.Pending() })
	return m.final()
}

// settle runs until done, within a bound.
func (m *sim) settle(bound int, done func() bool) bool {
	for range bound {
		if m.check() != nil {
			return false
		}
		if done() {
			return true
		}
		ran := false
		for i := range m.ended {
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

// open is how many connections the engine has.
func (m *sim) open() (n int) {
	for _, s := range m.watched {
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

// check compares what every peer has got with what it was sent.
func (m *sim) check() error {
	if m.err == nil {
		m.err = m.Violation()
	}
	watched := m.watched[:0]
	for _, s := range m.watched {
		got := s.peer.Peer.Got
		if len(got) != s.checked {
			if len(got) > len(s.want) || !bytes.Equal(got[s.checked:], s.want[s.checked:len(got)]) {
				m.failf("peer of connection %d got %d bytes that are not the first of the %d sent", s.peer.FD, len(got), len(s.want))
			}
			s.checked = len(got)
		}
		if !s.closed || !s.peer.Gone() {
			watched = append(watched, s)
		}
	}
	clear(m.watched[len(watched):])
	m.watched = watched
	return m.err
}
