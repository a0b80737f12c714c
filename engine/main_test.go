//go:build linux

package engine

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/internal/leak"
)

// TestMain fails the run if a test leaves a descriptor, a goroutine, a ring or pinned
// memory behind. A test that needs a process of its own starts this binary again; see inChild.
func TestMain(m *testing.M) {
	if run := childRuns[os.Getenv(childEnv)]; run != nil {
		run()
		os.Exit(0)
	}
	flag.Parse()
	if testing.Short() {
		patience = 2 * time.Minute
	}
	if flag.Lookup("test.fuzz").Value.String() == "" { // where it is the number of processes
		must(flag.Set("test.parallel", "16")) // parallel tests wait for deadlines, not for processors
	}
	os.Exit(leak.Main(m))
}

func TestLeakCheckSeesAnEngine(t *testing.T) {
	eventually(t, "the end of other tests' engines", func() bool { h := leak.Now(); return h.Pinned == 0 && h.Rings == 0 })
	before := leak.Now()
	e := startEngine(t, Config{Loops: 1})
	now := leak.Now()
	pins := now.Pinned > before.Pinned
	if strings.HasPrefix(e.Caps().Kernel, "7.") {
		pins = true // they are not counted in VmPin any more, at least not root's
	}
	if len(now.Files) <= len(before.Files) || now.Rings <= before.Rings || !pins || now.Goroutines <= before.Goroutines {
		t.Errorf("an engine does not show: before %d files, %d rings, %d KiB, %d goroutines; with it %d, %d, %d, %d",
			len(before.Files), before.Rings, before.Pinned, before.Goroutines, len(now.Files), now.Rings, now.Pinned, now.Goroutines)
	}
	stopEngine(t, e)
	if left := leak.Since(before); len(left) != 0 {
		t.Errorf("after Shutdown there is still %q", left)
	}
}
