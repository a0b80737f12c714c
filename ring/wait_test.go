//go:build linux

package ring

import (
	"encoding/binary"
	"errors"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func signalEvent(t testing.TB, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		t.Fatalf("write to an eventfd: %v", err)
	}
}

func mappedTimespec(t testing.TB) *Timespec {
	return (*Timespec)(unsafe.Pointer(&mapped(t, int(unsafe.Sizeof(Timespec{})))[0]))
}

func TestMultishotPollFiresAtEveryEdge(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	fd := newEventFD(t)
	id := d.start(func(e *SQE) { e.PrepPollMultishot(fd, unix.POLLIN) })
	d.expectNone(id)
	for i := range 5 {
		signalEvent(t, fd)
		c := d.await(id)
		if c.Res&unix.POLLIN == 0 || !c.More() {
			t.Fatalf("event %d: %s", i, show(c))
		}
		d.expectNone(id) // the event was not read: an edge, not a level
	}
}

func TestPollFiresOnce(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	fd := newEventFD(t)
	id := d.start(func(e *SQE) { e.PrepPoll(fd, unix.POLLIN) })
	signalEvent(t, fd)
	if c := d.await(id); c.Res&unix.POLLIN == 0 || c.More() {
		t.Fatalf("poll: %s", show(c))
	}
	signalEvent(t, fd)
	d.expectNone(id)
}

func TestTimeoutFiresAfterItsTime(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	const wait = 20 * time.Millisecond
	ts := mappedTimespec(t)
	*ts = Timespec{Nsec: int64(wait)}
	start := time.Now()
	id := d.start(func(e *SQE) { e.PrepTimeout(uintptr(unsafe.Pointer(ts))) })
	*ts = Timespec{Sec: 3600} // read at submission, not later
	c := d.await(id)
	if took := time.Since(start); errnoOf(c) != syscall.ETIME || took < wait {
		t.Errorf("after %v: %s", took, show(c))
	}
}

func TestTimeoutIgnoresOtherCompletions(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	ts := mappedTimespec(t)
	*ts = Timespec{Nsec: int64(10 * time.Millisecond)}
	id := d.start(func(e *SQE) { e.PrepTimeout(uintptr(unsafe.Pointer(ts))) })
	for range 5 {
		d.do((*SQE).PrepNop)
	}
	if c := d.await(id); errnoOf(c) != syscall.ETIME {
		t.Errorf("timeout: %s", show(c))
	}
}

func TestCancelEndsOneRequest(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	fd := newEventFD(t)
	poll := func(e *SQE) { e.PrepPoll(fd, unix.POLLIN) }
	first, second := d.start(poll), d.start(poll)
	if c := d.do(func(e *SQE) { e.PrepCancel(first, 0) }); c.Res != 0 {
		t.Fatalf("cancel: %s", show(c))
	}
	if c := d.await(first); errnoOf(c) != syscall.ECANCELED {
		t.Fatalf("the cancelled poll: %s", show(c))
	}
	signalEvent(t, fd)
	if c := d.await(second); c.Res&unix.POLLIN == 0 {
		t.Errorf("the other poll: %s", show(c))
	}
}

func TestCancelAllCountsWhatItFound(t *testing.T) {
	needsRelease(t, "5.19", "flags of cancellation")
	d := newRing(t, Config{Entries: 8})
	fd := newEventFD(t)
	for range 3 {
		d.SQE().PrepPoll(fd, unix.POLLIN)
	}
	const none = 0 // the user data of all three
	if c := d.do(func(e *SQE) { e.PrepCancel(none, CancelAll) }); c.Res != 3 {
		t.Fatalf("cancel: %s", show(c))
	}
	for range 3 {
		if c := d.await(none); errnoOf(c) != syscall.ECANCELED {
			t.Errorf("a cancelled poll: %s", show(c))
		}
	}
}

func TestCancelOfNothingIsENOENT(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	if c := d.do(func(e *SQE) { e.PrepCancel(12345, 0) }); errnoOf(c) != syscall.ENOENT {
		t.Errorf("cancel: %s", show(c))
	}
}

func TestCancelFDEndsEveryRequestOnIt(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	one, _ := tcpPair(t)
	two, _ := tcpPair(t)
	newBufRing(t, d, 1, 4, 64)
	recv := d.start(func(e *SQE) { e.PrepRecvSelect(one.fd, 1, 64) })
	poll := d.start(func(e *SQE) { e.PrepPoll(one.fd, unix.POLLPRI) })
	other := d.start(func(e *SQE) { e.PrepRecvSelect(two.fd, 1, 64) })
	if c := d.do(func(e *SQE) { e.PrepCancelFD(one.fd) }); c.Res != 2 {
		t.Fatalf("cancel: %s", show(c))
	}
	for _, id := range []uint64{recv, poll} {
		if c := d.await(id); errnoOf(c) != syscall.ECANCELED || c.More() {
			t.Errorf("request %d: %s", id, show(c))
		}
	}
	d.expectNone(other)
}

func TestMsgRingPostsIntoAnotherRing(t *testing.T) {
	needsRelease(t, "5.18", "MSG_RING")
	from, to := newRing(t, Config{Entries: 8}), newRing(t, Config{Entries: 8})
	const id, res = 1<<63 + 5, 77
	if c := from.do(func(e *SQE) { e.PrepMsgRing(to.FD(), res, id) }); c.Res != 0 {
		t.Fatalf("the sender's completion: %s", show(c))
	}
	if c := to.await(id); c.Res != res || c.Flags != 0 {
		t.Errorf("the receiver's completion: %s", show(c))
	}
}

func TestMsgRingWakesAWaitingThread(t *testing.T) {
	needsRelease(t, "5.18", "MSG_RING")
	to := newRing(t, Config{Entries: 8})
	const id = 9
	sent := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		from, err := New(Config{Entries: 1})
		if err == nil {
			from.SQE().PrepMsgRing(to.FD(), 1, id)
			err = errors.Join(from.SubmitAndWait(1, patience), from.Close())
		}
		sent <- err
	}()
	if c := to.await(id); c.Res != 1 {
		t.Errorf("the message: %s", show(c))
	}
	if err := <-sent; err != nil {
		t.Errorf("the sender: %v", err)
	}
}
