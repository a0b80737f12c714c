//go:build linux

package httpd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestMain fails the run if a test leaves a descriptor behind.
func TestMain(m *testing.M) {
	before := openFiles()
	code := m.Run()
	for name, target := range openFiles() {
		if before[name] != target && code == 0 {
			fmt.Fprintf(os.Stderr, "left open by the tests: %s %s\n", name, target)
			code = 1
		}
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
