package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
	"sluice/zc"
)

// Engine is a set of loops and their registered memory. Its methods may be called from any
// goroutine.
type Engine struct {
	cfg    Config
	caps   *ring.Caps
	can    zc.Kernel
	usage  bool // notifications say whether data was copied
	sys    kernel.System
	reg    *bufreg.Registry
	loops  []*loop
	dialed atomic.Uint32

	stop    sync.Once
	stopped chan struct{}
	err     error
	final   Stats
}

// New makes an engine, whose loops run from now on. End it with Run or Shutdown.
//
// Errors match ring.ErrUnsupported, ring.ErrForbidden or ring.ErrMemlock where they apply.
func New(c Config) (*Engine, error) { return newOn(kernel.Running{}, c) }

func newOn(sys kernel.System, c Config) (*Engine, error) {
	cfg, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	caps, err := ring.Probe()
	if err != nil {
		return nil, err
	}
	if cfg.CopyOnly {
		cfg.Policy = zc.Policy{Mode: zc.Off}
	} else if err := caps.Require("SEND_ZC", "multishot receive"); err != nil {
		return nil, err
	}
	var major, minor int
	_, _ = fmt.Sscanf(caps.Kernel, "%d.%d", &major, &minor) // 0.0 takes the careful default
	e := &Engine{
		cfg: cfg, caps: caps, sys: sys, stopped: make(chan struct{}), usage: caps.UsageReport,
		can: zc.Kernel{SendZC: caps.SendZC, Vectors: caps.SendMsgZC, FixedVectors: caps.FixedVectors, Threshold: zc.DefaultThreshold(major, minor)},
	}
	for size := cfg.ArenaSize; ; {
		err = e.start(size)
		if err == nil {
			return e, nil
		}
		if cfg.ArenaSize != 0 || !errors.Is(err, ring.ErrMemlock) || size == bufreg.MaxBuffer {
			return nil, err
		}
		// Nobody asked for a size: take what the limit has room for.
		if size == 0 {
			size = bufreg.DefaultSize
		}
		size /= 2
	}
}

// start makes the arena and the loops, and runs them.
func (e *Engine) start(arena int) (err error) {
	if err = e.makeLoops(arena); err != nil {
		return err
	}
	for i, l := range e.loops {
		ready := make(chan error, 1)
		go l.run(ready)
		if err = <-ready; err != nil {
			e.loops = e.loops[:i+1] // the others never ran
			e.drain(0)
			return errors.Join(fmt.Errorf("start loop %d: %w", i, err), e.reg.Close())
		}
	}
	return nil
}

func (e *Engine) makeLoops(arena int) (err error) {
	newArena := bufreg.New
	if e.cfg.HugePages {
		newArena = bufreg.NewHuge
	}
	if e.reg, err = newArena(arena); err != nil {
		return err
	}
	size := e.reg.Size()
	pins := int64(e.cfg.MaxPinned)
	if pins > size {
		return errors.Join(fmt.Errorf("at most %d pinned bytes in an arena of %d: lower MaxPinned, or raise ArenaSize", pins, size), e.reg.Close())
	}
	if pins == 0 {
		pins = size / 4 * 3
	}
	e.loops = nil
	begin := e.sys.Now()
	for i := range e.cfg.Loops {
		l := &loop{id: i, cfg: e.cfg, can: e.can, sys: e.sys, arena: e.reg, start: begin, done: make(chan struct{}), wakeFD: -1}
		l.budget = zc.NewBudget(pins / int64(e.cfg.Loops))
		if e.learns() {
			l.learner = zc.NewLearner(e.cfg.Policy.MinSend(e.can), uint64(i))
		}
		if e.usage {
			l.usage = ring.SendZCReportUsage
		}
		e.loops = append(e.loops, l)
	}
	return nil
}

// learns reports whether the loops learn where zero-copy pays. They do so from the CPU time of
// their threads, which says nothing where another thread does the copying, or where the loop
// spins while it waits.
func (e *Engine) learns() bool {
	return e.cfg.Policy.Mode == zc.Adaptive && e.can.SendZC && !e.cfg.SQPoll && e.cfg.Spin == 0
}

// Caps is what the kernel can do.
func (e *Engine) Caps() *ring.Caps { return e.caps }

// Loops is the number of loops.
func (e *Engine) Loops() int { return len(e.loops) }

// ArenaSize is the registered memory in bytes.
func (e *Engine) ArenaSize() int { return int(e.reg.Size()) }

// Routes says, a line for each, which way bytes go and when.
func (e *Engine) Routes() []string {
	l := e.loops[0]
	least := e.cfg.Policy.MinSend(l.can)
	ok, why := e.cfg.Policy.Allowed(l.can, zc.Socket{})
	local, _ := e.cfg.Policy.Allowed(l.can, zc.Socket{Local: true})
	switch {
	case !ok:
		return []string{
			fmt.Sprintf("zero-copy: never (%s)", why),
			fmt.Sprintf("sendfile: files above %d bytes", smallFile),
			"copy: everything else",
		}
	case !local:
		which := fmt.Sprintf("sends of %d bytes or more", least)
		if least == zc.NoSize {
			which = "nothing, until traffic teaches that it pays"
		}
		return []string{
			"zero-copy: " + which,
			fmt.Sprintf("sendfile: files above %d bytes to peers on this host, where the kernel copies zero-copy sends", smallFile),
			"copy: everything else",
		}
	}
	return []string{
		fmt.Sprintf("zero-copy: sends of %d bytes or more, to every peer", least),
		"copy: everything else",
	}
}

// Lease takes registered memory outside of any loop, for buffers that many connections will
// send. Loops lease through their connections, which is cheaper.
func (e *Engine) Lease(n int) (bufreg.Buffer, error) { return e.reg.Lease(n) }

// Run waits until ctx ends, then stops accepting and lets connections finish for
// Config.DrainTimeout. It returns what Shutdown returns.
func (e *Engine) Run(ctx context.Context) error {
	<-ctx.Done()
	limit, cancel := context.WithTimeout(context.Background(), e.cfg.DrainTimeout)
	defer cancel()
	return e.Shutdown(limit)
}

// Shutdown stops accepting, lets every connection finish what is queued until ctx ends,
// aborts the rest, waits for the kernel to let go of every buffer, and frees everything.
// Stats then says what was delivered and what was not. Leases that the embedder still
// holds are an error. A second call waits for the first, and hastens it if its ctx ends
// sooner.
func (e *Engine) Shutdown(ctx context.Context) error {
	e.stop.Do(func() {
		go func() {
			e.drain(time.Until(deadline(ctx)))
			e.final = e.collect(func(l *loop, take func()) { take() })
			e.err = e.reg.Close()
			for _, l := range e.loops {
				e.err = errors.Join(e.err, l.stats.CloseError)
			}
			close(e.stopped)
		}()
	})
	select {
	case <-e.stopped:
	case <-ctx.Done():
		for _, l := range e.loops {
			l.post(func() { l.startDrain(0) })
		}
		<-e.stopped
	}
	return e.err
}

func deadline(ctx context.Context) time.Time {
	if t, ok := ctx.Deadline(); ok {
		return t
	}
	return time.Now().Add(24 * time.Hour)
}

// drain ends all loops.
func (e *Engine) drain(timeout time.Duration) {
	for _, l := range e.loops {
		l.post(func() { l.startDrain(timeout) })
	}
	for _, l := range e.loops {
		<-l.done
	}
}
