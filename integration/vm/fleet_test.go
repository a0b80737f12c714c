//go:build linux

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testsOf are the names of a program's test functions.
func testsOf(t *testing.T, p program) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", p.pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", p.pkg, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func TestWhatIsLeftOutExists(t *testing.T) {
	for _, x := range leftOut {
		i := slices.IndexFunc(programs, func(p program) bool { return p.name == x.program })
		if i < 0 {
			t.Errorf("there is no program %q", x.program)
			continue
		}
		name, _, _ := strings.Cut(x.test, "/")
		if name != "" && !slices.Contains(testsOf(t, programs[i]), name) {
			t.Errorf("%s has no %s", x.program, name)
		}
		for _, series := range x.kernels {
			if !slices.Contains(fleet, series) {
				t.Errorf("%s %s is left out on %s, which is not of the fleet", x.program, x.test, series)
			}
		}
	}
}

func TestEveryPatternChoosesATest(t *testing.T) {
	for _, p := range programs {
		list, ok := strings.CutPrefix(strings.TrimSuffix(p.run, ")"), "^Test(")
		if !ok {
			continue
		}
		names := testsOf(t, p)
		for _, start := range strings.Split(list, "|") {
			if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "Test"+start) }) {
				t.Errorf("no test of %s begins with Test%s", p.name, start)
			}
		}
	}
}

func TestCommandLeavesOutWhatTheKernelCannot(t *testing.T) {
	p := program{name: "ring"}
	args := strings.Join(p.command("7.2", ""), " ")
	if !strings.Contains(args, "TestStaleFieldTurnsASendIntoEINVAL") || strings.Contains(args, "TestEveryRung") {
		t.Errorf("on 7.2: %s", args)
	}
	if args := strings.Join(p.command("7.2", "TestX"), " "); !strings.Contains(args, "-test.run=TestX") {
		t.Errorf("with a pattern: %s", args)
	}
}

func TestProgramsThatAreLeftOutDoNotRun(t *testing.T) {
	names := func(series string) (out []string) {
		for _, p := range programsOn(series, programs) {
			out = append(out, p.name)
		}
		return out
	}
	if got := names("5.10"); slices.Contains(got, "ring") || !slices.Contains(got, "kernels") {
		t.Errorf("on 5.10: %q", got)
	}
	if got := names("6.18"); len(got) != len(programs) {
		t.Errorf("on 6.18: %q", got)
	}
}
