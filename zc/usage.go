package zc

import "time"

// Usage reports say whether the kernel copied a zero-copy send after all. "Zero-copied" is
// proof. "Copied" is not: since Linux 6.10 it is also said of sends below one skb that
// share one with others, though nothing was copied.
const (
	// skbBytes is from where a send fills an skb alone: 17 fragments of a page, less what
	// alignment loses.
	skbBytes = 64 << 10
	// copiedRun is how many trusted "copied" in a row, with no proof of the contrary between,
	// turn zero-copy off: a route change copies for a moment, a device without scatter-gather
	// copies every time.
	copiedRun = 16
	// copiedShare is how many of them one connection may contribute to its path: it takes
	// four connections, because one may leave by a device that copies while its neighbours do not.
	copiedShare = copiedRun / 4
	// Probes begin after a second, for what was a moment's trouble, and get rarer: what copies
	// for a minute mostly copies for ever.
	probeFirst = int64(time.Second)
	probeLast  = 64 * int64(time.Second)
)

// usage is what reports have taught about a connection or a path.
type usage struct {
	run     uint8 // trusted "copied" since the last "zero-copied"
	off     bool  // no zero-copy but for probes
	every   int64 // ns between probes
	probeAt int64
}

// turnOff stops zero-copy, and probes again after the given time.
func (u *usage) turnOff(now, every int64) {
	*u = usage{off: true, every: every, probeAt: now + every}
}

// copied takes a trusted "copied". It reports whether that turned zero-copy off.
func (u *usage) copied(now int64) (turned bool) {
	if u.off {
		return false
	}
	if u.run++; u.run < copiedRun {
		return false
	}
	u.turnOff(now, probeFirst)
	return true
}

// probed notes that a probe was let through.
func (u *usage) probed(now int64) {
	u.every = min(2*u.every, probeLast)
	u.probeAt = now + u.every
}

// Flow is what is learned of one connection, which shares its path's decisions. It belongs
// to the goroutine of its Learner. The zero Flow is not usable; see [Learner.Flow].
type Flow struct {
	path  *Path
	usage usage
}

// Path is the path that the connection takes.
func (f *Flow) Path() *Path { return f.path }

// off is whose experience keeps the connection from zero-copy, or nil. Its own comes first:
// its probes are then no evidence about others.
func (f *Flow) off() *usage {
	switch {
	case f.usage.off:
		return &f.usage
	case f.path.usage.off:
		return &f.path.usage
	}
	return nil
}

// pays is the decision about a send of n bytes.
func (f *Flow) pays(n int) (bool, Reason) {
	pays := f.path.pays(n)
	switch off := f.off(); {
	case off != nil && pays && f.path.learner.now >= off.probeAt:
		return true, Probe
	case off != nil:
		return false, PathCopies
	case pays:
		return true, AboveThreshold
	}
	return false, BelowThreshold
}

// probed notes that a send went as a probe.
func (f *Flow) probed() {
	f.path.probes++
	f.off().probed(f.path.learner.now)
}

// Reported takes the usage report of a zero-copy send of n bytes that accepted some. alone
// says that nothing else of the connection was unacknowledged or waiting for its
// notification, from its submission on: its skbs were not shared.
func (f *Flow) Reported(n int, alone, copied bool) {
	p := f.path
	switch {
	case !copied:
		f.usage, p.usage = usage{}, usage{}
	case !alone && n < skbBytes: // may be false
	default:
		if f.usage.run < copiedShare && !f.usage.off && p.usage.copied(p.learner.now) {
			p.learner.abandon(p)
		}
		f.usage.copied(p.learner.now)
	}
}
