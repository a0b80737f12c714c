//go:build linux

package kernels

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/integration/vm/job"
	"sluice/integration/vm/peer"
	"sluice/ring"
)

// uringserve is the file server, which the guest has beside the tests.
var uringserve = job.CommandPath("uringserve")

func TestServedFilesArrive(t *testing.T) {
	g := inGuest(t, nil)
	caps, err := ring.Probe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"serve", "--listen", net.JoinHostPort(g.address, "0"), dir}
	if !caps.SendZC {
		args = append(args, "--copy-only")
	}
	sums, large := writeFiles(t, dir)
	s := startServer(t, args...)
	const clients = 2
	fetched := make(chan error, clients)
	for range clients {
		p := newPeer(t, g)
		go func() { fetched <- fetchAll(p, s.url, sums) }()
	}
	for range clients {
		if err := <-fetched; err != nil {
			t.Error(err)
		}
	}
	s.stop()

	var sent, sends, zeroCopied, copied, unknown, stray, failed, undelivered int
	s.total(" zero-copy: ", "%d bytes in %d sends", &sent, &sends)
	s.total("zero-copy notifications: ", "%d zero-copied, %d copied by the kernel, %d unknown, %d stray", &zeroCopied, &copied, &unknown, &stray)
	s.total("errors: ", "%d sends failed, %d bytes undelivered", &failed, &undelivered)
	if failed != 0 || undelivered != 0 || stray != 0 {
		t.Errorf("%d sends failed, %d bytes are undelivered, %d completions stray", failed, undelivered, stray)
	}
	switch {
	case !caps.SendZC:
		if sends != 0 || zeroCopied+copied+unknown != 0 {
			t.Errorf("%d zero-copy sends on a kernel that has none", sends)
		}
	case sent < clients*large:
		t.Errorf("%d bytes by zero-copy, want at least %d", sent, clients*large)
	case caps.UsageReport && (zeroCopied != sends || copied+unknown != 0), !caps.UsageReport && unknown != sends:
		t.Errorf("of %d zero-copy sends %d are reported as not copied, %d as copied, %d do not tell", sends, zeroCopied, copied, unknown)
	}
}

// Without --copy-only a kernel that cannot do zero-copy is refused, with what to do about it.
func TestServerRefusesAKernelWithoutSendZC(t *testing.T) {
	g := inGuest(t, nil)
	if !g.kernel.before(kernelVersion{6, 0}) {
		t.Skip("it has SEND_ZC")
	}
	out, err := exec.CommandContext(t.Context(), uringserve, "serve", "--listen", "127.0.0.1:0", t.TempDir()).CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit status 1", err)
	}
	for _, want := range []string{"SEND_ZC", "Linux 6.0", release(t), "--copy-only"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q does not mention %q", out, want)
		}
	}
	t.Logf("%s", out)
}

// writeFiles writes files of noise and returns their checksums by name, and how many bytes
// are in those that are large.
func writeFiles(t *testing.T, dir string) (sums map[string][]byte, large int) {
	t.Helper()
	sums = map[string][]byte{}
	// Files are read in pieces of 256 KiB: each is a zero-copy send on every kernel. What is
	// left of them is so small that it is none anywhere.
	for i, n := range []int{0, 1, 5000, 1<<20 + 3, 8<<20 + 1} {
		data := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data) // never fails
		name := fmt.Sprint("f", n)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		sums[name] = sum[:]
		large += n >> 20 << 20
	}
	return sums, large
}

// fetchAll has the peer fetch every file, over one connection.
func fetchAll(p *peer.Client, url string, sums map[string][]byte) error {
	for name, sum := range sums {
		got, err := p.Fetch(url + name)
		if err != nil {
			return err
		}
		if got.Status != http.StatusOK || got.End != "" || !bytes.Equal(got.SHA256, sum) {
			return fmt.Errorf("%s: status %d, %d bytes with sha256 %x and then %q, want %x", name, got.Status, got.Bytes, got.SHA256, got.End, sum)
		}
	}
	return nil
}

// server is a running uringserve.
type server struct {
	t   *testing.T
	cmd *exec.Cmd
	url string // with a slash at the end
	log *bufio.Scanner
	end []string // what it says from its end on
}

// startServer starts uringserve and waits until it serves.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, cmd: exec.Command(uringserve, args...)}
	log, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(2*patience, func() { _ = s.cmd.Process.Kill() }) // ends its log, and with it every wait
	t.Cleanup(func() {
		limit.Stop()
		_ = s.cmd.Process.Kill()
		_, _ = io.Copy(io.Discard, log)
		_ = s.cmd.Wait()
	})
	s.log = bufio.NewScanner(log)
	for s.log.Scan() {
		if _, url, ok := strings.Cut(s.log.Text(), " on http://"); ok {
			s.url = "http://" + url
		}
		if strings.Contains(s.log.Text(), "route: copy") { // the last line of the start
			return s
		}
	}
	t.Fatalf("%q ended before it served", args)
	return nil
}

// stop ends the server in order.
func (s *server) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Fatal(err)
	}
	for s.log.Scan() {
		s.end = append(s.end, s.log.Text())
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Fatalf("after SIGINT: %v; it said\n%s", err, strings.Join(s.end, "\n"))
	}
}

// total reads numbers from the line of the totals that has the text in it.
func (s *server) total(text, format string, to ...any) {
	s.t.Helper()
	for _, line := range s.end {
		if _, rest, ok := strings.Cut(line, text); ok {
			if _, err := fmt.Sscanf(rest, format, to...); err != nil {
				s.t.Fatalf("%q: %v", line, err)
			}
			return
		}
	}
	s.t.Fatalf("no totals of %q in %q", text, s.end)
}
