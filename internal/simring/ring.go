package simring

import (
	"fmt"
	"math"
	"syscall"
	"time"
	"unsafe"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
)

// Ring is a simulated ring. What has happened but was not reaped lies in ready, as deferred
// work does in the kernel, and moves to cq when the loop enters.
type Ring struct {
	w          *World
	sq         []ring.SQE
	sqLen      int
	cq         []completion
	cqSize     int
	ready      []completion
	inflight   []*request
	group      uint16
	buffers    *bufRing
	entered    uint64
	closed     bool
	arena      []byte // what is registered
	unnotified int    // zero-copy sends whose end the engine has not seen

	sleeping bool  // the loop would be asleep in an enter
	wakeAt   int64 // and would wake at this time; 0: not by itself
}

var _ kernel.Ring = (*Ring)(nil)

// completion is an entry of the completion queue, with the send that it tells the end of.
type completion struct {
	ring.CQE
	ends *send
}

// request is a submitted entry that is not done.
type request struct {
	r    *Ring
	sqe  ring.SQE
	send *send
}

// SQE hands out the next entry.
func (r *Ring) SQE() *ring.SQE {
	if r.sqLen == len(r.sq) {
		return nil
	}
	e := &r.sq[r.sqLen]
	*e = ring.SQE{}
	r.sqLen++
	return e
}

// Pending is the number of entries not taken.
func (r *Ring) Pending() int { return r.sqLen }

// Submit takes the entries, or fails and takes none.
func (r *Ring) Submit() error { return r.SubmitAndWait(0, 0) }

// SubmitAndWait takes the entries. Where the kernel would wait it returns, and the ring
// says so by World.Runnable.
func (r *Ring) SubmitAndWait(min uint32, timeout time.Duration) error {
	r.w.hook()
	r.entered++
	r.sleeping = false
	if r.w.odds(r.w.Faults.Enter) {
		switch r.w.Intn(4) {
		case 0:
			return syscall.EAGAIN
		case 1:
			return syscall.EBUSY
		case 2: // short of memory for more requests: it takes some, and does not wait
			r.take(r.w.Intn(r.sqLen + 1))
			r.flush()
		} // EINTR: the ring's owner is told nothing
		return nil
	}
	r.take(r.sqLen)
	r.flush()
	if min > 0 && len(r.cq) == 0 {
		r.sleeping, r.wakeAt = true, 0
		if timeout > 0 {
			r.wakeAt = r.w.now + int64(timeout)
		}
	}
	return nil
}

// take starts the oldest n entries.
func (r *Ring) take(n int) {
	for i := range n {
		r.start(r.sq[i])
	}
	r.sqLen = copy(r.sq, r.sq[n:r.sqLen])
}

// flush moves what has happened to the completion queue, as far as there is room.
func (r *Ring) flush() {
	const most = 64 // that are put in another order: it is their number squared that it costs
	if n := len(r.ready); n > 1 && n <= most && r.w.odds(r.w.Faults.Reordered) {
		r.shuffle()
	}
	n := min(len(r.ready), r.cqSize-len(r.cq))
	r.cq = append(r.cq, r.ready[:n]...)
	r.ready = r.ready[n:]
}

// shuffle puts ready in another order, keeping that of completions of one request.
func (r *Ring) shuffle() {
	out := make([]completion, 0, len(r.ready))
	for len(r.ready) > 0 {
		i := 0
		for ud := r.ready[r.w.Intn(len(r.ready))].UserData; r.ready[i].UserData != ud; i++ {
		}
		out = append(out, r.ready[i])
		r.ready = append(r.ready[:i], r.ready[i+1:]...)
	}
	r.ready = out
}

// wakeUp is the return of the enter that the loop slept in, which runs deferred work.
func (r *Ring) wakeUp() {
	if r.sleeping {
		r.sleeping = false
		r.flush()
	}
}

// Ready is the number of completions to reap.
func (r *Ring) Ready() int {
	r.w.hook()
	return len(r.cq)
}

// Reap copies completions out.
func (r *Ring) Reap(dst []ring.CQE) int {
	r.wakeUp()
	r.w.hook()
	n := min(len(dst), len(r.cq))
	for i, c := range r.cq[:n] {
		dst[i] = c.CQE
		if c.ends != nil {
			c.ends.seen()
		}
	}
	r.cq = append(r.cq[:0], r.cq[n:]...)
	return n
}

// Overflowed reports whether completions wait for room.
func (r *Ring) Overflowed() bool {
	r.wakeUp()
	return len(r.ready) > 0 && len(r.cq) == r.cqSize
}

// Entered is the number of enters.
func (r *Ring) Entered() uint64 { return r.entered }

// Close ends the ring. Requests in flight would be cancelled behind the engine's back.
func (r *Ring) Close() error {
	for _, q := range r.inflight {
		if _, ok := r.w.fds[int(q.sqe.FD)].(*eventFD); !ok {
			r.w.fail("ring closed with a request of opcode %d in flight", q.sqe.Opcode)
		}
	}
	r.closed = true
	return nil
}

func (r *Ring) deliverable() int { return len(r.cq) + len(r.ready) }

// post has a completion happen.
func (r *Ring) post(userData uint64, res int32, flags uint32) {
	r.postEnd(userData, res, flags, nil)
}

// postEnd has a completion happen which tells the end of a send.
func (r *Ring) postEnd(userData uint64, res int32, flags uint32, ends *send) {
	if r.closed {
		return
	}
	if r.w.Trace != nil {
		r.w.trace("complete: user data %#x, result %d, flags %#x", userData, res, flags)
	}
	r.ready = append(r.ready, completion{ring.CQE{UserData: userData, Res: res, Flags: flags}, ends})
}

// end forgets a request.
func (r *Ring) end(q *request) {
	for i, x := range r.inflight {
		if x == q {
			r.inflight = append(r.inflight[:i], r.inflight[i+1:]...)
			return
		}
	}
}

// finish posts the last completion of a request.
func (q *request) finish(res int32) {
	q.r.end(q)
	q.r.post(q.sqe.UserData, res, 0)
}

func negative(e syscall.Errno) int32 { return -int32(e) }

// start carries out a request, as far as that goes at once.
func (r *Ring) start(e ring.SQE) {
	q := &request{r: r, sqe: e}
	if r.w.Trace != nil {
		r.w.trace("submit: opcode %d on %d, %d bytes, user data %#x", e.Opcode, e.FD, e.Len, e.UserData)
	}
	r.inflight = append(r.inflight, q)
	if e.Flags&(ring.SQEIOLink|ring.SQEIOHardLink|ring.SQEIODrain) != 0 {
		r.w.fail("request of opcode %d in a chain: of a zero-copy send there, the notification may not be announced", e.Opcode)
	}
	switch e.Opcode {
	case ring.OpSend, ring.OpSendMsg, ring.OpSendZC, ring.OpSendMsgZC:
		r.startSend(q)
	case ring.OpRecv:
		r.startRecv(q)
	case ring.OpAccept:
		l, ok := r.w.fds[int(e.FD)].(*listener)
		if !ok {
			r.w.fail("accept on descriptor %d, which is no listener", e.FD)
			return
		}
		l.accept = q
		l.pump()
	case ring.OpPollAdd:
		r.startPoll(q)
	case ring.OpReadFixed, ring.OpRead:
		r.startRead(q)
	case ring.OpAsyncCancel:
		r.cancel(q)
	default:
		r.w.fail("request of opcode %d, which the simulation does not know", e.Opcode)
	}
}

// edge completes polls of an eventfd.
func (r *Ring) edge(fd int) {
	for _, q := range r.inflight {
		if q.sqe.Opcode == ring.OpPollAdd && int(q.sqe.FD) == fd {
			r.post(q.sqe.UserData, 1, ring.CQEMore)
		}
	}
}

func (r *Ring) startPoll(q *request) {
	switch o := r.w.fds[int(q.sqe.FD)].(type) {
	case *eventFD:
		if q.sqe.Len&ring.PollAddMulti == 0 {
			r.w.fail("one-shot poll of an eventfd")
		}
		if o.count > 0 {
			r.post(q.sqe.UserData, 1, ring.CQEMore)
		}
	case *Socket:
		if o.poll != nil {
			r.w.fail("second poll of one socket")
		}
		o.poll = q
		if r.w.odds(r.w.Faults.PollSpurious) {
			r.w.after(r.w.delay(), func() { o.endPoll(1) })
		}
		o.pumpPoll()
	default:
		r.w.fail("poll of descriptor %d, which is not open", q.sqe.FD)
	}
}

// cancel ends other requests, at once or soon.
func (r *Ring) cancel(c *request) {
	r.end(c)
	n, late := 0, 0
	for _, q := range append([]*request(nil), r.inflight...) {
		switch {
		case q.sqe.UserData != c.sqe.Addr:
		case r.w.odds(r.w.Faults.LateCancel):
			late++
			r.w.after(r.w.delay(), func() { q.cancel() })
		case q.cancel():
			n++
		}
	}
	switch {
	case n == 0 && late > 0:
		r.post(c.sqe.UserData, negative(syscall.EALREADY), 0)
	case n == 0:
		r.post(c.sqe.UserData, negative(syscall.ENOENT), 0)
	default:
		r.post(c.sqe.UserData, 0, 0)
	}
}

// cancel ends a request, unless it is past that.
func (q *request) cancel() bool {
	w := q.r.w
	switch o := w.fds[int(q.sqe.FD)].(type) {
	case *Socket:
		switch q {
		case o.recv:
			o.recv = nil
		case o.poll:
			o.poll = nil
		default:
			if o.sending != q {
				return false
			}
			o.sending = nil
			q.endSend(syscall.ECANCELED)
			return true
		}
	case *listener:
		if o.accept != q {
			return false
		}
		o.accept = nil
	default:
		return false // a read under way ends by itself
	}
	q.finish(negative(syscall.ECANCELED))
	return true
}

// bufRing is a simulated ring of provided buffers.
type bufRing struct {
	w      *World
	mem    []byte
	size   int
	free   []uint16 // the kernel's
	queued []uint16 // recycled, not published
	ours   []bool   // by id: the kernel's or on the way to it
}

func newBufRing(w *World, n, size int) *bufRing {
	b := &bufRing{w: w, mem: make([]byte, n*size), size: size, ours: make([]bool, n)}
	for i := range n {
		b.free = append(b.free, uint16(i))
		b.ours[i] = true
	}
	return b
}

// Bytes is a buffer's memory.
func (b *bufRing) Bytes(id uint16) []byte {
	if b.ours[id] {
		b.w.fail("look at provided buffer %d, which is the kernel's", id)
	}
	return b.mem[int(id)*b.size : (int(id)+1)*b.size]
}

// Recycle gives a buffer back.
func (b *bufRing) Recycle(id uint16) {
	if b.ours[id] {
		b.w.fail("provided buffer %d recycled twice", id)
	}
	b.ours[id] = true
	m := b.mem[int(id)*b.size : (int(id)+1)*b.size]
	for i := range m {
		m[i] = 0xee // whoever still looks at it sees this
	}
	b.queued = append(b.queued, id)
}

// Publish makes recycled buffers the kernel's.
func (b *bufRing) Publish() {
	b.free = append(b.free, b.queued...)
	b.queued = b.queued[:0]
}

// Outstanding is how many buffers are not the kernel's.
func (b *bufRing) outstanding() (n int) {
	for _, ours := range b.ours {
		if !ours {
			n++
		}
	}
	return n
}

func (b *bufRing) take() (id uint16, ok bool) {
	if len(b.free) == 0 {
		return 0, false
	}
	id = b.free[0]
	b.free = append(b.free[:0], b.free[1:]...)
	b.ours[id] = false
	return id, true
}

// register notes where the arena lies: what the engine sends and reads into must be there.
func (r *Ring) register(arena *bufreg.Registry) error {
	total := int(arena.Stats().Total)
	var all []bufreg.Buffer
	low := uint64(math.MaxUint64)
	for range total / bufreg.MaxBuffer {
		b, err := arena.Lease(bufreg.MaxBuffer)
		if err != nil {
			return fmt.Errorf("register an arena of which something is leased: %w", err)
		}
		low = min(low, uint64(b.Addr()))
		all = append(all, b)
	}
	for _, b := range all {
		b.Release()
	}
	r.arena = memory(low, total)
	return nil
}

// registered is registered memory that a request points at.
func (r *Ring) registered(addr uint64, n int) []byte {
	low := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.arena))))
	if addr < low || addr+uint64(n) > low+uint64(len(r.arena)) {
		r.w.fail("request with %d bytes of memory that is not registered", n)
		return make([]byte, n)
	}
	return r.arena[addr-low:][:n]
}

// memory is what a request points at. It lies in the arena or in the engine's mapped memory,
// which the garbage collector does not know.
func memory(addr uint64, n int) []byte {
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), n)
}
