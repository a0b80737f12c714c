package simring

import (
	"fmt"
	"syscall"
	"time"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
	"sluice/zc"
)

// Faults are how often things go wrong, as one in N; 0: never, 1: always. The zero Faults is a kernel
// that does everything at once and right.
type Faults struct {
	ShortSend    int // a send accepts fewer bytes than there is room for, and completes
	SendError    int // a send fails, with or without a notification
	NoMemory     int // a zero-copy send fails with ENOBUFS or ENOMEM
	FalseCopied  int // a notification says copied
	LateNotify   int // a notification waits for a long time after the peer's acknowledgement
	Batched      int // a notification waits for others: all come at once, newest first
	Stray        int // a notification comes twice, or though the completion announced none
	Enter        int // an enter fails with EAGAIN, EBUSY or EINTR, or takes a part of the entries
	LateWake     int // another goroutine is held up before it writes to the eventfd
	LateCancel   int // what is to be cancelled is running, and may succeed before it ends
	NoRecvBuffer int // a multishot receive ends with ENOBUFS though there are buffers
	MultishotEnd int // a multishot receive or accept ends after a completion, for no reason
	Accept       int // an accept fails: EMFILE, ECONNABORTED
	ShortRead    int // a file read returns fewer bytes, EAGAIN or EINTR
	ReadError    int // a file read fails
	BadPage      int // a page of a mapped file cannot be had
	Truncated    int // a file is shorter than announced
	PollSpurious int // a poll completes though the socket is not writable
	NoZeroCopy   int // a socket takes no zero-copy sends
	Joined       int // a zero-copy send shares its predecessor's skb, and both notifications wait for both
	Reordered    int // completions of one enter are posted in another order
}

// World is the simulated kernel and the hosts behind it. It belongs to one goroutine.
type World struct {
	*Choices
	Faults Faults
	// Hook, when it is set, is called at the points where another goroutine could run in
	// between two actions of a loop.
	Hook func()
	// Trace, when it is set, is told what happens.
	Trace func(format string, args ...any)

	now       int64
	cpu       int64   // see ThreadCPU
	skipped   int64   // of now: what Advance added
	waking    int     // late wake-ups under way
	batch     []*send // notifications that wait for others
	rings     []*Ring
	fds       map[int]any // *Socket, *listener, *file, *eventFD
	nextFD    int
	closed    []int    // descriptors of files
	calls     int      // of the engine, in this turn
	events    []*event // due at some time; few, so looked through
	violation error
	Steps     int
}

// event is something that will happen.
type event struct {
	at int64
	do func()
}

type eventFD struct{ count int }

// epoch is the time at which every world begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes a world.
func New(c *Choices, f Faults) *World {
	return &World{Choices: c, Faults: f, fds: make(map[int]any), nextFD: 100}
}

// Violation is the first thing that no engine may do, or nil.
func (w *World) Violation() error { return w.violation }

// fail notes a violation.
func (w *World) fail(format string, args ...any) {
	if w.violation == nil {
		w.violation = fmt.Errorf(format, args...)
	}
}

func (w *World) trace(format string, args ...any) {
	if w.Trace != nil {
		w.Trace(format, args...)
	}
}

// odds is true once in n times, and never for 0.
func (w *World) odds(n int) bool { return n == 1 || n > 0 && w.OneIn(n) }

func (w *World) after(d time.Duration, do func()) {
	w.events = append(w.events, &event{w.now + int64(d), do})
}

// maxCalls is how many calls one turn may make: more than any that ends.
const maxCalls = 1 << 20

func (w *World) hook() {
	if w.calls++; w.calls > maxCalls {
		panic("a turn that does not end")
	}
	if w.Hook != nil {
		w.Hook()
	}
}

// Pending reports whether anything is left to happen by itself.
func (w *World) Pending() bool { return len(w.events) > 0 }

// Step lets one thing happen: an event that is due, any of them, or else time moves on to
// the next. It reports false when there is nothing, now or later.
func (w *World) Step() bool {
	w.Steps++
	var due []int
	next := int64(-1)
	for i, e := range w.events {
		if e.at <= w.now {
			due = append(due, i)
		} else if next < 0 || e.at < next {
			next = e.at
		}
	}
	if len(due) > 0 {
		i := due[w.Intn(len(due))]
		e := w.events[i]
		w.events = append(w.events[:i], w.events[i+1:]...)
		e.do()
		return true
	}
	for _, r := range w.rings {
		if r.sleeping && r.wakeAt > 0 && (next < 0 || r.wakeAt < next) {
			next = r.wakeAt
		}
	}
	if next < 0 {
		return false
	}
	w.now = max(w.now, next)
	return true
}

// Due reports whether something can happen without time moving on.
func (w *World) Due() bool {
	for _, e := range w.events {
		if e.at <= w.now {
			return true
		}
	}
	return false
}

// Advance moves time on by d, whatever is due meanwhile: nobody was scheduled.
func (w *World) Advance(d time.Duration) {
	w.now += int64(d)
	w.skipped += int64(d)
}

// Punctual is the time that has passed without what Advance added. It stands still while a
// loop has something to do, so that in it no loop is ever late: what must happen within a
// time can be held against it to the millisecond.
func (w *World) Punctual() time.Duration { return time.Duration(w.now - w.skipped) }

// Waking reports whether a wake-up is under way.
func (w *World) Waking() bool { return w.waking > 0 }

// Sends is how many sends of loop i are in flight, or were zero-copy and the engine has not
// seen their notification.
func (w *World) Sends(i int) int {
	n := w.rings[i].unnotified
	for _, q := range w.rings[i].inflight {
		if q.send != nil {
			n++
		}
	}
	return n
}

// Accepting reports whether an accept waits on a listener.
func (w *World) Accepting(listenFD int) bool {
	l, ok := w.fds[listenFD].(*listener)
	return ok && l.accept != nil
}

// AcceptFailed is when an accept on a listener failed last, in punctual time.
func (w *World) AcceptFailed(listenFD int) time.Duration {
	if l, ok := w.fds[listenFD].(*listener); ok {
		return l.failedAt
	}
	return 0
}

// Reading reports whether a read of a file is in flight.
func (w *World) Reading(fd int) bool {
	twin := -1
	if f, ok := w.fds[fd].(*file); ok {
		twin = f.twin
	}
	for _, r := range w.rings {
		for _, q := range r.inflight {
			reads := q.sqe.Opcode == ring.OpReadFixed || q.sqe.Opcode == ring.OpRead
			if from := int(q.sqe.FD); reads && (from == fd || from == twin) {
				return true
			}
		}
	}
	return false
}

// Runnable reports whether loop i's ring has something for it, or its sleep is over.
func (w *World) Runnable(i int) bool {
	r := w.rings[i]
	return !r.sleeping || r.deliverable() > 0 || r.wakeAt > 0 && w.now >= r.wakeAt
}

// Open descriptors other than files of the workload: what an engine that has ended must not
// leave behind.
func (w *World) OpenSockets() (n int) {
	for _, o := range w.fds {
		switch o.(type) {
		case *Socket, *listener, *eventFD:
			n++
		}
	}
	return n
}

// BuffersOut is how many provided buffers the loops have not given back.
func (w *World) BuffersOut() (n int) {
	for _, r := range w.rings {
		n += r.buffers.outstanding()
	}
	return n
}

func (w *World) open(o any) int {
	w.nextFD++
	w.fds[w.nextFD] = o
	return w.nextFD
}

// The system calls without a ring.

var _ kernel.System = (*World)(nil)

// Now is simulated time.
func (w *World) Now() time.Time {
	w.calls = 0 // a turn begins
	w.hook()
	return w.Time()
}

// Time is simulated time, for those outside of the loops.
func (w *World) Time() time.Time { return epoch.Add(time.Duration(w.now)) }

// Open makes a simulated ring.
func (w *World) Open(c ring.Config, arena *bufreg.Registry, group uint16, buffers, size int) (kernel.Ring, kernel.BufRing, error) {
	// Queues as short as they can be: a full one and an overflow are nothing rare here.
	r := &Ring{w: w, sq: make([]ring.SQE, min(int(c.Entries), 1<<w.Between(0, 8))), group: group}
	r.cqSize = min(int(c.CQEntries), 1<<w.Between(0, 10))
	if err := r.register(arena); err != nil {
		return nil, nil, err
	}
	r.buffers = newBufRing(w, min(buffers, 1<<w.Between(0, 6)), min(size, 1<<w.Between(3, 12)))
	w.rings = append(w.rings, r)
	return r, r.buffers, nil
}

// EventFD makes a counter.
func (w *World) EventFD() (int, error) { return w.open(&eventFD{}), nil }

// Wake increments a counter: the poll of it completes.
func (w *World) Wake(fd int) {
	e, ok := w.fds[fd].(*eventFD)
	switch {
	case !ok:
		w.fail("wake of descriptor %d, which is no eventfd", fd)
	case w.odds(w.Faults.LateWake):
		w.waking++
		w.after(w.delay(), func() {
			w.waking--
			w.increment(fd, e)
		})
	default:
		w.increment(fd, e)
	}
}

func (w *World) increment(fd int, e *eventFD) {
	e.count++
	for _, r := range w.rings {
		r.edge(fd)
	}
}

// Close closes a descriptor.
func (w *World) Close(fd int) {
	switch o := w.fds[fd].(type) {
	case nil:
		w.fail("close of descriptor %d, which is not open", fd)
		return
	case *Socket:
		o.close()
	}
	delete(w.fds, fd)
	for _, r := range w.rings {
		for _, q := range r.inflight {
			if q.sqe.FD == int32(fd) && q.sqe.Opcode != ring.OpPollAdd {
				w.fail("descriptor %d closed while a request of opcode %d uses it", fd, q.sqe.Opcode)
			}
		}
	}
}

// ShutdownWrite ends the outgoing stream of a socket.
func (w *World) ShutdownWrite(fd int) error {
	s := w.socket(fd, "shutdown")
	if s == nil {
		return syscall.EBADF
	}
	if s.reset {
		return syscall.ENOTCONN
	}
	s.shut, s.ShutAt = true, w.Punctual()
	return nil
}

// ResetOnClose has a close reset the connection.
func (w *World) ResetOnClose(fd int) {
	if s := w.socket(fd, "set linger"); s != nil {
		s.linger0 = true
	}
}

// Cork has a socket hold back what does not fill a segment.
func (w *World) Cork(fd int, on bool) {
	if s := w.socket(fd, "set cork"); s != nil {
		s.Corked = on
	}
}

// BytesAcked is how many bytes the peer acknowledged, and whether more are on the way.
func (w *World) BytesAcked(fd int) (acked uint64, held bool) {
	w.hook()
	s := w.socket(fd, "ask for progress")
	if s == nil {
		return 0, false
	}
	if s.acked != s.told {
		s.told, s.ToldAt = s.acked, w.Punctual()
	}
	s.Quiet = time.Duration(w.now - s.ackedAt)
	return s.acked, s.used > 0
}

// SocketFacts says that every peer is remote, and that some sockets take no zero-copy,
// which is not always told beforehand.
func (w *World) SocketFacts(fd int) (f kernel.Facts) {
	s := w.socket(fd, "ask for facts")
	if s != nil && s.noZC && w.Intn(2) == 0 {
		f.Kind = zc.OtherSocket
	}
	f.Local = s != nil && s.local
	return f
}

func (w *World) socket(fd int, what string) *Socket {
	s, ok := w.fds[fd].(*Socket)
	if !ok {
		w.fail("%s of descriptor %d, which is no open socket", what, fd)
	}
	return s
}

// ThreadCPU grows by chance: what a learner makes of it must never matter to the bytes.
func (w *World) ThreadCPU() int64 {
	w.cpu += int64(w.Intn(1 << 20))
	return w.cpu
}

// ResetEvent sets an eventfd to zero: a poll that waits for an edge does not look at it.
func (w *World) ResetEvent(int) {}

// Recv is for kernels without multishot receives, which this one is not.
func (w *World) Recv(int, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }
