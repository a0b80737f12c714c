//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"

	"sluice/integration/vm/job"
)

// printed is what a guest prints for these lines, in which § stands for the mark of the
// testing package. It arrives in pieces.
func printed(r *report, lines string) {
	b := []byte(strings.ReplaceAll(lines, "§", testMark))
	for len(b) > 0 {
		n := min(7, len(b))
		_, _ = r.Write(b[:n])
		b = b[n:]
	}
}

func begin(r *report, program string) {
	printed(r, string(job.Event{Kind: job.Begin, Name: program}.Line()))
}

func end(r *report, program string, code int) {
	printed(r, string(job.Event{Kind: job.End, Name: program, Code: code, Seconds: 1}.Line()))
}

const threeTests = `§=== RUN   TestA
§=== RUN   TestA/sub
    a_test.go:1: of no interest
§    --- PASS: TestA/sub (0.00s)
§=== NAME  TestA
§--- PASS: TestA (0.00s)
§=== RUN   TestB
    b_test.go:2: it is wrong
without an end§--- FAIL: TestB (0.10s)
§=== RUN   TestC
    c_test.go:3: needs Linux 6.0 or later (running 5.10.0)
§--- SKIP: TestC (0.00s)
§FAIL
`

func TestReportCountsResults(t *testing.T) {
	r := newReport("6.1", new(bytes.Buffer), false)
	begin(r, "p")
	printed(r, threeTests)
	end(r, "p", 1)
	results := r.finish([]program{{name: "p"}, {name: "q"}})
	if len(results) != 2 {
		t.Fatalf("%d results of 2 programs", len(results))
	}
	p, q := results[0], results[1]
	if p.passed != 2 || p.failed != 1 || p.skipped != 1 || p.code != 1 || p.ok() {
		t.Errorf("%+v", p)
	}
	if p.reasons["needs Linux 6.0 or later"] != 1 {
		t.Errorf("reasons: %v", p.reasons)
	}
	if q.program != "q" || q.ok() {
		t.Errorf("a program that had no turn: %+v", q)
	}
}

func TestReportShowsWhatFailed(t *testing.T) {
	var out bytes.Buffer
	r := newReport("6.1", &out, false)
	begin(r, "p")
	printed(r, threeTests)
	for _, want := range []string{"6.1 p --- FAIL: TestB", "it is wrong", "without an end"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q does not show %q", out.String(), want)
		}
	}
	for _, not := range []string{"TestA", "of no interest", "TestC", testMark} {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q shows %q", out.String(), not)
		}
	}
}

func TestReportShowsWhatEndedWithoutAResult(t *testing.T) {
	var out bytes.Buffer
	r := newReport("6.1", &out, false)
	begin(r, "p")
	printed(r, "§=== RUN   TestA\npanic: oh\n")
	end(r, "p", 2)
	if !strings.Contains(out.String(), "TestA has no result") || !strings.Contains(out.String(), "panic: oh") {
		t.Errorf("shown is %q", out.String())
	}
}

func TestVerboseReportShowsEverythingOnce(t *testing.T) {
	var out bytes.Buffer
	r := newReport("6.1", &out, true)
	begin(r, "p")
	printed(r, threeTests)
	for line := range strings.Lines(threeTests) {
		want := strings.TrimSuffix(strings.ReplaceAll(line, "§", ""), "\n")
		if n := strings.Count(out.String(), want+"\n"); n != strings.Count(strings.ReplaceAll(threeTests, "§", ""), want+"\n") {
			t.Errorf("%q is shown %d times", want, n)
		}
	}
}

func TestExitStatusTellsFailedTestsFromBrokenGuests(t *testing.T) {
	good, bad, lost, idle := result{ended: true, passed: 1}, result{ended: true, code: 1}, result{}, result{ended: true, skipped: 1}
	for _, c := range []struct {
		s    summary
		want int
	}{
		{summary{results: []result{good}}, 0},
		{summary{results: []result{good, bad}}, 1},
		{summary{results: []result{lost}}, 1},
		{summary{results: []result{idle}}, 1},
		{summary{results: []result{bad}, broken: []error{errNoBoot}}, 2},
	} {
		if got := c.s.exitStatus(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.s, got, c.want)
		}
	}
}
