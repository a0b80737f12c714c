package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"sluice/internal/policy"
	"sluice/zc"
)

// CalibrateSubjects are the routes of the engine that a calibration compares.
var CalibrateSubjects = []Subject{
	{Name: byCopy, Family: familyCopy, Copies: "1", How: "the engine, told never to use zero-copy: SEND", Reference: "docs/ARCHITECTURE.md"},
	{Name: byZeroCopy, Family: familyZeroCopy, Copies: "0", How: "the engine, told to use zero-copy for all: SEND_ZC from registered memory", Reference: "docs/ARCHITECTURE.md"},
}

const (
	byCopy     = "engine by copy"
	byZeroCopy = "engine by zero-copy"
)

// CalibrateSizes are those of a calibration: each power of two for which loops have a decision of their own.
var CalibrateSizes = []int{1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20}

// calibrateConns is how many connections take turns: a busy server's loop finds that many completions at a time. They
// share what a turn costs, which both routes pay.
const calibrateConns = 16

// CalibrateCells lists what a calibration measures: each size by copy and at once by zero-copy, from a hot and from a cold source.
func CalibrateCells(p *Place, sizes []int, window time.Duration, m Machine) (cells []Cell) {
	cpu, _ := Processors()
	for _, size := range sizes {
		for _, source := range memory {
			for _, subject := range CalibrateSubjects {
				j := streamJob{
					CPUs: []int{cpu}, Conns: calibrateConns, Size: size, Single: true,
					Policy: zc.Policy{Mode: zc.Off}, Warm: max(window/2, minWarm), Window: window, IRQTime: m.IRQTime,
				}
				if source == Cold {
					j.Cold = m.ColdSize()
				}
				if subject.Name == byZeroCopy {
					j.Policy = zc.Policy{Mode: zc.Fixed}
				}
				cells = append(cells, Cell{
					Key:     Key{Subject: subject.Name, Place: p.Name, Source: source, Size: size},
					Measure: func(ctx context.Context) (Sample, error) { return p.stream(ctx, j) },
				})
			}
		}
	}
	return cells
}

// Calibration is what a run says about where zero-copy pays.
type Calibration struct {
	Sizes     []int
	Hot, Cold Costs
	// BreakEven is of the mean of both: the one value of a policy. An index into Sizes, or their number: never.
	BreakEven int
	// Least and Most are the ends of what the rounds say on their own.
	Least, Most int
}

// Costs are what both routes cost from one source, in CPU seconds per GB, by size.
type Costs struct {
	Copy, ZeroCopy []float64 // medians
	Ratio          []float64 // median of the rounds' ratios, each of two samples taken one after the other
	BreakEven      int       // as in Calibration
	shown          []float64 // Ratio and its standard error: in doubt it is a copy, which pins nothing
	rounds         [][]float64
}

// Calibrate reads a run. The error says why it does not show where zero-copy pays.
func (r *Result) Calibrate() (c Calibration, err error) {
	var zeroCopied, copied uint64
	for _, o := range r.Outcomes {
		switch {
		case o.Refused != "":
			return c, fmt.Errorf("%s: %w", o.Key, &Refusal{o.Refused})
		case o.Error != "":
			return c, fmt.Errorf("%s: %s", o.Key, o.Error)
		case len(o.Samples) < r.Rounds || r.Rounds == 0:
			return c, fmt.Errorf("%s: %d of %d samples: the run was interrupted", o.Key, len(o.Samples), r.Rounds)
		}
		if !slices.Contains(c.Sizes, o.Size) {
			c.Sizes = append(c.Sizes, o.Size)
		}
	}
	slices.Sort(c.Sizes)
	for _, o := range r.Outcomes {
		if o.Size == c.Sizes[len(c.Sizes)-1] { // small sends that share an skb are said to be copied when they are not
			for _, s := range o.Samples {
				zeroCopied += s.ZeroCopied
				copied += s.Copied
			}
		}
	}
	if copied > zeroCopied {
		return c, fmt.Errorf("the kernel copied %d of %d zero-copy sends on the way to the peer, as it does over loopback: this cannot show where zero-copy pays", copied, copied+zeroCopied)
	}
	for source, costs := range map[string]*Costs{Hot: &c.Hot, Cold: &c.Cold} {
		if *costs, err = r.costs(source, c.Sizes); err != nil {
			return c, err
		}
	}
	c.BreakEven = breakEven(mean(c.Hot.shown, c.Cold.shown))
	c.Least, c.Most = len(c.Sizes), 0
	for i := range r.Rounds {
		at := breakEven(mean(c.Hot.rounds[i], c.Cold.rounds[i]))
		c.Least, c.Most = min(c.Least, at), max(c.Most, at)
	}
	return c, nil
}

func (r *Result) costs(source string, sizes []int) (c Costs, err error) {
	find := func(subject string, size int) (*Outcome, error) {
		for i, o := range r.Outcomes {
			if o.Key.Subject == subject && o.Source == source && o.Size == size {
				return &r.Outcomes[i], nil
			}
		}
		return nil, fmt.Errorf("%s, %s source, %s: not measured", subject, source, FormatSize(size))
	}
	c.rounds = make([][]float64, r.Rounds)
	for _, size := range sizes {
		a, err1 := find(byCopy, size)
		b, err2 := find(byZeroCopy, size)
		if err := errors.Join(err1, err2); err != nil {
			return c, err
		}
		var ratios []float64
		for i := range c.rounds {
			ratio := CPUPerGB.Of(b.Samples[i]) / CPUPerGB.Of(a.Samples[i])
			ratios = append(ratios, ratio)
			c.rounds[i] = append(c.rounds[i], ratio)
		}
		c.Copy = append(c.Copy, a.Spread(CPUPerGB).Median)
		c.ZeroCopy = append(c.ZeroCopy, b.Spread(CPUPerGB).Median)
		median := SpreadOf(ratios).Median
		c.Ratio = append(c.Ratio, median)
		c.shown = append(c.shown, median+standardError(ratios))
	}
	c.BreakEven = breakEven(c.shown)
	return c, nil
}

// standardError is that of the values' mean; 0 for one value.
func standardError(v []float64) float64 {
	n := float64(len(v))
	if n < 2 {
		return 0
	}
	sum, squares := 0.0, 0.0
	for _, x := range v {
		sum += x
	}
	for _, x := range v {
		squares += (x - sum/n) * (x - sum/n)
	}
	return math.Sqrt(squares / (n - 1) / n)
}

// mean is the geometric mean of ratios.
func mean(a, b []float64) []float64 {
	m := make([]float64, len(a))
	for i := range m {
		m[i] = math.Sqrt(a[i] * b[i])
	}
	return m
}

// worthwhile is what zero-copy has to save to pay: a copy pins nothing and leaves at once. The engine's loops ask for
// as much before they change a decision.
const worthwhile = 0.02

// breakEven finds from which size on zero-copy pays. ratios are its cost over that of a copy, by rising size; the
// result is an index, or their number: it never pays.
//
// Without noise that is the smallest size from which it saves what is worthwhile at every larger one. With noise one size
// that comes out wrong must not decide, so it is the size at which to change from one to the other for the least
// cost over all sizes: where the product of the ratios from there on is least. For ratios that fall with size both are the same.
func breakEven(ratios []float64) int {
	at, sum, least := len(ratios), 0.0, 0.0
	for i := len(ratios) - 1; i >= 0; i-- {
		sum += math.Log(ratios[i] / (1 - worthwhile))
		if sum <= least {
			at, least = i, sum
		}
	}
	return at
}

// Threshold is the policy's.
func (c *Calibration) Threshold() policy.Threshold {
	if c.BreakEven == len(c.Sizes) {
		return policy.Never
	}
	return policy.Threshold(c.Sizes[c.BreakEven])
}

// size names a break-even.
func (c *Calibration) size(at int) string {
	if at == len(c.Sizes) {
		return "never"
	}
	return FormatSize(c.Sizes[at])
}

// from says a break-even in a sentence.
func (c *Calibration) from(at int) string {
	switch at {
	case len(c.Sizes):
		return fmt.Sprintf("at no size up to %s", FormatSize(c.Sizes[len(c.Sizes)-1]))
	case 0:
		return "at every size from " + FormatSize(c.Sizes[0]) + " on"
	}
	return "from " + FormatSize(c.Sizes[at]) + " on"
}

// Findings say what the threshold is and what it rests on.
func (c *Calibration) Findings() []string {
	worst, where := 1.0, ""
	for _, costs := range []struct {
		source string
		Costs
	}{{Hot, c.Hot}, {Cold, c.Cold}} {
		for i, ratio := range costs.Ratio {
			if i < c.BreakEven {
				ratio = 1 / ratio
			}
			if ratio > worst {
				worst, where = ratio, fmt.Sprintf("%s and a %s source", FormatSize(c.Sizes[i]), costs.source)
			}
		}
	}
	why := fmt.Sprintf("Threshold: %s. Whether a buffer is in the cache is not known when it is sent, so one value serves both: in their mean (geometric, of the ratios) zero-copy saves %.0f %% or more beyond the noise %s.", c.size(c.BreakEven), 100*worthwhile, c.from(c.BreakEven))
	if where != "" {
		why += fmt.Sprintf(" Where that is most wrong, at %s, it costs %.0f %% more than the other route, until traffic has taught better.", where, 100*(worst-1))
	}
	return []string{
		fmt.Sprintf("Zero-copy pays %s where the source is hot, and %s where it is cold.", c.from(c.Hot.BreakEven), c.from(c.Cold.BreakEven)),
		why,
		fmt.Sprintf("Each round on its own, knowing nothing of the noise, would say %s to %s.", c.size(c.Least), c.size(c.Most)),
	}
}

// unsteady is how many powers of two the rounds may disagree by before they are to be doubted.
const unsteady = 3

// Doubt says why the threshold is to be doubted, or nothing.
func (c *Calibration) Doubt() string {
	if c.Most-c.Least <= unsteady {
		return ""
	}
	return fmt.Sprintf("the rounds disagree about the threshold: %s to %s. Leave the machine alone, or raise --rounds or --time; where both routes cost alike, either is right", c.size(c.Least), c.size(c.Most))
}

// Comment is the head of the policy file: what it is, and what it rests on.
func (r *Result) Comment(c *Calibration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Where zero-copy pays on this host: uringserve serve --policy THIS-FILE DIR begins there.\n")
	fmt.Fprintf(&b, "threshold is bytes in one send, or never: from there on sends begin by zero-copy, to peers that are not on\n")
	fmt.Fprintf(&b, "this host. What a loop's own traffic teaches counts for more.\n\n")
	fmt.Fprintf(&b, "%s\n", r.Machine)
	fmt.Fprintf(&b, "%d interleaved rounds of %v, over the %s: it stands for a card with scatter-gather, checksums and TSO.\n", r.Rounds, time.Duration(r.Window*float64(time.Second)), r.Places[0].Name)
	fmt.Fprintf(&b, "CPU seconds per GB (10⁹ bytes), medians; cold: a working set of %s beside a last-level cache of %s.\n\n", FormatSize(r.Cold), FormatSize(r.Machine.LastCache))
	lines := [][]string{{"bytes of a send", "hot: copy", "zero-copy", "ratio", "cold: copy", "zero-copy", "ratio"}}
	for i, size := range c.Sizes {
		lines = append(lines, []string{FormatSize(size),
			FormatValue(c.Hot.Copy[i]), FormatValue(c.Hot.ZeroCopy[i]), fmt.Sprintf("%.2f", c.Hot.Ratio[i]),
			FormatValue(c.Cold.Copy[i]), FormatValue(c.Cold.ZeroCopy[i]), fmt.Sprintf("%.2f", c.Cold.Ratio[i])})
	}
	align(&b, lines)
	b.WriteByte('\n')
	for _, s := range c.Findings() {
		wrap(&b, s)
	}
	for _, w := range r.Warnings {
		wrap(&b, "To doubt: "+w)
	}
	return b.String()
}

// wrap writes a text in lines of about 110 characters, the others indented.
func wrap(b *strings.Builder, text string) {
	const width = 110
	n := 0
	for i, word := range strings.Fields(text) {
		switch long := n+1+len(word) > width; {
		case long:
			b.WriteString("\n  ")
			n = 2
		case i > 0:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += len(word)
	}
	b.WriteByte('\n')
}

// Host is the policy of this machine.
func (r *Result) Host(c *Calibration) policy.Host {
	return policy.Host{
		Threshold: c.Threshold(), Kernel: r.Machine.Kernel, Machine: fmt.Sprintf("%s, %d processors", r.Machine.CPU, r.Machine.CPUs),
		Measured: r.Began.UTC().Format("2006-01-02 15:04 MST"), Command: strings.Join(r.Command, " "),
	}
}

// calibrateFigures are one for each source.
func (r *Result) calibrateFigures() (figures []Figure) {
	c, err := r.Calibrate()
	for _, source := range memory {
		var outcomes []Outcome
		for _, o := range r.Outcomes {
			if o.Source == source {
				outcomes = append(outcomes, o)
			}
		}
		if outcomes == nil {
			continue
		}
		t := Pivot(outcomes, CPUPerGB, func(k Key) string { return k.Subject }, func(k Key) string { return FormatSize(k.Size) })
		t.Title = fmt.Sprintf("%s, %s source", outcomes[0].Place, source)
		t.Note = aboutNamed(Sources, source)
		f := Figure{Table: t, Place: outcomes[0].Place, XLabel: "bytes of a send", LogY: true, Base: byCopy}
		if err == nil {
			at := map[string]int{Hot: c.Hot.BreakEven, Cold: c.Cold.BreakEven}[source]
			f.Findings = []string{"Zero-copy pays " + c.from(at) + "."}
			if at > 0 && at < len(c.Sizes) {
				f.Band = &Band{at - 1, at, "break-even"}
			}
		}
		figures = append(figures, f)
	}
	return figures
}
