package zc

import (
	"testing"
	"time"
)

// conns are connections of one path, and a clock.
type conns struct {
	tb      testing.TB
	learner *Learner
	now     int64
	flows   []Flow
}

func newConns(tb testing.TB, n int) *conns {
	c := &conns{tb: tb, learner: NewLearner(modern.Threshold, 0)}
	for range n {
		c.flows = append(c.flows, c.learner.Flow(PathKey{}))
	}
	return c
}

func (c *conns) wait(d time.Duration) {
	c.now += int64(d)
	c.learner.Turn(c.now)
}

func (c *conns) route(i, n int) Decision {
	segments := [1]uint32{uint32(n)}
	return Policy{}.Route(modern, Socket{Flow: &c.flows[i]}, segments[:])
}

func (c *conns) want(i, n int, r Route, why Reason) {
	c.tb.Helper()
	if d := c.route(i, n); d.Route != r || d.Reason != why {
		c.tb.Errorf("connection %d: %d bytes by %v (%v), want %v (%v)", i, n, d.Route, d.Reason, r, why)
	}
}

// report has connection i report so many times.
func (c *conns) report(i, times, n int, alone, copied bool) {
	for range times {
		c.flows[i].Reported(n, alone, copied)
	}
}

// work completes a large send, and says how much work that is.
func (c *conns) work(f *Flow) int64 {
	before := c.learner.work
	c.learner.Worked(f, Copy, large)
	return c.learner.work - before
}

const large = 64 * kib

func TestARunOfCopiedTurnsZeroCopyOff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		report func(c *conns)
		off    bool
	}{
		{"too few", func(c *conns) { c.report(0, copiedRun-1, large, false, true) }, false},
		{"enough", func(c *conns) { c.report(0, copiedRun, large, false, true) }, true},
		{"small sends that may have shared an skb", func(c *conns) { c.report(0, 1000, large-1, false, true) }, false},
		{"small sends alone", func(c *conns) { c.report(0, copiedRun, 100, true, true) }, true},
		{"a proof between", func(c *conns) {
			c.report(0, copiedRun-1, large, false, true)
			c.report(0, 1, 100, false, false)
			c.report(0, copiedRun-1, large, false, true)
		}, false},
		{"untrusted between", func(c *conns) {
			c.report(0, copiedRun-1, large, false, true)
			c.report(0, 5, 100, false, true)
			c.report(0, 1, large, false, true)
		}, true},
		{"proof afterwards", func(c *conns) {
			c.report(0, copiedRun, large, false, true)
			c.report(0, 1, large, false, false) // sent before it was turned off
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newConns(t, 1)
			tt.report(c)
			if tt.off {
				c.want(0, large, Copy, PathCopies)
				c.want(0, 1, Copy, PathCopies)
			} else {
				c.want(0, large, ZeroCopy, AboveThreshold)
				c.want(0, 1, Copy, BelowThreshold)
			}
		})
	}
}

func TestOneConnectionDoesNotTurnOffItsPath(t *testing.T) {
	c := newConns(t, 2)
	c.report(0, 1000, large, false, true)
	c.want(0, large, Copy, PathCopies)
	c.want(1, large, ZeroCopy, AboveThreshold)
	if c.learner.Explain()[0].Copies {
		t.Error("the path is said to copy")
	}
}

func TestAPathIsTurnedOffByFourConnectionsAndNewOnesInherit(t *testing.T) {
	c := newConns(t, 5)
	for i := range 3 {
		c.report(i, copiedRun, large, false, true)
	}
	c.want(4, large, ZeroCopy, AboveThreshold)
	c.report(3, copiedShare, large, false, true)
	c.want(4, large, Copy, PathCopies)
	c.flows = append(c.flows, c.learner.Flow(PathKey{}), c.learner.Flow(PathKey{Device: "other"}))
	c.want(5, large, Copy, PathCopies)
	c.want(6, large, ZeroCopy, AboveThreshold)
	if !c.learner.Explain()[0].Copies {
		t.Error("the path is not said to copy")
	}
}

func TestAPathOnWhichOthersAreZeroCopiedStaysOn(t *testing.T) {
	c := newConns(t, 20)
	for i := range 19 {
		c.report(i, copiedRun, large, false, true)
		c.report(19, 1, large, false, false)
	}
	c.want(0, large, Copy, PathCopies)
	c.want(19, large, ZeroCopy, AboveThreshold)
}

func TestProbesGetRarer(t *testing.T) {
	c := newConns(t, 1)
	c.report(0, copiedRun, large, false, true)
	want := []time.Duration{1, 2, 4, 8, 16, 32}
	for range 2 * copiedRun {
		want = append(want, 64)
	}
	for i, s := range want {
		c.wait(s*time.Second - 1)
		c.want(0, large, Copy, PathCopies)
		c.wait(1)
		c.want(0, 1, Copy, PathCopies) // what would not be zero-copy anyway is no probe
		c.want(0, large, ZeroCopy, Probe)
		c.want(0, large, Copy, PathCopies)
		c.report(0, 1, large, false, true)
		if got := c.learner.Explain()[0].Probes; got != uint64(i+1) {
			t.Fatalf("%d probes, want %d", got, i+1)
		}
	}
}

func TestAProbeThatIsNotCopiedTurnsZeroCopyOn(t *testing.T) {
	c := newConns(t, 6)
	for i := range 5 {
		c.report(i, copiedRun, large, false, true)
	}
	c.want(5, large, Copy, PathCopies)
	c.wait(time.Second)
	c.want(5, large, ZeroCopy, Probe)
	c.report(5, 1, large, false, false)
	c.want(5, large, ZeroCopy, AboveThreshold)
	c.want(0, large, ZeroCopy, Probe) // others find out for themselves
	c.want(0, large, Copy, PathCopies)
	c.report(0, 1, 100, false, false)
	c.want(0, large, ZeroCopy, AboveThreshold)
	c.report(0, copiedRun, large, false, true) // and back off, with probes from the start
	c.wait(time.Second)
	c.want(0, large, ZeroCopy, Probe)
}

func TestPeersOnThisHostAreProbedRarely(t *testing.T) {
	c := newConns(t, 0)
	c.flows = []Flow{c.learner.Flow(PathKey{Local: true})}
	c.wait(64*time.Second - 1)
	c.want(0, large, Copy, PathCopies)
	c.wait(1)
	c.want(0, large, ZeroCopy, Probe)
	c.wait(64*time.Second - 1)
	c.want(0, large, Copy, PathCopies)
}

func TestAPathThatCopiesIsNotTried(t *testing.T) {
	r := newRig(1, quiet, 3)
	s := r.add(PathKey{}, breakEven(8*kib), 16, 64*kib)
	for r.learner.trial.path == nil {
		r.turn()
	}
	for range 4 {
		f := r.learner.Flow(PathKey{})
		for range copiedRun {
			f.Reported(large, false, true)
		}
	}
	if p := s.flow.path; r.learner.trial.path != nil || p.flip != 0 || r.learner.Stats().Abandoned != 1 {
		t.Errorf("flip %b, %+v", p.flip, r.learner.Stats())
	}
	reads := r.reads
	if r.run(second / 2); r.reads != reads {
		t.Errorf("%d reads of the clock on a path that copies", r.reads-reads)
	}
}

// Traffic from before the path was turned off does not lead to a trial after it, and copies
// on it are not in question.
func TestWhatAPathThatCopiesSendsIsNotContested(t *testing.T) {
	c := newConns(t, 5)
	f := &c.flows[4]
	before := c.work(f)
	for i := range 4 {
		c.report(i, copiedRun, large, false, true)
	}
	c.work(f)
	if got := f.path.sizes[sizeOf(large)].work; got != before {
		t.Errorf("%d bytes of work are in question, want the %d of before", got, before)
	}
	c.learner.work += lookWork
	f.path.sizes[sizeOf(large)].work += lookWork // as if all that had been before
	if c.wait(1); c.learner.trial.path != nil {
		t.Error("a path that copies is tried")
	}
}

// What is learned counts in mode Adaptive only, and only where zero-copy is possible.
func TestPolicyBeforeLearning(t *testing.T) {
	c := newConns(t, 1)
	c.report(0, copiedRun, large, false, true)
	f := &c.flows[0]
	f.path.zeroCopy = allSizes
	fresh := c.learner.Flow(PathKey{})
	for _, tt := range []struct {
		name   string
		policy Policy
		kernel Kernel
		socket Socket
		n      uint32
		want   Decision
	}{
		{"adaptive, off", Policy{}, modern, Socket{Flow: f}, large, Decision{Copy, PathCopies, 1, false}},
		{"adaptive, below the kernel's threshold", Policy{}, modern, Socket{Flow: &fresh}, 100, Decision{ZeroCopy, AboveThreshold, 1, false}},
		{"fixed", Policy{Fixed, kib}, modern, Socket{Flow: f}, kib, Decision{ZeroCopy, FixedPolicy, 1, false}},
		{"fixed, below", Policy{Fixed, kib}, modern, Socket{Flow: &fresh}, kib - 1, Decision{Copy, FixedPolicy, 1, false}},
		{"off", Policy{Mode: Off}, modern, Socket{Flow: &fresh}, large, Decision{Copy, PolicyOff, 1, false}},
		{"kTLS", Policy{}, modern, Socket{Kind: TLSSocket, Flow: &fresh}, large, Decision{Copy, KTLS, 1, false}},
		{"no SEND_ZC", Policy{}, Kernel{}, Socket{Flow: &fresh}, large, Decision{Copy, NoSendZC, 1, false}},
		{"what is learned knows better than the address", Policy{}, modern, Socket{Local: true, Flow: &fresh}, large, Decision{ZeroCopy, AboveThreshold, 1, false}},
	} {
		if got := tt.policy.Route(tt.kernel, tt.socket, []uint32{tt.n}); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// A header that is copied before its body is no probe: the body is.
func TestAProbeOnAKernelWithoutFixedVectorsIsTheBody(t *testing.T) {
	c := newConns(t, 1)
	c.report(0, copiedRun, large, false, true)
	c.wait(time.Second)
	s := Socket{Flow: &c.flows[0]}
	for _, step := range []struct {
		segments []uint32
		want     Decision
	}{
		{[]uint32{200, large}, Decision{Copy, NoFixedVectors, 1, true}},
		{[]uint32{large}, Decision{ZeroCopy, Probe, 1, false}},
		{[]uint32{200, large}, Decision{Copy, PathCopies, 2, false}},
	} {
		if got := (Policy{}).Route(noVectors, s, step.segments); got != step.want {
			t.Errorf("%v: %+v, want %+v", step.segments, got, step.want)
		}
	}
}

func TestPaysIsNoProbe(t *testing.T) {
	c := newConns(t, 1)
	c.report(0, copiedRun, large, false, true)
	c.wait(time.Second)
	for range 3 {
		if ok, why := (Policy{}).Pays(modern, Socket{Flow: &c.flows[0]}, large); !ok || why != Probe {
			t.Errorf("%v, %v; want a probe", ok, why)
		}
	}
	if got := c.learner.Explain()[0].Probes; got != 0 {
		t.Errorf("%d probes", got)
	}
}
