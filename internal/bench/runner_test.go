package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// scripted cells note the order in which they are measured.
func scripted(order *[]string, results map[string]func(call int) (Sample, error), names ...string) (cells []Cell) {
	for _, name := range names {
		calls := 0
		cells = append(cells, Cell{Key{Subject: name, Place: "here", Size: 4096}, func(context.Context) (Sample, error) {
			*order = append(*order, name)
			calls++
			if f := results[name]; f != nil {
				return f(calls)
			}
			return Sample{Seconds: 1, CPU: float64(calls), Bytes: 1e9}, nil
		}})
	}
	return cells
}

func TestRoundsAreInterleaved(t *testing.T) {
	var order []string
	r := Runner{Rounds: 3}
	outcomes, warnings := r.Run(context.Background(), scripted(&order, nil, "a", "b"))
	if want := []string{"a", "b", "a", "b", "a", "b"}; !slices.Equal(order, want) {
		t.Errorf("measured in the order %v, want %v", order, want)
	}
	if len(warnings) != 0 {
		t.Errorf("warned of %v", warnings)
	}
	if s := outcomes[1].Spread(CPUPerGB); s != (Spread{Median: 2, Min: 1, Max: 3, N: 3}) {
		t.Errorf("1, 2 and 3 CPU seconds for a GB are %+v", s)
	}
}

func TestWhatIsRefusedOrFailsIsNotTriedAgainAndSaysWhy(t *testing.T) {
	var order []string
	var told bytes.Buffer
	r := Runner{Rounds: 3, Progress: &told}
	outcomes, _ := r.Run(context.Background(), scripted(&order, map[string]func(int) (Sample, error){
		"old":    func(int) (Sample, error) { return Sample{}, fmt.Errorf("child: %w", &Refusal{"it needs Linux 9"}) },
		"broken": func(int) (Sample, error) { return Sample{}, errors.New("no route") },
	}, "old", "broken", "good"))
	if want := []string{"old", "broken", "good", "good", "good"}; !slices.Equal(order, want) {
		t.Errorf("measured in the order %v, want %v", order, want)
	}
	if o := outcomes[0]; o.Refused != "it needs Linux 9" || o.Error != "" {
		t.Errorf("the refusal became %+v", o)
	}
	if o := outcomes[1]; o.Refused != "" || o.Error != "no route" {
		t.Errorf("the failure became %+v", o)
	}
	result := Result{Outcomes: outcomes}
	if f := result.Failed(); len(f) != 1 || f[0].Subject != "broken" {
		t.Errorf("%+v failed", f)
	}
	if !strings.Contains(told.String(), "here, broken, 4 KiB: no route") || strings.Contains(told.String(), "Linux 9") {
		t.Errorf("progress tells %q", told.String())
	}
}

func TestAnInterruptedRunKeepsWhatThereIs(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var order []string
	r := Runner{Rounds: 5}
	outcomes, warnings := r.Run(ctx, scripted(&order, map[string]func(int) (Sample, error){
		"b": func(call int) (Sample, error) {
			if call == 2 {
				cancel()
				return Sample{}, ctx.Err()
			}
			return Sample{Seconds: 1, CPU: 1, Bytes: 1}, nil
		},
	}, "a", "b"))
	if len(outcomes[0].Samples) != 2 || len(outcomes[1].Samples) != 1 || outcomes[1].Error != "" {
		t.Errorf("kept %+v", outcomes)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "interrupted in round 2 of 5") {
		t.Errorf("warned of %q", warnings)
	}
}

func TestABusyMachineIsWarnedOfBeforeItsRound(t *testing.T) {
	idle := []float64{1, 0.5, 0.97}
	var order []string
	r := Runner{Rounds: 3, Idle: func() float64 { v := idle[0]; idle = idle[1:]; return v }}
	_, warnings := r.Run(context.Background(), scripted(&order, nil, "a"))
	if len(warnings) != 1 || !strings.Contains(warnings[0], "round 2") || !strings.Contains(warnings[0], "50 %") {
		t.Errorf("warned of %q", warnings)
	}
}

func TestProgressOnATerminalIsOneLineThatGoes(t *testing.T) {
	var order []string
	var told bytes.Buffer
	r := Runner{Rounds: 2, Progress: &told, Terminal: true}
	r.Run(context.Background(), scripted(&order, nil, "a", "bb"))
	s := told.String()
	if strings.Contains(s, "\n") || !strings.HasSuffix(s, "\r") {
		t.Errorf("%q is not a line that is gone at the end", s)
	}
	for _, want := range []string{"round 1 of 2, here, a, 4 KiB", "round 2 of 2, here, bb, 4 KiB, about 0s left"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q does not say %q", s, want)
		}
	}
}

func TestWhatIsLeftIsThisRoundsRestAndTheRoundsAfterIt(t *testing.T) {
	// 10 cells, of which 4 ended in the first round; it is in the second, 2 of 6 done.
	p := progress{rounds: 4, round: 1, todo: 6, inRound: 2, done: 12}
	if n := p.samplesLeft(); n != 4+6+6 {
		t.Errorf("%d samples are left, want 16", n)
	}
}

func TestASpreadIsMedianAndExtremes(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{9, 1, 2}, Spread{2, 1, 9, 3}},
		{[]float64{4, 1, 9, 2}, Spread{3, 1, 9, 4}},
	} {
		if got := SpreadOf(c.values); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.values, got, c.want)
		}
	}
	v := []float64{3, 1, 2}
	SpreadOf(v)
	if !slices.Equal(v, []float64{3, 1, 2}) {
		t.Error("the samples' order was changed")
	}
}
