// Package leak tells what a process holds that an engine takes and must give back. Tests
// compare what there was before with what is left afterwards.
package leak

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// patience is how long what was told to end may take: goroutines, and the kernel, which ends
// rings on a thread of its own.
const patience = 20 * time.Second

// Holdings is what a process holds.
type Holdings struct {
	Files      map[string]string // descriptor to what it is
	Rings      int               // mappings of rings
	Pinned     int               // KiB registered with rings
	Goroutines int
}

// Now looks at this process. It opens a pipe first, which brings up the runtime's own poller,
// and listens to a signal, as fuzzing will: what both start for good is not a leak.
func Now() Holdings {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, os.Interrupt)
	signal.Stop(heard)
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	h := Holdings{Files: map[string]string{}, Goroutines: runtime.NumGoroutine()}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil { // the listing's own is gone
			h.Files[name] = target
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	h.Rings = bytes.Count(maps, []byte("[io_uring]"))
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	for line := range bytes.Lines(status) {
		if pinned, ok := bytes.CutPrefix(line, []byte("VmPin:")); ok {
			fmt.Sscan(string(pinned), &h.Pinned)
		}
	}
	return h
}

// Since lists what is held now and was not before.
func Since(before Holdings) (left []string) {
	now := Now()
	for end := time.Now().Add(patience); now.Goroutines > before.Goroutines || now.Pinned > before.Pinned; now = Now() {
		if time.Now().After(end) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for name, target := range now.Files {
		if before.Files[name] != target {
			left = append(left, name+" "+target)
		}
	}
	if now.Rings > before.Rings {
		left = append(left, fmt.Sprintf("%d mappings of rings, of which %d are new", now.Rings, now.Rings-before.Rings))
	}
	if now.Pinned > before.Pinned {
		left = append(left, fmt.Sprintf("%d KiB of pinned memory, where there was %d", now.Pinned, before.Pinned))
	}
	if now.Goroutines > before.Goroutines {
		stacks := make([]byte, 1<<20)
		left = append(left, fmt.Sprintf("goroutines:\n%s", stacks[:runtime.Stack(stacks, true)]))
	}
	return left
}

// Main runs the tests of a package and fails the run if they leave something behind. It
// returns the status for os.Exit.
func Main(m interface{ Run() int }) int {
	before := Now()
	code := m.Run()
	if left := Since(before); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "left behind by the tests:\n\t%s\n", strings.Join(left, "\n\t"))
		return 1
	}
	return code
}
