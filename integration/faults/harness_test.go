//go:build linux

package faults

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/internal/httpd"
	"sluice/ring"
	"sluice/zc"
)

// zeroCopy has every send go by zero-copy, on loopback too; copying has none.
var (
	zeroCopy = zc.Policy{Mode: zc.Fixed, Threshold: 1}
	copying  = zc.Policy{Mode: zc.Off}
)

// policies are the ways of a file: all of it by zero-copy; large ones by sendfile and small
// ones by copy; and each kind beside the others.
var policies = []struct {
	name   string
	policy zc.Policy
}{
	{"zero-copy", zeroCopy},
	{"sendfile and copies", copying},
	{"by size", zc.Policy{Mode: zc.Fixed, Threshold: 16 << 10}},
}

// server is an engine that listens, and how its connections ended.
type server struct {
	tb   testing.TB
	eng  *engine.Engine
	addr string

	mu   sync.Mutex
	ends map[string]error // by the peer's address
}

// serve starts an engine of one loop and 16 MiB, unless cfg says otherwise, which gives each
// connection a handler. When the test ends, everything must have been given back. Its
// sockets are of the calling thread's network namespace.
func serve(tb testing.TB, cfg engine.Config, addr string, newHandler func(*engine.Conn) engine.Handler) *server {
	tb.Helper()
	if cfg.Loops == 0 {
		cfg.Loops = 1
	}
	if cfg.ArenaSize == 0 {
		cfg.ArenaSize = 16 << 20
	}
	e, err := engine.New(cfg)
	if errors.Is(err, ring.ErrUnsupported) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	s := &server{tb: tb, eng: e, ends: map[string]error{}}
	tb.Cleanup(func() { s.stop() })
	s.addr = s.listen(addr, newHandler)
	return s
}

// listen has the engine listen for connections of another kind too.
func (s *server) listen(addr string, newHandler func(*engine.Conn) engine.Handler) (bound string) {
	s.tb.Helper()
	ln, err := s.eng.Listen("tcp4", addr, func(c *engine.Conn) engine.Handler { return s.watch(c, newHandler(c)) })
	if err != nil {
		s.tb.Fatal(err)
	}
	return ln.Addr().String()
}

// serveFiles has the file server handle the connections.
func serveFiles(tb testing.TB, cfg engine.Config) *server {
	tb.Helper()
	if cfg.Loops == 0 {
		cfg.Loops = 1
	}
	files, err := httpd.New(site.dir, cfg.Loops, httpd.DefaultRecheck)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { // after the engine's end
		if err := files.Close(); err != nil {
			tb.Error(err)
		}
	})
	return serve(tb, cfg, "127.0.0.1:0", files.Handler)
}

// stop drains and returns the final counters. Nothing may be held or unexplained at the end.
func (s *server) stop() engine.Stats {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.eng.Shutdown(ctx); err != nil {
		s.tb.Errorf("shutdown: %v", err)
	}
	st := s.eng.Stats()
	if st.Arena.Leased != 0 || st.Arena.Pinned != 0 || st.Conns != 0 || st.Sends.Stray != 0 {
		s.tb.Errorf("at the end %d bytes are leased and %d pinned, %d connections are open, and %d completions had nothing waiting for them",
			st.Arena.Leased, st.Arena.Pinned, st.Conns, st.Sends.Stray)
	}
	if n := uint64(len(s.ends)); n != st.Accepted || st.ClosedInOrder+st.Aborted != n {
		s.tb.Errorf("%d connections accepted, %d closed in order, %d reset; %d handlers were told", st.Accepted, st.ClosedInOrder, st.Aborted, n)
	}
	return st
}

// buffersBack waits until the connections hold no buffer.
func (s *server) buffersBack() engine.Stats {
	s.tb.Helper()
	eventually(s.tb, "every buffer returns", func() bool {
		a := s.eng.Stats().Arena
		return a.Leased == 0 && a.Pinned == 0
	})
	return s.eng.Stats()
}

// allBack waits until no connection is left and every buffer has returned.
func (s *server) allBack() engine.Stats {
	s.tb.Helper()
	eventually(s.tb, "every connection ends", func() bool { return s.eng.Stats().Conns == 0 })
	return s.buffersBack()
}

// end waits for the end of the connection with this peer and returns what Closed was told.
func (s *server) end(peer net.Addr) (err error) {
	s.tb.Helper()
	eventually(s.tb, "the connection ends", func() (ended bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		err, ended = s.ends[peer.String()]
		return ended
	})
	return err
}

// watch has the connection's end noted. Its handler is asked everything that it would be
// without.
func (s *server) watch(c *engine.Conn, h engine.Handler) engine.Handler {
	sa, err := unix.Getpeername(c.FD())
	if err != nil {
		return &watched{Handler: h, s: s, peer: fmt.Sprintf("descriptor %d: %v", c.FD(), err)} // it has reset already
	}
	in := sa.(*unix.SockaddrInet4)
	w := &watched{Handler: h, s: s, peer: net.JoinHostPort(net.IP(in.Addr[:]).String(), strconv.Itoa(in.Port))}
	if h, ok := h.(endHandler); ok {
		return &watchedEnds{w, h}
	}
	return w
}

type watched struct {
	engine.Handler
	s    *server
	peer string
}

func (w *watched) Closed(c *engine.Conn, err error) {
	w.Handler.Closed(c, err)
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if _, again := w.s.ends[w.peer]; again {
		w.peer += fmt.Sprint(" again ", len(w.s.ends)) // a port in its next life
	}
	w.s.ends[w.peer] = err
}

// endHandler are the optional methods of a handler; the file server's has both.
type endHandler interface {
	engine.EOFHandler
	engine.DrainHandler
}

type watchedEnds struct {
	*watched
	endHandler
}

// way is a policy, and whether what is sent lies in memory or in a file.
type way struct {
	name   string
	policy zc.Policy
	file   bool
	route  zc.Route // that all bytes must take
}

var ways = []way{
	{"memory by zero-copy", zeroCopy, false, zc.ZeroCopy},
	{"memory by copy", copying, false, zc.Copy},
	{"file by zero-copy", zeroCopy, true, zc.ZeroCopy},
	{"file by sendfile", copying, true, zc.Sendfile},
}

// source sends the first total bytes of the repeated noise, in buffers of size bytes or from
// a file, and then closes.
type source struct {
	tb    testing.TB
	total int
	size  int
	file  *engine.File // nil: from memory
	sent  int
}

// newSource makes the handlers of a way.
func (w way) newSource(tb testing.TB, total int) func(*engine.Conn) engine.Handler {
	tb.Helper()
	var file *engine.File
	if w.file {
		file = noiseFile(tb, total)
		tb.Cleanup(file.Release) // after the engine's end
	}
	return func(c *engine.Conn) engine.Handler {
		s := &source{tb: tb, total: total, size: 160_000, file: file}
		c.Post(s.Writable)
		return s
	}
}

func (*source) Received(_ *engine.Conn, p []byte) int { return len(p) }

func (s *source) Writable(c *engine.Conn) {
	if s.file != nil {
		s.check(c.SendFile(s.file.Retain(), 0, int64(s.total)))
		c.Close()
		return
	}
	for s.sent < s.total && !c.Congested() {
		b, err := c.Lease(min(s.size, s.total-s.sent))
		if err != nil {
			if !errors.Is(err, engine.ErrNoBuffers) { // Writable is called again
				s.check(err)
			}
			return
		}
		fillNoise(b.Bytes(), s.sent)
		s.sent += b.Len()
		s.check(c.Send(b))
	}
	if s.sent == s.total {
		c.Close()
	}
}

func (*source) Closed(*engine.Conn, error) {}

// check expects no error but of a connection that has ended meanwhile.
func (s *source) check(err error) {
	if err != nil && !errors.Is(err, engine.ErrClosed) {
		s.tb.Error(err)
	}
}

// fillNoise writes the repeated noise from off on.
func fillNoise(b []byte, off int) {
	for len(b) > 0 {
		n := copy(b, noise[off%len(noise):])
		b, off = b[n:], off+n
	}
}

// noiseFile is a file of n bytes of the noise. It is in memory: what a disk does to the time
// that tests take is not theirs to find out.
func noiseFile(tb testing.TB, n int) *engine.File {
	tb.Helper()
	fd, err := unix.MemfdCreate("noise", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "noise")
	b := make([]byte, n)
	fillNoise(b, 0)
	if _, err := f.Write(b); err != nil {
		tb.Fatal(err)
	}
	return engine.NewFile(f)
}

// sameNoise reads to the end, which must come in order after exactly n bytes of the noise from
// off on.
func sameNoise(r io.Reader, off, n int) error {
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := off; ; {
		k, err := r.Read(got)
		if k > off+n-at {
			return fmt.Errorf("more than %d bytes", n)
		}
		fillNoise(want[:k], at)
		if !bytes.Equal(got[:k], want[:k]) {
			return fmt.Errorf("the %d bytes from %d on are not the ones sent", k, at)
		}
		at += k
		if err == io.EOF && at == off+n {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at-off, n, err)
		}
	}
}

// client is a connection on which a test decides about every byte. Its methods return errors,
// so that any goroutine may use them.
type client struct {
	*net.TCPConn
	in *bufio.Reader
}

// dial connects from a source address, "": any; window bounds what the kernel receives without
// being asked, 0: its default.
func dial(addr, from string, window int) (*client, error) {
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if window == 0 {
			return nil
		}
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, window) })
		return errors.Join(cerr, err)
	}}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &client{TCPConn: nc.(*net.TCPConn)}
	c.in = bufio.NewReader(c.TCPConn)
	return c, c.SetDeadline(time.Now().Add(patience))
}

// dial is for tests: the connection is closed when the test ends.
func (s *server) dial(tb testing.TB, window int) *client {
	tb.Helper()
	c, err := dial(s.addr, "", window)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// ask sends a request for a file.
func (c *client) ask(name, fields string) error {
	_, err := io.WriteString(c, "GET /"+name+" HTTP/1.1\r\nHost: test\r\n"+fields+"\r\n")
	return err
}

// receive reads the response to a request for a file and compares every byte.
func (c *client) receive(name string) error {
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	want := site.files[name]
	if r.StatusCode != http.StatusOK || r.ContentLength != int64(len(want)) {
		return fmt.Errorf("%s: status %d, %d bytes, want %d", name, r.StatusCode, r.ContentLength, len(want))
	}
	return sameBytes(r.Body, name, want)
}

func sameBytes(r io.Reader, name string, want []byte) error {
	got := make([]byte, 16<<10)
	for at := 0; ; {
		n, err := r.Read(got)
		if n > len(want)-at || !bytes.Equal(got[:n], want[at:at+n]) {
			return fmt.Errorf("%s: the %d bytes from %d on are not the file's", name, n, at)
		}
		at += n
		if err == io.EOF && at == len(want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: after %d of %d bytes: %w", name, at, len(want), err)
		}
	}
}

// fetch asks for files, one after the other, and compares them.
func (c *client) fetch(names ...string) error {
	for _, name := range names {
		if err := errors.Join(c.ask(name, ""), c.receive(name)); err != nil {
			return err
		}
	}
	return nil
}

// trickle reads a chunk at a time, fifty a second, until it is told to hurry.
type trickle struct {
	io.Reader
	chunk int
	hurry *atomic.Bool // nil: never
}

func (r trickle) Read(p []byte) (int, error) {
	if r.hurry == nil || !r.hurry.Load() {
		time.Sleep(20 * time.Millisecond)
		p = p[:min(len(p), r.chunk)]
	}
	return r.Reader.Read(p)
}

// reset closes with RST.
func (c *client) reset() error { return errors.Join(c.SetLinger(0), c.Close()) }

func small(i int) string { return fmt.Sprint("s", i%smalls) }

// group runs functions at the same time and reports their errors.
type group struct {
	tb   testing.TB
	wait sync.WaitGroup
}

func (g *group) run(fn func() error) {
	g.wait.Go(func() {
		if err := fn(); err != nil {
			g.tb.Error(err)
		}
	})
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
