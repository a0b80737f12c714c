//go:build linux

package serve_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCalibrateWritesThePolicyThatServeReads(t *testing.T) {
	name := filepath.Join(t.TempDir(), "host.yaml")
	args := []string{"bench", "calibrate", "--rounds", "1", "--time", "10ms", "--policy", name}
	if os.Geteuid() != 0 {
		t.Skip("the wire takes root")
	}
	status, stdout, stderr := outcome(t, rights{}, args...)
	if status != 0 || !strings.Contains(stdout, "Written to "+name) || !strings.Contains(stdout, "wire, hot source") || !strings.Contains(stdout, "wire, cold source") {
		t.Fatalf("status %d, it said\n%s\n%s", status, stdout, stderr)
	}
	text, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(text), "\nthreshold: ") || !strings.Contains(string(text), "bench calibrate --rounds 1") {
		t.Fatalf("%v, the policy is\n%s", err, text)
	}
	s := start(t, "--policy", name)
	s.line("policy " + name)
	if log := s.log(); strings.Contains(log, "WRN") {
		t.Errorf("a warning on the host that was measured:\n%s", log)
	}
	s.stop()
}

// A policy is measured over a wire, which takes root; whoever is not is told so, and no file is made.
func TestAPolicyIsNotMeasuredOverLoopback(t *testing.T) {
	name := filepath.Join(t.TempDir(), "host.yaml")
	refused(t, rights{Memlock: 8 << 20}, 1, []string{"root", "loopback cannot show where zero-copy pays"}, "bench", "calibrate", "--policy", name)
	refused(t, rights{}, 2, []string{"--loopback", "the kernel copies zero-copy sends"}, "bench", "calibrate", "--loopback", "--policy", name)
	if _, err := os.Stat(name); err == nil {
		t.Error("there is a policy all the same")
	}
}

func TestScaleMeasuresLoopsAndConnections(t *testing.T) {
	top := t.TempDir()
	page, samples := filepath.Join(top, "scale.html"), filepath.Join(top, "scale.json")
	args := []string{"bench", "scale", "--rounds", "1", "--time", "10ms", "--loops", "1,2", "--conns", "1,50", "--dir", top, "--report", page, "--json", samples}
	places := []string{"loopback"}
	if os.Geteuid() == 0 {
		args, places = append(args, "--wire"), append(places, "wire")
	}
	status, stdout, stderr := outcome(t, rights{}, args...)
	if status != 0 {
		t.Fatalf("status %d, it said\n%s\n%s", status, stdout, stderr)
	}
	for _, place := range places {
		for _, table := range []string{"throughput of loops", "responses by connections", "memory of an idle connection"} {
			if !strings.Contains(stdout, place+": "+table) {
				t.Errorf("%s: %s is not in\n%s", place, table, stdout)
			}
		}
	}
	for name, has := range map[string]string{page: "<svg", samples: `"loops": 1`} {
		if b, err := os.ReadFile(name); err != nil || !bytes.Contains(b, []byte(has)) {
			t.Errorf("%s: %v, %d bytes without %s", name, err, len(b), has)
		}
	}
	if left, _ := os.ReadDir(top); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

// Whatever part it is in, and however it ends, no server and no clients are left; and when it is told to end, no files.
func TestScaleEndsWithAllThatItStarted(t *testing.T) {
	for part, processes := range map[string]int{ // bench, the receiver of streams, and
		"loops":       3,            // the engine
		"connections": 4, "idle": 4, // a server and its clients
	} {
		for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			t.Run(part+" "+end.String(), func(t *testing.T) {
				top := t.TempDir()
				t.Setenv(markEnv, top)
				t.Cleanup(func() {
					for _, pid := range marked(t, top) { // of a test that has failed
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				})
				s := launch(t, rights{}, "bench", "scale", "--rounds", "100", "--time", "100ms", "--loops", "1", "--conns", "200", "--only", part, "--dir", top)
				for limit := time.Now().Add(patience); len(marked(t, top)) < processes; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(limit) {
						t.Fatalf("%d processes are at work, want %d", len(marked(t, top)), processes)
					}
				}
				s.signal(end)
				if status := s.exit(); end == syscall.SIGINT && status != 0 {
					t.Errorf("exit status %d after an interrupt", status)
				}
				for limit := time.Now().Add(patience); len(marked(t, top)) > 0; time.Sleep(10 * time.Millisecond) {
					if time.Now().After(limit) {
						t.Fatalf("left behind: processes %v", marked(t, top))
					}
				}
				if left, _ := os.ReadDir(top); end == syscall.SIGINT && len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// markEnv marks the processes of a test, with those that they start.
const markEnv = "URINGSERVE_TEST_MARK"

// marked lists them.
func marked(tb testing.TB, mark string) (pids []int) {
	tb.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		if b, _ := os.ReadFile(name); bytes.Contains(b, []byte(markEnv+"="+mark+"\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err != nil {
				tb.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}
