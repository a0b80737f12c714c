package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/bench"
)

// mechanismsGiven checks a command line of bench mechanisms.
func mechanismsGiven(tb testing.TB, args ...string) (bench.MechanismPlan, error) {
	tb.Helper()
	var f mechanismFlags
	cmd := f.command()
	if err := cmd.ParseFlags(args); err != nil {
		return bench.MechanismPlan{}, usageError{err}
	}
	return f.plan()
}

func TestWhatBenchCannotMeasureIsAUsageErrorThatNamesTheFlag(t *testing.T) {
	for _, args := range [][]string{
		{"--sizes", "0"}, {"--sizes", "x"}, {"--sizes", "3KiB"}, {"--sizes", "32"}, {"--sizes", "32MiB"}, {"--sizes", "4KiB,,8KiB"}, {"--sizes", "-1"},
		{"--only", "telepathy"}, {"--only", "write,"}, {"--source", "warm"}, {"--source", "hot,cold,lukewarm"}, {"--source", ""},
		{"--rounds", "0"}, {"--rounds", "-1"}, {"--rounds", "1001"}, {"--rounds", "x"},
		{"--time", "0s"}, {"--time", "9ms"}, {"--time", "61s"}, {"--time", "1"},
		{"--loopback=false"}, {"--big-tcp", "64KiB"}, {"--big-tcp", "1MiB"}, {"--big-tcp", "x"},
	} {
		_, err := mechanismsGiven(t, args...)
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q: %v", args, err)
		} else if flag, _, _ := strings.Cut(args[0], "="); !strings.Contains(err.Error(), flag) {
			t.Errorf("%q: %q does not name the flag", args, err)
		}
	}
}

func TestTheCommandLineOfBenchIsThePlan(t *testing.T) {
	p, err := mechanismsGiven(t)
	if err != nil || !slices.Equal(p.Sizes, bench.DefaultSizes) || len(p.Mechanisms) != len(bench.Mechanisms) || !slices.Equal(p.Sources, []string{"hot", "cold", "file"}) || p.Window != 200*time.Millisecond {
		t.Errorf("without flags: %+v, %v", p, err)
	}
	p, err = mechanismsGiven(t, "--sizes", "64KiB,4096,64KiB", "--only", "Write,send_zc", "--source", "disk,hot", "--time", "1s", "--loopback=false", "--wire")
	if err != nil || !slices.Equal(p.Sizes, []int{4096, 65536}) || !slices.Equal(p.Sources, []string{"hot", "disk"}) || p.Window != time.Second {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := mechanismsGiven(t, "--loopback=false", "--udp"); err != nil {
		t.Errorf("with UDP alone: %v", err)
	}
	if len(p.Mechanisms) != 2 || p.Mechanisms[0].Name != "write" || p.Mechanisms[1].Name != "SEND_ZC" {
		t.Errorf("the mechanisms are %+v", p.Mechanisms)
	}
}
