package engine

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
	"sluice/zc"
)

// recvGroup is the id of a loop's provided buffers.
const recvGroup = 1

// loop is one ring, its connections, and the goroutine that owns both.
type loop struct {
	id    int
	cfg   Config
	can   zc.Kernel
	usage uint16 // ring.SendZCReportUsage where the kernel has it
	start time.Time

	sys      kernel.System
	ring     kernel.Ring
	recvRing kernel.BufRing // nil where the kernel has none
	scratch  []byte         // and then for what a receive takes
	arena    *bufreg.Registry
	cache    *bufreg.Cache
	wakeFD   int

	inbox    inbox
	sleeping atomic.Bool  // from just before a blocking enter to the next turn
	wakers   atomic.Int32 // goroutines that are waking it
	freed    atomic.Bool  // a buffer returned after ErrNoBuffers

	clock      time.Time // read once a turn
	now        int64     // the same, in ns since start
	conns      table[Conn]
	sends      sendOps
	fileItems  fileItemPool
	waste      []byte // what warmFile reads into; nil before the first time
	inputs     inputPool
	budget     zc.Budget
	learner    *zc.Learner // nil where nothing is learned
	queued     inQueues    // all connections
	pins       pinList
	pinsLookAt int64 // when endOldPins looks again
	reading    int64 // bytes that reads in flight may bring into them
	timers     timerHeap
	listeners  table[loopListener]
	acceptAt   int64 // when to accept again after an error; 0: accepting
	stats      Stats
	retry      bool // something may have become free for starved connections

	// Lists that one turn fills and empties.
	batch     [256]ring.CQE
	backlog   []ring.CQE
	arrivals  []arrival
	dirty     []*Conn // have something to do in this turn's flush
	later     []*Conn // and in the next turn's
	writable  []*Conn
	resumed   []*Conn
	rearm     []*Conn
	starved   []*Conn
	fed       []*Conn // feedStarved's, for the next time
	aborting  []*Conn
	ended     []*Conn
	reporting []*Conn // have reports to tell, maybe

	heavy     int // bytes that the next submission may copy or pin
	pageCache pageCache
	draining  bool
	drainBy   int64 // when what is left is aborted; 0: no drain, or done so
	done      chan struct{}
}

// open makes the loop's ring, on the loop's own thread.
func (l *loop) open() (err error) {
	c := ring.Config{Entries: 512, CQEntries: cqEntries, SQPoll: l.cfg.SQPoll}
	if l.ring, l.recvRing, err = l.sys.Open(c, l.arena, recvGroup, recvBuffers, recvBufferSize); err != nil {
		return err
	}
	if l.wakeFD, err = l.sys.EventFD(); err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	l.cache = l.arena.NewCache(func() {
		l.freed.Store(true)
		l.wake()
	})
	if !l.multishot() {
		l.scratch = make([]byte, recvBufferSize)
	}
	l.armWake()
	return nil
}

// run is the loop's goroutine. It says on ready whether the loop could be opened. Its thread
// is never unlocked, and so ends with it: another goroutine would inherit what it is pinned to.
func (l *loop) run(ready chan<- error) {
	runtime.LockOSThread()
	err := l.pin()
	if err == nil {
		err = l.open()
	}
	ready <- err
	for err == nil && !l.turn() {
	}
	l.close()
}

func (l *loop) pin() error {
	if len(l.cfg.CPUs) == 0 {
		return nil
	}
	cpu := l.cfg.CPUs[l.id%len(l.cfg.CPUs)]
	if err := sysPinThread(cpu); err != nil {
		return fmt.Errorf("pin loop %d to CPU %d: %w", l.id, cpu, err)
	}
	return nil
}

// turn is one turn of the loop. It reports whether the loop has drained and is to be closed.
func (l *loop) turn() (drained bool) {
	l.sleeping.Store(false)
	l.stats.Turns++
	l.clock = l.sys.Now()
	l.now = int64(l.clock.Sub(l.start))
	l.runPosted(l.inbox.take())
	l.reap()
	if l.learner != nil && l.learner.Turn(l.now) {
		l.learner.Measured(l.sys.ThreadCPU())
	}
	l.deliver()
	l.report()
	l.feedStarved()
	l.expire()
	l.flush()
	l.endConns()
	if l.draining && l.drained() {
		last := l.inbox.close()
		if last == nil {
			return true
		}
		l.runPosted(last) // may have brought a connection
		return false
	}
	l.enter()
	return false
}

func (l *loop) runPosted(p *posted) {
	for ; p != nil; p = p.next {
		p.fn()
	}
}

// idle reports whether nothing is left to do before something happens.
func (l *loop) idle() bool {
	return len(l.dirty) == 0 && len(l.backlog) == 0 && len(l.ended) == 0 && len(l.aborting) == 0 && len(l.arrivals) == 0 && len(l.reporting) == 0 &&
		len(l.resumed) == 0 && len(l.writable) == 0 && len(l.rearm) == 0 && !l.retry && l.inbox.empty() && !l.freed.Load() && l.ring.Ready() == 0
}

// enter submits the turn's requests and, when nothing is left to do, sleeps until a
// completion, a post or the next deadline.
//
// No wake-up is lost: the loop says that it sleeps, then looks once more; a producer
// pushes, then looks whether the loop sleeps. Both are sequentially consistent, so one
// of them sees the other.
func (l *loop) enter() {
	if l.ring.Pending() > 0 || !l.idle() {
		l.submit()
		if !l.idle() {
			return // most sends complete while they are submitted
		}
	}
	if l.cfg.Spin > 0 && l.spin() {
		return
	}
	if l.stats.Turns%turnSample == 0 {
		l.stats.TurnTime.Observe(int64(l.sys.Now().Sub(l.clock)))
	}
	l.sleeping.Store(true)
	if l.inbox.empty() && !l.freed.Load() {
		if err := l.ring.SubmitAndWait(1, time.Duration(l.untilNextTimer())); err != nil {
			l.keepCompletions(err)
		}
	}
}

// submit gives the turn's requests to the kernel, which carries most of them out at once.
func (l *loop) submit() {
	var err error
	if l.heavy > heavyBatch {
		err = l.ring.SubmitAndWait(0, 0)
	} else {
		err = l.ring.Submit()
	}
	l.heavy = 0
	if err != nil {
		l.keepCompletions(err)
	}
}

// spin looks for work without sleeping, for a while, and reports whether there is some.
func (l *loop) spin() bool {
	for until := time.Now().Add(l.cfg.Spin); time.Now().Before(until); {
		if err := l.ring.Submit(); err != nil {
			l.keepCompletions(err)
		}
		if !l.idle() {
			return true
		}
	}
	return false
}

// post has fn run on the loop, from any goroutine. It reports false when the loop has ended.
func (l *loop) post(fn func()) bool {
	if !l.inbox.push(fn) {
		return false
	}
	l.wake()
	return true
}

// wake ends the loop's sleep, if it sleeps. Only the first of several wakers pays for it.
func (l *loop) wake() {
	if l.sleeping.Load() {
		l.wakers.Add(1) // the descriptor is not closed, and used again for something else, meanwhile
		if l.sleeping.CompareAndSwap(true, false) {
			l.sys.Wake(l.wakeFD)
		}
		l.wakers.Add(-1)
	}
}

// armWake has each write to the eventfd post a completion. Its counter is not read where one
// poll sees every write as an edge, and reset before a poll that sees a level.
func (l *loop) armWake() {
	e := l.sqe()
	if l.multishot() {
		e.PrepPollMultishot(l.wakeFD, pollIn)
	} else {
		l.sys.ResetEvent(l.wakeFD)
		e.PrepPoll(l.wakeFD, pollIn)
	}
	e.UserData = userData(kindWake, requestID{})
}

// feedStarved lets connections that waited for a buffer or a send slot try again: when a buffer has
// returned to the arena, from wherever, or something of this loop has ended. Those that would be refused
// again go on waiting, at the cost of a comparison.
func (l *loop) feedStarved() {
	if freed := l.freed.Swap(false); !freed && !l.retry {
		return
	}
	l.retry = false
	if len(l.starved) == 0 {
		return
	}
	l.cache.Await() // before the look at what is free: a return is seen by it, or wakes
	waiting := l.starved
	l.starved = l.fed[:0]
	for i, c := range waiting {
		waiting[i] = nil
		if c.wantSlot && c.state < connAborting {
			c.markStep()
		}
		c.wantSlot = false
		if c.wantLease && c.state == connOpen && !l.mayTry(c) {
			l.starved = append(l.starved, c)
			continue
		}
		c.starved = false
		if c.wantLease && c.state == connOpen {
			c.wantLease = false
			c.handler.Writable(c)
		}
	}
	l.fed = waiting[:0]
}

// mayRetry has starved connections looked at: something has ended that they may wait for.
func (l *loop) mayRetry() { l.retry = l.retry || len(l.starved) > 0 }

// adopt makes a connection of a connected socket, which the loop owns from here on.
func (l *loop) adopt(fd int, newHandler func(*Conn) Handler) {
	c := &Conn{loop: l, fd: fd, activeAt: l.now, timer: timer{index: -1}}
	facts := l.sys.SocketFacts(fd)
	c.peer = facts.Peer
	c.sock = zc.Socket{Kind: facts.Kind, Local: facts.Local}
	if only, _ := c.sock.CopyOnly(); l.learner != nil && !only {
		c.flow = l.learner.Flow(zc.PathKey{Device: facts.Device, Local: facts.Local})
		c.sock.Flow = &c.flow
	}
	c.queue.total = &l.queued
	c.id = l.conns.put(c)
	l.stats.States[connOpen]++
	l.limitAccept()
	l.stats.Accepted++
	c.schedule(c.nextLook())
	c.handler = newHandler(c)
	l.armRecv(c)
	if l.draining {
		l.drainConn(c)
	}
}

// startDrain stops accepting and has every connection finish; what is left at the deadline
// is aborted.
func (l *loop) startDrain(timeout time.Duration) {
	if l.draining {
		if timeout <= 0 {
			l.drainBy = l.now + 1
		}
		return
	}
	l.draining = true
	l.drainBy = l.now + max(int64(timeout), 1)
	for _, s := range l.listeners.slots {
		if s.v != nil {
			l.closeListener(s.v)
		}
	}
	for _, s := range l.conns.slots {
		if s.v != nil {
			l.drainConn(s.v)
		}
	}
}

func (l *loop) drainConn(c *Conn) {
	if h, ok := c.handler.(DrainHandler); ok && c.state == connOpen {
		h.Drain(c)
	} else {
		c.Close()
	}
}

// drained reports whether everything has ended. At the deadline it aborts what has not.
func (l *loop) drained() bool {
	if l.drainBy != 0 && l.now >= l.drainBy {
		l.drainBy = 0
		for _, s := range l.conns.slots {
			if s.v != nil {
				l.abort(s.v, ErrDrained)
			}
		}
		l.endConns()
	}
	return l.conns.n == 0 && l.sends.table.n == 0 && l.listeners.n == 0 && len(l.ended) == 0
}

// close releases what open made. Nothing is in flight but the wait for wake-ups.
func (l *loop) close() {
	defer close(l.done)
	l.runPosted(l.inbox.close()) // after a failed open only
	if l.ring != nil {
		l.stats.Enters = l.ring.Entered()
		if err := l.ring.Close(); err != nil {
			l.stats.CloseError = errors.Join(l.stats.CloseError, err)
		}
		l.ring = nil
	}
	for l.wakers.Load() > 0 {
		runtime.Gosched() // one that found the loop asleep is about to write
	}
	if l.wakeFD > 0 {
		l.sys.Close(l.wakeFD)
	}
	l.sends.unmap()
	if l.waste != nil {
		unmapMemory(l.waste)
	}
	if l.cache != nil {
		l.cache.Flush()
	}
}
