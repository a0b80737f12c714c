//go:build linux

package engine

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const childEnv = "ENGINE_TEST_CHILD"

// childRuns are run by TestMain in a process of their own, because they take rights away
// from it that cannot be given back, or end it. Each prints its verdict.
var childRuns = map[string]func(){}

// inChild runs one of childRuns, which must end well, and returns what it printed.
func inChild(t *testing.T, name string) string {
	t.Helper()
	out, stderr, err := runChild(t, name)
	if err != nil {
		t.Fatalf("child %q: %v\n%s", name, err, stderr)
	}
	return strings.TrimSpace(out)
}

func runChild(t *testing.T, name string) (stdout, stderr string, err error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+name, "GORACE=atexit_sleep_ms=0")
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	err = cmd.Run()
	return out.String(), text.String(), err
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
