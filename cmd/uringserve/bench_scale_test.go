package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"sluice/internal/bench"
)

// scaleGiven checks a command line of bench scale.
func scaleGiven(tb testing.TB, args ...string) (bench.ScalePlan, error) {
	tb.Helper()
	var f scaleFlags
	if err := f.command().ParseFlags(args); err != nil {
		return bench.ScalePlan{}, usageError{err}
	}
	return f.plan()
}

func TestWhatScaleCannotMeasureIsAUsageErrorThatNamesTheFlag(t *testing.T) {
	for _, args := range [][]string{
		{"--loops", "0"}, {"--loops", "1,-2"}, {"--loops", "1025"}, {"--loops", "x"},
		{"--conns", "0"}, {"--conns", "1,20001"}, {"--conns", ""}, {"--conns", "many"},
		{"--only", "loops,speed"}, {"--rounds", "0"}, {"--time", "1ms"}, {"--loopback=false"}, {"--big-tcp", "x"},
	} {
		_, err := scaleGiven(t, args...)
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q: %v", args, err)
		} else if flag, _, _ := strings.Cut(args[0], "="); !strings.Contains(err.Error(), flag) {
			t.Errorf("%q: %q does not name the flag", args, err)
		}
	}
}

func TestTheCommandLineOfScaleIsThePlan(t *testing.T) {
	p, err := scaleGiven(t)
	if err != nil || !slices.Equal(p.Loops, bench.LoopCounts()) || !slices.Equal(p.Conns, []int{1, 10, 100, 1000, 10000}) || !slices.Equal(p.Parts, bench.ScaleParts) {
		t.Errorf("without flags: %+v, %v", p, err)
	}
	p, err = scaleGiven(t, "--loops", "4,1,4", "--conns", "100,1", "--only", "idle,loops,idle", "--wire")
	if err != nil || !slices.Equal(p.Loops, []int{1, 4}) || !slices.Equal(p.Conns, []int{1, 100}) || !slices.Equal(p.Parts, []string{"loops", "idle"}) {
		t.Errorf("%+v, %v", p, err)
	}
}
