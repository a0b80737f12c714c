//go:build linux

package engine

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the run if a test leaves a descriptor, a goroutine, a ring or pinned
// memory behind. A test that needs a process of its own starts this binary again; see inChild.
func TestMain(m *testing.M) {
	if run := childRuns[os.Getenv(childEnv)]; run != nil {
		run()
		os.Exit(0)
	}
	flag.Parse()
	must(flag.Set("test.parallel", "16")) // parallel tests wait for deadlines, not for processors
	before := holdings()
	code := m.Run()
	if left := leaked(before); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "left behind by the tests:\n\t%s\n", strings.Join(left, "\n\t"))
		code = 1
	}
	os.Exit(code)
}

// held is what a process holds that an engine takes and must give back.
type held struct {
	files      map[string]string // descriptor to what it is
	rings      int               // mappings of rings
	pinned     int               // KiB registered with rings
	goroutines int
}

// holdings opens a pipe first, which brings up the runtime's own poller: its descriptors
// are not a leak.
func holdings() held {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	h := held{files: map[string]string{}, goroutines: runtime.NumGoroutine()}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil { // the listing's own is gone
			h.files[name] = target
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	h.rings = bytes.Count(maps, []byte("[io_uring]"))
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	for line := range bytes.Lines(status) {
		if pinned, ok := bytes.CutPrefix(line, []byte("VmPin:")); ok {
			fmt.Sscan(string(pinned), &h.pinned)
		}
	}
	return h
}

// leaked lists what is held now and was not before. Goroutines that were told to end are
// given time to do so, and so is the kernel, which ends rings on a thread of its own.
func leaked(before held) (left []string) {
	now := holdings()
	for deadline := time.Now().Add(patience); now.goroutines > before.goroutines || now.pinned > before.pinned; now = holdings() {
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for name, target := range now.files {
		if before.files[name] != target {
			left = append(left, name+" "+target)
		}
	}
	if now.rings > before.rings {
		left = append(left, fmt.Sprintf("%d mappings of rings, of which %d are new", now.rings, now.rings-before.rings))
	}
	if now.pinned > before.pinned {
		left = append(left, fmt.Sprintf("%d KiB of pinned memory, where there was %d", now.pinned, before.pinned))
	}
	if now.goroutines > before.goroutines {
		stacks := make([]byte, 1<<20)
		left = append(left, fmt.Sprintf("goroutines:\n%s", stacks[:runtime.Stack(stacks, true)]))
	}
	return left
}

func TestLeakCheckSeesAnEngine(t *testing.T) {
	eventually(t, "the end of other tests' engines", func() bool { return holdings().pinned == 0 })
	before := holdings()
	e := startEngine(t, Config{Loops: 1})
	now := holdings()
	if len(now.files) <= len(before.files) || now.rings <= before.rings || now.pinned <= before.pinned || now.goroutines <= before.goroutines {
		t.Errorf("an engine does not show: before %d files, %d rings, %d KiB, %d goroutines; with it %d, %d, %d, %d",
			len(before.files), before.rings, before.pinned, before.goroutines, len(now.files), now.rings, now.pinned, now.goroutines)
	}
	stopEngine(t, e)
	if left := leaked(before); len(left) != 0 {
		t.Errorf("after Shutdown there is still %q", left)
	}
}
