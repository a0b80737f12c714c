//go:build linux

package ring

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestMain fails the run if a test leaves a descriptor or a mapping of a ring behind.
// A test that needs a process of its own starts this binary again; see inChild.
func TestMain(m *testing.M) {
	if run := childRuns[os.Getenv(childEnv)]; run != nil {
		run()
		os.Exit(0)
	}
	before := openFiles()
	code := m.Run()
	if left := leaked(before); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "left open by the tests: %q\n", left)
		code = 1
	}
	os.Exit(code)
}

// openFiles maps each open descriptor to what it is. Opening a pipe first brings up the
// runtime's own poller, so that its descriptors are not taken for a leak.
func openFiles() map[string]string {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	open := map[string]string{}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil { // the listing's own is gone
			open[name] = target
		}
	}
	return open
}

// leaked lists descriptors that are not in before, and mappings of any ring.
func leaked(before map[string]string) (left []string) {
	for name, target := range openFiles() {
		if before[name] != target {
			left = append(left, name+" "+target)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	for line := range bytes.Lines(maps) {
		if bytes.Contains(line, []byte("[io_uring]")) {
			left = append(left, string(bytes.TrimSpace(line)))
		}
	}
	return left
}

func TestLeakCheckSeesAnOpenRing(t *testing.T) {
	before := openFiles()
	d := newRing(t, Config{Entries: 8})
	const descriptor, ringMapping, entriesMapping = 1, 1, 1
	if left := leaked(before); len(left) != descriptor+ringMapping+entriesMapping {
		t.Errorf("an open ring shows as %q", left)
	}
	d.close()
	if left := leaked(before); len(left) != 0 {
		t.Errorf("after Close there is still %q", left)
	}
}
