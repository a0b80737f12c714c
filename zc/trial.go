package zc

import "math"

// A trial compares two routes by the loop's total cost. Epochs with the incumbent and with
// the challenger alternate; two neighbours are a pair.

const (
	// minPairs is when a trial may first end, by giving up on the challenger: that is cheap. After half of them a
	// challenger is given up that was hopeless in each, because the others would cost most.
	minPairs = 4
	hopeless = 0.9 * clip
	// switchPairs is when the challenger may first win: from here on the standard error is
	// known well enough to be multiplied by four.
	switchPairs = 32
	// maxPairs ends a trial without a winner, after about ten seconds of work. A difference of
	// 4 % is then found in epochs that vary by 30 %.
	maxPairs = 2048
	// clip bounds what one pair says, so that a rare interruption, of whichever side, does not
	// decide: half is more than routes differ by.
	clip = 0.5
	// switchErrors is by how many standard errors a challenger must be cheaper, keepErrors how
	// sure it must be that it does not win. With 4, two equal routes change places less
	// than once in a thousand trials.
	switchErrors = 4
	keepErrors   = 2
)

// verdict is what a trial says.
type verdict uint8

const (
	undecided verdict = iota
	keepIncumbent
	switchRoute
)

// pairs are the outcomes of a trial's pairs of epochs: how much dearer the challenger was,
// as a share of the mean of both.
type pairs struct {
	n            int
	sum, squares float64
}

// add takes the costs of one pair, in any unit. Costs that a clock which went backwards
// makes zero or negative say nothing.
func (p *pairs) add(incumbent, challenger float64) {
	d := 0.0
	if incumbent > 0 && challenger > 0 {
		d = max(-clip, min(clip, 2*(challenger-incumbent)/(challenger+incumbent)))
	}
	p.n++
	p.sum += d
	p.squares += d * d
}

// mean is by how much the challenger is dearer, and its standard error.
func (p *pairs) mean() (mean, stderr float64) {
	n := float64(p.n)
	mean = p.sum / n
	return mean, math.Sqrt(max(0, p.squares/n-mean*mean) / (n - 1))
}

// verdict looks at the pairs, at every power of two of them: each further look is a further
// chance to be wrong. The challenger wins when it is cheaper by more than margin, and that is
// no accident.
func (p *pairs) verdict(margin float64) verdict {
	if p.n < minPairs/2 || p.n&(p.n-1) != 0 {
		return undecided
	}
	switch mean, e := p.mean(); {
	case p.n < minPairs:
		if mean > hopeless {
			return keepIncumbent
		}
	case p.n >= switchPairs && mean < -margin && mean+switchErrors*e < 0:
		return switchRoute
	case mean-keepErrors*e > -margin || p.n >= maxPairs:
		return keepIncumbent
	}
	return undecided
}
