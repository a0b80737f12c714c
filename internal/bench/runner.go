package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Outcome is what became of a cell: samples, or why there are none.
type Outcome struct {
	Key
	Samples []Sample `json:"samples,omitempty"`
	Refused string   `json:"refused,omitempty"` // the kernel or the machine cannot do this
	Error   string   `json:"error,omitempty"`   // the measurement failed
}

// Runner takes samples.
type Runner struct {
	// Rounds is how many samples are taken of each cell.
	Rounds int
	// Progress is told how far the run is: on a terminal by a line that is written over, else by
	// a line for each round. Nil: nobody.
	Progress io.Writer
	Terminal bool
	// Idle is the share of the machine's processors that nobody uses, looked at before each round.
	// Nil: not looked at.
	Idle func() float64
}

// busyBelow is the idle share below which a machine is not left alone: a twentieth is what timers and
// daemons take of a small one.
const busyBelow = 0.95

// Run measures the cells in rounds: all of them once, in their order, then all of them again, so
// that what comes and goes meets all alike. A cell that is refused or fails is not tried again. When
// ctx ends, so does the run, with what there is. The warnings say what to doubt.
func (r *Runner) Run(ctx context.Context, cells []Cell) (outcomes []Outcome, warnings []string) {
	outcomes = make([]Outcome, len(cells))
	for i, c := range cells {
		outcomes[i].Key = c.Key
	}
	p := progress{w: r.Progress, terminal: r.Terminal, began: time.Now(), rounds: r.Rounds}
	defer p.clear()
	for round := range r.Rounds {
		if r.Idle != nil {
			if idle := r.Idle(); idle < busyBelow {
				w := fmt.Sprintf("round %d began on a busy machine: %.0f %% of its processors idle", round+1, 100*idle)
				warnings = append(warnings, w)
				p.line("warning: " + w)
			}
		}
		p.round, p.todo, p.inRound = round, 0, 0
		for i := range outcomes {
			if outcomes[i].open() {
				p.todo++
			}
		}
		for i, c := range cells {
			o := &outcomes[i]
			if !o.open() {
				continue
			}
			p.at(c.Key)
			s, err := c.Measure(ctx)
			if ctx.Err() != nil {
				return outcomes, append(warnings, fmt.Sprintf("interrupted in round %d of %d", round+1, r.Rounds))
			}
			p.done++
			p.inRound++
			var refusal *Refusal
			switch {
			case errors.As(err, &refusal):
				o.Refused = refusal.Reason
			case err != nil:
				o.Error = err.Error()
				p.line(fmt.Sprintf("%s: %v", c.Key, err))
			default:
				o.Samples = append(o.Samples, s)
			}
		}
		p.endRound()
	}
	return outcomes, warnings
}

// open reports whether another sample may be taken.
func (o *Outcome) open() bool { return o.Refused == "" && o.Error == "" }

// progress tells a person how long it will take.
type progress struct {
	w             io.Writer
	terminal      bool
	began         time.Time
	round, rounds int
	todo          int // cells of this round
	inRound       int // samples of this round
	done          int // samples of all rounds
	width         int // of what stands on the terminal's line
}

func (p *progress) at(k Key) {
	if p.w == nil || !p.terminal {
		return
	}
	s := fmt.Sprintf("round %d of %d, %s%s", p.round+1, p.rounds, k, p.left())
	fmt.Fprintf(p.w, "\r%-*s", p.width, s)
	p.width = len(s)
}

// left is how long the rest will take if it goes on as it went.
func (p *progress) left() string {
	if p.done == 0 {
		return ""
	}
	each := time.Since(p.began) / time.Duration(p.done)
	return fmt.Sprintf(", about %v left", (each * time.Duration(p.samplesLeft())).Round(time.Second))
}

// samplesLeft is what is left of this round, and as much as this round for each of those after it.
func (p *progress) samplesLeft() int { return p.todo - p.inRound + p.todo*(p.rounds-p.round-1) }

func (p *progress) endRound() {
	if p.w != nil && !p.terminal {
		fmt.Fprintf(p.w, "round %d of %d done after %v\n", p.round+1, p.rounds, time.Since(p.began).Round(time.Second))
	}
}

// line says something that stays.
func (p *progress) line(s string) {
	if p.w != nil {
		p.clear()
		fmt.Fprintln(p.w, s)
	}
}

func (p *progress) clear() {
	if p.width > 0 {
		fmt.Fprintf(p.w, "\r%*s\r", p.width, "")
		p.width = 0
	}
}
