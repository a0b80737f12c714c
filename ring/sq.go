package ring

import (
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// SQE returns the next free submission entry, zeroed, or nil when the queue is full:
// submit, then ask again. A stale field would turn the next request into EINVAL, or
// worse into a different request, so entries are cleared here and nowhere else.
// The entry becomes visible to the kernel at the next Submit.
func (r *Ring) SQE() *SQE {
	if r.sqTail-atomic.LoadUint32(r.sqHead) == r.sqEntries {
		return nil
	}
	e := &r.sqes[r.sqTail&r.sqMask]
	*e = SQE{}
	r.sqTail++
	return e
}

// Pending is the number of entries handed out and not yet taken by the kernel.
func (r *Ring) Pending() int { return int(r.sqTail - atomic.LoadUint32(r.sqHead)) }

// Submit gives the prepared entries to the kernel and does not wait. Work that the
// kernel deferred to this thread (IORING_SETUP_DEFER_TASKRUN) is run too, so that
// Submit alone is enough to make progress.
//
// The Go scheduler is not told of the call: that saves its monitor from waking up every
// 20 µs to take the processor away, which costs a tenth of a busy sender's time. But a garbage
// collection that begins meanwhile waits for the call's end. Where the batch is
// large, use SubmitAndWait(0, 0), which tells it. Errors are those of SubmitAndWait.
func (r *Ring) Submit() error {
	submit, flags, need := r.beforeEnter(0)
	if !need {
		return nil
	}
	r.enters++
	return enterError(enterRaw(r.enterFD, submit, flags|r.enterFlags))
}

// SubmitAndWait submits, then blocks until at least min completions are ready or
// timeout has passed (≤ 0: no limit). It returns nil on time-out and on a signal:
// look at the completion queue in any case.
//
// Errors: syscall.EBUSY and syscall.EAGAIN say that the kernel wants completions reaped
// or is short of memory, and that the entries are still queued: reap, and call again.
func (r *Ring) SubmitAndWait(min uint32, timeout time.Duration) error {
	submit, flags, need := r.beforeEnter(min)
	if !need {
		return nil
	}
	var arg unsafe.Pointer
	var size uintptr
	if min > 0 && timeout > 0 && r.features&FeatExtArg == 0 {
		// Before 5.11 the call takes no limit, but the ring can be polled.
		r.enters++
		if errno := enter(r.enterFD, submit, 0, flags|r.enterFlags, nil, 0); errno != 0 || r.Ready() >= int(min) {
			return enterError(errno)
		}
		return enterError(pollReadable(r.fd, timeout))
	}
	if min > 0 && timeout > 0 {
		r.scratch.ts = Timespec{Sec: int64(timeout / time.Second), Nsec: int64(timeout % time.Second)}
		r.scratch.arg.Ts = uint64(uintptr(unsafe.Pointer(&r.scratch.ts)))
		arg, size = unsafe.Pointer(&r.scratch.arg), unsafe.Sizeof(r.scratch.arg)
		flags |= EnterExtArg
	}
	r.enters++
	return enterError(enter(r.enterFD, submit, min, flags|r.enterFlags, arg, size))
}

// beforeEnter publishes what was prepared and says with what to enter the kernel, and
// whether that is needed at all.
func (r *Ring) beforeEnter(min uint32) (submit, flags uint32, need bool) {
	submit = r.publish()
	if r.setup&SetupSQPoll != 0 {
		submit = 0 // the kernel's thread takes them
		if r.sqLoadFlags()&SQNeedWakeup != 0 {
			flags |= EnterSQWakeup
		}
		if min == 0 && flags == 0 && r.sqLoadFlags()&SQCQOverflow == 0 {
			return 0, 0, false // steady state under SQPOLL: no system call
		}
	}
	return submit, flags | EnterGetEvents, true
}

func enterError(errno syscall.Errno) error {
	switch errno {
	case 0, syscall.EINTR, syscall.ETIME:
		return nil
	}
	return errno
}

// publish makes the entries handed out so far visible and returns how many the kernel
// has not taken. The store is sequentially consistent: under SQPOLL the flags are read
// after it, and the kernel's thread reads the tail after setting them.
func (r *Ring) publish() uint32 {
	atomic.StoreUint32(r.sqKTail, r.sqTail)
	return r.sqTail - atomic.LoadUint32(r.sqHead)
}

func (r *Ring) sqLoadFlags() uint32 { return atomic.LoadUint32(r.sqFlags) }
