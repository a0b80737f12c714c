package engine

import (
	"syscall"
	"unsafe"

	"sluice/bufreg"
	"sluice/ring"
	"sluice/zc"
)

// The way down: from the queues to the submission queue.

// flush gives every connection that has something to do its turn.
func (l *loop) flush() {
	for i := 0; i < len(l.dirty); i++ { // a turn may list further ones
		c := l.dirty[i]
		c.dirty = false
		l.pump(c)
		if l.heavy > heavyBatch-2*maxSendBytes {
			l.submit() // in batches of which the scheduler need not be told
		}
	}
	clear(l.dirty)
	l.dirty, l.later = l.later, l.dirty[:0]
}

// pump does what can be done for a connection now: read ahead in its file, submit the next
// send, or take the next step of closing.
func (l *loop) pump(c *Conn) {
	if c.state >= connAborting {
		return
	}
	if c.queue.files > 0 {
		l.pumpFile(c)
	}
	if c.sending == nil && c.queue.len() > 0 && c.state < connAborting {
		l.submitSend(c)
	}
	if c.state == connClosing || c.state == connHalfClosed {
		l.stepClose(c)
	}
}

// submitSend gathers what lies at the head of the queue, decides its route and submits it: memory, and the
// file pages behind it that are ready to go by zero-copy.
func (l *loop) submitSend(c *Conn) {
	var sizes [maxSegments]uint32
	q := &c.queue
	n, total, index := 0, 0, uint16(0)
	var f *fileItem
	for n < maxSegments && n < q.len() {
		it := q.at(n)
		if it.file != nil {
			if f = it.file; f.ready == 0 || n > 0 && f.route == zc.ZeroCopy && !l.can.Vectors {
				f = nil
				break
			}
			sizes[n] = uint32(f.ready)
			total += f.ready
			n++
			break
		}
		if it.filling || it.buf.Len() == 0 {
			break
		}
		if n == 0 {
			index = it.buf.Index()
		} else if total+it.buf.Len() > maxSendBytes || it.buf.Index() != index || it.buf.Registered() != q.at(0).buf.Registered() {
			break
		}
		sizes[n] = uint32(it.buf.Len())
		total += it.buf.Len()
		n++
	}
	if n == 0 || total < holdBack && n < q.len() && q.at(n).filling {
		return // a file or a read comes first, or a header that leaves with what is being read
	}
	op := l.newSend(c)
	if op == nil {
		return
	}
	d := l.route(c, sizes[:n], f)
	if d.Route == zc.ZeroCopy {
		op.charge = 0
		for i := range d.Segments {
			if it := q.at(i); it.file != nil {
				op.charge += int64(f.ready)
			} else { // memory that many send at the same time is pinned once: each is charged its part
				op.charge += int64(it.buf.Len() / it.buf.Refs())
			}
		}
		if !l.admit(c, op) {
			d = zc.Decision{Route: zc.Copy, Reason: zc.OverBudget, Segments: n}
		}
	}
	if f != nil && d.Segments == n && d.Route != f.route { // what is before the pages is copied, and sendfile takes them
		if n == 1 {
			l.freeSend(op)
			f.way = zc.Decision{Route: zc.Sendfile, Reason: d.Reason}
			l.sendfile(c, f, min(f.ready, fileChunk))
			return
		}
		d.Segments, d.More = n-1, true
	}
	want := uint32(0)
	for i, size := range sizes[:d.Segments] {
		want += size
		it := q.at(i)
		if it.file != nil {
			op.file = f
			continue
		}
		op.bufs[i], op.segs = it.buf, i+1
		op.shared = op.shared || it.sharedAt != 0
		op.pins[i] = l.cache.Pin(it.buf)
	}
	q.inFlight = d.Segments
	l.submitOp(c, op, d, want, d.More || l.pagesFollow(c, d.Segments))
}

// newSend returns an op, or nil where the connection waits for one or has been aborted.
func (l *loop) newSend(c *Conn) *sendOp {
	op, err := l.sends.get()
	switch {
	case err != nil:
		l.abort(c, err)
	case op == nil:
		c.wantSlot = true
		c.starve()
	}
	return op
}

// admit charges an op to the budget, if there is room.
func (l *loop) admit(c *Conn, op *sendOp) (ok bool) {
	if op.fresh, ok = l.budget.Admit(&c.pins, op.charge, l.now); !ok && op.fresh && c.reads() {
		c.pins.Drains(l.now)
		op.fresh, ok = l.budget.Admit(&c.pins, op.charge, l.now)
	}
	return ok
}

// submitOp submits a send of want bytes, whose memory is the op's or its file's. more says that what follows it
// in the stream does so at once.
func (l *loop) submitOp(c *Conn, op *sendOp, d zc.Decision, want uint32, more bool) {
	op.conn, op.reason = c, d.Reason
	op.began, op.from, op.alone = l.now, c.accepted, c.notifying == 0
	op.trail = c.note(d.Route, d.Reason, want)
	op.Submit(d.Route, want)
	if d.Route == zc.ZeroCopy {
		l.pins.add(op)
	}
	c.sending = op
	l.heavy += int(want)

	flags := uint32(msgNoSignal)
	if only, _ := c.sock.CopyOnly(); !only {
		flags |= msgWaitAll // kTLS refuses it; without it a send may be short
	}
	if more {
		flags |= msgMore
	}
	if d.Route == zc.ZeroCopy && !more {
		if c.linked += int(want); c.linked >= maxLinked {
			c.linked = 0
			flags |= msgEOR
		}
	}
	l.prepSend(op, c.fd, flags)
}

// route decides how the pieces at the head of the queue are sent, the last of which may be pages of a file.
func (l *loop) route(c *Conn, sizes []uint32, f *fileItem) zc.Decision {
	switch {
	case f != nil && f.route == zc.Copy:
		return zc.Decision{Route: zc.Copy, Reason: f.reason, Segments: len(sizes)}
	case c.copyOnce:
		c.copyOnce = false
		return zc.Decision{Route: zc.Copy, Reason: zc.ShortOfMemory, Segments: len(sizes)}
	case c.queue.at(0).file == nil && !c.queue.at(0).buf.Registered():
		return zc.Decision{Route: zc.Copy, Reason: zc.Demoted, Segments: len(sizes)}
	}
	can := l.can
	can.FixedVectors = can.FixedVectors || f != nil // which are not registered, and so can be gathered with what is
	d := l.cfg.Policy.Route(can, c.sock, sizes)
	d.Reason = c.queue.fileReason(d)
	return d
}

// prepSend writes the submission entry.
func (l *loop) prepSend(op *sendOp, fd int, flags uint32) {
	e := l.sqe()
	e.UserData = userData(kindSend, op.id)
	var pages uintptr
	if f := op.file; f != nil {
		pages = uintptr(unsafe.Pointer(&f.f.pages(l.sys)[f.off]))
	}
	first := op.bufs[0]
	if op.segs > 1 || op.segs > 0 && pages != 0 {
		op.msg.Reset()
		for _, b := range op.bufs[:op.segs] {
			op.msg.Append(b.Addr(), uint32(b.Len()))
		}
		if pages != 0 {
			op.msg.Append(pages, uint32(op.file.ready))
		}
	}
	switch {
	case op.Route == zc.Copy && op.segs == 0:
		e.PrepSend(fd, pages, op.Want, flags)
	case op.Route == zc.Copy && op.segs == 1 && pages == 0:
		e.PrepSend(fd, first.Addr(), op.Want, flags)
	case op.Route == zc.Copy:
		e.PrepSendMsg(fd, op.msg.Addr(), flags)
	case op.segs == 0:
		e.PrepSendZC(fd, pages, op.Want, flags, l.usage)
	case pages != 0:
		e.PrepSendMsgZC(fd, op.msg.Addr(), flags, l.usage)
	case op.segs == 1:
		e.PrepSendZC(fd, first.Addr(), op.Want, flags, l.usage)
		e.FixedBuffer(first.Index())
	default:
		e.PrepSendMsgZC(fd, op.msg.Addr(), flags, l.usage)
		e.FixedBuffer(first.Index())
	}
}

// sqe returns a submission entry. When the queue is full it submits what is there; when the
// kernel wants completions reaped first, they are kept for the next turn.
func (l *loop) sqe() *ring.SQE {
	for {
		if e := l.ring.SQE(); e != nil {
			return e
		}
		l.submit()
	}
}

// keepCompletions reaps without handling, to make room in the kernel. err is from a submit.
func (l *loop) keepCompletions(err error) {
	if err != syscall.EBUSY && err != syscall.EAGAIN {
		panic("engine: io_uring_enter: " + err.Error()) // a bug here: no input causes it
	}
	var batch [64]ring.CQE
	for n := l.ring.Reap(batch[:]); n > 0; n = l.ring.Reap(batch[:]) {
		l.backlog = append(l.backlog, batch[:n]...)
	}
}

// unpin ends the kernel's use of an op's buffers.
func (l *loop) unpin(op *sendOp) {
	if op.Route == zc.ZeroCopy {
		l.pins.remove(op)
		l.budget.Settle(&op.conn.pins, op.charge, op.fresh, int64(op.Sent), l.now)
	}
	for i, b := range op.bufs[:op.segs] {
		l.cache.Unpin(b, op.pins[i])
		op.pins[i] = bufreg.Pin{}
	}
}
