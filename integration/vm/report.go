//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"

	"sluice/integration/vm/job"
)

// result is what came of one program on one kernel.
type result struct {
	series, program         string
	passed, failed, skipped int // tests and subtests
	seconds                 float64
	code                    int // exit status
	ended                   bool
	reasons                 map[string]int // of skipping, with how many were skipped for it
}

// ok reports whether the program ran to its end and found nothing wrong, in something: if
// every test was skipped, none found the guest that it needs.
func (r *result) ok() bool { return r.ended && r.code == 0 && !r.idle() }

func (r *result) idle() bool { return r.passed == 0 && r.skipped > 0 }

// report reads what a guest prints, counts results, and shows what matters. Tests run with
// -test.v=test2json, which marks the lines that the testing package prints.
type report struct {
	series  string
	out     io.Writer
	verbose bool   // show everything
	heard   func() // called at every sign of life

	release string // the guest's kernel, once it is up
	done    bool   // every program has ended
	results []result
	partial []byte              // of a line
	test    string              // whose output follows
	held    map[string][]string // output of tests that have no result yet
}

func newReport(series string, out io.Writer, verbose bool) *report {
	return &report{series: series, out: out, verbose: verbose, heard: func() {}, held: map[string][]string{}}
}

// Write takes what the guest prints. It never fails.
func (r *report) Write(b []byte) (int, error) {
	r.heard()
	r.partial = append(r.partial, b...)
	for {
		line, rest, ok := bytes.Cut(r.partial, []byte{'\n'})
		if !ok {
			return len(b), nil
		}
		r.partial = rest
		if e, ok := job.ParseEvent(line); ok {
			r.event(e)
		} else {
			r.line(string(line))
		}
	}
}

func (r *report) event(e job.Event) {
	switch e.Kind {
	case job.Ready:
		r.release = e.Text
		r.show("vm: Linux " + e.Text)
	case job.Begin:
		r.results = append(r.results, result{series: r.series, program: e.Name, reasons: map[string]int{}})
		r.test, r.held = "", map[string][]string{}
	case job.End:
		r.flush()
		last := &r.results[len(r.results)-1]
		last.ended, last.code, last.seconds = true, e.Code, e.Seconds
		how := "ok"
		if e.Code != 0 {
			how = fmt.Sprintf("FAILED with exit status %d", e.Code)
		}
		r.show(fmt.Sprintf("vm: Linux %s: %s %s after %.1f s", r.series, e.Name, how, e.Seconds))
	case job.Problem:
		r.show("vm: Linux " + r.series + ": the guest: " + e.Text)
	case job.Done:
		r.done = true
	}
}

// testMark precedes what the testing package prints, which may stand behind output that
// did not end its line.
const testMark = "\x16"

var (
	testTurn   = regexp.MustCompile(`^=== (?:RUN|NAME|CONT|PAUSE) *(\S*)`)
	testResult = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+)`)
)

func (r *report) line(line string) {
	output, marked, isMarked := strings.Cut(line, testMark)
	if r.verbose {
		r.show(output + marked)
	}
	if output != "" || !isMarked {
		r.hold(output)
	}
	if m := testTurn.FindStringSubmatch(marked); m != nil {
		r.test = m[1]
	} else if m := testResult.FindStringSubmatch(marked); m != nil && len(r.results) > 0 {
		r.count(m[1], m[2], strings.TrimSpace(marked))
	} else if isMarked && marked != "PASS" && marked != "FAIL" {
		r.hold(marked)
	}
}

// hold keeps output until it is known whether it matters.
func (r *report) hold(line string) {
	switch {
	case r.test != "":
		r.held[r.test] = append(r.held[r.test], line)
	case !r.verbose:
		r.show(line)
	}
}

// count takes a test's result. What a passed test printed is of no interest, and of a skipped
// one only the reason, which the summary gives.
func (r *report) count(how, test, line string) {
	last := &r.results[len(r.results)-1]
	printed := r.held[test]
	switch how {
	case "PASS":
		last.passed++
	case "SKIP":
		last.skipped++
		last.reasons[reason(printed)]++
	case "FAIL":
		last.failed++
		if !r.verbose {
			text := fmt.Sprintf("%s %s %s", r.series, last.program, line)
			for _, l := range printed {
				text += "\n\t" + strings.TrimSpace(l)
			}
			r.show(text) // at once: other guests report too
		}
	}
	delete(r.held, test)
	if r.test == test {
		r.test = ""
	}
}

// place is where a test logged a line, and running what kernel it mentions.
var (
	place   = regexp.MustCompile(`^\s*\w+\.go:\d+: `)
	running = regexp.MustCompile(` \(running [^)]*\)`)
)

// reason is why a test was skipped: the last that it printed.
func reason(printed []string) string {
	if len(printed) == 0 {
		return "no reason given"
	}
	last := printed[len(printed)-1]
	return running.ReplaceAllString(place.ReplaceAllString(last, ""), "")
}

// flush shows what is held of tests that never had a result.
func (r *report) flush() {
	for test, lines := range r.held {
		if r.verbose {
			break // it was shown as it came
		}
		r.show(r.series + " " + test + " has no result\n\t" + strings.Join(lines, "\n\t"))
	}
	r.test, r.held = "", map[string][]string{}
}

// finish is called when the guest has ended, and returns a result for each program, also for
// those that had no turn.
func (r *report) finish(programs []program) []result {
	r.flush()
	for _, p := range programs[len(r.results):] {
		r.results = append(r.results, result{series: r.series, program: p.name})
	}
	return r.results
}

func (r *report) show(line string) { fmt.Fprintln(r.out, line) }
