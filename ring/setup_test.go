//go:build linux

package ring

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// withLadder lets New choose from these flags only, until the end of the test.
func withLadder(t testing.TB, rungs *[]uint32, flags ...uint32) {
	old := *rungs
	*rungs = flags
	t.Cleanup(func() { *rungs = old })
}

// setupReleases are the kernels that brought the flags of io_uring_setup(2).
var setupReleases = []struct {
	flag        uint32
	name, since string
}{
	{SetupNoSQArray, "NO_SQARRAY", "6.6"},
	{SetupDeferTaskrun, "DEFER_TASKRUN", "6.1"},
	{SetupSingleIssuer, "SINGLE_ISSUER", "6.0"},
	{SetupCoopTaskrun, "COOP_TASKRUN", "5.19"},
	{SetupSubmitAll, "SUBMIT_ALL", "5.18"},
	{SetupSQPoll, "submission by a kernel thread", "5.11"},
}

func TestEveryRungOfTheLadderWorks(t *testing.T) {
	for _, l := range []struct {
		rungs  *[]uint32
		config Config
	}{
		{&ladder, Config{Entries: 8}},
		{&sqPollLadder, Config{Entries: 8, SQPoll: true}},
	} {
		for _, flags := range *l.rungs {
			t.Run(fmt.Sprintf("%#x", flags), func(t *testing.T) {
				for _, f := range setupReleases {
					if flags&f.flag != 0 {
						needsRelease(t, f.since, f.name)
					}
				}
				withLadder(t, l.rungs, flags)
				d := newRing(t, l.config)
				if got := d.SetupFlags() &^ (SetupCQSize | SetupClamp); got != flags {
					t.Fatalf("set up with %#x", got)
				}
				exercise(t, d)
			})
		}
	}
}

// exercise does what differs between setups: wrapping the queue, inline completions,
// completions that arrive later, and a wait with a time limit.
func exercise(t *testing.T, d *driver) {
	for range 5 * d.SQEntries() {
		if c := d.do((*SQE).PrepNop); c.Res != 0 {
			t.Fatalf("NOP: %s", show(c))
		}
	}
	local, peer := unixPair(t)
	mem := noise(t, 1000)
	readable := d.start(func(e *SQE) { e.PrepPoll(local.fd, unix.POLLIN) })
	if err := d.SubmitAndWait(1, time.Millisecond); err != nil || d.Ready() != 0 {
		t.Fatalf("waiting for nothing: error %v, %d ready", err, d.Ready())
	}
	peer.send(mem)
	if c := d.await(readable); c.Res&unix.POLLIN == 0 {
		t.Fatalf("poll: %s", show(c))
	}
	local.expect(mem)
	if c := d.do(func(e *SQE) { e.PrepSend(local.fd, addressOf(mem), 1000, 0) }); c.Res != 1000 {
		t.Fatalf("send: %s", show(c))
	}
	peer.expect(mem)
}

func TestSetupStepsDownTheLadderOnEINVAL(t *testing.T) {
	needsRelease(t, "5.18", "SUBMIT_ALL")
	const unknown = 1 << 31
	withLadder(t, &ladder, unknown, SetupSQPoll|SetupDeferTaskrun, SetupSubmitAll, 0)
	d := newRing(t, Config{Entries: 8})
	if got := d.SetupFlags() &^ (SetupCQSize | SetupClamp); got != SetupSubmitAll {
		t.Errorf("set up with %#x, want the first rung that the kernel takes", got)
	}
}

func TestSetupFailsWithTheLastError(t *testing.T) {
	withLadder(t, &ladder, 1<<31)
	r, err := New(Config{})
	if r != nil || !isA(err, syscall.EINVAL) {
		t.Errorf("New on a ladder without a foothold: %v", err)
	}
}

func TestZeroConfigIsARingOf256(t *testing.T) {
	d := newRing(t, Config{})
	if d.SQEntries() != 256 || d.CQEntries() != 8*256 {
		t.Errorf("%d entries, %d completions", d.SQEntries(), d.CQEntries())
	}
}

func TestEntriesAreRoundedUpAndClamped(t *testing.T) {
	for asked, want := range map[uint32]int{1: 1, 5: 8, 1 << 20: 1 << 15} {
		d := newRing(t, Config{Entries: asked})
		if d.SQEntries() != want {
			t.Errorf("asked for %d entries, got %d, want %d", asked, d.SQEntries(), want)
		}
		d.close()
	}
}

func TestSQPollSendsWithoutSystemCalls(t *testing.T) {
	d := newRing(t, Config{Entries: 8, SQPoll: true, SQPollIdle: time.Minute})
	local, peer := unixPair(t)
	mem := noise(t, 64)
	d.do((*SQE).PrepNop) // the kernel's thread starts asleep
	enters := d.enters
	for i := range 200 {
		id := d.start(func(e *SQE) { e.PrepSend(local.fd, addressOf(mem), 64, 0) })
		eventually(t, "a send by the kernel's thread", func() bool { return d.Ready() > 0 })
		if c := d.await(id); c.Res != 64 {
			t.Fatalf("send %d: %s", i, show(c))
		}
		peer.expect(mem)
	}
	if d.enters != enters {
		t.Errorf("%d calls of io_uring_enter", d.enters-enters)
	}
}

func TestSubmitWakesASleepingSQPollThread(t *testing.T) {
	d := newRing(t, Config{Entries: 8, SQPoll: true})
	asleep := func() bool { return d.sqLoadFlags()&SQNeedWakeup != 0 }
	for range 3 {
		eventually(t, "the kernel's thread sleeps", asleep)
		enters := d.enters
		d.start((*SQE).PrepNop)
		if d.enters != enters+1 {
			t.Fatalf("%d calls of io_uring_enter to wake it, want 1", d.enters-enters)
		}
		eventually(t, "a completion", func() bool { return d.Ready() > 0 })
		d.collect()
	}
}

// io_uring_setup takes whole milliseconds, and reads 0 as a second.
func TestShortSQPollIdleIsNotASecond(t *testing.T) {
	for attempt := 1; ; attempt++ {
		d := newRing(t, Config{Entries: 8, SQPoll: true, SQPollIdle: time.Microsecond})
		d.do((*SQE).PrepNop) // it starts asleep
		start := time.Now()
		eventually(t, "the kernel's thread sleeps", func() bool { return d.sqLoadFlags()&SQNeedWakeup != 0 })
		took := time.Since(start)
		d.close()
		if took < time.Second/2 {
			return
		}
		if attempt == 3 { // once or twice may be a loaded machine
			t.Fatalf("the kernel's thread spun for %v", took)
		}
	}
}

func TestSharedRingServesAnyThread(t *testing.T) {
	r, err := New(Config{Entries: 8, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.SetupFlags()&(SetupSingleIssuer|SetupDeferTaskrun) != 0 || r.enterFlags != 0 {
		t.Errorf("a shared ring is tied to its thread: setup %#x, enter %#x", r.SetupFlags(), r.enterFlags)
	}
	runtime.LockOSThread() // the subtests run on other threads
	defer runtime.UnlockOSThread()
	t.Run("submit", func(t *testing.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		exercise(t, &driver{t: t, Ring: r})
	})
	t.Run("close", func(t *testing.T) {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseGivesTheThreadsRingSlotsBack(t *testing.T) {
	needs(t, "registered ring")
	const slots = 16 // IO_RINGFD_REG_MAX: registered rings per thread
	for i := range 2 * slots {
		d := newRing(t, Config{Entries: 1})
		if d.enterFlags&EnterRegisteredRing == 0 {
			t.Fatalf("ring %d found no slot: those before it kept theirs", i)
		}
		d.close()
	}
}

// What the kernel still holds for a ring shows at the peer of a socket that nothing else
// refers to.
func TestCloseReleasesWhatTheRingHolds(t *testing.T) {
	for _, c := range []struct {
		name string
		hold func(*testing.T, *driver, *socket)
	}{
		{"direct descriptor", func(t *testing.T, d *driver, s *socket) {
			needsRelease(t, "5.19", emptyTables)
			if err := d.RegisterDirect(1); err != nil {
				t.Fatal(err)
			}
			if err := d.SetDirect(0, s.fd); err != nil {
				t.Fatal(err)
			}
		}},
		{"request in flight", func(_ *testing.T, d *driver, s *socket) {
			d.start(func(e *SQE) { e.PrepPoll(s.fd, unix.POLLIN) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newRing(t, Config{Entries: 8})
			local, peer := unixPair(t)
			c.hold(t, d, local)
			local.close()
			d.close()
			peer.expectEnd()
		})
	}
}

func TestCloseEndsTheSQPollThread(t *testing.T) {
	d := newRing(t, Config{Entries: 8, SQPoll: true})
	d.do((*SQE).PrepNop)
	d.close()
	if d.FD() != -1 || d.SQEntries() != 0 {
		t.Errorf("a closed ring has descriptor %d and %d entries", d.FD(), d.SQEntries())
	}
}
