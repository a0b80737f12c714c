//go:build linux

package serve_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// policyFile is a file with these lines.
func policyFile(tb testing.TB, lines ...string) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "host.yaml")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		tb.Fatal(err)
	}
	return name
}

func TestAServerBeginsWhereItsPolicyFileSays(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	kernel := "kernel: " + unix.ByteSliceToString(u.Release[:])
	for threshold, route := range map[string]string{
		"4096":  "zero-copy: sends of 4096 bytes or more",
		"never": "zero-copy: nothing, until traffic teaches that it pays",
	} {
		name := policyFile(t, "# by hand", "threshold: "+threshold, kernel, "measured: 2026-11-21 16:00 UTC")
		s := start(t, "--policy", name)
		if got := s.line("route: zero-copy"); !strings.Contains(got, route) {
			t.Errorf("%s: %q is not %q", threshold, got, route)
		}
		if got := s.line("policy " + name); !strings.Contains(got, "begins at "+threshold) || !strings.Contains(got, "2026-11-21") {
			t.Errorf("%s: %q", threshold, got)
		}
		if log := s.log(); strings.Contains(log, "WRN") {
			t.Errorf("a warning on the kernel that was measured:\n%s", log)
		}
		s.stop()
	}
}

func TestAPolicyOfAnotherKernelIsTakenWithAWarning(t *testing.T) {
	s := start(t, "--policy", policyFile(t, "threshold: 8192", "kernel: 5.4.0-elsewhere"))
	if got := s.line("5.4.0-elsewhere"); !strings.Contains(got, "WRN") || !strings.Contains(got, "bench calibrate") {
		t.Errorf("%q is no warning that says what to do", got)
	}
	s.line("zero-copy: sends of 8192 bytes or more")
	s.stop()
}

func TestAPolicyThatCannotBeTakenIsRefused(t *testing.T) {
	good, none := policyFile(t, "threshold: 8192"), filepath.Join(t.TempDir(), "none.yaml")
	for _, c := range []struct {
		status int
		words  []string
		args   []string
	}{
		{1, []string{none, "no such file", "bench calibrate"}, []string{"--policy", none}},
		{1, []string{"line 1", "treshold is unknown"}, []string{"--policy", policyFile(t, "treshold: 8192")}},
		{1, []string{"threshold 2097152", "1 to 1048576, or never"}, []string{"--policy", policyFile(t, "threshold: 2097152")}},
		{2, []string{"--policy " + good, "--zc-threshold 0", "use one of them"}, []string{"--policy", good, "--zc-threshold", "0"}},
		{2, []string{"--policy " + good, "--copy-only", "leave one of them out"}, []string{"--policy", good, "--copy-only"}},
	} {
		refused(t, rights{}, c.status, c.words, append([]string{"serve", "--listen", "127.0.0.1:0", dir}, c.args...)...)
	}
}
