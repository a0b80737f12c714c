package zc

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

var costsFlag = flag.Int("costs", 15, "how many random costs learning is tried with")

// costs are a synthetic path: what a send costs the loop's thread, in ns. A copy takes 1 µs
// and 0.1 ns a byte.
type costs struct {
	name     string
	perByte  float64 // of zero-copy
	extra    float64 // of a zero-copy send, over a copy's 1 µs
	notified float64 // of that, at the notification
}

// breakEven is a path on which zero-copy pays from n bytes on.
func breakEven(n int) costs {
	extra := 0.08 * float64(n)
	return costs{fmt.Sprintf("break-even at %d", n), 0.02, extra, min(extra, notification)}
}

var (
	never  = costs{"never", 0.115, 300, 300} // it copies, and does not say so
	always = costs{"always", 0.02, 0, 0}
	models = []costs{breakEven(600), breakEven(8 * kib), breakEven(64 * kib), never, always}
)

// noise is what keeps a measurement from being exact.
type noise struct {
	name   string
	send   float64 // standard deviation of each send's cost, as a share of it
	turn   float64 // of each turn's
	spikes float64 // share of the turns that cost tenfold
	drift  float64 // by how much the machine slows down and recovers, over a second of work
}

var (
	quiet  = noise{name: "quiet"}
	shaky  = noise{name: "30 % a send, 10 % a turn", send: 0.3, turn: 0.1}
	noises = []noise{
		quiet,
		shaky,
		{name: "30 % a turn", turn: 0.3},
		{name: "spikes", turn: 0.1, spikes: 0.002},
		{name: "drift", turn: 0.1, drift: 0.3},
	}
)

// stream is traffic of one connection.
type stream struct {
	flow  Flow
	model costs
	sizes []int
	each  int // sends in a turn
}

// rig is a loop that sends streams over synthetic paths.
type rig struct {
	learner *Learner
	rng     *rand.Rand
	noise   noise
	latency int // turns until a notification
	streams []*stream

	turns  int
	cpu    float64 // ns, with noise
	reads  int     // of the clock
	strays int     // of them, outside of a trial
	done   []sent
	due    [][]sent // by the turn of the notification, modulo latency
	busy   float64  // ns without noise
	copied float64  // ns, had everything been copied
	zeroed float64  // ns, had nothing been
	trying float64  // ns while a trial ran
}

type sent struct {
	s     *stream
	route Route
	n     int
	later float64 // ns at the notification
}

func newRig(seed uint64, n noise, latency int) *rig {
	return &rig{learner: NewLearner(modern.Threshold, seed), rng: rand.New(rand.NewPCG(seed, 5)), noise: n, latency: latency, due: make([][]sent, latency)}
}

func (r *rig) add(key PathKey, model costs, each int, sizes ...int) *stream {
	s := &stream{flow: r.learner.Flow(key), model: model, sizes: sizes, each: each}
	r.streams = append(r.streams, s)
	return s
}

func (r *rig) spend(ns, factor float64) {
	r.busy += ns
	r.cpu += ns * factor
}

// turn is one turn of the loop.
func (r *rig) turn() {
	before := r.busy
	factor := max(0.1, 1+r.noise.turn*r.rng.NormFloat64())
	if r.noise.spikes > 0 && r.rng.Float64() < r.noise.spikes {
		factor *= 10
	}
	factor *= 1 + r.noise.drift*math.Sin(r.busy/1e9*2*math.Pi)
	due := &r.due[r.turns%r.latency]
	for _, d := range *due {
		r.spend(d.later, factor)
		r.learner.Notified()
	}
	*due = (*due)[:0]
	for _, d := range r.done {
		r.learner.Worked(&d.s.flow, d.route, d.n)
	}
	r.done = r.done[:0]
	if r.learner.Turn(int64(r.turns) * 1e5) {
		r.reads++
		if r.learner.trial.path == nil {
			r.strays++
		}
		r.learner.Measured(int64(r.cpu))
	}
	for _, s := range r.streams {
		for range s.each {
			n := s.sizes[0]
			if len(s.sizes) > 1 {
				n = s.sizes[r.rng.IntN(len(s.sizes))]
			}
			segments := [1]uint32{uint32(n)}
			route := Policy{}.Route(modern, Socket{Flow: &s.flow}, segments[:]).Route
			f := factor
			if r.noise.send > 0 {
				f *= 1 + r.noise.send*math.Sqrt(3)*(2*r.rng.Float64()-1)
			}
			c := 1000 + 0.1*float64(n)
			z := 1000 + s.model.extra + s.model.perByte*float64(n)
			r.copied += c
			r.zeroed += z
			if route == Copy {
				r.spend(c, f)
			} else {
				r.spend(z-s.model.notified, f)
				*due = append(*due, sent{s, route, n, s.model.notified})
			}
			r.done = append(r.done, sent{s: s, route: route, n: n})
		}
	}
	if r.learner.trial.path != nil {
		r.trying += r.busy - before
	}
	r.turns++
}

func (r *rig) run(work float64) {
	for until := r.busy + work; r.busy < until; {
		r.turn()
	}
}

// against runs on and returns the cost against the better fixed choice.
func (r *rig) against(work float64) (ratio float64) {
	b, c, z := r.busy, r.copied, r.zeroed
	r.run(work)
	return (r.busy - b) / min(r.copied-c, r.zeroed-z)
}

func (r *rig) regret() float64 { return r.busy - min(r.copied, r.zeroed) }

const second = 1e9

// tolerable is what learning may cost against the better fixed choice once it has settled.
const tolerable = 1.03

// Whatever the path, the size and the noise, the loop ends up within 3 % of the better of
// always copying and never copying, trials included, and what it costs to get there is bounded.
func TestLearningSettlesOnTheBetterRoute(t *testing.T) {
	const unsettled, settled = 2 * second, 2.5 * second
	worst, worstRegret, worstTrying, switches := 0.0, 0.0, 0.0, uint64(0)
	for _, m := range models {
		for i, n := range noises {
			for size := kib; size <= 1<<20; size *= 2 {
				if (sizeOf(size)+i)%4 != 0 {
					continue // every fourth, and others for another noise
				}
				r := newRig(uint64(i), n, 3)
				s := r.add(PathKey{}, m, 16, size)
				r.run(unsettled)
				regret := r.regret() / 1e6
				tried, busy := r.trying, r.busy
				ratio := r.against(settled)
				trying := (r.trying - tried) / (r.busy - busy)
				state := r.learner.Explain()[0]
				if ratio > tolerable || regret > 250 || state.Switches > 1 {
					t.Errorf("%s, %s, %d bytes: %.3f of the better choice, %.0f ms lost before, %+v", m.name, n.name, size, ratio, regret, state)
				}
				if zero := r.zeroed < r.copied; math.Abs(r.zeroed/r.copied-1) > 0.03 && s.flow.path.pays(size) != zero && s.flow.path.flip == 0 {
					t.Errorf("%s, %s, %d bytes: zero-copy pays: %v, and the decision is otherwise", m.name, n.name, size, zero)
				}
				worst, worstRegret, worstTrying, switches = max(worst, ratio), max(worstRegret, regret), max(worstTrying, trying), max(switches, state.Switches)
			}
		}
	}
	t.Logf("worst: %.4f of the better choice once settled, %.0f ms lost in the first %.1f s, %.2f %% of the settled work in trials, %d switches",
		worst, worstRegret, unsettled/second, 100*worstTrying, switches)
}

// The same for costs, noise and sizes that chance has chosen: any path with a cost a byte and a cost a send.
func TestLearningSettlesWhateverTheCosts(t *testing.T) {
	worst := 0.0
	for seed := range uint64(*costsFlag) {
		rng := rand.New(rand.NewPCG(seed, 9))
		m := costs{"any", 0.12 * rng.Float64(), notification + 8000*rng.Float64()*rng.Float64(), notification}
		n := noise{send: 0.3 * rng.Float64(), turn: 0.2 * rng.Float64(), spikes: 0.002 * rng.Float64(), drift: 0.3 * rng.Float64()}
		size := 1 << (10 + rng.IntN(11))
		r := newRig(seed, n, 1+rng.IntN(50))
		r.add(PathKey{}, m, 1+rng.IntN(32), size+rng.IntN(size))
		r.run(4 * second)
		ratio := r.against(2 * second)
		if ratio > tolerable {
			t.Errorf("seed %d: %.3f of the better choice, of %d bytes, %+v, %+v: %+v", seed, ratio, r.streams[0].sizes, m, n, r.learner.Explain())
		}
		worst = max(worst, ratio)
	}
	t.Logf("worst: %.4f", worst)
}

// A file server's mix, on two cards and to peers that copy: each has its own best route, so
// that learning beats both fixed choices.
func TestMixedTrafficIsLearnedBySizeAndPath(t *testing.T) {
	for _, n := range noises {
		r := newRig(7, n, 3)
		fast := r.add(PathKey{Device: "eth0"}, breakEven(8*kib), 20, 1*kib, 4*kib, 16*kib, 64*kib, 256*kib)
		slow := r.add(PathKey{Device: "eth1"}, never, 5, 2*kib, 16*kib, 64*kib, 256*kib)
		r.run(8 * second)
		ratio := r.against(4 * second)
		t.Logf("%s: %.3f of the better fixed choice, thresholds %d and %d", n.name, ratio, fast.flow.Path().Threshold(), slow.flow.Path().Threshold())
		if ratio > 1 {
			t.Errorf("%s: %.3f of the better fixed choice", n.name, ratio)
		}
		if !fast.flow.path.pays(256*kib) || slow.flow.path.zeroCopy>>sizeOf(256*kib)&1 != 0 && n == quiet {
			t.Errorf("%s: %+v", n.name, r.learner.Explain())
		}
	}
}

// No single size is a tenth of the work here: neighbours are tried together.
func TestSizesWithSmallSharesAreTriedTogether(t *testing.T) {
	r := newRig(3, noise{turn: 0.05}, 3)
	s := &stream{}
	for size := kib; size <= 1<<20; size *= 2 { // each about a tenth of the work or less
		s = r.add(PathKey{}, breakEven(2*kib), 1+(1<<20)/(size+10*kib)/4, size)
	}
	r.run(10 * second)
	if ratio := r.against(3 * second); ratio > tolerable {
		t.Errorf("%.3f of the better fixed choice", ratio)
	}
	if got := s.flow.Path().Threshold(); got > 8*kib {
		t.Errorf("zero-copy from %d bytes on, it pays from 2 KiB", got)
	}
}

// Notifications that come hundreds of epochs later are booked to the sends that caused them.
func TestLateNotificationsDoNotFavourZeroCopy(t *testing.T) {
	for _, size := range []int{2 * kib, 3 * kib, 8 * kib, 12 * kib} {
		r := newRig(2, noise{turn: 0.05}, 20_000)
		r.add(PathKey{}, costs{"", 0.02, 300, 300}, 16, size) // break-even at 3,750
		r.run(2 * second)
		if ratio := r.against(2 * second); ratio > tolerable {
			t.Errorf("%d bytes: %.3f of the better choice", size, ratio)
		}
	}
}

// A source that turns cold makes copies dear: the sizes between the two break-evens follow,
// and back again.
func TestASourceThatTurnsColdIsNoticed(t *testing.T) {
	for i, n := range noises {
		r := newRig(uint64(i), n, 3)
		s := r.add(PathKey{}, breakEven(64*kib), 16, 16*kib)
		for round, m := range []costs{breakEven(64 * kib), breakEven(4 * kib), breakEven(64 * kib)} {
			s.model = m
			start, pays := r.busy, m.extra < 0.08*16*kib
			for s.flow.path.zeroCopy>>sizeOf(16*kib)&1 != 0 != pays {
				if r.turn(); r.busy-start > 15*second {
					t.Fatalf("%s, round %d: not noticed after 15 s of work", n.name, round)
				}
			}
			t.Logf("%s, round %d: noticed after %.1f s", n.name, round, (r.busy-start)/second)
			if ratio := r.against(3 * second); ratio > tolerable {
				t.Errorf("%s, round %d: %.3f of the better choice from then on", n.name, round, ratio)
			}
		}
	}
}

// At the break-even there is nothing to gain, and noise must not move the decision.
func TestEqualRoutesDoNotFlap(t *testing.T) {
	for _, size := range []int{16 * kib, 64 * kib, 256 * kib} {
		for _, n := range noises {
			r := newRig(11, n, 3)
			r.add(PathKey{}, breakEven(size), 16, size)
			r.run(12 * second)
			if got := r.learner.Stats(); got.Switches > 1 {
				t.Errorf("%d bytes, %s: %+v", size, n.name, got)
			}
		}
	}
}

// trialOf compares routes whose costs have the given ratio, with that noise in each epoch.
func trialOf(rng *rand.Rand, ratio, noise, spikes, margin float64) (v verdict, n int) {
	epoch := func() float64 {
		c := math.Exp(noise * rng.NormFloat64())
		if rng.Float64() < spikes {
			c *= 10
		}
		return c
	}
	var p pairs
	for v == undecided {
		p.add(epoch(), ratio*epoch())
		v = p.verdict(margin)
	}
	return v, p.n
}

func TestTrialsOfEqualCostsHardlyEverSwitch(t *testing.T) {
	for _, noise := range []float64{0, 0.01, 0.03, 0.1, 0.2, 0.3} {
		for _, spikes := range []float64{0, 0.01} {
			for _, share := range []float64{0.25, 1} {
				rng := rand.New(rand.NewPCG(1, 2))
				switches, length := 0, 0
				for range 1000 {
					v, n := trialOf(rng, 1, noise, spikes, margin*share)
					length += n
					if v == switchRoute {
						switches++
					}
				}
				if switches >= 3 {
					t.Errorf("noise %v, spikes %v, share %v: %d switches in 1,000 trials", noise, spikes, share, switches)
				}
				t.Logf("noise %v, spikes %v, share %v: %d switches, %d pairs a trial", noise, spikes, share, switches, length/1000)
			}
		}
	}
}

func TestTrialsFindWhatMatters(t *testing.T) {
	for _, tt := range []struct {
		ratio, noise float64
		want         verdict
		right        int // of 100 trials, at least
		pairs        int // on average, at most
	}{
		{1.5, 0.1, keepIncumbent, 100, 5},
		{1.1, 0.1, keepIncumbent, 100, 12},
		{1.05, 0.3, keepIncumbent, 98, 200},
		{0.5, 0, switchRoute, 100, 32},
		{0.8, 0.1, switchRoute, 98, 40},
		{0.9, 0.1, switchRoute, 95, 80},
		{0.97, 0.03, switchRoute, 90, 100},
		{0.95, 0.1, switchRoute, 90, 260},
		{0.9, 0.3, switchRoute, 75, 700}, // an unlucky trial is repeated
		{0.99, 0.03, keepIncumbent, 95, 150},
	} {
		rng := rand.New(rand.NewPCG(3, 4))
		right, length := 0, 0
		for range 100 {
			v, n := trialOf(rng, tt.ratio, tt.noise, 0.005, margin)
			length += n
			if v == tt.want {
				right++
			}
		}
		t.Logf("ratio %v, noise %v: %d right, %d pairs", tt.ratio, tt.noise, right, length/100)
		if right < tt.right || length/100 > tt.pairs {
			t.Errorf("ratio %v, noise %v: %d of 100 right after %d pairs, want %d after %d", tt.ratio, tt.noise, right, length/100, tt.right, tt.pairs)
		}
	}
}

func TestSizesArePowersOfTwo(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 0, 1023: 0, 1024: 0, 2047: 0, 2048: 1, 4095: 1, 32 * kib: 5, 64*kib - 1: 5, 1<<20 - 1: 9, 1 << 20: 10, 1 << 30: 10} {
		if got := sizeOf(n); got != want {
			t.Errorf("%d bytes are size %d, want %d", n, got, want)
		}
	}
	for size := range numSizes {
		if sizeOf(least(size)) != size || size > 0 && sizeOf(least(size)-1) != size-1 {
			t.Errorf("size %d does not begin at %d bytes", size, least(size))
		}
	}
}

func TestAPathStartsWithTheThreshold(t *testing.T) {
	for threshold, want := range map[int]int{0: 0, 1: 2 * kib, 32 * kib: 32 * kib, 40_000: 64 * kib, 128 * kib: 128 * kib, 1 << 20: 1 << 20, 2 << 20: -1, NoSize: -1} {
		f := NewLearner(threshold, 0).Flow(PathKey{})
		if got := f.Path().Threshold(); got != want {
			t.Errorf("a threshold of %d: zero-copy from %d bytes on, want %d", threshold, got, want)
		}
	}
}

// A policy's threshold is where learning begins, and not where it ends.
func TestLearningMovesAThresholdThatIsWrong(t *testing.T) {
	const size = 32 * kib
	for _, tt := range []struct {
		threshold int
		model     costs
		pays      bool
	}{
		{NoSize, always, true},
		{size + 1, breakEven(8 * kib), true},
		{1, never, false},
		{size, breakEven(64 * kib), false},
	} {
		r := newRig(3, shaky, 3)
		r.learner = NewLearner(Policy{Threshold: tt.threshold}.MinSend(modern), 3)
		s := r.add(PathKey{Device: "eth0"}, tt.model, 16, size)
		if s.flow.path.pays(size) == tt.pays {
			t.Fatalf("%s: a threshold of %d begins with the better route already", tt.model.name, tt.threshold)
		}
		r.run(4 * second)
		if decided := s.flow.path.zeroCopy>>sizeOf(size)&1 != 0; decided != tt.pays {
			t.Errorf("%s: from a threshold of %d on, zero-copy is thought to pay: %v", tt.model.name, tt.threshold, decided)
		}
	}
}

func TestPathsAreToldApartAndBounded(t *testing.T) {
	l := NewLearner(modern.Threshold, 0)
	path := func(key PathKey) *Path {
		f := l.Flow(key)
		return f.Path()
	}
	a, b := path(PathKey{"eth0", false}), path(PathKey{"eth0", true})
	if a == b || a != path(PathKey{"eth0", false}) {
		t.Error("a key has one path, and each its own")
	}
	for i := range 2 * maxPaths {
		path(PathKey{Device: fmt.Sprint(i)})
	}
	if len(l.Explain()) != maxPaths || path(PathKey{Device: "new"}) != l.paths[maxPaths-1] {
		t.Errorf("%d paths; want %d, the last of them shared", len(l.Explain()), maxPaths)
	}
	if a != path(PathKey{"eth0", false}) {
		t.Error("a path was lost")
	}
}

// A verdict is followed by sizes that have none of their own: upwards where zero-copy pays,
// downwards where it does not.
func TestVerdictsSpreadToSizesWithoutOne(t *testing.T) {
	const k16, k32, k64, k128 = 1 << 4, 1 << 5, 1 << 6, 1 << 7
	for _, tt := range []struct {
		name                    string
		zeroCopy, tried, judged uint16
		want                    uint16
	}{
		{"pays, and above", k16, k16, k16, allSizes &^ (k16 - 1)},
		{"pays, but not what was tried", k16, k16 | k64, k16, allSizes &^ (k16 - 1) &^ k64},
		{"does not, nor below", k16 | k32 | k128, k64, k64, k128},
		{"does not, but what was tried below does", k16 | k32 | k128, k64 | k16, k64, k16 | k128},
		{"several at once", k32 | k64, k32 | k64, k32 | k64, allSizes &^ (k32 - 1)},
		{"the largest", 0, 1 << 10, 1 << 10, 0},
		{"the smallest", 1, 1, 1, allSizes},
	} {
		p := Path{zeroCopy: tt.zeroCopy, tried: tt.tried}
		if p.spread(tt.judged); p.zeroCopy != tt.want {
			t.Errorf("%s: %011b, want %011b", tt.name, p.zeroCopy, tt.want)
		}
	}
}

// Sizes are tried alone if they can be, else together with the next that is decided alike.
func TestGroups(t *testing.T) {
	const zero = 0b111_1110_0000 // from 32 KiB on
	for _, tt := range []struct {
		name string
		work [numSizes]int64
		want []uint16
	}{
		{"nothing", [numSizes]int64{}, nil},
		{"one", [numSizes]int64{3: 100}, []uint16{1 << 3}},
		{"two large", [numSizes]int64{3: 50, 4: 50}, []uint16{1 << 3, 1 << 4}},
		{"small alone", [numSizes]int64{3: 5, 4: 95}, []uint16{1 << 4}},
		{"small together", [numSizes]int64{1: 4, 2: 4, 4: 4, 7: 88}, []uint16{1<<1 | 1<<2 | 1<<4, 1 << 7}},
		{"not over the threshold", [numSizes]int64{4: 6, 5: 6, 9: 5, 10: 83}, []uint16{1<<5 | 1<<9, 1 << 10}},
	} {
		p := Path{zeroCopy: zero}
		for size, work := range tt.work {
			p.sizes[size].work = work
		}
		var got []uint16
		for size := 0; size < numSizes; {
			if sizes, work, _ := p.group(&size, 10); work >= 10 {
				got = append(got, sizes)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %b, want %b", tt.name, got, tt.want)
		}
	}
}

func TestTrialsRestLongerEachTimeTheyConfirm(t *testing.T) {
	r := newRig(1, quiet, 3)
	s := r.add(PathKey{}, breakEven(64*kib), 16, 4*kib)
	p := s.flow.path
	var rests []int64
	for size := sizeOf(4 * kib); len(rests) < 8; {
		trials := p.trials
		for p.trials == trials {
			r.turn()
		}
		rests = append(rests, p.sizes[size].rest)
		r.learner.work = p.sizes[size].tryAt // as if so much work had been done
	}
	if want := []int64{8, 16, 32, 64, 128, 256, 256, 256}; !slices.Equal(rests, want) {
		t.Errorf("%v, want %v", rests, want)
	}
}

// The traffic that was to be tried may end: the trial does not wait for it, and says nothing.
func TestATrialWithoutItsTrafficIsAbandoned(t *testing.T) {
	r := newRig(1, shaky, 3)
	a := r.add(PathKey{}, breakEven(8*kib), 8, 64*kib)
	b := r.add(PathKey{Device: "b"}, breakEven(8*kib), 0, 256*kib)
	for r.learner.trial.path == nil {
		r.turn()
	}
	a.each, b.each = 0, 8
	for r.learner.trial.path == a.flow.path {
		r.turn()
	}
	if got := r.learner.Stats(); got.Abandoned != 1 || got.Trials != 0 || a.flow.path.flip != 0 || a.flow.path.tried != 0 {
		t.Errorf("%+v, flip %b, tried %b", got, a.flow.path.flip, a.flow.path.tried)
	}
}

// Whatever grows steadily weighs as much on both sides of a round of four epochs.
func TestTheOrderOfARoundCancelsDrift(t *testing.T) {
	for _, order := range []bool{false, true} {
		at := [2]int{}
		for epoch := range 4 {
			if (&trial{order: order, epoch: epoch}).challenges() {
				at[1] += epoch
			} else {
				at[0] += epoch
			}
		}
		if at[0] != at[1] {
			t.Errorf("order %v: epochs %v", order, at)
		}
	}
}

// Notifications before the measured part of an epoch are none of its business.
func TestNotificationsAreBookedFromTheFirstReading(t *testing.T) {
	r := newRig(1, quiet, 3)
	r.add(PathKey{}, breakEven(8*kib), 1, 64*kib)
	for measuring, epochs := false, 0; epochs < 8; {
		r.turn()
		if now := r.learner.trial.measuring; now && !measuring {
			epochs++
			if got := r.learner.trial.owed; got != 0 {
				t.Errorf("%d owed at the first reading of epoch %d", got, epochs)
			}
		}
		measuring = r.learner.trial.measuring
	}
}

// Outside of trials the clock is not read, and in one twice an epoch.
func TestTheClockIsReadInTrialsOnly(t *testing.T) {
	r := newRig(1, shaky, 3)
	r.add(PathKey{}, breakEven(64*kib), 16, 4*kib)
	r.run(4 * second)
	if r.strays != 0 {
		t.Errorf("%d reads outside of a trial", r.strays)
	}
	// Some 2.5 ms of work lie between two pairs of reads.
	if r.reads == 0 || float64(r.reads) > 2*r.trying/2.4e6 {
		t.Errorf("%d reads in %.0f ms of trials", r.reads, r.trying/1e6)
	}
}

func TestAClockThatStandsStillOrRunsBackChangesNothing(t *testing.T) {
	for name, cpu := range map[string]func(turn int64) int64{
		"stands still": func(int64) int64 { return 1 },
		"runs back":    func(turn int64) int64 { return -turn * 1e6 },
	} {
		l := NewLearner(modern.Threshold, 1)
		f := l.Flow(PathKey{})
		for turn := range int64(200_000) {
			l.Worked(&f, Copy, 1<<20)
			if l.Turn(turn) {
				l.Measured(cpu(turn))
			}
		}
		if got := l.Stats(); got.Switches != 0 || got.Trials == 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestMeasuredUnaskedIsIgnored(t *testing.T) {
	r := newRig(1, quiet, 3)
	r.add(PathKey{}, breakEven(8*kib), 1, 4*kib)
	for r.learner.trial.path == nil {
		r.turn()
	}
	before := r.learner.trial
	r.learner.Measured(5)
	if r.learner.trial != before {
		t.Errorf("%+v, before %+v", r.learner.trial, before)
	}
}

func TestLearningIsDeterministic(t *testing.T) {
	trace := func(seed uint64) (orders []bool) {
		r := newRig(9, noise{turn: 0.3}, 3)
		r.learner.random = seed
		s := r.add(PathKey{}, breakEven(64*kib), 16, 64*kib)
		for len(orders) < 400 {
			if r.turn(); r.learner.trial.path != nil {
				orders = append(orders, s.flow.path.flip != 0)
			}
		}
		return orders
	}
	if !slices.Equal(trace(1), trace(1)) {
		t.Error("the same seed gave two orders")
	}
	if slices.Equal(trace(1), trace(2)) {
		t.Error("two seeds gave the same order")
	}
}

// Any calls in any order neither panic nor read the clock outside of a trial, and leave every
// decision that is not contested alone until a verdict.
func TestAnyCallsAreSurvived(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 6))
		l := NewLearner(rng.IntN(1<<20), seed)
		flows := []Flow{l.Flow(PathKey{})}
		now, cpu := int64(0), int64(0)
		for range 4000 {
			f := &flows[rng.IntN(len(flows))]
			n := rng.IntN(1 << rng.IntN(24))
			switch rng.IntN(8) {
			case 0:
				if len(flows) < 100 {
					flows = append(flows, l.Flow(PathKey{fmt.Sprint(rng.IntN(80)), rng.IntN(4) == 0}))
				}
			case 1:
				l.Notified()
			case 2:
				f.Reported(n, rng.IntN(2) == 0, rng.IntN(8) > 0)
			case 3:
				cpu += rng.Int64N(1e7) - 1e6
				l.Measured(cpu)
			case 4:
				now += rng.Int64N(1e9)
				before := l.trial.path
				if l.Turn(now) && (before == nil || l.trial.path == nil) {
					t.Fatal("the clock is asked for outside of a trial")
				}
			case 5:
				l.Worked(nil, Sendfile, n)
			default:
				d := Policy{}.Route(modern, Socket{Flow: f}, []uint32{uint32(n), uint32(n)})
				l.Worked(f, d.Route, n)
			}
			for _, p := range l.paths {
				if p.flip != 0 && p != l.trial.path || p.zeroCopy > allSizes || p.usage.off && p == l.trial.path {
					t.Fatalf("seed %d: %+v, trial %+v", seed, p, l.trial)
				}
			}
		}
	}
}

func TestLearningAllocatesNothing(t *testing.T) {
	r := newRig(1, quiet, 3)
	s := r.add(PathKey{}, breakEven(8*kib), 1, 4*kib)
	l, f, cpu, now := r.learner, &s.flow, int64(0), int64(0)
	segments := []uint32{1 << 20}
	if got := testing.AllocsPerRun(20_000, func() {
		d := Policy{}.Route(modern, Socket{Flow: f}, segments)
		l.Worked(f, d.Route, 1<<20)
		l.Notified()
		f.Reported(1<<20, false, now%3 == 0)
		if now += 1e5; l.Turn(now) {
			cpu += 2e5
			l.Measured(cpu)
		}
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
	if l.Stats().Trials == 0 {
		t.Error("no trial came to a verdict")
	}
}
