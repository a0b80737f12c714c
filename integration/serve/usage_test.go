//go:build linux

package serve_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// outcome runs the program until it ends by itself.
func outcome(tb testing.TB, r rights, args ...string) (status int, stdout, stderr string) {
	tb.Helper()
	cmd := r.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		tb.Fatalf("%q did not end; it said %q", args, errs.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// refused expects this status and one line with these words; a mistake in the command line
// is followed by a line on where to look.
func refused(t *testing.T, r rights, want int, words []string, args ...string) {
	t.Helper()
	status, stdout, stderr := outcome(t, r, args...)
	if status != want || stdout != "" {
		t.Errorf("%q: status %d, want %d; stdout %q", args, status, want, stdout)
	}
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	if !strings.HasPrefix(lines[0], "uringserve: ") {
		t.Errorf("%q: %q does not begin with the program's name", args, lines[0])
	}
	for _, w := range words {
		if !strings.Contains(lines[0], w) {
			t.Errorf("%q: %q does not say %q", args, lines[0], w)
		}
	}
	wantLines := 1
	if want == 2 {
		wantLines = 2
		if hint := lines[len(lines)-1]; !strings.HasPrefix(hint, "Run 'uringserve") || !strings.HasSuffix(hint, "--help' for usage.") {
			t.Errorf("%q: the hint is %q", args, hint)
		}
	}
	if len(lines) != wantLines {
		t.Errorf("%q: %d lines, want %d: %q", args, len(lines), wantLines, stderr)
	}
}

func TestAMistakeInTheCommandLineIsStatus2(t *testing.T) {
	for _, c := range []struct {
		words []string
		args  []string
	}{
		{[]string{"unknown flag", "--nope"}, []string{"--nope"}},
		{[]string{"unknown flag", "--nope"}, []string{"serve", "--nope", dir}},
		{[]string{"unknown command", `"frob"`}, []string{"frob"}},
		{[]string{"unknown command", `"frob"`}, []string{"frob", dir}},
		{[]string{"DIR"}, []string{"serve"}},
		{[]string{"DIR", "2"}, []string{"serve", dir, dir}},
		{[]string{"--zc-threshold many", "number of bytes, auto or off"}, []string{"serve", "--zc-threshold", "many", dir}},
		{[]string{"--zc-threshold -1", "number of bytes, auto or off"}, []string{"serve", "--zc-threshold", "-1", dir}},
		{[]string{"--arena lots", "KiB, MiB or GiB"}, []string{"serve", "--arena", "lots", dir}},
		{[]string{"--arena 0", "positive"}, []string{"serve", "--arena", "0", dir}},
		{[]string{"--arena 2000GiB", "1024GiB"}, []string{"serve", "--arena", "2000GiB", dir}},
		{[]string{"--max-pinned 0", "positive"}, []string{"serve", "--max-pinned", "0", dir}},
		{[]string{"--max-pinned 9MiB", "8388608 bytes", "--arena"}, []string{"serve", "--max-pinned", "9MiB", "--arena", "8MiB", dir}},
		{[]string{"--loops -1", "1 or more"}, []string{"serve", "--loops", "-1", dir}},
		{[]string{`"two"`, `"--loops"`}, []string{"serve", "--loops", "two", dir}},
		{[]string{"--write-stall", "like 30s"}, []string{"serve", "--write-stall", "0s", dir}},
		{[]string{`"5"`, `"--idle"`}, []string{"serve", "--idle", "5", dir}},
		{[]string{"--listen", "127.0.0.1:8080"}, []string{"serve", "--listen", "", dir}},
	} {
		t.Run(strings.Join(c.args[:min(len(c.args), 3)], " "), func(t *testing.T) { refused(t, rights{}, 2, c.words, c.args...) })
	}
}

func TestWhatCannotBeServedIsStatus1(t *testing.T) {
	none, plain := filepath.Join(dir, "none"), filepath.Join(dir, "one")
	refused(t, rights{}, 1, []string{none, "no such file or directory"}, "serve", "--listen", "127.0.0.1:0", none)
	refused(t, rights{}, 1, []string{plain, "is not a directory"}, "serve", "--listen", "127.0.0.1:0", plain)
	locked := filepath.Join(t.TempDir(), "locked")
	if err := os.Mkdir(locked, 0); err != nil {
		t.Fatal(err)
	}
	refused(t, rights{Memlock: 8 << 20}, 1, []string{locked, "permission denied"}, "serve", "--listen", "127.0.0.1:0", locked)
}

func TestAnAddressThatCannotBeListenedOnIsStatus1(t *testing.T) {
	for _, addr := range []string{"nonsense", "127.0.0.1:99999", "127.0.0.1", "127.0.0.1:nope", "1.2.3.4.5:80", "203.0.113.1:0"} {
		for _, loops := range []string{"1", "2"} {
			refused(t, rights{}, 1, []string{"listen", "--listen"}, "serve", "--loops", loops, "--listen", addr, dir)
		}
	}
}

func TestAPortThatIsTakenIsStatus1(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, loops := range []string{"1", "2"} {
		refused(t, rights{}, 1, []string{ln.Addr().String(), "in use", "--listen"}, "serve", "--loops", loops, "--listen", ln.Addr().String(), dir)
	}
}

// Loops share an address by SO_REUSEPORT, by which two servers could too, each with half of
// the connections.
func TestTwoServersDoNotShareAPort(t *testing.T) {
	for _, first := range []string{"1", "2"} {
		s := start(t, "--loops", first)
		for _, loops := range []string{"1", "2"} {
			refused(t, rights{}, 1, []string{s.addr, "in use"}, "serve", "--loops", loops, "--listen", s.addr, dir)
		}
		newClient(t, s).want("one")
		s.stop()
	}
}

func TestAPortIsFreeAgainAfterTheEnd(t *testing.T) {
	s := start(t, "--loops", "2")
	newClient(t, s).want("mid")
	s.stop()
	again := launch(t, rights{}, "serve", "--loops", "2", "--listen", s.addr, dir)
	again.line("serving ")
	again.stop()
}

func TestHelpSaysHowToServe(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {}} {
		status, stdout, stderr := outcome(t, rights{}, args...)
		if status != 0 || stderr != "" || !strings.Contains(stdout, "Usage:") || !strings.Contains(stdout, "serve ") {
			t.Errorf("%q: %d %q %q", args, status, stdout, stderr)
		}
	}
	status, stdout, stderr := outcome(t, rights{}, "serve", "--help")
	if status != 0 || stderr != "" {
		t.Errorf("serve --help: %d %q", status, stderr)
	}
	for _, word := range []string{"Usage:", "uringserve serve DIR", "--listen", "--loops", "--zc-threshold", "--arena", "--copy-only", "--write-stall", "--drain", "--max-pinned", "--admin", "--explain"} {
		if !strings.Contains(stdout, word) {
			t.Errorf("serve --help does not say %s", word)
		}
	}
}

func TestTheStartSaysWhatServesOnWhatAndHow(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--loops", "1"}, []string{"loops: 1, arena: 64 MiB registered", "route: zero-copy: sends of 32768 bytes or more", "route: sendfile: files above 32768 bytes to peers on this host"}},
		{[]string{"--loops", "2", "--arena", "8MiB", "--zc-threshold", "1"}, []string{"loops: 2, arena: 8 MiB registered", "route: zero-copy: sends of 1 bytes or more, to every peer"}},
		{[]string{"--zc-threshold", "off"}, []string{"route: zero-copy: never (policy-off)", "route: sendfile: files above 32768 bytes"}},
		{[]string{"--copy-only"}, []string{"route: zero-copy: never (", "route: sendfile: files above 32768 bytes"}},
	} {
		s := start(t, c.args...)
		for _, want := range append(c.want, "serving "+dir+" on http://127.0.0.1:", "kernel ", " offers: ", "SEND_ZC", "route: copy: everything else") {
			if !strings.Contains(s.log(), want) {
				t.Errorf("%q: it does not say %q:\n%s", c.args, want, s.log())
			}
		}
		s.stop()
	}
}
