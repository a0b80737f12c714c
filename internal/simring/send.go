package simring

import (
	"bytes"
	"slices"
	"syscall"
	"time"

	"sluice/ring"
)

// Linux's numbers, which other systems have differently.
const (
	msgEOR      = 0x80
	msgWaitAll  = 0x100
	msgNoSignal = 0x4000
)

// send is what the kernel knows of one send.
type send struct {
	q        *request
	sock     *Socket
	zc       bool
	file     *file // whose pages it sends, not memory of the engine
	waitAll  bool
	vec      [][]byte // the engine's memory
	want     []byte   // what it held at submission
	accepted int
	unacked  int // chunks in the socket
	done     bool
	skb      *skb
	began    int64 // when it was submitted
	pin      Pin
}

// skb is what joins the notifications of sends that share one: they come when all of them
// are done with, newest first (6.10).
type skb struct {
	sends []*send
	left  int
	eor   bool // MSG_EOR: the next send begins another
}

// read gathers what the engine's memory holds now, from byte a to b of the send.
func (s *send) read(a, b int) []byte {
	out := make([]byte, 0, b-a)
	for _, v := range s.vec {
		n := len(v)
		if lo, hi := min(max(a, 0), n), min(max(b, 0), n); lo < hi {
			out = append(out, v[lo:hi]...)
		}
		a, b = a-n, b-n
	}
	return out
}

// check compares what the engine's memory holds now with what was submitted.
func (s *send) check(a, b int, when string) []byte {
	got := s.read(a, b)
	if !bytes.Equal(got, s.want[a:b]) {
		s.q.r.w.fail("bytes %d to %d of a send of %d changed %s", a, b, len(s.want), when)
	}
	return got
}

func (r *Ring) startSend(q *request) {
	w := r.w
	e := &q.sqe
	s, ok := w.fds[int(e.FD)].(*Socket)
	if !ok {
		w.fail("send on descriptor %d, which is no open socket", e.FD)
		return
	}
	o := &send{q: q, sock: s, began: w.now, zc: e.Opcode == ring.OpSendZC || e.Opcode == ring.OpSendMsgZC, waitAll: e.OpFlags&msgWaitAll != 0}
	var payload func(uint64, int) []byte
	if o.zc && e.IoPrio&ring.RecvSendFixedBuf != 0 {
		payload = r.registered
	} else {
		payload = o.filePages
	}
	if e.Opcode == ring.OpSend || e.Opcode == ring.OpSendZC {
		o.vec = [][]byte{payload(e.Addr, int(e.Len))}
	} else {
		for _, v := range ring.Vectors(memory(e.Addr, ring.MsghdrSize(0))) {
			o.vec = append(o.vec, payload(uint64(v.Base), int(v.Len)))
		}
	}
	for _, v := range o.vec {
		o.want = append(o.want, v...)
	}
	q.send = o
	if o.zc {
		if s.skb == nil || s.skb.eor || s.used == 0 || s.skb.left == 0 || !w.odds(w.Faults.Joined) {
			s.skb = &skb{}
		}
		o.skb = s.skb
		o.skb.sends = append(o.skb.sends, o)
		o.skb.left++
		o.skb.eor = e.OpFlags&msgEOR != 0
	}
	if e.OpFlags&msgNoSignal == 0 {
		w.fail("send without MSG_NOSIGNAL")
	}
	if len(o.want) == 0 {
		w.fail("send of no bytes")
	}
	if s.sending != nil {
		w.fail("second send in flight on one socket: bytes may be reordered")
	}
	switch {
	case s.reset || s.shut:
		q.endSend(syscall.EPIPE)
	case o.zc && s.noZC:
		q.endSend(syscall.EOPNOTSUPP)
	case o.file != nil && w.odds(w.Faults.BadPage):
		q.endSend(syscall.EFAULT)
	case o.zc && w.odds(w.Faults.NoMemory):
		q.endSend([]syscall.Errno{syscall.ENOBUFS, syscall.ENOMEM}[w.Intn(2)])
	case w.odds(w.Faults.SendError):
		q.endSend([]syscall.Errno{syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.EAGAIN, syscall.EINTR}[w.Intn(5)])
	default:
		s.sending = q
		s.pumpSend()
	}
}

// filePages is memory that is a mapped file, of which the page cache must be known to hold those pages, or the arena;
// a copy may also be of private memory.
func (o *send) filePages(addr uint64, n int) []byte {
	w := o.q.r.w
	f, off := w.mappedAt(addr)
	switch {
	case f == nil && o.zc:
		return o.q.r.registered(addr, n)
	case f == nil:
		return memory(addr, n)
	case off+int64(n) > f.size:
		w.fail("send of %d bytes of a file beyond its end", n)
		return make([]byte, n)
	case !all(span(f.cache.seen, off, int64(n))):
		w.fail("send of %d bytes of a file from %d without knowing that the page cache holds them: the loop would wait for the disk", n, off)
	}
	o.file = f
	f.users++
	return f.mapped[off:][:n]
}

// pumpSend accepts what there is room for.
func (s *Socket) pumpSend() {
	q := s.sending
	if q == nil {
		return
	}
	o, w := q.send, s.w
	left := len(o.want) - o.accepted
	n := min(left, s.room-s.used)
	if n > 0 && w.odds(w.Faults.ShortSend) {
		n = w.Between(1, n)
	}
	if n > 0 {
		from := o.accepted
		o.accepted += n
		c := chunk{s: o, from: from, to: o.accepted}
		if !o.zc {
			c.copied = o.check(from, o.accepted, "before the completion")
		}
		o.unacked++
		s.queued = append(s.queued, c)
		s.used += n
		s.AcceptedAt = w.Punctual()
		s.wakePeer()
	}
	switch {
	case o.accepted == len(o.want):
	case n > 0 && (!o.waitAll || w.odds(w.Faults.ShortSend)):
	default:
		return // the request waits for room
	}
	s.sending = nil
	q.endSend(0)
}

// endSend posts the completion, and a notification later where one is due. An error after
// progress is told by the count.
func (q *request) endSend(errno syscall.Errno) {
	w, o := q.r.w, q.send
	res := int32(o.accepted)
	if o.accepted == 0 {
		res = negative(errno)
	}
	q.r.end(q)
	o.done = true
	if o.file != nil {
		o.file.users--
	}
	if o.accepted == 0 {
		o.check(0, len(o.want), "before the completion")
	}
	if !o.zc || o.accepted == 0 && w.Intn(8) == 7 {
		if o.zc {
			o.leave() // no notification follows
		}
		q.r.post(q.sqe.UserData, res, 0)
		if o.zc && errno == syscall.ECANCELED && w.odds(w.Faults.Stray) {
			// But for the exception (6.1 to 7.2): of a cancelled send it may come all the same.
			w.after(w.delay(), func() { q.r.post(q.sqe.UserData, 0, ring.CQENotif) })
		}
		return
	}
	to := o.sock.Accepted()
	o.pin = Pin{From: to - o.accepted, To: to, At: w.Punctual()}
	o.sock.pinned = append(o.sock.pinned, o)
	if len(o.sock.pinned) == 1 {
		o.sock.PinnedAt = o.pin.At
	}
	q.r.unnotified++
	q.r.post(q.sqe.UserData, res, ring.CQEMore)
	o.settle()
}

// leave takes a send out of its skb without a notification.
func (o *send) leave() {
	k := o.skb
	for i, x := range k.sends {
		if x == o {
			k.sends = append(k.sends[:i], k.sends[i+1:]...)
			break
		}
	}
	if k.left--; k.left == 0 {
		k.notify()
	}
}

// settle has the notification come, when nothing in the socket refers to the memory any more.
func (o *send) settle() {
	if !o.zc || !o.done || o.unacked > 0 {
		return
	}
	if o.skb.left--; o.skb.left == 0 {
		o.skb.notify()
	}
}

// notify has the notifications of an skb come, newest first, each after a delay of its own
// or with many others.
func (k *skb) notify() {
	for i := len(k.sends) - 1; i >= 0; i-- {
		o := k.sends[i]
		w := o.q.r.w
		switch {
		case w.odds(w.Faults.Batched):
			w.notifyLater(o)
		case w.odds(w.Faults.LateNotify):
			w.after(time.Duration(w.Intn(2000))*time.Millisecond, o.notified)
		default:
			w.after(w.delay(), o.notified)
		}
	}
	k.sends = nil
}

// notifyLater keeps a notification for a while, and those that come meanwhile with it.
func (w *World) notifyLater(o *send) {
	if w.batch = append(w.batch, o); len(w.batch) > 1 {
		return
	}
	w.after(time.Duration(w.Between(1, 800))*time.Millisecond, func() {
		batch := w.batch
		w.batch = nil
		for i := len(batch) - 1; i >= 0; i-- {
			batch[i].notified()
		}
	})
}

// notified is the moment from which the memory is the engine's again.
func (o *send) notified() {
	w := o.q.r.w
	o.check(0, len(o.want), "before the notification")
	res := int32(0)
	if o.accepted == 0 || w.odds(w.Faults.FalseCopied) {
		res = -1 << 31
	}
	o.q.r.postEnd(o.q.sqe.UserData, res, ring.CQENotif, o)
	if w.odds(w.Faults.Stray) { // once more: its generation has passed, and its slot may have another user
		w.after(w.delay(), func() { o.q.r.post(o.q.sqe.UserData, 0, ring.CQENotif) })
	}
}

// seen is the moment at which the engine takes the notification.
func (o *send) seen() {
	o.q.r.unnotified--
	o.sock.longest = max(o.sock.longest, o.q.r.w.now-o.began)
	o.sock.pinned = slices.DeleteFunc(o.sock.pinned, func(p *send) bool { return p == o })
	o.sock.NotifiedAt = o.q.r.w.Punctual()
}
