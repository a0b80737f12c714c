package bufreg

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// A zero-copy send charges a socket by the offset inside a huge page, so an arena must have none, unless
// they are asked for: the mapping carries the flag "nh", or "hg" (proc_pid_smaps(5)).
func TestTheArenaHasHugePagesOnlyWhereTheyAreAskedFor(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("the kernel has no huge pages:", err)
	}
	for want, open := range map[string]func(int) (*Registry, error){"nh": New, "hg": NewHuge} {
		r, err := open(4 << 20)
		if err != nil {
			t.Fatal(err)
		}
		flags := mappingFlags(t, uintptr(pointerTo(r.mem, 0)))
		if !slices.Contains(flags, want) {
			t.Errorf("the arena's mapping has the flags %v, want %s among them", flags, want)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// mappingFlags are the VmFlags of the mapping that addr lies in.
func mappingFlags(t *testing.T, addr uintptr) []string {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to); n == 2 {
			inside = from <= addr && addr < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("no mapping at %#x", addr)
	return nil
}
