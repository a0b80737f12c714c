//go:build linux

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// summary is what came of all programs on all kernels.
type summary struct {
	kernels  []string // that were to run
	programs []program
	results  []result
	broken   []error // guests that did not do all they were told
}

func (s *summary) add(r ...result) { s.results = append(s.results, r...) }

// exitStatus is the command's.
func (s *summary) exitStatus() int {
	if len(s.broken) > 0 {
		return 2
	}
	for i := range s.results {
		if !s.results[i].ok() {
			return 1
		}
	}
	return 0
}

// print writes the table, what was left out, and what went wrong.
func (s *summary) print(w io.Writer) {
	if len(s.results) > 0 {
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "kernel\tprogram\tpassed\tfailed\tskipped\tseconds\t")
		for _, r := range s.results {
			how := ""
			switch {
			case !r.ended:
				how = "did not end"
			case r.code != 0:
				how = fmt.Sprintf("exit status %d", r.code)
			case r.idle():
				how = "every test was skipped"
			}
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%.1f\t%s\n",
				r.series, r.program, r.passed, r.failed, r.skipped, r.seconds, how)
		}
		t.Flush()
	}
	for _, p := range s.programs {
		for _, series := range s.kernels {
			if why := p.notOn[series]; why != "" {
				fmt.Fprintf(w, "left out on %s: %s: %s\n", series, p.name, why)
			}
		}
	}
	for _, r := range s.results {
		for _, why := range slices.Sorted(maps.Keys(r.reasons)) {
			fmt.Fprintf(w, "skipped on %s: %s (%d): %s\n", r.series, r.program, r.reasons[why], why)
		}
	}
	for _, err := range s.broken {
		fmt.Fprintln(w, "vm:", err)
	}
}
