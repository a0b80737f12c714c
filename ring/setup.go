package ring

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// Config describes a ring. The zero value is a ring of 256 entries.
type Config struct {
	// Entries is the length of the submission queue, rounded up to a power of two and
	// clamped by the kernel to 32,768. Zero means 256: one batch of sends.
	Entries uint32
	// CQEntries is the length of the completion queue. Zero means 8 × Entries: every
	// connection's receive, and two completions for every zero-copy send, may be posted
	// between two reaps.
	CQEntries uint32
	// SQPoll has a kernel thread take submissions, so that the steady state needs no
	// system call. It costs that thread's core and excludes DEFER_TASKRUN.
	SQPoll bool
	// SQPollIdle is how long the kernel's thread spins before it sleeps. Zero means 1 ms.
	SQPollIdle time.Duration
	// Shared makes a ring that belongs to no thread: any may use and close it, one at a time.
	// It does without SINGLE_ISSUER, DEFER_TASKRUN and the registered descriptor. A ring that
	// rings of other threads clone buffers from must be one: see [Ring.CloneBuffers].
	Shared bool
}

// ladder holds the setup flags from best to oldest; the first that the kernel takes is
// used. All of them include what the rest of the package relies on.
var ladder = []uint32{
	SetupSingleIssuer | SetupDeferTaskrun | SetupSubmitAll | SetupNoSQArray,  // 6.6
	SetupSingleIssuer | SetupDeferTaskrun | SetupSubmitAll,                   // 6.1
	SetupSingleIssuer | SetupCoopTaskrun | SetupTaskrunFlag | SetupSubmitAll, // 6.0
	SetupCoopTaskrun | SetupTaskrunFlag | SetupSubmitAll,                     // 5.19
	0, // 5.6
}

var sqPollLadder = []uint32{
	SetupSQPoll | SetupSingleIssuer | SetupSubmitAll | SetupNoSQArray, // 6.6
	SetupSQPoll | SetupSingleIssuer | SetupSubmitAll,                  // 6.0
	SetupSQPoll | SetupSubmitAll,                                      // 5.18
	SetupSQPoll,                                                       // 5.11
}

// Ring is one io_uring instance. See the package comment for who may call.
type Ring struct {
	sqHead, sqKTail, sqFlags *uint32 // shared with the kernel
	sqTail                   uint32  // entries handed out
	sqMask, sqEntries        uint32
	sqes                     []SQE

	cqHead, cqKTail *uint32 // shared with the kernel
	cqHeadLocal     uint32
	cqMask          uint32
	cqes            []CQE

	enters uint64

	fd         int
	enterFD    int    // fd, or its index among the thread's registered rings
	enterFlags uint32 // IORING_ENTER_REGISTERED_RING when enterFD is an index
	setup      uint32
	features   uint32
	scratch    *scratch
	bufRings   []*BufRing

	ringMem, sqeMem, scratchMem []byte
}

// scratch is memory that the kernel reads during io_uring_enter.
type scratch struct {
	arg geteventsArg
	ts  Timespec
}

// New creates a ring that belongs to the calling OS thread.
//
// Errors match [ErrForbidden], [ErrMemlock] or [ErrUnsupported] where they apply.
func New(c Config) (*Ring, error) {
	if c.Entries == 0 {
		c.Entries = 256
	}
	if c.CQEntries == 0 {
		c.CQEntries = 8 * c.Entries
	}
	flags := ladder
	if c.SQPoll {
		flags = sqPollLadder
		if c.SQPollIdle == 0 {
			c.SQPollIdle = time.Millisecond
		}
	}
	var p params
	fd, errno := -1, syscall.EINVAL
	for _, f := range flags {
		if c.Shared && f&SetupSingleIssuer != 0 {
			continue
		}
		p = params{Flags: f | SetupCQSize | SetupClamp, CQEntries: c.CQEntries, SQThreadIdle: wholeMillis(c.SQPollIdle)}
		if fd, errno = setup(c.Entries, &p); errno != syscall.EINVAL {
			break
		}
	}
	if errno != 0 {
		return nil, setupError(fmt.Sprintf("io_uring_setup(%d entries, %d completions)", c.Entries, c.CQEntries), errno)
	}
	r := &Ring{fd: fd, enterFD: fd, setup: p.Flags, features: p.Features}
	if c.SQPoll && p.Features&FeatSQPollNonFixed == 0 {
		return nil, errors.Join(&UnsupportedError{Feature: "submission by a kernel thread", Since: "5.11"}, r.Close())
	}
	if err := r.mapRings(&p); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if c.Shared {
		return r, nil // an index would mean another ring on another thread
	}
	// Saves the file lookup of each enter; 5.18. Without it the plain fd works as well.
	if idx, err := r.registerRingFD(); err == nil {
		r.enterFD, r.enterFlags = idx, EnterRegisteredRing
	}
	return r, nil
}

// wholeMillis rounds up, because the kernel takes 0 for its default, a second.
func wholeMillis(d time.Duration) uint32 {
	return uint32((d + time.Millisecond - 1) / time.Millisecond)
}

func (r *Ring) mapRings(p *params) (err error) {
	const need = FeatSingleMmap | FeatNoDrop
	if p.Features&need != need {
		return &UnsupportedError{Feature: "io_uring with a single ring mapping and no dropped completions", Since: "5.5"}
	}
	size := max(p.SQ.Array+4*p.SQEntries, p.CQ.CQEs+uint32(unsafe.Sizeof(CQE{}))*p.CQEntries)
	if r.ringMem, err = mapShared(r.fd, offSQRing, int(size)); err != nil {
		return fmt.Errorf("map the rings (%d bytes): %w", size, err)
	}
	if r.sqeMem, err = mapShared(r.fd, offSQEs, int(p.SQEntries)*int(unsafe.Sizeof(SQE{}))); err != nil {
		return fmt.Errorf("map the submission entries: %w", err)
	}
	if r.scratchMem, err = mapAnonymous(int(unsafe.Sizeof(scratch{}))); err != nil {
		return fmt.Errorf("map scratch memory: %w", err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.ringMem[off])) }
	r.scratch = (*scratch)(unsafe.Pointer(&r.scratchMem[0]))
	r.sqHead, r.sqKTail, r.sqFlags = at(p.SQ.Head), at(p.SQ.Tail), at(p.SQ.Flags)
	r.sqMask, r.sqEntries = *at(p.SQ.RingMask), p.SQEntries
	r.sqes = unsafe.Slice((*SQE)(unsafe.Pointer(&r.sqeMem[0])), p.SQEntries)
	r.cqHead, r.cqKTail = at(p.CQ.Head), at(p.CQ.Tail)
	r.cqMask = *at(p.CQ.RingMask)
	r.cqes = unsafe.Slice((*CQE)(unsafe.Pointer(&r.ringMem[p.CQ.CQEs])), p.CQEntries)
	if r.setup&SetupNoSQArray == 0 {
		// The indirection is the identity for ever: entry i is always in slot i.
		array := unsafe.Slice(at(p.SQ.Array), p.SQEntries)
		for i := range array {
			array[i] = uint32(i)
		}
	}
	return nil
}

// Close releases the ring. The kernel cancels what is still in flight, and may read the
// memory of those requests after Close returns: reap what you submitted first.
func (r *Ring) Close() error {
	var err error
	if r.enterFlags&EnterRegisteredRing != 0 {
		// The thread's table holds a reference of its own: without this the ring, and all that
		// it has pinned or opened, would live as long as the thread.
		err = r.unregisterRingFD()
	}
	err = errors.Join(err, closeFD(r.fd))
	for _, m := range [][]byte{r.ringMem, r.sqeMem, r.scratchMem} {
		if m != nil {
			err = errors.Join(err, unmap(m))
		}
	}
	for _, b := range r.bufRings {
		b.unmap() // last: until the ring is gone, a receive may still write there
	}
	*r = Ring{fd: -1}
	return err
}

// Entered is the number of io_uring_enter calls so far.
func (r *Ring) Entered() uint64 { return r.enters }

// FD is the ring's file descriptor, for MSG_RING and cloning buffers.
func (r *Ring) FD() int { return r.fd }

// SetupFlags are the flags of io_uring_setup that the kernel accepted.
func (r *Ring) SetupFlags() uint32 { return r.setup }

// SQEntries and CQEntries are the lengths of the queues.
func (r *Ring) SQEntries() int { return len(r.sqes) }

// CQEntries is the length of the completion queue.
func (r *Ring) CQEntries() int { return len(r.cqes) }
