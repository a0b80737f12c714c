package zc

import (
	"fmt"
	"syscall"
)

// State is where a send is in its life.
//
//	Idle ──Submit──▶ Submitted ──Completed, F_MORE──▶ Completed ──Notified──▶ Idle
//	                     └───────Completed, no F_MORE──────────────────────▶ Idle
type State uint8

const (
	Idle      State = iota // the kernel has nothing of it
	Submitted              // the kernel may read the buffers; no completion yet
	Completed              // bytes are accepted, the kernel may still read the buffers
)

func (s State) String() string { return [...]string{"idle", "submitted", "completed"}[s] }

// Send is the life of one send. The zero Send is Idle. A stream has one Send between Idle and
// Completed at a time, and any number in Completed.
type Send struct {
	State State
	Route Route  // Copy or ZeroCopy
	Want  uint32 // bytes submitted
	Sent  uint32 // bytes that the completion accepted
}

// Next is what the connection does after a completion.
type Next uint8

const (
	Proceed  Next = iota // every byte was accepted: the next send may start
	Resume               // fewer were: submit again from the first unaccepted byte
	CopyOnce             // the kernel was short of memory for zero-copy: this send by copy
	CopyOnly             // the socket takes only plain copies (unix, kTLS): from now on by those
	Fail                 // the stream is broken: abort the connection
)

func (n Next) String() string {
	return [...]string{"proceed", "resume", "copy once", "copy only", "fail"}[n]
}

// Outcome is what a completion or a notification means.
type Outcome struct {
	Bytes   uint32        // bytes accepted by this completion
	Next    Next          // for completions
	Err     syscall.Errno // for Fail
	Recycle bool          // the kernel is done with the buffers
	Stray   bool          // nothing waited for this event: count it, and do nothing
}

// Submit starts a send of want bytes.
func (s *Send) Submit(route Route, want uint32) {
	if s.State != Idle || route == Sendfile || want == 0 {
		panic(fmt.Sprintf("zc: submit of %d bytes by %v in %+v", want, route, *s))
	}
	*s = Send{State: Submitted, Route: route, Want: want}
}

// Completed takes the completion: res is the bytes accepted or a negated errno, more
// is IORING_CQE_F_MORE. The flag alone says whether a notification follows: failed sends
// mostly have one, and some have none.
func (s *Send) Completed(res int32, more bool) Outcome {
	if s.State != Submitted {
		return Outcome{Stray: true}
	}
	if res > 0 && uint32(res) > s.Want {
		panic(fmt.Sprintf("zc: the kernel accepted %d bytes in %+v", res, *s))
	}
	o := Outcome{Recycle: !more}
	switch errno := syscall.Errno(-res); {
	case res > 0:
		o.Bytes = uint32(res)
		if o.Bytes < s.Want {
			o.Next = Resume
		}
	case res == 0: // only an empty send accepts nothing; going round again would never end
		o.Next, o.Err = Fail, syscall.EIO
	case errno == syscall.EAGAIN || errno == syscall.EINTR || errno == syscall.ECANCELED:
		o.Next = Resume
	case errno == syscall.EOPNOTSUPP:
		o.Next = CopyOnly
	case s.Route == ZeroCopy && (errno == syscall.ENOBUFS || errno == syscall.ENOMEM):
		o.Next = CopyOnce
	default:
		o.Next, o.Err = Fail, errno
	}
	s.Sent = o.Bytes
	if more {
		s.State = Completed
	} else {
		s.State = Idle
	}
	return o
}

// Notified takes the notification.
func (s *Send) Notified() Outcome {
	if s.State != Completed {
		return Outcome{Stray: true}
	}
	s.State = Idle
	return Outcome{Recycle: true}
}

// UsageKnown reports whether a notification's "copied" bit means anything for this send: a
// failed send reports copied, or nothing, by kernel.
func (s *Send) UsageKnown() bool { return s.Sent > 0 }
