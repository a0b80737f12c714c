package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sluice/internal/bench"
)

// TestMain lets the test's program be uringserve, as those that it starts as children of bench expect.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "bench" || os.Args[1] == "serve") {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// benchServer is a command line of bench server, brief, in a directory.
func benchServer(dir string, more ...string) []string {
	return append([]string{"bench", "server", "--only", "net/http,uringserve", "--sizes", "16KiB", "--conns", "4", "--rounds", "1", "--time", "100ms", "--dir", dir}, more...)
}

func TestBenchServerMeasuresAndLeavesNothing(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "result.json")
	places := []string{bench.LoopbackName}
	args := benchServer(dir, "--json", file)
	if os.Geteuid() == 0 && run([]string{"bench", "wire", "--", "true"}) == 0 {
		places, args = append(places, bench.WireName), append(args, "--wire")
	}
	if status := run(args); status != 0 {
		t.Fatalf("the exit status is %d", status)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Result
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Outcomes) != 2*len(places) {
		t.Fatalf("%d outcomes at %d places", len(r.Outcomes), len(places))
	}
	for _, o := range r.Outcomes {
		if len(o.Samples) != 1 {
			t.Errorf("%s has %d samples: %s %s", o.Key, len(o.Samples), o.Refused, o.Error)
			continue
		}
		s := o.Samples[0]
		if s.Responses < 4 || s.Ops < 4 || s.Bytes < 4<<14 || s.Seconds < 0.01 || s.Memory < 1<<20 {
			t.Errorf("%s: %+v", o.Key, s)
		}
		if s.CPU <= 0 || s.CPU-s.Softirq > 1.2*s.Seconds {
			t.Errorf("%s used %v s of one processor in %v s", o.Key, s.CPU, s.Seconds)
		}
		if p := s.Times; p == nil || p.P50 <= 0 || p.P50 > p.P99 || p.P99 > p.P999 {
			t.Errorf("%s: response times %+v", o.Key, p)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
	if left := naming(dir); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
}

// naming lists the command lines of processes that name a directory.
func naming(dir string) (lines []string) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		b, _ := os.ReadFile(name)
		if line := bytes.ReplaceAll(b, []byte{0}, []byte{' '}); bytes.Contains(line, []byte(dir)) {
			lines = append(lines, string(line))
		}
	}
	return lines
}

func TestServersEndWithBenchHoweverItEnds(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command("/proc/self/exe", benchServer(dir, "--time", "30s")...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			wait := func(what string, done func() bool) {
				t.Helper()
				for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("%s: running are %q", what, naming(dir))
					}
				}
			}
			wait("the server is not there", func() bool { return len(naming(dir)) >= 2 }) // itself and its first server
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if signal != syscall.SIGKILL && err != nil {
				t.Errorf("it ended with %v", err)
			}
			wait("something is left", func() bool { return len(naming(dir)) == 0 })
			if left, err := os.ReadDir(dir); signal != syscall.SIGKILL && (err != nil || len(left) > 0) {
				t.Errorf("left in the directory: %v, %v", left, err)
			}
		})
	}
}
