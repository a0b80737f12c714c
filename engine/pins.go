package engine

import (
	"time"

	"sluice/zc"
)

// How pins end. A zero-copy send pins its memory until the peer has taken all of it. The ladder, on which each step is for
// those whom the one before does not reach:
//
//  1. What zc.Budget does not admit is copied, and pins nothing.
//  2. A peer that takes nothing for Config.WriteStall (or PressureStall) is reset: overdue, in timer.go.
//  3. So is one that takes a byte now and then, and has not taken a send after Config.PinLimit: here.
//  4. And one that holds memory which others share, beyond Config.LagAfter, if Config.Laggards is CutOff: here, once its
//     socket has it, and in endLag while it is queued.
//  5. What is behind all of these, a loop that does not run, the kernel ends by TCP_USER_TIMEOUT.
//
// All but the first end in a reset, because that alone has the kernel let go of pages at once.

// pinList is the zero-copy sends of a loop, from submission until nothing is pinned any more, in the order of submission.
type pinList struct{ oldest, newest *sendOp }

func (p *pinList) add(op *sendOp) {
	op.older = p.newest
	if p.newest == nil {
		p.oldest = op
	} else {
		p.newest.newer = op
	}
	p.newest = op
}

func (p *pinList) remove(op *sendOp) {
	if op.older == nil {
		p.oldest = op.newer
	} else {
		op.older.newer = op.newer
	}
	if op.newer == nil {
		p.newest = op.older
	} else {
		op.newer.older = op.older
	}
	op.older, op.newer = nil, nil
}

// oldestPin is the zero-copy send of the loop that has waited longest for its notification.
func (l *loop) oldestPin() Pin {
	op := l.pins.oldest
	if op == nil {
		return Pin{}
	}
	return Pin{Age: max(time.Duration(l.now-op.began), 1), Peer: op.conn.peer, Bytes: int(op.Want)}
}

// endOldPins resets connections that have pinned memory for too long. It looks at most as often as a connection with
// pinned bytes is looked at, which has the loop awake for it.
func (l *loop) endOldPins() {
	if l.pins.oldest == nil || l.now < l.pinsLookAt {
		return
	}
	l.pinsLookAt = l.now + l.lookEvery()
	limit, lag := int64(l.cfg.PinLimit), int64(l.cfg.PinLimit)
	if l.cfg.LagAfter > 0 && l.cfg.Laggards == CutOff {
		lag = min(limit, int64(l.cfg.LagAfter))
	}
	for op := l.pins.oldest; op != nil && l.now-op.began >= lag; op = op.newer {
		switch {
		case l.now-op.began >= limit:
			l.abort(op.conn, ErrPinned)
		case op.shared && op.State == zc.Completed && l.now-op.done >= lag:
			l.abort(op.conn, ErrLagged)
		}
	}
}
