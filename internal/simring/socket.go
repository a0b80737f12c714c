package simring

import (
	"bytes"
	"syscall"
	"time"

	"sluice/ring"
)

// Socket is one connection: the engine's end, the wire, and the peer's end.
type Socket struct {
	w  *World
	FD int

	// The way out.
	room    int     // bytes that the send buffer holds at most
	queued  []chunk // accepted and not acknowledged, in order
	used    int     // their bytes
	acked   uint64
	sending *request
	poll    *request
	skb     *skb // of the newest zero-copy send
	shut    bool // the write side is shut down
	noZC    bool
	local   bool

	// The way in.
	in      []byte
	recv    *request
	peerFIN bool

	closed  bool
	linger0 bool
	reset   bool // the connection is gone, from either side

	// Peer is what the other end does and has seen.
	Peer Peer
}

// Peer is the far end.
type Peer struct {
	Got     []byte // what arrived
	SawFIN  bool   // the stream ended in order
	SawRST  bool   // or with a reset
	Stalled bool   // it reads nothing, until Resume
	Slow    bool   // it reads a byte at a time
	Closes  bool   // it closes its side when it has seen the end
	reading bool   // an event to read is due
}

// chunk is part of one send, in the send buffer.
type chunk struct {
	s        *send
	from, to int
	copied   []byte // nil: the bytes are still the engine's
}

// send is what the kernel knows of one send.
type send struct {
	q        *request
	zc       bool
	waitAll  bool
	vec      [][]byte // the engine's memory
	want     []byte   // what it held at submission
	accepted int
	unacked  int // chunks in the socket
	done     bool
	skb      *skb
}

// skb is what joins the notifications of sends that share one: they come when all of them
// are done with, newest first (6.10).
type skb struct {
	sends []*send
	left  int
	eor   bool // MSG_EOR: the next send begins another
}

// Linux's numbers, which other systems have differently.
const (
	msgEOR      = 0x80
	msgWaitAll  = 0x100
	msgNoSignal = 0x4000
)

// delay is some time: mostly none.
func (w *World) delay() time.Duration {
	switch w.Intn(4) {
	case 3:
		return time.Duration(w.Intn(5000)) * time.Microsecond
	case 2:
		return time.Duration(w.Intn(100)) * time.Microsecond
	}
	return 0
}

// Connect makes a connection for a listener to accept.
func (w *World) Connect(listenFD int) *Socket {
	l := w.fds[listenFD].(*listener)
	s := &Socket{w: w, room: w.Between(1, 64) << w.Between(0, 9)}
	s.noZC = w.odds(w.Faults.NoZeroCopy)
	s.local = w.OneIn(4)
	s.Peer.Closes = true
	l.backlog = append(l.backlog, s)
	l.pump()
	return s
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
	o := &send{q: q, zc: e.Opcode == ring.OpSendZC || e.Opcode == ring.OpSendMsgZC, waitAll: e.OpFlags&msgWaitAll != 0}
	if e.Opcode == ring.OpSend || e.Opcode == ring.OpSendZC {
		o.vec = [][]byte{memory(e.Addr, int(e.Len))}
	} else {
		for _, v := range ring.Vectors(memory(e.Addr, ring.MsghdrSize(0))) {
			o.vec = append(o.vec, memory(uint64(v.Base), int(v.Len)))
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
	case o.zc && w.odds(w.Faults.NoMemory):
		q.endSend([]syscall.Errno{syscall.ENOBUFS, syscall.ENOMEM}[w.Intn(2)])
	case w.odds(w.Faults.SendError):
		q.endSend([]syscall.Errno{syscall.EPIPE, syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.EAGAIN, syscall.EINTR}[w.Intn(5)])
	default:
		s.sending = q
		s.pumpSend()
	}
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
	if o.accepted == 0 {
		o.check(0, len(o.want), "before the completion")
	}
	if !o.zc || o.accepted == 0 && w.Intn(8) == 7 {
		if o.zc {
			o.leave() // no notification follows
		}
		q.r.post(q.sqe.UserData, res, 0)
		return
	}
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

// notify has the notifications of an skb come, newest first, each after a delay of its own.
func (k *skb) notify() {
	for i := len(k.sends) - 1; i >= 0; i-- {
		o := k.sends[i]
		w := o.q.r.w
		d := w.delay()
		if w.odds(w.Faults.LateNotify) {
			d = time.Duration(w.Intn(2000)) * time.Millisecond
		}
		w.after(d, o.notified)
	}
	k.sends = nil
}

// notified is the moment from which the memory is the engine's again.
func (o *send) notified() {
	w := o.q.r.w
	o.check(0, len(o.want), "before the notification")
	res := int32(0)
	if o.accepted == 0 || w.odds(w.Faults.FalseCopied) {
		res = -1 << 31
	}
	o.q.r.post(o.q.sqe.UserData, res, ring.CQENotif)
	if w.odds(w.Faults.Stray) {
		// One that was not announced, of a send that ended long ago: the kernel posts such for
		// a cancelled member of a chain. Its generation is not in use.
		const otherGeneration = uint64(0x800000) << 32
		w.after(w.delay(), func() { o.q.r.post(o.q.sqe.UserData^otherGeneration, 0, ring.CQENotif) })
	}
}

// Sendfile hands file bytes to the socket.
func (w *World) Sendfile(out, in int, off int64, n int) (int, syscall.Errno) {
	s := w.socket(out, "sendfile")
	f, ok := w.fds[in].(*file)
	if !ok {
		w.fail("sendfile from descriptor %d, which is no open file", in)
	}
	if w.violation != nil {
		return 0, syscall.EBADF
	}
	if s.sending != nil {
		w.fail("sendfile while a send is in flight: bytes may be reordered")
	}
	room := s.room - s.used
	switch {
	case s.reset || s.shut:
		return 0, syscall.EPIPE
	case w.odds(w.Faults.ReadError):
		return 0, syscall.EIO
	case w.odds(w.Faults.ShortRead):
		return 0, syscall.EINTR
	case room == 0:
		return 0, syscall.EAGAIN
	}
	n = min(n, room, int(max(0, f.size-off)))
	if n > 1 && w.odds(w.Faults.ShortSend) {
		n = w.Between(1, n)
	}
	if n > 0 {
		data := f.bytes(off, n)
		s.queued = append(s.queued, chunk{s: &send{want: data, done: true}, from: 0, to: n, copied: data})
		s.used += n
		s.wakePeer()
	}
	return n, 0
}

// pumpPoll completes a wait for writability. The kernel wants a third of the buffer free.
func (s *Socket) pumpPoll() {
	if s.poll != nil && (s.reset || s.used*3 <= s.room*2) {
		s.endPoll(4)
	}
}

func (s *Socket) endPoll(res int32) {
	if q := s.poll; q != nil {
		s.poll = nil
		q.finish(res)
	}
}

// wakePeer has the peer read, when it is time for it.
func (s *Socket) wakePeer() {
	p := &s.Peer
	if p.reading || p.Stalled || s.reset {
		return
	}
	p.reading = true
	s.w.after(s.w.delay(), func() {
		p.reading = false
		s.peerReads()
	})
}

// Resume has a stalled peer read again.
func (s *Socket) Resume() {
	s.Peer.Stalled = false
	s.wakePeer()
}

// peerReads moves bytes from the send buffer to the peer, and acknowledges them.
func (s *Socket) peerReads() {
	if s.reset || s.Peer.Stalled {
		return
	}
	n := s.w.Between(1, max(1, s.used))
	if s.Peer.Slow {
		n = 1
	}
	for n > 0 && len(s.queued) > 0 {
		c := &s.queued[0]
		k := min(n, c.to-c.from)
		if c.copied == nil {
			s.Peer.Got = append(s.Peer.Got, c.s.check(c.from, c.from+k, "before it was transmitted")...)
		} else {
			s.Peer.Got = append(s.Peer.Got, c.copied[:k]...)
			c.copied = c.copied[k:]
		}
		c.from += k
		n -= k
		s.used -= k
		s.acked += uint64(k)
		if c.from == c.to {
			o := c.s
			s.queued = append(s.queued[:0], s.queued[1:]...)
			o.unacked--
			o.settle()
		}
	}
	if len(s.queued) == 0 && (s.shut || s.closed) && s.sending == nil {
		s.finToPeer()
		return
	}
	s.pumpSend()
	s.pumpPoll()
	if s.used > 0 {
		s.wakePeer()
	}
}

func (s *Socket) finToPeer() {
	if s.Peer.SawFIN {
		return
	}
	s.Peer.SawFIN = true
	if s.Peer.Closes {
		s.w.after(s.w.delay(), s.FIN)
	}
}

// Feed has bytes from the peer arrive.
func (s *Socket) Feed(p []byte) {
	if s.reset || s.peerFIN {
		return
	}
	s.in = append(s.in, p...)
	if s.closed {
		s.Reset() // nobody is there to read it
		return
	}
	s.pumpRecv()
}

// Ended reports whether the peer can send nothing more.
func (s *Socket) Ended() bool { return s.reset || s.peerFIN }

// FIN is the peer's end of stream.
func (s *Socket) FIN() {
	if s.reset || s.peerFIN {
		return
	}
	s.peerFIN = true
	s.pumpRecv()
}

// Reset ends the connection at once, from either side: the kernel lets go of everything.
func (s *Socket) Reset() {
	if s.reset {
		return
	}
	s.reset = true
	s.Peer.SawRST = true
	s.dropQueued()
	if q := s.sending; q != nil {
		s.sending = nil
		q.endSend(syscall.ECONNRESET)
	}
	s.pumpPoll()
	if q := s.recv; q != nil {
		s.recv = nil
		q.finish(negative(syscall.ECONNRESET))
	}
}

func (s *Socket) dropQueued() {
	for _, c := range s.queued {
		c.s.unacked--
		c.s.settle()
	}
	s.queued, s.used = nil, 0
}

// close is the engine's close of its descriptor.
func (s *Socket) close() {
	s.closed = true
	switch {
	case s.reset:
	case s.linger0 || len(s.in) > 0: // unread input makes the kernel send a reset (RFC 1122, 4.2.2.13)
		s.Reset()
	case len(s.queued) == 0:
		s.finToPeer()
	}
}

// Gone reports whether nothing more will reach the peer.
func (s *Socket) Gone() bool { return s.Peer.SawFIN || s.Peer.SawRST }

func (r *Ring) startRecv(q *request) {
	s, ok := r.w.fds[int(q.sqe.FD)].(*Socket)
	if !ok {
		r.w.fail("receive on descriptor %d, which is no open socket", q.sqe.FD)
		return
	}
	if q.sqe.IoPrio&ring.RecvMultishot == 0 || q.sqe.BufIndex != r.group {
		r.w.fail("receive that is not multishot from group %d", r.group)
	}
	if s.recv != nil {
		r.w.fail("second receive of one socket: bytes may be reordered")
	}
	s.recv = q
	s.pumpRecv()
}

// pumpRecv gives the engine what has arrived.
func (s *Socket) pumpRecv() {
	w := s.w
	for q := s.recv; q != nil; q = s.recv {
		r := q.r
		switch {
		case s.reset:
			s.recv = nil
			q.finish(negative(syscall.ECONNRESET))
		case len(s.in) > 0:
			id, ok := r.buffers.take()
			if !ok || w.odds(w.Faults.NoRecvBuffer) {
				if ok {
					r.buffers.ours[id] = true
					r.buffers.free = append(r.buffers.free, id)
				}
				s.recv = nil
				q.finish(negative(syscall.ENOBUFS))
				return
			}
			n := w.Between(1, min(len(s.in), r.buffers.size))
			copy(r.buffers.Bytes(id), s.in[:n])
			s.in = append(s.in[:0], s.in[n:]...)
			flags := uint32(ring.CQEBuffer) | uint32(id)<<16
			if w.odds(w.Faults.RecvEnd) {
				s.recv = nil
				r.end(q)
				r.post(q.sqe.UserData, int32(n), flags)
				return
			}
			r.post(q.sqe.UserData, int32(n), flags|ring.CQEMore)
		case s.peerFIN:
			s.recv = nil
			q.finish(0)
		default:
			return
		}
	}
}

// listener is a listening socket.
type listener struct {
	w       *World
	fd      int
	backlog []*Socket
	accept  *request
}

// Listen makes a listening socket.
func (w *World) Listen() int {
	l := &listener{w: w}
	l.fd = w.open(l)
	return l.fd
}

// pump has waiting connections accepted.
func (l *listener) pump() {
	for q := l.accept; q != nil && len(l.backlog) > 0; q = l.accept {
		if l.w.odds(l.w.Faults.Accept) {
			l.accept = nil
			q.finish(negative([]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.EINTR}[l.w.Intn(4)]))
			return
		}
		s := l.backlog[0]
		l.backlog = l.backlog[1:]
		s.FD = l.w.open(s)
		q.r.post(q.sqe.UserData, int32(s.FD), ring.CQEMore)
	}
}

// Backlog is how many connections wait to be accepted.
func (w *World) Backlog(listenFD int) int {
	if l, ok := w.fds[listenFD].(*listener); ok {
		return len(l.backlog)
	}
	return 0
}
