package engine

import (
	"time"

	"sluice/internal/kernel"
	"sluice/zc"
)

// Stepped is an engine without goroutines, on a System of the caller's choice: whoever has it
// runs the loops, turn by turn, on one goroutine. It is what the simulation drives; code
// outside of this module has no System to give it.
type Stepped struct{ eng *Engine }

// NewStepped makes the loops on sys, which answers for a kernel that can do what can says.
func NewStepped(c Config, sys kernel.System, can zc.Kernel) (*Stepped, error) {
	cfg, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, can: can, usage: true, sys: sys, stopped: make(chan struct{})}
	if err := e.makeLoops(cfg.ArenaSize); err != nil {
		return nil, err
	}
	for _, l := range e.loops {
		if err := l.open(); err != nil {
			return nil, err
		}
	}
	return &Stepped{e}, nil
}

// Engine is the engine, of which Lease and Stats may be used, the latter after End.
func (s *Stepped) Engine() *Engine { return s.eng }

// Turn runs one turn of loop i, which must not have ended. It reports whether it has ended now.
func (s *Stepped) Turn(i int) (ended bool) {
	l := s.eng.loops[i]
	if ended = l.turn(); ended {
		l.close()
	}
	return ended
}

// Owed reports whether something waits for loop i that must have woken it.
func (s *Stepped) Owed(i int) bool {
	l := s.eng.loops[i]
	return !l.inbox.empty() || l.freed.Load()
}

// Aborting reports whether a connection is on the way down that waits for nobody.
func (s *Stepped) Aborting(c *Conn) bool { return c.state == connAborting }

// Forgotten reports whether c, which was refused a buffer, waits for nothing or would not be refused it now.
func (s *Stepped) Forgotten(c *Conn) bool { return !c.wantLease || c.loop.mayTry(c) }

// Shared is where in its stream the first piece of shared memory ends that c has queued, or -1.
func (s *Stepped) Shared(c *Conn) int {
	first := c.queue.firstShared()
	if first < 0 {
		return -1
	}
	end := int(c.accepted)
	for i := range first + 1 {
		if it := c.queue.at(i); it.file != nil {
			end += int(it.file.left)
		} else {
			end += it.buf.Len()
		}
	}
	return end
}

// Listen has loop i accept from a listening descriptor.
func (s *Stepped) Listen(i, fd int, newHandler func(*Conn) Handler) {
	l := s.eng.loops[i]
	l.openListener(&loopListener{loop: l, fd: fd, newHandler: newHandler, ended: make(chan struct{})})
}

// Drain has every loop finish, as Shutdown does.
func (s *Stepped) Drain(timeout time.Duration) {
	for _, l := range s.eng.loops {
		l.post(func() { l.startDrain(timeout) })
	}
}

// File is a descriptor of the System as a File of size bytes, with one reference. direct is another of the
// same file, for reads around the page cache at multiples of align, or -1. end is called at
// the last Release.
func (s *Stepped) File(fd, direct int, size, align int64, name string, end func() error) *File {
	f := newFile(fd, name, end)
	f.size = size
	f.direct.Store(int32(direct))
	f.sent.Store(true) // so that small ones go the way of those too
	f.align = align
	return f
}

// Totals are the counters of all loops, between turns.
func (s *Stepped) Totals() Stats {
	return s.eng.collect(func(_ *loop, take func()) { take() })
}

// End frees the arena. Every loop must have ended.
func (s *Stepped) End() error { return s.eng.reg.Close() }
