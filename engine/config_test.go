//go:build linux

package engine

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/internal/leak"
	"sluice/ring"
	"sluice/zc"
)

func TestTheZeroConfigIsValid(t *testing.T) {
	c, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Loops: runtime.GOMAXPROCS(0), MaxConns: 65_536, HighWater: 1 << 20, LowWater: 256 << 10, MaxQueued: 16 << 20, InputLimit: 64 << 10,
		WriteStall: 30 * time.Second, IdleTimeout: 75 * time.Second, Linger: 5 * time.Second, DrainTimeout: 10 * time.Second,
		PressureStall: 5 * time.Second, PinLimit: 10 * time.Minute,
	}
	c.CPUs = nil
	if c.Loops != want.Loops || c.MaxConns != want.MaxConns || c.HighWater != want.HighWater || c.LowWater != want.LowWater ||
		c.MaxQueued != want.MaxQueued || c.InputLimit != want.InputLimit || c.WriteStall != want.WriteStall ||
		c.IdleTimeout != want.IdleTimeout || c.Linger != want.Linger || c.DrainTimeout != want.DrainTimeout ||
		c.PressureStall != want.PressureStall || c.PinLimit != want.PinLimit || c.LagAfter != 0 || c.Laggards != Demote {
		t.Errorf("the defaults are %+v, want %+v as documented", c, want)
	}
}

func TestConfigsWithoutMeaningAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		says string // part of the error
	}{
		{"negative loops", Config{Loops: -1}, "-1 loops"},
		{"too many loops", Config{Loops: maxLoops + 1}, "1025 loops"},
		{"negative arena", Config{ArenaSize: -1}, "arena of -1 bytes"},
		{"an arena past the limit", Config{ArenaSize: bufreg.MaxSize + 1}, "arena of"},
		{"no connections", Config{MaxConns: -1}, "at most -1 connections"},
		{"negative high water", Config{HighWater: -1}, "high water -1"},
		{"negative low water", Config{LowWater: -1}, "low water -1"},
		{"low above high", Config{LowWater: 10, HighWater: 9}, "they must be positive and rise"},
		{"a high water too low for a quarter", Config{HighWater: 3}, "low water 0"},
		{"limit below high", Config{HighWater: 100, MaxQueued: 99}, "queue limit 99"},
		{"input limit below a receive", Config{InputLimit: recvBufferSize - 1}, "input limit of 4095 bytes"},
		{"negative input limit", Config{InputLimit: -1}, "input limit of -1 bytes"},
		{"negative stall", Config{WriteStall: -time.Second}, "write stall -1s"},
		{"a stall below a millisecond", Config{WriteStall: time.Microsecond}, "write stall 1µs"},
		{"a pin limit below the stall", Config{WriteStall: time.Minute, PinLimit: time.Second}, "pin limit of 1s"},
		{"negative lag", Config{LagAfter: -1}, "after -1ns"},
		{"a lag of a round trip", Config{LagAfter: minLag - 1}, "after 10ms or more"},
		{"unknown laggards", Config{LagAfter: time.Second, Laggards: CutOff + 1}, "use Demote or CutOff"},
		{"a cut without a time", Config{Laggards: CutOff}, "LagAfter does not say when"},
		{"negative pins", Config{MaxPinned: -1}, "at most -1 pinned bytes"},
		{"negative linger", Config{Linger: -1}, "linger -1ns"},
		{"negative drain", Config{DrainTimeout: -1}, "drain -1ns"},
		{"negative spin", Config{Spin: -1}, "spin -1ns"},
		{"an unknown mode", Config{Policy: zc.Policy{Mode: zc.Off + 1}}, "zero-copy mode 3"},
		{"a threshold with Off", Config{Policy: zc.Policy{Mode: zc.Off, Threshold: 1}}, "with Mode Off"},
		{"a negative threshold", Config{Policy: zc.Policy{Mode: zc.Fixed, Threshold: -1}}, "threshold of -1 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := New(c.cfg)
			if err == nil {
				stopEngine(t, e)
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %q, and does not say %q", err, c.says)
			}
		})
	}
}

func TestConfigsAtTheirLimitsAreAccepted(t *testing.T) {
	for _, c := range []Config{
		{Loops: maxLoops},
		{ArenaSize: bufreg.MaxSize},
		{MaxConns: 1},
		{HighWater: 1, LowWater: 1, MaxQueued: 1},
		{HighWater: 4, MaxQueued: 4},
		{InputLimit: recvBufferSize},
		{WriteStall: time.Millisecond, Linger: time.Millisecond},
		{WriteStall: time.Hour},
		{WriteStall: time.Minute, PinLimit: time.Minute},
		{LagAfter: minLag, Laggards: CutOff},
		{IdleTimeout: -1},
		{Policy: zc.Policy{Mode: zc.Fixed}},
	} {
		if _, err := c.withDefaults(); err != nil {
			t.Errorf("%+v is refused: %v", c, err)
		}
	}
}

func TestLoopsArePinned(t *testing.T) {
	e := newEngine(t, Config{Loops: 2, CPUs: []int{0}})
	if e.Loops() != 2 {
		t.Errorf("%d loops, want 2", e.Loops())
	}
	for _, l := range e.loops {
		onLoop(t, l, func() {
			var set unix.CPUSet
			if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() != 1 || !set.IsSet(0) {
				t.Errorf("loop %d may run on %d processors, %v; want the first only", l.id, set.Count(), err)
			}
		})
	}
}

// TestAPinnedThreadIsNotLeftToOthers: the runtime would run any goroutine on it.
func TestAPinnedThreadIsNotLeftToOthers(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one processor: a pinned thread looks like any other")
	}
	e := newEngine(t, Config{CPUs: []int{0}})
	var thread int
	onLoop(t, e.loops[0], func() { thread = unix.Gettid() })
	stopEngine(t, e)
	eventually(t, "the end of the pinned thread, or its freedom", func() bool {
		var set unix.CPUSet
		return unix.SchedGetaffinity(thread, &set) != nil || set.Count() > 1
	})
}

func TestPinningToACPUThatIsNotThereFails(t *testing.T) {
	before := leak.Now()
	_, err := New(Config{Loops: 1, ArenaSize: 1 << 20, CPUs: []int{maxLoops - 1}})
	if errors.Is(err, ring.ErrUnsupported) {
		t.Skip(err)
	}
	if err == nil || !strings.Contains(err.Error(), "pin loop 0 to CPU 1023") {
		t.Errorf("New: %v, want that it names the loop and the CPU", err)
	}
	if left := leak.Since(before); len(left) != 0 {
		t.Errorf("New failed and left %q behind", left)
	}
}

func TestTheArenaIsAsLargeAsAskedFor(t *testing.T) {
	e := newEngine(t, Config{ArenaSize: 3 << 20})
	if got := e.ArenaSize(); got != 3<<20 {
		t.Errorf("an arena of %d bytes, want 3 MiB", got)
	}
}

func TestCopyOnlySendsNothingByZeroCopy(t *testing.T) {
	e := newEngine(t, Config{CopyOnly: true, Policy: everything})
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) { sendPieces(t, c, 0, 200_000, 1) })
	k.peer.hear(poolBytes(0, 200_000))
	if st := settled(t, e); st.Sends.By[zc.Copy][zc.PolicyOff].Bytes != 200_000 {
		t.Errorf("%s; want copies only", taken(st))
	}
}

func TestLoopsBeginToLearnAtThePolicysThreshold(t *testing.T) {
	e := newEngine(t, Config{Policy: zc.Policy{Threshold: 4096}})
	needs(t, e, "SEND_ZC")
	onLoop(t, e.loops[0], func() {
		f := e.loops[0].learner.Flow(zc.PathKey{Device: "another"})
		if got := f.Path().Threshold(); got != 4096 {
			t.Errorf("a new path begins with zero-copy at %d bytes, want 4096", got)
		}
	})
}

func TestRoutesSayWhatThePolicyMeans(t *testing.T) {
	e := newEngine(t, Config{})
	threshold := e.loops[0].can.Threshold // the kernel's
	for _, c := range []struct {
		policy zc.Policy
		first  string
		lines  int
	}{
		{copying, "zero-copy: never (policy-off)", 3},
		{zc.Policy{Mode: zc.Fixed, Threshold: 12345}, "zero-copy: sends of 12345 bytes or more, to every peer", 2},
		{zc.Policy{}, fmt.Sprintf("zero-copy: sends of %d bytes or more", threshold), 3},
		{zc.Policy{Threshold: 4096}, "zero-copy: sends of 4096 bytes or more", 3},
		{zc.Policy{Threshold: zc.NoSize}, "zero-copy: nothing, until traffic teaches that it pays", 3},
	} {
		e := newEngine(t, Config{Policy: c.policy})
		if got := e.Routes(); len(got) != c.lines || got[0] != c.first {
			t.Errorf("policy %+v: %q, want %d lines and %q first", c.policy, got, c.lines, c.first)
		}
	}
}
