package bufreg

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// A zero-copy send charges a socket by the offset inside a huge page, so the arena must
// have none: the mapping carries the flag "nh" (proc_pid_smaps(5)).
func TestArenaHasNoHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("the kernel has no huge pages:", err)
	}
	r := newRegistry(t, 4<<20)
	flags := mappingFlags(t, uintptr(pointerTo(r.mem, 0)))
	if !slices.Contains(flags, "nh") {
		t.Errorf("the arena's mapping has the flags %v, want nh among them", flags)
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
