//go:build linux

package serve_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is a running uringserve.
type server struct {
	tb     testing.TB
	cmd    *exec.Cmd
	url    string // with a slash at the end
	addr   string
	exited chan struct{}

	mu    sync.Mutex
	lines []string
	news  chan struct{} // closed and replaced with each line
}

// start serves dir on a free port of loopback.
func start(tb testing.TB, args ...string) *server { return startAs(tb, rights{}, args...) }

// startAs does so with the rights that are left by r.
func startAs(tb testing.TB, r rights, args ...string) *server {
	tb.Helper()
	s := launch(tb, r, append([]string{"serve", "--listen", "127.0.0.1:0", dir}, args...)...)
	line := s.line("serving ")
	s.url = line[strings.Index(line, "http://"):]
	s.addr = strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/")
	s.line("route: copy") // the last line of the start
	return s
}

// launch starts the program. When the test ends it must have ended, or ends in order; and it must
// not have panicked.
func launch(tb testing.TB, r rights, args ...string) *server {
	tb.Helper()
	s := &server{tb: tb, exited: make(chan struct{}), news: make(chan struct{})}
	s.cmd = r.command(args...)
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go s.collect(stderr)
	tb.Cleanup(func() {
		if s.running() {
			s.signal(syscall.SIGKILL)
		}
		<-s.exited
		log := s.log()
		for _, bad := range []string{"panic:", "fatal error:", "DATA RACE"} {
			if strings.Contains(log, bad) {
				tb.Errorf("uringserve: %s", bad)
			}
		}
		if tb.Failed() {
			tb.Logf("%q said:\n%s", args, log)
		}
	})
	return s
}

// collect takes the program's log until it ends.
func (s *server) collect(stderr io.Reader) {
	sc := bufio.NewScanner(stderr)
	for sc.Scan() {
		s.mu.Lock()
		s.lines = append(s.lines, sc.Text())
		close(s.news)
		s.news = make(chan struct{})
		s.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, stderr) // a line that is too long
	_ = s.cmd.Wait()
	close(s.exited)
}

func (s *server) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// line waits for a line of the log that has the text in it.
func (s *server) line(text string) string {
	s.tb.Helper()
	limit := time.After(patience)
	for {
		s.mu.Lock()
		news := s.news
		for _, l := range s.lines {
			if strings.Contains(l, text) {
				s.mu.Unlock()
				return l
			}
		}
		s.mu.Unlock()
		select {
		case <-news:
		case <-s.exited:
			if !strings.Contains(s.log(), text) {
				s.tb.Fatalf("it ended without saying %q", text)
			}
		case <-limit:
			s.tb.Fatalf("it did not say %q within %v", text, patience)
		}
	}
}

func (s *server) running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

func (s *server) signal(sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Error(err)
	}
}

// exit waits for the end of the process and returns its status.
func (s *server) exit() int {
	s.tb.Helper()
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.tb.Fatalf("it did not end within %v", patience)
	}
	return s.cmd.ProcessState.ExitCode()
}

// stop ends the process in order and returns what it says it has done.
func (s *server) stop() totals {
	s.tb.Helper()
	s.signal(syscall.SIGINT)
	if status := s.exit(); status != 0 {
		s.tb.Fatalf("exit status %d after SIGINT", status)
	}
	return s.totals()
}

// count is a route's line of the totals.
type count struct{ bytes, sends int64 }

// totals is what the program says at its end.
type totals struct {
	accepted, closed, reset      int64
	acceptErrors                 int64
	copied, zeroCopied, sendfile count
	stray, failed, undelivered   int64
}

func (t totals) bytes() int64 { return t.copied.bytes + t.zeroCopied.bytes + t.sendfile.bytes }

var numbers = regexp.MustCompile(`\d+`)

func (s *server) totals() (t totals) {
	s.tb.Helper()
	for text, to := range map[string][]*int64{
		"connections: ":             {&t.accepted, &t.closed, &t.reset, &t.acceptErrors},
		" copy: ":                   {&t.copied.bytes, &t.copied.sends},
		" zero-copy: ":              {&t.zeroCopied.bytes, &t.zeroCopied.sends},
		" sendfile: ":               {&t.sendfile.bytes, &t.sendfile.sends},
		"zero-copy notifications: ": {nil, nil, nil, &t.stray},
		"errors: ":                  {&t.failed, &t.undelivered},
	} {
		l := ""
		for _, line := range strings.Split(s.log(), "\n") {
			if strings.Contains(line, text) && !strings.Contains(line, "route:") {
				l = line
			}
		}
		_, rest, ok := strings.Cut(l, text)
		n := numbers.FindAllString(rest, -1)
		if !ok || len(n) < len(to) {
			s.tb.Fatalf("no totals of %q in %q", text, l)
		}
		for i, p := range to {
			if p == nil {
				continue
			}
			v, err := strconv.ParseInt(n[i], 10, 64)
			if err != nil {
				s.tb.Fatal(err)
			}
			*p = v
		}
	}
	return t
}

// descriptors is how many files and sockets the process has open.
func (s *server) descriptors() int {
	s.tb.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		s.tb.Fatal(err)
	}
	return len(names)
}

// sockets is how many connections and listeners the process has.
func (s *server) sockets() (n int) {
	s.tb.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.cmd.Process.Pid))
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// resident is the memory of the process that is in RAM, in bytes. The arena is in it as a whole
// from the start, because it is registered.
func (s *server) resident() int64 {
	s.tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.tb.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			kib, err := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
			if err != nil {
				s.tb.Fatal(err)
			}
			return kib << 10
		}
	}
	s.tb.Fatal("no VmRSS")
	return 0
}

// eventually waits until the condition holds.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}
