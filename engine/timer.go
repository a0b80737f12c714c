package engine

import (
	"container/heap"
	"math"
	"time"
)

// timer is a connection's place among the deadlines. A connection is looked at when
// timer.at has come, which may be early: activity moves deadlines without touching the
// heap, and the look then only sets the next one.
type timer struct {
	at    int64 // loop time in ns
	index int   // in the heap; -1: not scheduled
}

type timerHeap []*Conn

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].timer.at < h[j].timer.at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer.index, h[j].timer.index = i, j
}
func (h *timerHeap) Push(x any) {
	c := x.(*Conn)
	c.timer.index = len(*h)
	*h = append(*h, c)
}
func (h *timerHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.timer.index = -1
	return c
}

// schedule has the connection looked at no later than at.
func (c *Conn) schedule(at int64) {
	h := &c.loop.timers
	switch {
	case c.timer.index < 0:
		c.timer.at = at
		heap.Push(h, c)
	case at < c.timer.at:
		c.timer.at = at
		heap.Fix(h, c.timer.index)
	}
}

func (l *loop) unschedule(c *Conn) {
	if c.timer.index >= 0 {
		heap.Remove(&l.timers, c.timer.index)
	}
}

// stall is how long a peer may take nothing.
func (l *loop) stall() int64 {
	if len(l.starved) > 0 {
		return int64(l.cfg.PressureStall)
	}
	return int64(l.cfg.WriteStall)
}

// lookEvery is how long a connection with outstanding bytes goes unlooked at.
func (l *loop) lookEvery() int64 {
	every := l.cfg.PressureStall
	if l.cfg.LagAfter > 0 {
		every = min(every, l.cfg.LagAfter)
	}
	return max(int64(every)/stallLooks, 1)
}

// stallLooks is how many times in Config.PressureStall, or what is shorter, a connection with outstanding bytes is
// asked for progress: the deadline is kept to a quarter of its length, and that of pins to half.
const stallLooks = 4

// expire looks at every connection whose time has come.
func (l *loop) expire() {
	if l.acceptAt != 0 {
		l.resumeAccept()
	}
	for len(l.timers) > 0 && l.timers[0].timer.at <= l.now {
		c := l.timers[0]
		if c.state == connAborting {
			l.unschedule(c)
			if c.reading {
				l.cancel(userData(kindRead, c.id))
				c.schedule(l.now + int64(cancelAgain))
			}
			continue
		}
		switch why := c.overdue(); why {
		case nil:
		case errLingered:
			l.endLinger(c)
		default:
			l.unschedule(c)
			l.abort(c, why)
			continue
		}
		c.timer.at = c.nextLook()
		heap.Fix(&l.timers, 0)
	}
	l.endOldPins()
}

// outstanding reports whether bytes are queued, or pinned until the peer acknowledges them.
func (c *Conn) outstanding() bool {
	return c.queue.bytes > 0 || c.sending != nil || c.notifying > 0
}

// overdue returns why the connection must end now, or nil.
func (c *Conn) overdue() error {
	l := c.loop
	if c.userUntil != 0 && l.now >= c.userUntil {
		return ErrDeadline
	}
	if c.outstanding() {
		c.lookForProgress()
		if l.now >= c.takenAt+l.stall() {
			return ErrStalled
		}
		if c.lags() {
			return l.endLag(c)
		}
		return nil
	}
	if c.closeBy != 0 && l.now >= c.closeBy {
		return errLingered
	}
	if c.canIdle() && l.now >= c.activeAt+int64(l.cfg.IdleTimeout) {
		// A peer that is busy with what the socket still holds for it is not idle.
		if acked, held := l.sys.BytesAcked(c.fd); held && acked != c.acked {
			c.acked, c.activeAt = acked, l.now
			return nil
		}
		return ErrIdle
	}
	return nil
}

// canIdle reports whether the idle timeout applies: once the connection is being closed, the
// linger does.
func (c *Conn) canIdle() bool { return c.loop.cfg.IdleTimeout > 0 && c.state == connOpen }

// watch has the connection looked at for as long as bytes are outstanding. It is called
// when there were none, and moves the timer at most once a look: idle connections have no
// looks, busy ones few.
func (c *Conn) watch() {
	c.takenAt, c.activeAt = c.loop.now, c.loop.now
	c.schedule(c.loop.now + c.loop.lookEvery())
}

// nextLook is when the connection could next be overdue, or is to be asked for progress.
func (c *Conn) nextLook() int64 {
	l := c.loop
	at := l.now + int64(time.Hour) // an idle connection without an idle timeout
	if c.outstanding() {
		at = min(l.now+l.lookEvery(), c.takenAt+l.stall())
	} else {
		if c.closeBy != 0 {
			at = min(at, c.closeBy)
		}
		if c.canIdle() {
			at = min(at, c.activeAt+int64(l.cfg.IdleTimeout))
		}
	}
	if c.userUntil != 0 {
		at = min(at, c.userUntil)
	}
	return at
}

// untilNextTimer is how long the loop may sleep, in ns; 0: until something happens.
func (l *loop) untilNextTimer() int64 {
	at := int64(math.MaxInt64)
	if len(l.timers) > 0 {
		at = l.timers[0].timer.at
	}
	if l.acceptAt != 0 {
		at = min(at, l.acceptAt)
	}
	if l.drainBy != 0 {
		at = min(at, l.drainBy)
	}
	if at == math.MaxInt64 {
		return 0
	}
	return max(at-l.now, 1)
}
