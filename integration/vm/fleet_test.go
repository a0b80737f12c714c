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

func TestEveryPatternChoosesATest(t *testing.T) {
	for _, p := range programs {
		names := testsOf(t, p)
		list := strings.TrimSuffix(strings.TrimPrefix(p.run, "^Test("), ")")
		for _, start := range strings.Split(list, "|") {
			if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "Test"+start) }) {
				t.Errorf("no test of %s begins with Test%s", p.name, start)
			}
		}
	}
}

func TestAnAskedForPatternReplacesTheProgramsOwn(t *testing.T) {
	p := program{name: "p", run: "TestA"}
	for asked, want := range map[string]string{"": "-test.run=TestA", "TestX": "-test.run=TestX"} {
		if args := p.command(asked, 1); !slices.Contains(args, want) {
			t.Errorf("with pattern %q: %q", asked, args)
		}
	}
}

func TestProgramsRunWhereTheyAreNotLeftOut(t *testing.T) {
	for _, p := range programs {
		for series := range p.notOn {
			if !slices.Contains(fleet, series) {
				t.Errorf("%s is left out on %s, which is not of the fleet", p.name, series)
			}
		}
	}
	a, b := program{name: "a"}, program{name: "b", notOn: map[string]string{"5.10": "for this test"}}
	for series, want := range map[string]int{"5.10": 1, "6.1": 2} {
		if got := programsOn(series, []program{a, b}); len(got) != want || got[0].name != "a" {
			t.Errorf("on %s: %+v", series, got)
		}
	}
}
