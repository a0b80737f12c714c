//go:build linux

package httpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/engine"
	"sluice/internal/leak"
)

// patience is how long a test waits for what must happen before it calls it lost.
const patience = 10 * time.Second

// site is a directory that is being served on loopback.
type site struct {
	dir  string
	srv  *Server
	eng  *engine.Engine
	addr string
}

// options changes a site before the first connection.
type options struct {
	recheck time.Duration
	config  engine.Config
	before  func(*Server)
}

// forever is a recheck that never comes.
const forever = 1000 * time.Hour

// newSite serves an empty directory. That everything can be closed in order when the
// test ends is part of every test.
func newSite(tb testing.TB, o options) *site {
	tb.Helper()
	s := &site{dir: tb.TempDir()}
	if o.config.Loops == 0 {
		o.config.Loops = 1
	}
	if o.config.ArenaSize == 0 {
		o.config.ArenaSize = 8 << 20
	}
	var err error
	if s.srv, err = New(s.dir, o.config.Loops, o.recheck); err != nil {
		tb.Fatal(err)
	}
	if o.before != nil {
		o.before(s.srv)
	}
	if s.eng, err = engine.New(o.config); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(s.eng.Shutdown(ctx), s.srv.Close()); err != nil {
			tb.Error(err)
		}
	})
	ln, err := s.eng.Listen("tcp", "127.0.0.1:0", s.srv.Handler)
	if err != nil {
		tb.Fatal(err)
	}
	s.addr = ln.Addr().String()
	return s
}

// write makes a file of the site.
func (s *site) write(tb testing.TB, name string, data []byte) string {
	tb.Helper()
	full := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(full, data, 0o644); err != nil {
		tb.Fatal(err)
	}
	return full
}

// openBelow counts the descriptors of this process that are files of the site.
func (s *site) openBelow(tb testing.TB) (n int) {
	tb.Helper()
	for _, target := range leak.Now().Files {
		if rel, err := filepath.Rel(s.dir, target); err == nil && filepath.IsLocal(rel) && rel != "." {
			n++
		}
	}
	return n
}

// noise is n bytes that do not repeat, the same for the same seed.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// eventually waits until the condition holds.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// client is a connection on which a test decides about every byte.
type client struct {
	tb testing.TB
	*net.TCPConn
	in *bufio.Reader
}

func (s *site) dial(tb testing.TB) *client { return dial(tb, s.addr) }

func dial(tb testing.TB, addr string) *client {
	tb.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	return &client{tb: tb, TCPConn: nc.(*net.TCPConn), in: bufio.NewReader(nc)}
}

func (c *client) send(raw string) {
	c.tb.Helper()
	if _, err := io.WriteString(c.TCPConn, raw); err != nil {
		c.tb.Fatal(err)
	}
}

// sendAndWait returns when the server has received what was sent.
func (c *client) sendAndWait(s *site, raw string) {
	c.tb.Helper()
	had := s.eng.Stats().BytesReceived
	c.send(raw)
	eventually(c.tb, "the server receives what was sent", func() bool {
		return s.eng.Stats().BytesReceived >= had+uint64(len(raw))
	})
}

// response is one answer, read whole.
type response struct {
	status int
	header http.Header
	length int64 // Content-Length; -1: none
	close  bool
	body   []byte
}

// tryRead reads the answer to a request with the given method.
func (c *client) tryRead(method string) (*response, error) {
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	return &response{r.StatusCode, r.Header, r.ContentLength, r.Close, body}, err
}

func (c *client) read(method string) *response {
	c.tb.Helper()
	r, err := c.tryRead(method)
	if err != nil {
		c.tb.Fatalf("read a response: %v", err)
	}
	return r
}

// get asks for a path, with further header lines, and reads the answer.
func (c *client) get(path string, lines ...string) *response { return c.ask("GET", path, lines...) }

func (c *client) ask(method, path string, lines ...string) *response {
	c.tb.Helper()
	c.send(head(method, path, lines...))
	return c.read(method)
}

// head is a request of HTTP/1.1.
func head(method, path string, lines ...string) string {
	h := method + " " + path + " HTTP/1.1\r\nHost: test\r\n"
	for _, l := range lines {
		h += l + "\r\n"
	}
	return h + "\r\n"
}

// wantEnd expects that nothing more comes and that the server has closed in order.
func (c *client) wantEnd() {
	c.tb.Helper()
	if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
		c.tb.Fatalf("expected the end of the connection, got %.80q and %v", rest, err)
	}
}

// wantReset expects that the server has ended the connection in the middle.
func (c *client) wantReset() {
	c.tb.Helper()
	if _, err := io.Copy(io.Discard, c.in); !errors.Is(err, syscall.ECONNRESET) {
		c.tb.Fatalf("expected a reset, got %v", err)
	}
}

// wantFile expects a 200 with exactly these bytes.
func (c *client) wantFile(r *response, data []byte) {
	c.tb.Helper()
	switch {
	case r.status != http.StatusOK:
		c.tb.Fatalf("status %d, want 200; %.80q", r.status, r.body)
	case r.length != int64(len(data)):
		c.tb.Fatalf("Content-Length %d, want %d", r.length, len(data))
	case !bytes.Equal(r.body, data):
		c.tb.Fatalf("body of %s, want %s", digest(r.body), digest(data))
	}
}

func (c *client) wantStatus(r *response, status int) {
	c.tb.Helper()
	if r.status != status {
		c.tb.Fatalf("status %d, want %d; %.80q", r.status, status, r.body)
	}
}

func digest(b []byte) string {
	return fmt.Sprintf("%d bytes with sha256 %.6x", len(b), sha256.Sum256(b))
}

// clock is a time that a test sets, for Server.now.
type clock struct{ ns atomic.Int64 }

func (k *clock) now(*engine.Conn) time.Time { return time.Unix(1e9, k.ns.Load()) }

func (k *clock) advance(d time.Duration) { k.ns.Add(int64(d)) }
