//go:build linux

package ring

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for the kernel: far more than a loaded machine needs, and
// the price of a test that hangs.
const patience = 10 * time.Second

// driver drives one ring and tells its completions apart by user data.
type driver struct {
	t testing.TB
	*Ring
	last      uint64 // user data given out so far
	unclaimed []CQE  // reaped while another request was awaited
}

// newRing makes a ring on the test's goroutine, which stays locked to its thread until
// the ring is closed at the end of the test.
func newRing(t testing.TB, c Config) *driver {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(c)
	if err != nil {
		t.Fatalf("New(%+v): %v", c, err)
	}
	d := &driver{t: t, Ring: r}
	t.Cleanup(d.close)
	return d
}

// close closes the ring unless the test has done so.
func (d *driver) close() {
	d.t.Helper()
	if d.FD() < 0 {
		return
	}
	if err := d.Close(); err != nil {
		d.t.Errorf("Close: %v", err)
	}
}

// prep prepares one request and returns the user data that it got.
func (d *driver) prep(fill func(*SQE)) uint64 {
	d.t.Helper()
	e := d.SQE()
	if e == nil {
		d.t.Fatal("no free submission entry")
	}
	fill(e)
	d.last++
	e.UserData = d.last
	return d.last
}

func (d *driver) submit() {
	d.t.Helper()
	if err := d.Submit(); err != nil {
		d.t.Fatalf("Submit: %v", err)
	}
}

// start prepares and submits one request.
func (d *driver) start(fill func(*SQE)) uint64 {
	d.t.Helper()
	id := d.prep(fill)
	d.submit()
	return id
}

// do starts one request and returns its first completion.
func (d *driver) do(fill func(*SQE)) CQE {
	d.t.Helper()
	return d.await(d.start(fill))
}

// await returns the oldest completion of request id that was not returned before.
func (d *driver) await(id uint64) CQE {
	d.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		for i, c := range d.unclaimed {
			if c.UserData == id {
				d.unclaimed = append(d.unclaimed[:i], d.unclaimed[i+1:]...)
				return c
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			d.t.Fatalf("request %d has not completed within %v; others: %+v", id, patience, d.unclaimed)
		}
		if d.Ready() == 0 {
			if err := d.SubmitAndWait(1, left); err != nil {
				d.t.Fatalf("SubmitAndWait: %v", err)
			}
		}
		d.collect()
	}
}

func (d *driver) collect() {
	var batch [64]CQE
	for n := d.Reap(batch[:]); n > 0; n = d.Reap(batch[:]) {
		d.unclaimed = append(d.unclaimed, batch[:n]...)
	}
}

// expectNone fails if request id posts a completion that was not returned yet. Absence
// cannot be waited for: it looks a few milliseconds long, in which a wrong kernel or
// package is caught nearly always and a right one never.
func (d *driver) expectNone(id uint64) {
	d.t.Helper()
	for deadline := time.Now().Add(5 * time.Millisecond); ; {
		if err := d.SubmitAndWait(1, time.Millisecond); err != nil {
			d.t.Fatalf("SubmitAndWait: %v", err)
		}
		d.collect()
		for _, c := range d.unclaimed {
			if c.UserData == id {
				d.t.Fatalf("request %d completed with %s, and nothing was expected", id, show(c))
			}
		}
		if time.Now().After(deadline) {
			return
		}
	}
}

func show(c CQE) string {
	if errno := errnoOf(c); errno != 0 && !c.Notification() {
		return fmt.Sprintf("res=%d (%v) flags=%#x", c.Res, errno, c.Flags)
	}
	return fmt.Sprintf("res=%d flags=%#x", c.Res, c.Flags)
}

// errnoOf is the error that a completion carries, or 0.
func errnoOf(c CQE) syscall.Errno { return syscall.Errno(-min(c.Res, 0)) }

// eventually polls what the kernel changes in its own time and gives no event for.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// mapped is memory off the Go heap, as requests need it, until the end of the test.
func mapped(t testing.TB, size int) []byte {
	t.Helper()
	m, err := mapAnonymous(size)
	if err != nil {
		t.Fatalf("map %d bytes: %v", size, err)
	}
	t.Cleanup(func() {
		if err := unmap(m); err != nil {
			t.Errorf("unmap: %v", err)
		}
	})
	return m
}

// noise is mapped memory that repeats nowhere, so that displaced bytes show.
func noise(t testing.TB, size int) []byte {
	t.Helper()
	m := mapped(t, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(m)
	return m
}

// gather lays out a Msghdr that names parts of mem, in mapped memory of its own.
func gather(t testing.TB, parts ...[]byte) *Msghdr {
	t.Helper()
	m := NewMsghdr(mapped(t, MsghdrSize(len(parts))))
	m.Reset()
	for _, p := range parts {
		m.Append(addressOf(p), uint32(len(p)))
	}
	return &m
}

func newEventFD(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatalf("eventfd: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}
