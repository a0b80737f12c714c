package zc

import "math/bits"

// Learner learns, for one loop, which sends pay by zero-copy. It belongs to the loop's goroutine.
//
// For each [Path] and each power of two of a send's bytes there is one decision. It starts
// with the policy's threshold, or the kernel's default. The cost of a single send cannot be measured: copies happen
// inside io_uring_enter, notifications come later. But the loop's CPU time as a whole can,
// and is what matters. So the learner makes trials: for some milliseconds of work it flips
// the decision of one size of one path, then flips it back, many times over, and compares what
// the loop's work cost it with and without. The CPU clock is read twice in such an epoch,
// and never outside of a trial.
//
// In each turn of the loop, in this order: Worked for every completed send, then Turn and
// if it asks for it Measured, then sends are routed by [Policy.Route].
type Learner struct {
	initial uint16 // decisions that a path starts with
	paths   []*Path
	now     int64 // ns, of this turn
	work    int64 // done since the start: the clock by which trials are planned
	looked  int64 // when it was last looked for something to try
	random  uint64
	trial   trial
	stats   LearnerStats
}

// LearnerStats count what a learner did.
type LearnerStats struct {
	Trials    uint64 // that came to a verdict
	Switches  uint64 // verdicts that changed a decision
	Abandoned uint64 // trials whose traffic went away
}

// Work is counted in bytes. A send counts as perSend more: 1 µs beside 0.1 ns a byte. It
// need not be right: it makes epochs comparable that did different amounts of the same.
const (
	perSend = 10_000
	// milli is about a millisecond of work.
	milli = 10_000_000
	// epochWork is measured in each epoch: some twenty sends of 1 MiB, a thousand small ones.
	epochWork = 2 * milli
	// settleWork is not, before it: sends and notifications of the epoch before still come in.
	settleWork = milli / 2
	// lookWork is how much traffic is looked at before something is chosen to be tried.
	lookWork = 20 * milli
	// restFirst and restLast are how long a decision rests after a trial, in what the trial cost: once
	// decisions are confirmed trials take less than half a percent of the time, whatever the challenger costs.
	restFirst, restLast = 8, 256
	// minShare is the share of the loop's work below which a decision is not worth a trial:
	// a tenth of it would have to change by a fifth to be seen at 2 %.
	minShare = 0.1
	// margin is how much cheaper the contested sends must become for a change: the less there is
	// to gain, the less often is it worth the risk of being wrong.
	margin = 0.02
	// notification is ns of CPU time that a notification costs, in whichever epoch it arrives.
	notification = 300
	// maxRatio bounds what an interruption in an epoch makes of its cost.
	maxRatio = 100
	// maxPaths bounds the paths; whatever comes after shares the last.
	maxPaths = 64
)

// Sizes of sends: below 2 KiB, then each power of two, and from 1 MiB on.
const (
	numSizes  = 11
	firstSize = 10 // 1 << 10
	allSizes  = 1<<numSizes - 1
)

func sizeOf(n int) int { return min(max(bits.Len(uint(n))-1-firstSize, 0), numSizes-1) }

// least is the smallest send of a size.
func least(size int) int {
	if size == 0 {
		return 0
	}
	return 1 << (firstSize + size)
}

// PathKey tells paths apart.
type PathKey struct {
	Device string // by which packets leave
	Local  bool   // the peer is on this host
}

// Path is what is learned of the connections that leave by the same device. It belongs to the
// goroutine of its Learner.
type Path struct {
	learner  *Learner
	key      PathKey
	zeroCopy uint16 // sizes that go by zero-copy, as bits
	flip     uint16 // sizes that a trial turns around now
	tried    uint16 // sizes with a verdict of their own
	sizes    [numSizes]struct {
		work  int64 // since it was last looked for something to try
		rest  int64 // after the last trial, in what that cost
		tryAt int64 // when the next trial may begin, in work
	}
	usage    usage
	probes   uint64
	trials   uint64
	switches uint64
	ratio    float64
}

// trial is the one that runs, if path is set.
type trial struct {
	path      *Path
	sizes     uint16     // contested, as bits
	peers     int64      // how many sizes take turns with these
	began     int64      // in work
	order     bool       // of this round of four epochs: challenger first and last, or in the middle
	epoch     int        // 0 to 3
	measuring bool       // else it settles
	since     int64      // in work: when this part of the epoch began
	cpu       int64      // the thread's, then
	owed      int64      // notifications of this epoch's sends that are still to come, less those of others that came
	contested int64      // work of the contested sizes in all measured parts
	measured  int64      // all work in them
	cost      [2]float64 // ns for each work, in the last epoch of each side
	costs     [2]float64 // the same of all epochs
	pairs     pairs
}

// NewLearner makes the learner of a loop, which begins with zero-copy from threshold bytes on: see
// Policy.MinSend. The order of its trials depends on seed, and on nothing else but its calls.
func NewLearner(threshold int, seed uint64) *Learner {
	l := &Learner{random: seed, paths: make([]*Path, 0, maxPaths)}
	for size := range numSizes {
		if least(size) >= threshold {
			l.initial |= 1 << size
		}
	}
	return l
}

// Flow is the state of a new connection on the path of that key, which is made if it is
// new. It is for the start of a connection: it compares keys.
func (l *Learner) Flow(key PathKey) Flow {
	for _, p := range l.paths {
		if p.key == key {
			return Flow{path: p}
		}
	}
	if len(l.paths) == maxPaths {
		return Flow{path: l.paths[maxPaths-1]}
	}
	p := &Path{learner: l, key: key, zeroCopy: l.initial}
	if key.Local {
		p.usage.turnOff(l.now, probeLast) // every kernel's loopback copies
	}
	l.paths = append(l.paths, p)
	return Flow{path: p}
}

// pays is the decision about a send of n bytes.
func (p *Path) pays(n int) bool { return (p.zeroCopy^p.flip)>>sizeOf(n)&1 != 0 }

// Worked counts a completed send that accepted n bytes. f is nil where zero-copy is not in
// question.
func (l *Learner) Worked(f *Flow, r Route, n int) {
	work := int64(n) + perSend
	l.work += work
	if r == ZeroCopy {
		l.trial.owed++
	}
	if f == nil || f.off() != nil {
		return
	}
	size := sizeOf(n)
	f.path.sizes[size].work += work
	if f.path == l.trial.path && l.trial.measuring && l.trial.sizes>>size&1 != 0 {
		l.trial.contested += work
	}
}

// Notified counts a notification, whatever it reports.
func (l *Learner) Notified() { l.trial.owed-- }

// Turn begins a turn of the loop at the time now, in ns of any monotonic clock. It reports
// whether the learner needs the CPU time of the loop's thread: see Measured.
func (l *Learner) Turn(now int64) (measure bool) {
	l.now = now
	if l.trial.path == nil && l.work-l.looked >= lookWork {
		l.look()
	}
	return l.due()
}

// due reports whether a part of an epoch is over.
func (l *Learner) due() bool {
	t := &l.trial
	switch {
	case t.path == nil:
		return false
	case t.measuring:
		return l.work-t.since >= epochWork
	}
	return l.work-t.since >= settleWork
}

// Measured gives the CPU time of the loop's thread in ns (CLOCK_THREAD_CPUTIME_ID), after
// Turn asked for it and in the same turn.
func (l *Learner) Measured(cpu int64) {
	if !l.due() {
		return
	}
	t := &l.trial
	if !t.measuring {
		t.measuring, t.since, t.cpu, t.owed = true, l.work, cpu, 0
		return
	}
	work := l.work - t.since
	t.measured += work
	side := 0
	if t.challenges() {
		side = 1
	}
	t.cost[side] = float64(cpu-t.cpu+t.owed*notification) / float64(work)
	if t.epoch&1 == 1 {
		t.pairs.add(t.cost[0], t.cost[1])
		t.costs[0] += t.cost[0]
		t.costs[1] += t.cost[1]
		if l.judge() {
			return
		}
	}
	t.epoch = (t.epoch + 1) % 4
	l.nextEpoch()
}

// challenges reports whether this epoch is the challenger's. The order within a round of four
// cancels whatever grows steadily.
func (t *trial) challenges() bool { return (t.epoch == 0 || t.epoch == 3) == t.order }

// nextEpoch turns the contested sizes around, or back.
func (l *Learner) nextEpoch() {
	t := &l.trial
	if t.epoch == 0 {
		// Chance decides about each round, so that no rhythm of the traffic stays in step
		// (splitmix64).
		l.random += 0x9e3779b97f4a7c15
		z := l.random
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		t.order = bits.OnesCount64(z)&1 == 1
	}
	t.path.flip = 0
	if t.challenges() {
		t.path.flip = t.sizes
	}
	t.measuring, t.since = false, l.work
}

// judge ends the trial if its outcome is known.
func (l *Learner) judge() (ended bool) {
	t := &l.trial
	p, length := t.path, l.work-t.began
	share := float64(t.contested) / float64(t.measured)
	if t.pairs.n >= minPairs && share < minShare/2 { // its traffic has gone
		p.postpone(t.sizes, l.work+restFirst*length)
		l.abandon(p)
		return true
	}
	v := t.pairs.verdict(margin * share)
	if v == undecided {
		return false
	}
	mean, _ := t.pairs.mean()
	p.ratio = (2 + mean) / (2 - mean)
	if mean > hopeless && t.costs[0] > 0 { // most pairs were clipped
		p.ratio = max(p.ratio, min(t.costs[1]/t.costs[0], maxRatio))
	}
	cost := int64(float64(length) * (1 + p.ratio) / 2) // in work of the incumbent
	p.trials++
	l.stats.Trials++
	p.flip = 0
	if v == switchRoute {
		p.zeroCopy ^= t.sizes
		p.switches++
		l.stats.Switches++
	}
	p.tried |= t.sizes
	for size := range p.sizes {
		if s := &p.sizes[size]; t.sizes>>size&1 != 0 {
			s.rest = min(max(restFirst, 2*s.rest), restLast)
			if v == switchRoute {
				s.rest = restFirst
			}
			s.tryAt = l.work + s.rest*cost*t.peers
		}
	}
	p.spread(t.sizes)
	l.restart()
	return true
}

// postpone has trials of these sizes wait.
func (p *Path) postpone(sizes uint16, until int64) {
	for size := range p.sizes {
		if sizes>>size&1 != 0 {
			p.sizes[size].tryAt = until
		}
	}
}

// spread has sizes without a verdict of their own follow that of others: the more bytes a
// send has, the more a copy costs, and notifications cost the same.
func (p *Path) spread(judged uint16) {
	if p.zeroCopy&judged != 0 {
		above := allSizes &^ (uint16(1)<<bits.Len16(judged) - 1)
		p.zeroCopy |= above &^ p.tried
	} else {
		below := judged&-judged - 1
		p.zeroCopy &^= below &^ p.tried
	}
}

// abandon ends the trial without a verdict, if it is of path p.
func (l *Learner) abandon(p *Path) {
	if l.trial.path != p {
		return
	}
	p.flip = 0
	l.stats.Abandoned++
	l.restart()
}

// restart begins to look for something to try.
func (l *Learner) restart() {
	l.trial = trial{}
	l.looked = l.work
	for _, p := range l.paths {
		for size := range p.sizes {
			p.sizes[size].work = 0
		}
	}
}

// look begins the trial that waited longest, among the sizes that make up enough of the work
// done since the last look. Smaller shares are tried together with the next sizes that have
// the same decision.
func (l *Learner) look() {
	enough := int64(minShare * float64(l.work-l.looked))
	var next trial
	first, found := l.work+1, int64(0)
	for _, p := range l.paths {
		if p.usage.off {
			continue
		}
		for size := 0; size < numSizes; {
			sizes, work, tryAt := p.group(&size, enough)
			if work < enough {
				continue
			}
			found++
			if tryAt < first {
				first, next.path, next.sizes = tryAt, p, sizes
			}
		}
	}
	l.restart()
	if next.path == nil {
		return
	}
	l.trial = trial{path: next.path, sizes: next.sizes, peers: found, began: l.work}
	l.nextEpoch()
}

// group is what is tried together from size on, which it moves behind that. It may begin
// when the size with most of the work may.
func (p *Path) group(size *int, enough int64) (sizes uint16, work, tryAt int64) {
	most := int64(0)
	for ; *size < numSizes && work < enough; *size++ {
		s := &p.sizes[*size]
		if s.work == 0 {
			continue
		}
		if sizes != 0 && (s.work >= enough || (p.zeroCopy>>*size^p.zeroCopy>>bits.TrailingZeros16(sizes))&1 != 0) {
			break
		}
		sizes |= 1 << *size
		work += s.work
		if s.work > most {
			most, tryAt = s.work, s.tryAt
		}
	}
	return sizes, work, tryAt
}

// Stats are the learner's counters.
func (l *Learner) Stats() LearnerStats { return l.stats }

// Explain describes every path. It allocates.
func (l *Learner) Explain() []PathState {
	all := make([]PathState, len(l.paths))
	for i, p := range l.paths {
		all[i] = PathState{p.key, p.Threshold(), p.usage.off, p.trials, p.switches, p.probes, p.ratio}
	}
	return all
}

// PathState is what is known of a path, for display.
type PathState struct {
	PathKey
	Threshold int     // see Path.Threshold
	Copies    bool    // the kernel copies zero-copy sends on it
	Trials    uint64  // that came to a verdict
	Switches  uint64  // verdicts that changed a decision
	Probes    uint64  // sends that went by zero-copy to see whether the path still copies
	Ratio     float64 // the loop's cost in the last trial, the challenger's to the incumbent's; 0: none yet
}

// Threshold is the size of a send, in bytes, from which on all pay by zero-copy, trials aside;
// negative if not even the largest do.
func (p *Path) Threshold() int {
	size := bits.Len16(allSizes &^ p.zeroCopy)
	if size == numSizes {
		return -1
	}
	return least(size)
}
