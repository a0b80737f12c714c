//go:build linux

package serve_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
