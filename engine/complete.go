package engine

import (
	"fmt"
	"syscall"

	"sluice/ring"
	"sluice/zc"
)

// The way up: from completions to connections. Handlers are not called from here: what
// they are to be told is listed, and told after the whole batch.

// reap takes every completion that is ready, in the order of their arrival: those that a
// submission kept come before what is in the queue now.
func (l *loop) reap() {
	if l.ring.Overflowed() {
		l.stats.CQOverflows++
	}
	for {
		for len(l.backlog) > 0 {
			kept := l.backlog
			l.backlog = nil
			for i := range kept {
				l.complete(&kept[i])
			}
		}
		n := l.ring.Reap(l.batch[:])
		for i := range n {
			l.complete(&l.batch[i])
		}
		if n < len(l.batch) && len(l.backlog) == 0 {
			return
		}
	}
}

// complete is the one place where completions arrive.
func (l *loop) complete(e *ring.CQE) {
	kind, id := unpack(e.UserData)
	switch kind {
	case kindSend:
		op := l.sends.table.get(id)
		if op == nil {
			l.stats.Sends.Stray++
			return
		}
		if e.Notification() {
			l.sendNotified(op, e)
		} else {
			l.sendCompleted(op, e)
		}
		return
	case kindWake:
		if !e.More() {
			l.armWake()
		}
		return
	case kindAccept:
		l.accepted(e)
		return
	case kindIgnored:
		return
	}
	c := l.conns.get(id)
	if c == nil {
		l.stats.Sends.Stray++
		return
	}
	switch kind {
	case kindRecv:
		l.received(c, e)
	case kindRead:
		l.fileRead(c, e)
	case kindPoll:
		c.polling = false
		c.markStep()
	default:
		panic(fmt.Sprintf("engine: completion of unknown kind %d", kind))
	}
	if c.state == connAborting {
		l.stepAbort(c)
	}
}

// sendCompleted takes a send's completion: accepted bytes leave the queue, and each
// buffer's reference goes to the op if the kernel still reads it, or else is dropped.
func (l *loop) sendCompleted(op *sendOp, e *ring.CQE) {
	o := op.Completed(e.Res, e.More())
	if o.Stray {
		l.stats.Sends.Stray++
		return
	}
	c := op.conn
	c.sending, c.queue.inFlight = nil, 0
	op.done = l.now
	fate := ByRoute
	if o.Recycle {
		l.unpin(op)
	} else {
		c.notifying++
		fate = Awaited
	}
	c.trail.settle(op.trail, o.Bytes, fate, 0)
	accepted := int(o.Bytes)
	for _, b := range op.bufs[:op.segs] {
		if accepted >= b.Len() {
			accepted -= b.Len()
			c.queue.remove(0)
			if o.Recycle {
				b.Release()
			} // else the queue's reference is the op's now
			continue
		}
		if accepted > 0 {
			c.queue.shrink(accepted)
			accepted = 0
		}
		if !o.Recycle {
			b.Retain() // the kernel may still read what the queue will send again
		}
	}
	f := op.file
	if op.file = nil; f != nil { // the socket has references of its own to the pages that it took
		c.queue.fileRead(f, int64(accepted))
	}
	if o.Bytes > 0 {
		c.activeAt = l.now
		c.reportSent(int(o.Bytes), op.Route, op.reason, fate)
		l.worked(c.sock.Flow, op.Route, int(o.Bytes))
		l.stats.Sends.Add(op.Route, op.reason, uint64(o.Bytes))
	}
	c.full = o.Next != zc.Proceed
	if o.Next == zc.Resume && o.Bytes > 0 {
		l.stats.Sends.ShortSends++
	}
	if o.Recycle {
		l.freeSend(op)
	}
	switch o.Next {
	case zc.CopyOnce:
		c.copyOnce = true
	case zc.CopyOnly:
		if only, _ := c.sock.CopyOnly(); only { // it refuses those too
			l.sendFailed(c, syscall.EOPNOTSUPP)
		}
		c.sock.Kind = l.sys.SocketFacts(c.fd).Kind // kTLS begins after the socket was adopted
		c.sock.NoZC, c.sock.Flow = true, nil
	case zc.Fail:
		if f != nil && o.Err == syscall.EFAULT {
			f.pages = false // a page could not be had: who reads it learns why
		} else {
			l.sendFailed(c, o.Err)
		}
	}
	if f != nil && f.left == 0 {
		l.fileDone(c, 0)
	}
	l.afterSend(c)
}

// worked counts n bytes for the learner.
func (l *loop) worked(f *zc.Flow, r zc.Route, n int) {
	if l.learner != nil {
		l.learner.Worked(f, r, n)
	}
}

func (l *loop) sendFailed(c *Conn, errno syscall.Errno) {
	l.stats.SendErrors++
	l.abort(c, fmt.Errorf("send: %w", errno))
}

// sendNotified takes a send's notification: the kernel is done with the buffers.
func (l *loop) sendNotified(op *sendOp, e *ring.CQE) {
	known := op.UsageKnown() && l.usage != 0
	if o := op.Notified(); o.Stray {
		l.stats.Sends.Stray++
		return
	}
	if l.learner != nil {
		l.learner.Notified()
		if flow := op.conn.sock.Flow; known && flow != nil {
			flow.Reported(int(op.Sent), op.alone && op.conn.notifying == 1, e.Copied())
		}
	}
	fate := ZeroCopied
	switch {
	case !known:
		l.stats.Sends.NotifiedUnknown++
		fate = Unknown
	case e.Copied():
		l.stats.Sends.NotifiedCopied++
		fate = CopiedByKernel
	default:
		l.stats.Sends.NotifiedZeroCopy++
	}
	delay := l.now - op.done
	l.stats.NotifyDelay.Observe(delay)
	c := op.conn
	c.notifying--
	c.trail.settle(op.trail, op.Sent, fate, delay)
	c.reportNotified(op, fate, delay)
	c.takenAt, c.activeAt = l.now, l.now
	l.unpin(op)
	for _, b := range op.bufs[:op.segs] {
		b.Release()
	}
	l.freeSend(op)
	if c.state == connHalfClosed {
		c.markStep()
	}
}

// freeSend returns an op; connections that waited for one try again.
func (l *loop) freeSend(op *sendOp) {
	l.sends.put(op)
	l.mayRetry()
}

// afterSend goes on with a connection after bytes left its queue.
func (l *loop) afterSend(c *Conn) {
	l.mayRetry() // the queues have shrunk
	if c.state == connAborting {
		l.stepAbort(c)
		return
	}
	if c.lagging {
		if err := l.giveBack(c); err != nil {
			l.abort(c, err)
			return
		}
	}
	if c.queue.len() == 0 {
		l.stats.ResponseTime.Observe(l.now - c.queuedAt)
	}
	if c.starved {
		c.lookForProgress()
	}
	l.relieve(c)
	if c.queue.len() > 0 || c.state != connOpen {
		c.markStep()
	}
}

// relieve has Writable called when a congested queue has fallen below the low-water mark.
func (l *loop) relieve(c *Conn) {
	if c.congested && c.queue.bytes < int64(l.cfg.LowWater) {
		c.congested = false
		l.writable = append(l.writable, c)
	}
}

// markStep lists the connection for the flush without counting as activity.
func (c *Conn) markStep() {
	if !c.dirty {
		c.dirty = true
		c.loop.dirty = append(c.loop.dirty, c)
	}
}

// markLater lists the connection for the next turn's flush.
func (c *Conn) markLater() {
	if !c.dirty {
		c.dirty = true
		c.loop.later = append(c.loop.later, c)
	}
}
