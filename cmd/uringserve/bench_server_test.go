package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/bench"
)

// serversGiven checks a command line of bench server.
func serversGiven(tb testing.TB, args ...string) (bench.ServerPlan, error) {
	tb.Helper()
	var f serverFlags
	cmd := f.command()
	if err := cmd.ParseFlags(args); err != nil {
		return bench.ServerPlan{}, usageError{err}
	}
	return f.plan()
}

func TestWhatBenchServerCannotMeasureIsAUsageErrorThatNamesTheFlag(t *testing.T) {
	for _, args := range [][]string{
		{"--sizes", "0"}, {"--sizes", "1023"}, {"--sizes", "65MiB"}, {"--sizes", "x"}, {"--sizes", "4KiB,"},
		{"--conns", "0"}, {"--conns", "4097"}, {"--conns", "x"}, {"--conns", "1,"}, {"--conns", "-1"},
		{"--only", "apache"}, {"--only", "nginx"}, {"--only", "caddy,"},
		{"--rounds", "0"}, {"--time", "9ms"}, {"--loopback=false"}, {"--big-tcp", "x"},
	} {
		_, err := serversGiven(t, args...)
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q: %v", args, err)
		} else if flag, _, _ := strings.Cut(args[0], "="); !strings.Contains(err.Error(), flag) {
			t.Errorf("%q: %q does not name the flag", args, err)
		}
	}
}

func TestTheCommandLineOfBenchServerIsThePlan(t *testing.T) {
	p, err := serversGiven(t)
	if err != nil || !slices.Equal(p.Sizes, bench.DefaultBodies) || !slices.Equal(p.Conns, bench.DefaultConns) || len(p.Servers) != len(bench.Servers) || p.Window != 200*time.Millisecond {
		t.Errorf("without flags: %+v, %v", p, err)
	}
	p, err = serversGiven(t, "--sizes", "64KiB,3000,64KiB", "--conns", "7,2,7", "--only", "caddy,URINGSERVE", "--time", "1s", "--loopback=false", "--wire")
	if err != nil || !slices.Equal(p.Sizes, []int{3000, 65536}) || !slices.Equal(p.Conns, []int{2, 7}) || p.Window != time.Second {
		t.Errorf("%+v, %v", p, err)
	}
	if len(p.Servers) != 2 || p.Servers[0].Name != "Caddy" || p.Servers[1].Name != bench.Ours {
		t.Errorf("the servers are %+v", p.Servers)
	}
}
