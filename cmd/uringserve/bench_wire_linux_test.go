package main

import (
	"os"
	"testing"
)

func TestBenchWireEndsLikeItsCommand(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	if status := run([]string{"bench", "wire", "--", "true"}); status != 0 {
		t.Skipf("no wire can be made here: exit status %d", status)
	}
	for want, args := range map[int][]string{
		7:       {"sh", "-c", "exit 7"},
		128 + 9: {"sh", "-c", "kill -9 $$"},
		1:       {"/nothing/here"},
	} {
		if status := run(append([]string{"bench", "wire"}, args...)); status != want {
			t.Errorf("the exit status for %q is %d, want %d", args, status, want)
		}
	}
}

func TestBenchWireRefusesWhatMakesNoSense(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"--big-tcp", "much", "true"},
		{"--in-flight", "-1", "true"},
		{"--mtu", "x", "true"},
	} {
		if status := run(append([]string{"bench", "wire"}, args...)); status != 2 {
			t.Errorf("the exit status for %q is %d, want 2", args, status)
		}
	}
}
