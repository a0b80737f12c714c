package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/zc"
)

func written(tb testing.TB, text string) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "host.yaml")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	return name
}

func TestAPolicyIsReadAsItWasWritten(t *testing.T) {
	name := filepath.Join(t.TempDir(), "host.yaml")
	for _, h := range []Host{
		{Threshold: 1},
		{Threshold: 32 << 10, Kernel: "6.18.44", Machine: "4 processors: \"fast\" #1", Command: "uringserve bench calibrate --policy 'a: b'", Measured: "2026-11-21 16:00 UTC"},
		{Threshold: MaxThreshold, Kernel: "6.1"}, // not a number
		{Threshold: Never},
	} {
		if err := h.Write(name, "what was seen\n\nthreshold: 7\n  indented"); err != nil {
			t.Fatal(err)
		}
		got, err := Read(name)
		if err != nil || got != h {
			t.Errorf("%+v, %v; want %+v", got, err, h)
		}
		text, _ := os.ReadFile(name)
		if !strings.HasPrefix(string(text), "# what was seen\n#\n# threshold: 7\n#   indented\nthreshold: "+h.Threshold.String()+"\n") {
			t.Errorf("the file is\n%s", text)
		}
		if p := got.Policy(); p.Validate() != nil || p.Mode != zc.Adaptive || p.Threshold != int(h.Threshold) {
			t.Errorf("%v: the policy is %+v", h.Threshold, p)
		}
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v: a server of another user cannot read it", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(name)); len(left) != 1 {
		t.Errorf("%d files are left: %v", len(left), left)
	}
}

func TestWhatIsNoPolicyIsRefusedWithWhatToDo(t *testing.T) {
	for text, words := range map[string][]string{
		"":                                  {"no threshold", "never"},
		"# threshold: 1\n":                  {"no threshold"},
		"kernel: 6.18.44\n":                 {"no threshold"},
		"threshold:\n":                      {"threshold"},
		"threshold: 0\n":                    {"threshold 0", "1 to 1048576", "never"},
		"threshold: -1\n":                   {"threshold -1"},
		"threshold: 1048577\n":              {"threshold 1048577", "1048576"},
		"threshold: 99999999999999999999\n": {"threshold 99999999999999999999"},
		"threshold: 32KiB\n":                {"threshold 32KiB", "number of bytes"},
		"threshold: auto\n":                 {"threshold auto"},
		"threshold: [1, 2]\n":               {"line 1"},
		"threshold: 1\nspeed: 9\n":          {"line 2", "field speed is unknown", "threshold, kernel"},
		"threshold: 1\nthreshold: 2\n":      {"threshold already set"},
		"threshold: 1\nmeasured: [1]\n":     {"line 2"},
		"threshold: 1\n---\nthreshold: 2\n": {"more than one document"},
		"threshold: 1\n\x00":                {"control characters"},
		"- threshold\n":                     {"line 1"},
		"{":                                 {"line 1"},
		strings.Repeat("# a comment\n", maxFile/10) + "threshold: 1\n": {"no policy"},
	} {
		name := written(t, text)
		h, err := Read(name)
		if err == nil || h != (Host{}) {
			t.Errorf("%.40q: %+v, %v", text, h, err)
			continue
		}
		for _, w := range append(words, name) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%.40q: %q does not say %q", text, err, w)
			}
		}
		if strings.Contains(err.Error(), "policy.Host") {
			t.Errorf("%.40q: %q speaks of Go", text, err)
		}
	}
	name := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := Read(name); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "bench calibrate") {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("a directory is a policy")
	}
}

func TestAFileThatCannotBeReplacedStays(t *testing.T) {
	name := written(t, "threshold: 7\n")
	// A policy that could not be read is not written.
	for _, n := range []Threshold{0, -1, MaxThreshold + 1} {
		if err := (Host{Threshold: n}).Write(name, ""); err == nil {
			t.Errorf("a threshold of %d was written", n)
		}
	}
	if err := (Host{Threshold: 8}).Write(filepath.Join(name, "below"), ""); err == nil {
		t.Error("written below a file")
	}
	dir := t.TempDir()
	if err := (Host{Threshold: 8}).Write(dir, ""); err == nil {
		t.Error("written over a directory")
	}
	if h, err := Read(name); err != nil || h.Threshold != 7 {
		t.Errorf("%+v, %v: what was there is gone", h, err)
	}
	for _, d := range []string{filepath.Dir(name), filepath.Dir(dir)} {
		if left, _ := filepath.Glob(filepath.Join(d, "*.tmp")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestAnotherKernelIsSaid(t *testing.T) {
	if s := (Host{Kernel: "6.1.0"}).OtherKernel("6.18.44"); !strings.Contains(s, "6.1.0") || !strings.Contains(s, "6.18.44") || !strings.Contains(s, "bench calibrate") {
		t.Errorf("%q", s)
	}
	for _, h := range []Host{{Kernel: "6.18.44"}, {}} {
		if s := h.OtherKernel("6.18.44"); s != "" {
			t.Errorf("%+v: %q", h, s)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("threshold: 1\nkernel: 6.18\n")
	f.Add("threshold: never\n---\n")
	f.Add("threshold: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parse([]byte(text))
		if err != nil {
			return
		}
		if err := h.Policy().Validate(); err != nil || h.Threshold < 1 || h.Threshold > MaxThreshold && h.Threshold != Never {
			t.Errorf("%q is %+v: %v", text, h, err)
		}
	})
}
