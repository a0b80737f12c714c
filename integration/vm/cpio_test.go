//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

func TestArchiveIsOneThatCPIOReads(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip(err)
	}
	var b bytes.Buffer
	c := newCPIO(&b)
	c.file("a/b/one", 0o755, []byte("x"))
	c.file("a/b/four", 0o644, []byte("1234"))
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "--quiet", "-t")
	cmd.Stdin = &b
	out, err := cmd.Output()
	if want := "a\na/b\na/b/one\na/b/four\n"; err != nil || string(out) != want {
		t.Errorf("cpio lists %q, %v, want %q", out, err, want)
	}
}

// Header and name together, and data, end at multiples of four.
func TestEntriesAreAligned(t *testing.T) {
	for _, name := range []string{"a", "ab", "abc", "abcd"} {
		for n := range 5 {
			var b bytes.Buffer
			c := newCPIO(&b)
			c.entry(name, modeFile|0o600, 0, 0, bytes.Repeat([]byte{'d'}, n))
			const header = 110
			text := b.String()
			if len(text)%4 != 0 {
				t.Errorf("entry %q with %d bytes takes %d", name, n, len(text))
			}
			if size := fmt.Sprintf("%08x", n); text[54:62] != size || text[header:header+len(name)+1] != name+"\x00" {
				t.Errorf("entry %q with %d bytes: %q", name, n, text)
			}
			data := (header + len(name) + 1 + 3) &^ 3
			if !strings.HasPrefix(text[data:], strings.Repeat("d", n)) {
				t.Errorf("entry %q with %d bytes: the data is not at %d", name, n, data)
			}
		}
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestCloseTellsOfTheFirstError(t *testing.T) {
	c := newCPIO(brokenWriter{})
	c.file("a", 0o644, nil)
	if err := c.close(); !errors.Is(err, errBroken) {
		t.Errorf("close: %v", err)
	}
}
