package simring_test

import (
	_ "embed"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/internal/simring"
)

// run makes one run of the choices, and returns how many steps it took.
func run(c *simring.Choices, steps int, trace func(string, ...any)) (taken int, err error) {
	m, err := newSim(c)
	if err != nil {
		return 0, err
	}
	m.Trace = trace
	defer func() {
		taken = m.Steps
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	for range steps {
		m.step()
		if err := m.check(); err != nil {
			return m.Steps, err
		}
	}
	return m.Steps, m.finish()
}

func steps() int {
	if *stepsFlag > 0 {
		return *stepsFlag
	}
	return defaultSteps
}

// TestNoOrderOfEventsBreaksAPromise runs fresh seeds until the steps are used up, or the one
// seed that it is given.
func TestNoOrderOfEventsBreaksAPromise(t *testing.T) {
	first := *firstFlag
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	if *seedFlag != 0 {
		first, *runsFlag = *seedFlag, 1
	}
	total, runs := 0, 0
	for seed := first; total < *totalFlag && (*runsFlag == 0 || runs < *runsFlag); seed++ {
		n, err := run(simring.FromSeed(seed, false), steps(), nil)
		total += n
		runs++
		if err != nil {
			t.Logf("run %d failed", runs)
			report(t, seed, steps(), err)
			return
		}
	}
	t.Logf("%d runs from seed %d, %d steps", runs, first, total)
}

//go:embed testdata/seeds
var failedSeeds string

// TestSeedsThatOnceFailed runs the seeds of testdata/seeds, one a line: seed, steps, what
// was wrong. A change of the workload gives a seed another meaning, so that the older ones
// are no proof, but they cost nothing.
func TestSeedsThatOnceFailed(t *testing.T) {
	for line := range strings.Lines(failedSeeds) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		seed, err := strconv.ParseUint(f[0], 10, 64)
		n, err2 := strconv.Atoi(f[1])
		if err != nil || err2 != nil {
			t.Fatalf("testdata/seeds: %q", line)
		}
		if _, err := run(simring.FromSeed(seed, false), n, nil); err != nil {
			report(t, seed, n, err)
		}
	}
}

// TestReplayIsExact shows that a seed determines a run.
func TestReplayIsExact(t *testing.T) {
	history := func() string {
		var b strings.Builder
		_, err := run(simring.FromSeed(7, false), 1000, func(f string, args ...any) { fmt.Fprintf(&b, f+"\n", args...) })
		if err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if first := history(); len(first) < 1000 || first != history() {
		t.Errorf("two runs of one seed differ, or do nothing (%d bytes of history)", len(first))
	}
}

// report prints a failure, how to see it again, and the shortest history found.
func report(t *testing.T, seed uint64, steps int, err error) {
	c := simring.FromSeed(seed, true)
	_, again := run(c, steps, nil)
	text := fmt.Sprintf("seed %d: %v\nreplay: go test ./internal/simring -run TestNoOrder -seed %d -steps %d", seed, err, seed, steps)
	if again == nil || firstLine(again) != firstLine(err) {
		t.Errorf("%s\nthe replay differs: %v", text, again)
		return
	}
	choices, n := shrink(c.Drawn, steps, firstWord(err))
	var history []string
	_, short := run(simring.Replay(choices), n, func(f string, args ...any) { history = append(history, fmt.Sprintf(f, args...)) })
	const last = 60
	t.Errorf("%s\nshortest history found (%d steps, the last %d of %d events):\n  %s\n%s",
		text, n, min(last, len(history)), len(history), strings.Join(history[max(0, len(history)-last):], "\n  "), firstLine(short))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(fmt.Sprint(err), "\n")
	return line
}

// firstWord is what stays of a message when its numbers change.
func firstWord(err error) string {
	word, _, _ := strings.Cut(strings.TrimLeft(firstLine(err), "0123456789 "), " ")
	return word
}

// shrink looks for fewer choices and steps that fail alike: fewer steps, then blocks of
// choices left out, then blocks of choices made plain, for as long as -shrink says.
func shrink(choices []uint32, steps int, word string) ([]uint32, int) {
	until := time.Now().Add(*shrinkFlag)
	fails := func(c []uint32, n int) bool {
		_, err := run(simring.Replay(c), n, nil)
		return err != nil && firstWord(err) == word
	}
	if !fails(choices, steps) {
		return choices, steps // cut off in the middle of a choice: leave it alone
	}
	for n := steps / 2; n > 0; n /= 2 {
		for steps-n > 0 && time.Now().Before(until) && fails(choices, steps-n) {
			steps -= n
		}
	}
	for size := len(choices) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(choices) && time.Now().Before(until); {
			without := append(append([]uint32(nil), choices[:at]...), choices[at+size:]...)
			if fails(without, steps) {
				choices = without
				continue
			}
			at += size
		}
	}
	for size := max(1, len(choices)/4); size > 0; size /= 2 {
		for at := 0; at+size <= len(choices) && time.Now().Before(until); at += size {
			plain := append([]uint32(nil), choices...)
			clear(plain[at : at+size])
			if fails(plain, steps) {
				choices = plain
			}
		}
	}
	return choices, steps
}
