//go:build linux

package ring

import (
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestEntriesAreZeroedOnReuse(t *testing.T) {
	d := newRing(t, Config{Entries: 4})
	local, peer := unixPair(t)
	mem := noise(t, 64)
	for range 3 * d.SQEntries() {
		for i := range d.sqes {
			raw := (*[64]byte)(unsafe.Pointer(&d.sqes[i]))
			for j := range raw {
				raw[j] = 0xa5 // also what has no name in SQE
			}
		}
		c := d.do(func(e *SQE) {
			if raw := *(*[64]byte)(unsafe.Pointer(e)); raw != [64]byte{} {
				t.Fatalf("SQE hands out %x", raw)
			}
			e.PrepSend(local.fd, addressOf(mem), uint32(len(mem)), 0)
		})
		if int(c.Res) != len(mem) {
			t.Fatalf("a send from a reused entry ended with %v", errnoOf(c))
		}
		peer.expect(mem)
	}
}

// The check above is worth something only if the kernel minds stale fields.
func TestStaleFieldTurnsASendIntoEINVAL(t *testing.T) {
	needs(t, "SEND_ZC")
	d := newRing(t, Config{Entries: 4})
	local, _ := tcpPair(t)
	mem := mapped(t, 64)
	c := d.do(func(e *SQE) {
		e.PrepSendZC(local.fd, addressOf(mem), 64, 0, 0)
		leaveStale(e)
	})
	if errnoOf(c) != syscall.EINVAL {
		t.Errorf("SEND_ZC with a stale field: %s", show(c))
	}
}

// leaveStale sets the half of a field that no send uses (__pad3 beside addr_len), as an
// earlier request of another kind would leave it.
func leaveStale(e *SQE) { e.FileIndex = 1 << 16 }

func TestFullQueueHandsOutNothingUntilSubmit(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	for i := range d.SQEntries() {
		if d.Pending() != i {
			t.Fatalf("%d pending after %d entries", d.Pending(), i)
		}
		d.prep((*SQE).PrepNop)
	}
	for range 2 {
		if d.SQE() != nil {
			t.Fatal("a full queue hands out an entry")
		}
	}
	if d.Pending() != d.SQEntries() {
		t.Fatalf("%d of %d pending", d.Pending(), d.SQEntries())
	}
	d.submit()
	if d.Pending() != 0 || d.SQE() == nil {
		t.Errorf("after Submit: %d pending", d.Pending())
	}
	if d.Ready() != d.SQEntries() {
		t.Errorf("%d of %d entries completed", d.Ready(), d.SQEntries())
	}
}

func TestPreparedEntriesWaitForSubmit(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	id := d.prep((*SQE).PrepNop)
	if errno := enterRaw(d.enterFD, 1, EnterGetEvents|d.enterFlags); errno != 0 {
		t.Fatal(errno)
	}
	if d.Ready() != 0 || d.Pending() != 1 {
		t.Fatalf("before Submit %d ready, %d pending", d.Ready(), d.Pending())
	}
	d.submit()
	if c := d.await(id); c.Res != 0 {
		t.Errorf("NOP: %s", show(c))
	}
}

func TestSubmitAndWaitReturnsWhenEnoughAreReady(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	for range 3 {
		d.prep((*SQE).PrepNop)
	}
	if err := d.SubmitAndWait(3, 0); err != nil || d.Ready() != 3 {
		t.Errorf("error %v, %d of 3 ready", err, d.Ready())
	}
}

func TestSubmitAndWaitReturnsNilAfterTimeout(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	const timeout = 20 * time.Millisecond
	start := time.Now()
	err := d.SubmitAndWait(1, timeout)
	if took := time.Since(start); err != nil || took < timeout || d.Ready() != 0 {
		t.Errorf("after %v: error %v, %d ready", took, err, d.Ready())
	}
}

func TestTimeoutsPastASecondKeepTheirSeconds(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	d.prep((*SQE).PrepNop)
	if err := d.SubmitAndWait(1, 3*time.Second+5); err != nil {
		t.Fatal(err)
	}
	if want := (Timespec{3, 5}); d.scratch.ts != want {
		t.Errorf("the kernel was given %+v, want %+v", d.scratch.ts, want)
	}
}

// storm interrupts the calling thread with the runtime's own preemption signal, without
// a pause, until stop is called.
func storm(t testing.TB) (stop func()) {
	pid, tid := unix.Getpid(), unix.Gettid()
	var over atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !over.Load() {
			if err := unix.Tgkill(pid, tid, unix.SIGURG); err != nil {
				t.Errorf("tgkill: %v", err)
				return
			}
			runtime.Gosched()
		}
	}()
	return func() { over.Store(true); <-done }
}

func TestSignalEndsTheWaitWithoutAnError(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	defer storm(t)()
	start := time.Now()
	err := d.SubmitAndWait(1, patience)
	if err != nil || time.Since(start) >= patience {
		t.Errorf("after %v: error %v", time.Since(start), err)
	}
}

func TestSignalsLoseNoCompletion(t *testing.T) {
	d := newRing(t, Config{Entries: 64})
	defer storm(t)()
	for range 200 {
		var ids []uint64
		for range d.SQEntries() {
			ids = append(ids, d.prep((*SQE).PrepNop))
		}
		for _, id := range ids {
			d.await(id)
		}
	}
	if len(d.unclaimed) != 0 {
		t.Errorf("%d completions too many", len(d.unclaimed))
	}
}

func TestErrorsOfEnterReachTheCaller(t *testing.T) {
	r := Ring{scratch: new(scratch), enterFD: -1}
	r.sqHead, r.sqKTail, r.sqFlags = new(uint32), new(uint32), new(uint32)
	if err := r.Submit(); !errors.Is(err, syscall.EBADF) {
		t.Errorf("submitting to a closed descriptor: %v", err)
	}
}

func TestAnotherThreadMayNotSubmit(t *testing.T) {
	needs(t, "deferred task work", "registered ring")
	d := newRing(t, Config{Entries: 8})
	// The subtest's goroutine runs on another thread: this one is locked to its own.
	t.Run("other thread", func(t *testing.T) {
		d.SQE().PrepNop()
		// A registered index means nothing here; the descriptor itself means the same ring.
		if err := d.Submit(); err != syscall.EBADF && err != syscall.EINVAL {
			t.Errorf("Submit: %v", err)
		}
		if errno := enter(d.FD(), 1, 0, EnterGetEvents, nil, 0); errno != syscall.EEXIST {
			t.Errorf("io_uring_enter on the descriptor: %v", errno)
		}
	})
	if d.Ready() != 0 {
		t.Error("the request ran")
	}
}
