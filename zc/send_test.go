package zc

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
)

const size = 1000 // bytes of each send in the tables

// sendIn is a send in the given state.
func sendIn(state State, route Route) Send {
	var s Send
	if state == Idle {
		return s
	}
	s.Submit(route, size)
	if state == Completed {
		s.Completed(size, true)
	}
	return s
}

func TestCompletedOfASubmittedSend(t *testing.T) {
	type row struct {
		res   int32
		bytes uint32
		next  Next
		err   syscall.Errno
	}
	failed := func(errno syscall.Errno) row { return row{-int32(errno), 0, Fail, errno} }
	again := func(errno syscall.Errno, next Next) row { return row{-int32(errno), 0, next, 0} }
	both := []row{
		{size, size, Proceed, 0},
		{size - 1, size - 1, Resume, 0},
		{1, 1, Resume, 0},
		{0, 0, Fail, syscall.EIO},
		again(syscall.EAGAIN, Resume),
		again(syscall.EINTR, Resume),
		again(syscall.EOPNOTSUPP, CopyOnly),
		failed(syscall.EPIPE),
		failed(syscall.ECONNRESET),
		failed(syscall.ETIMEDOUT),
		again(syscall.ECANCELED, Resume),
		failed(syscall.EBADF),
		failed(syscall.EFAULT),
		failed(syscall.EINVAL),
	}
	rows := map[Route][]row{
		ZeroCopy: append([]row{
			again(syscall.ENOBUFS, CopyOnce),
			again(syscall.ENOMEM, CopyOnce),
		}, both...),
		// Memory that a copy does not get either is final: to copy instead would go round for ever.
		Copy: append([]row{
			failed(syscall.ENOBUFS),
			failed(syscall.ENOMEM),
		}, both...),
	}
	for route, rows := range rows {
		for _, r := range rows {
			for _, more := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v res %d more %v", route, r.res, more), func(t *testing.T) {
					s := sendIn(Submitted, route)
					want := Outcome{Bytes: r.bytes, Next: r.next, Err: r.err, Recycle: !more}
					if got := s.Completed(r.res, more); got != want {
						t.Errorf("%+v, want %+v", got, want)
					}
					state := Idle
					if more {
						state = Completed
					}
					if (s != Send{state, route, size, r.bytes}) {
						t.Errorf("the send is %+v, want it %v with %d bytes sent", s, state, r.bytes)
					}
					if got := s.UsageKnown(); got != (r.bytes > 0) {
						t.Errorf("a notification's usage bit means something: %v", got)
					}
				})
			}
		}
	}
}

func TestNotifiedEndsACompletedSend(t *testing.T) {
	s := sendIn(Completed, ZeroCopy)
	if got := s.Notified(); got != (Outcome{Recycle: true}) {
		t.Errorf("%+v, want Recycle alone", got)
	}
	if s.State != Idle {
		t.Errorf("the send is %v, want idle", s.State)
	}
	if !s.UsageKnown() {
		t.Error("what was sent is forgotten before the notification's usage bit is looked at")
	}
}

// An event that nothing waits for changes nothing: it happens on 6.1 to 7.2, where a
// cancelled member of a link chain is notified without having said so.
func TestStrayEventsAreReportedAndIgnored(t *testing.T) {
	stray := Outcome{Stray: true}
	notified := func(s *Send) Outcome { return s.Notified() }
	completed := func(res int32, more bool) func(*Send) Outcome {
		return func(s *Send) Outcome { return s.Completed(res, more) }
	}
	for _, tt := range []struct {
		name  string
		state State
		event func(*Send) Outcome
	}{
		{"notification of an idle send", Idle, notified},
		{"notification before the completion", Submitted, notified},
		{"completion of an idle send", Idle, completed(size, false)},
		{"completion of an idle send, more to come", Idle, completed(size, true)},
		{"failure of an idle send", Idle, completed(-int32(syscall.ECANCELED), false)},
		{"second completion", Completed, completed(size, false)},
		{"second completion, more to come", Completed, completed(size, true)},
		{"failure after the completion", Completed, completed(-int32(syscall.EPIPE), true)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sendIn(tt.state, ZeroCopy)
			before := s
			if got := tt.event(&s); got != stray {
				t.Errorf("%+v, want Stray alone", got)
			}
			if s != before {
				t.Errorf("the send went from %+v to %+v", before, s)
			}
		})
	}
}

func TestNotificationAfterACancellationThatAnnouncedNoneIsStray(t *testing.T) {
	s := sendIn(Submitted, ZeroCopy)
	if got := s.Completed(-int32(syscall.ECANCELED), false); !got.Recycle {
		t.Errorf("%+v, want the buffers back", got)
	}
	if got := s.Notified(); got != (Outcome{Stray: true}) {
		t.Errorf("%+v, want Stray alone", got)
	}
}

func panics(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

func TestSubmitOfWhatCannotBeSubmittedPanics(t *testing.T) {
	for _, tt := range []struct {
		name  string
		state State
		route Route
		bytes uint32
	}{
		{"already submitted", Submitted, ZeroCopy, size},
		{"not yet notified", Completed, ZeroCopy, size},
		{"sendfile is no request", Idle, Sendfile, size},
		{"nothing to send", Idle, Copy, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sendIn(tt.state, ZeroCopy)
			before := s
			if panics(func() { s.Submit(tt.route, tt.bytes) }) == nil {
				t.Error("no panic")
			}
			if s != before {
				t.Errorf("the send went from %+v to %+v", before, s)
			}
		})
	}
}

func TestMoreBytesThanSubmittedPanics(t *testing.T) {
	s := sendIn(Submitted, ZeroCopy)
	if panics(func() { s.Completed(size+1, true) }) == nil {
		t.Error("no panic")
	}
}

func TestSubmitForgetsTheSendBefore(t *testing.T) {
	s := sendIn(Completed, ZeroCopy)
	s.Notified()
	s.Submit(Copy, 7)
	if (s != Send{Submitted, Copy, 7, 0}) {
		t.Errorf("%+v", s)
	}
	if s.UsageKnown() {
		t.Error("a send that has not completed knows its usage")
	}
}

// kernel answers submissions with any events that the contract of SEND and SEND_ZC
// allows, in any order that it allows.
type kernel struct {
	rng *rand.Rand
	due []*tracked // sends whose notification is still to come
}

// tracked is a send, and what the kernel knows of its buffers.
type tracked struct {
	Send
	reads    bool // an event is still to come, so the kernel may read the buffers
	recycled int
}

var errnos = []syscall.Errno{
	syscall.EAGAIN, syscall.EINTR, syscall.EPIPE, syscall.ECANCELED, syscall.EBADF,
	syscall.EFAULT, syscall.EOPNOTSUPP, syscall.ENOBUFS, syscall.ENOMEM,
}

// complete is the completion of s.
func (k *kernel) complete(s *tracked) (res int32, more bool) {
	switch k.rng.IntN(4) {
	case 0:
		res = int32(s.Want)
	case 1:
		res = -int32(errnos[k.rng.IntN(len(errnos))])
	default:
		res = int32(1 + k.rng.Uint32N(s.Want))
	}
	more = s.Route == ZeroCopy && k.rng.IntN(5) > 0 // never told by res
	s.reads = more
	if more {
		k.due = append(k.due, s)
	}
	return res, more
}

// notify ends one of the sends that wait for it, in any order.
func (k *kernel) notify(t *testing.T) {
	i := k.rng.IntN(len(k.due))
	s := k.due[i]
	k.due[i] = k.due[len(k.due)-1]
	k.due = k.due[:len(k.due)-1]
	s.reads = false
	s.take(t, s.Notified())
}

// take checks what an outcome says of the buffers.
func (s *tracked) take(t *testing.T, o Outcome) {
	t.Helper()
	if o.Stray {
		t.Fatalf("a legal event is called stray: %+v", s.Send)
	}
	if o.Recycle {
		s.recycled++
		if s.reads {
			t.Fatalf("buffers recycled while the kernel reads them: %+v", s.Send)
		}
	}
	if (s.State == Idle) != o.Recycle {
		t.Fatalf("buffers recycled: %v, and the send is %v", o.Recycle, s.State)
	}
}

// One stream after the other goes through sends that fail, fall short and end in any
// order. Every submission gives its buffers back once, after its last event, and no byte is
// forgotten or counted twice.
func TestAnyEventsRecycleOnceAndLoseNoByte(t *testing.T) {
	for seed := range uint64(2000) {
		k := &kernel{rng: rand.New(rand.NewPCG(seed, 3))}
		total := 1 + k.rng.Uint32N(1<<20)
		remaining, accepted := total, uint32(0)
		var sends []*tracked
		route, copyOnce := ZeroCopy, false
		for failed := false; remaining > 0 && !failed; {
			s := &tracked{reads: true}
			sends = append(sends, s)
			r := route
			if copyOnce {
				r, copyOnce = Copy, false
			}
			s.Submit(r, remaining)
			for len(k.due) > 0 && k.rng.IntN(2) == 0 {
				k.notify(t) // of earlier sends, before this one's completion
			}
			if o := s.Notified(); !o.Stray || o.Recycle {
				t.Fatalf("a notification before the completion: %+v", o)
			}
			res, more := k.complete(s)
			o := s.Completed(res, more)
			s.take(t, o)
			accepted += o.Bytes
			remaining -= o.Bytes
			switch o.Next {
			case Proceed:
				if remaining != 0 {
					t.Fatalf("seed %d: told to proceed with %d bytes left", seed, remaining)
				}
			case Resume:
			case CopyOnce:
				copyOnce = true
			case CopyOnly:
				route = Copy
			case Fail:
				failed = true
			}
			if accepted+remaining != total {
				t.Fatalf("seed %d: %d bytes accepted and %d remaining of %d", seed, accepted, remaining, total)
			}
		}
		for len(k.due) > 0 {
			k.notify(t)
		}
		for i, s := range sends {
			if s.recycled != 1 || s.State != Idle {
				t.Fatalf("seed %d: send %d of %d gave its buffers back %d times and is %v", seed, i, len(sends), s.recycled, s.State)
			}
			for _, o := range []Outcome{s.Notified(), s.Completed(1, false)} {
				if !o.Stray || o.Recycle || o.Bytes != 0 {
					t.Fatalf("seed %d: an event after the last: %+v", seed, o)
				}
			}
		}
	}
}

func TestSendAllocatesNothing(t *testing.T) {
	var s Send
	if got := testing.AllocsPerRun(1000, func() {
		s.Submit(ZeroCopy, size)
		s.Completed(size/2, true)
		s.Notified()
		s.Notified()
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
