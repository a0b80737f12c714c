// Package policy is the file that says where zero-copy pays on a host: `uringserve bench calibrate` writes it, and
// `uringserve serve --policy` reads it. It is YAML with one setting and where that comes from, and
// comments for people.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"

	"sluice/zc"
)

// Host is what is known of a host. Only Threshold is a setting, and only it must be there.
type Host struct {
	Threshold Threshold `yaml:"threshold"`
	// Kernel is the release that it was measured on, as in uname -r; "": not told.
	Kernel   string `yaml:"kernel,omitempty"`
	Machine  string `yaml:"machine,omitempty"`
	Measured string `yaml:"measured,omitempty"` // when, for people
	Command  string `yaml:"command,omitempty"`  // that measured it
}

// Threshold is from how many bytes in one send loops begin with zero-copy, or Never.
type Threshold int

// Never begins without any zero-copy. Loops may still learn that it pays.
const Never Threshold = zc.NoSize

// never is how the file says it.
const never = "never"

// MaxThreshold is what the engine puts into one send at most: above it is never.
const MaxThreshold = 1 << 20

// maxFile is far more than a policy with its comments has: what is larger is something else.
const maxFile = 1 << 20

func (t Threshold) String() string {
	if t == Never {
		return never
	}
	return strconv.Itoa(int(t))
}

// UnmarshalYAML takes a number of bytes, or never.
func (t *Threshold) UnmarshalYAML(unmarshal func(any) error) error {
	var s string
	if err := unmarshal(&s); err != nil {
		return err
	}
	if s == never {
		*t = Never
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxThreshold {
		return fmt.Errorf("threshold %s: use a number of bytes from 1 to %d, or %s", s, MaxThreshold, never)
	}
	*t = Threshold(n)
	return nil
}

// MarshalYAML writes what UnmarshalYAML reads.
func (t Threshold) MarshalYAML() (any, error) {
	if t == Never {
		return never, nil
	}
	return int(t), nil
}

// Policy has loops begin at the threshold, and learn from their traffic.
func (h Host) Policy() zc.Policy {
	return zc.Policy{Mode: zc.Adaptive, Threshold: int(h.Threshold)}
}

// OtherKernel says so if the host was measured on another kernel release than the running one, and
// is empty otherwise.
func (h Host) OtherKernel(running string) string {
	if h.Kernel == "" || h.Kernel == running {
		return ""
	}
	return fmt.Sprintf("measured on kernel %s, and this is %s: measure again with uringserve bench calibrate", h.Kernel, running)
}

// Read reads a file. The error names it.
func Read(name string) (h Host, err error) {
	f, err := os.Open(name)
	if err != nil {
		return h, fmt.Errorf("policy: %w: uringserve bench calibrate --policy makes one", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return h, fmt.Errorf("policy: %w", err)
	}
	if h, err = parse(text); err != nil {
		return Host{}, fmt.Errorf("policy %s: %w", name, err)
	}
	return h, nil
}

func parse(text []byte) (h Host, err error) {
	if len(text) > maxFile {
		return h, fmt.Errorf("more than %d bytes: this is no policy", maxFile)
	}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.SetStrict(true)
	if err := d.Decode(&h); err != nil && err != io.EOF {
		return h, plain(err)
	}
	if h.Threshold == 0 {
		return h, fmt.Errorf("there is no threshold: give a number of bytes, or %s", never)
	}
	if err := d.Decode(new(any)); err != io.EOF {
		return h, errors.New("there is more than one document: keep one")
	}
	return h, nil
}

// plain says what the decoder says without the names of Go.
func plain(err error) error {
	var t *yaml.TypeError
	if !errors.As(err, &t) {
		return err
	}
	return errors.New(strings.NewReplacer(
		" not found in type policy.Host", " is unknown: a policy has threshold, kernel, machine, measured and command",
		" in type policy.Host", "",
		"policy.Host", "a policy",
	).Replace(strings.Join(t.Errors, "; ")))
}

// Write makes the file, or replaces it: whoever reads it finds the old or the new one whole. The comment, of
// any number of lines, comes first.
func (h Host) Write(name, comment string) (err error) {
	text, err := yaml.Marshal(h)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(comment, "\n")) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	b.Write(text)
	if back, err := parse([]byte(b.String())); err != nil {
		return fmt.Errorf("policy: what would be written cannot be read: %w", err)
	} else if back.Threshold != h.Threshold {
		return fmt.Errorf("policy: a threshold of %v would be read as %v", h.Threshold, back.Threshold)
	}
	if err := replace(name, b.String()); err != nil {
		return fmt.Errorf("write policy: %w", err)
	}
	return nil
}

// replace gives a file new contents at once, by a rename (rename(2)).
func replace(name, text string) (err error) {
	dir, base := filepath.Split(name)
	f, err := os.CreateTemp(cmp.Or(dir, "."), base+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.WriteString(text)
	// Others read it too: a server rarely runs as who measured.
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
