package simring

import (
	"iter"
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
	pinned  []*send // between completion and notification, as the engine knows it
	longest int64   // that one of them took, from submission on
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

	told    uint64 // of acked: what the engine knows
	ackedAt int64
	inRoom  int // bytes that in holds at most

	// Corked says that the end of what was sent may be held back.
	Corked bool
	// Peer is what the other end does and has seen.
	Peer Peer
	// Moved is what moved last, and when.
	Moved
}

// Moved is when things last moved on a socket, in punctual time.
type Moved struct {
	PinnedAt   time.Duration // since when some are pinned
	NotifiedAt time.Duration // the engine saw a notification
	AcceptedAt time.Duration // the socket took bytes
	ToldAt     time.Duration // the engine asked, and heard of acknowledgements
	Quiet      time.Duration // between the last acknowledgement and the engine's last question for it
	ShutAt     time.Duration
	EndTold    bool // a receive told the peer's end of stream
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

// Connect makes a connection for a listener to accept; nil where nobody listens any more.
func (w *World) Connect(listenFD int) *Socket {
	l, ok := w.fds[listenFD].(*listener)
	if !ok {
		return nil
	}
	s := &Socket{w: w, room: w.Between(1, 64) << w.Between(0, 9)}
	s.inRoom = w.Between(1, 64) << 10
	s.ackedAt = w.now
	s.noZC = w.odds(w.Faults.NoZeroCopy)
	s.local = w.OneIn(4)
	s.Peer.Closes = true
	l.backlog = append(l.backlog, s)
	l.pump()
	return s
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
	if !all(span(f.cache.seen, off, int64(n))) {
		w.fail("sendfile of %d bytes from %d without knowing that the page cache holds them: the loop would wait for the disk", n, off)
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
		s.AcceptedAt = w.Punctual()
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
		s.ackedAt = s.w.now
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

// Feed has bytes from the peer arrive, as many as there is room for.
func (s *Socket) Feed(p []byte) (n int) {
	if s.reset || s.peerFIN {
		return 0
	}
	n = min(len(p), s.inRoom-len(s.in))
	s.in = append(s.in, p[:n]...)
	if s.closed {
		s.Reset() // nobody is there to read it
		return n
	}
	s.pumpRecv()
	return n
}

// Receiving, Sending and Polling report whether such a request is in flight.
func (s *Socket) Receiving() bool { return s.recv != nil }
func (s *Socket) Sending() bool   { return s.sending != nil }
func (s *Socket) Polling() bool   { return s.poll != nil }

// Shut reports whether the engine has ended its stream.
func (s *Socket) Shut() bool { return s.shut }

// Widen gives the send buffer room for another n bytes, as the kernel does while a peer reads.
func (s *Socket) Widen(n int) {
	s.room += n
	s.pumpSend()
	s.pumpPoll()
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
			if w.odds(w.Faults.MultishotEnd) {
				s.recv = nil
				r.end(q)
				r.post(q.sqe.UserData, int32(n), flags)
				return
			}
			r.post(q.sqe.UserData, int32(n), flags|ring.CQEMore)
		case s.peerFIN:
			s.recv, s.EndTold = nil, true
			q.finish(0)
		default:
			return
		}
	}
}

// Pin is a zero-copy send between its completion and the notification, as the engine knows it.
type Pin struct {
	From, To int           // in the stream
	At       time.Duration // its completion, in punctual time
}

// Pins is how many sends are pinned now.
func (s *Socket) Pins() int { return len(s.pinned) }

// Pinned are they, in the order of their completion.
func (s *Socket) Pinned() iter.Seq[Pin] {
	return func(yield func(Pin) bool) {
		for _, o := range s.pinned {
			if !yield(o.pin) {
				return
			}
		}
	}
}

// LongestPin is the longest that any zero-copy send has taken, from its submission until the engine saw its notification or
// until now.
func (s *Socket) LongestPin() time.Duration {
	longest := s.longest
	for _, o := range s.pinned {
		longest = max(longest, s.w.now-o.began)
	}
	if q := s.sending; q != nil && q.send.zc {
		longest = max(longest, s.w.now-q.send.began)
	}
	return time.Duration(longest)
}

// Accepted is how many bytes the socket has taken.
func (s *Socket) Accepted() int { return int(s.acked) + s.used }
