//go:build linux

package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
	"sluice/zc"
)

// patience is how long a test waits for what must happen before it calls it lost; more with
// -short.
var patience = 20 * time.Second

// amount is how much a test moves: with -short what is still enough, for guests of
// integration/vm, which are slow.
func amount(full, short int) int {
	if testing.Short() {
		return short
	}
	return full
}

// inTime begins a test of deadlines, which waits and needs no processor of its own. With
// -short it is skipped: a slow processor, or one that others need too, is late by itself.
func inTime(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a test of deadlines, for a processor that is in time")
	}
	t.Parallel()
}

// everything has every send of a byte or more go by zero-copy, on loopback too.
var everything = zc.Policy{Mode: zc.Fixed, Threshold: 1}

// handler is a Handler made of functions. Without them it consumes everything and does
// nothing.
type handler struct {
	received func(c *Conn, p []byte) int
	writable func(c *Conn)
	closed   func(c *Conn, err error)
	ended    chan<- error // is sent what Closed is told; see watch
}

// testHandler is a handler with or without the optional methods.
type testHandler interface {
	Handler
	base() *handler
}

func (h *handler) base() *handler { return h }

func (h *handler) Received(c *Conn, p []byte) int {
	if h.received == nil {
		return len(p)
	}
	return h.received(c, p)
}

func (h *handler) Writable(c *Conn) {
	if h.writable != nil {
		h.writable(c)
	}
}

func (h *handler) Closed(c *Conn, err error) {
	if h.closed != nil {
		h.closed(c, err)
	}
	if h.ended != nil {
		h.ended <- err
	}
}

// eofHandler is a handler that is also told of the peer's end of stream.
type eofHandler struct {
	handler
	eof func(c *Conn)
}

func (h *eofHandler) EOF(c *Conn) { h.eof(c) }

// drainHandler is a handler that is also told of the engine's stop.
type drainHandler struct {
	handler
	drain func(c *Conn)
}

func (h *drainHandler) Drain(c *Conn) { h.drain(c) }

// echo is what the smallest server does.
func echo() *handler {
	return &handler{
		received: func(c *Conn, p []byte) int {
			if c.Congested() {
				return 0
			}
			n, _ := c.Write(p) // what was not taken is presented again
			return n
		},
		writable: (*Conn).Resume,
	}
}

// startEngine makes an engine of one loop and 16 MiB, unless cfg says otherwise. It waits for
// ever for peers to close: a test that forgets to, or an engine that does not see it, fails.
func startEngine(tb testing.TB, cfg Config) *Engine {
	tb.Helper()
	return startEngineOn(tb, testSystem(), cfg)
}

func startEngineOn(tb testing.TB, sys kernel.System, cfg Config) *Engine {
	tb.Helper()
	if cfg.Loops == 0 {
		cfg.Loops = 1
	}
	if cfg.ArenaSize == 0 {
		cfg.ArenaSize = 16 << 20
	}
	if cfg.Linger == 0 {
		cfg.Linger = time.Hour
	}
	e, err := newOn(sys, cfg)
	if errors.Is(err, ring.ErrUnsupported) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// needs skips a test on a kernel that lacks a feature.
func needs(tb testing.TB, e *Engine, feature string) {
	tb.Helper()
	if err := e.Caps().Require(feature); err != nil {
		tb.Skip(err)
	}
}

// fixedVectors is the feature that gathered zero-copy sends need.
const fixedVectors = "SENDMSG_ZC from registered buffers"

// stopEngine shuts down without an error and returns the final counters.
func stopEngine(tb testing.TB, e *Engine) Stats {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.Shutdown(ctx); err != nil {
		tb.Errorf("shutdown: %v", err)
	}
	return e.Stats()
}

// newEngine is startEngine for a test at whose end nothing may be held or unexplained.
func newEngine(tb testing.TB, cfg Config) *Engine {
	tb.Helper()
	return newEngineOn(tb, testSystem(), cfg)
}

func newEngineOn(tb testing.TB, sys kernel.System, cfg Config) *Engine {
	tb.Helper()
	e := startEngineOn(tb, sys, cfg)
	tb.Cleanup(func() {
		tb.Helper()
		wantNothingHeld(tb, stopEngine(tb, e))
	})
	return e
}

func wantNothingHeld(tb testing.TB, st Stats) {
	tb.Helper()
	if st.Arena.Leased != 0 || st.Arena.Pinned != 0 {
		tb.Errorf("at the end %d bytes are leased and %d pinned", st.Arena.Leased, st.Arena.Pinned)
	}
	if st.Conns != 0 || st.States != [NumConnStates]int{} {
		tb.Errorf("at the end %d connections are open, by state %v", st.Conns, st.States)
	}
	resets := uint64(0)
	for _, n := range st.Resets {
		resets += n
	}
	if resets != st.Aborted {
		tb.Errorf("%d connections were reset, and by reason %v", st.Aborted, st.Resets)
	}
	if st.Queued != 0 || st.Pinned != 0 || st.OldestPin != (Pin{}) {
		tb.Errorf("at the end %d bytes are queued and %d pinned, the oldest by %+v", st.Queued, st.Pinned, st.OldestPin)
	}
	if st.Sends.Stray != 0 {
		tb.Errorf("%d completions had nothing waiting for them", st.Sends.Stray)
	}
	if st.CQOverflows != 0 {
		tb.Errorf("the completion queue overflowed in %d turns", st.CQOverflows)
	}
}

// settled waits until the kernel has finished every send, and returns the counters.
func settled(tb testing.TB, e *Engine) Stats {
	tb.Helper()
	eventually(tb, "the end of all sends", func() bool { return e.Stats().Arena.Pinned == 0 })
	return e.Stats()
}

// taken lists the ways that sends took.
func taken(st Stats) string {
	var b strings.Builder
	for route := range zc.Route(zc.NumRoutes) {
		for why := range zc.Reason(zc.NumReasons) {
			if n := st.Sends.By[route][why]; n.Sends > 0 {
				fmt.Fprintf(&b, "%d sends of %d bytes by %v (%v); ", n.Sends, n.Bytes, route, why)
			}
		}
	}
	fmt.Fprintf(&b, "%d refused", st.Sends.NotifiedUnknown)
	return b.String()
}

// onLoop runs fn on the loop and waits for it.
func onLoop(tb testing.TB, l *loop, fn func()) {
	tb.Helper()
	ran := make(chan struct{})
	if !l.post(func() { defer close(ran); fn() }) {
		tb.Fatal("the loop has ended")
	}
	await(tb, ran, "a posted function")
}

// await waits for a channel to deliver or to close.
func await[T any](tb testing.TB, ch <-chan T, what string) T {
	tb.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		tb.Fatalf("%s: nothing for %v", what, patience)
		panic("unreachable")
	}
}

// eventually waits for a condition that comes about by itself.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// listen has e listen on a free port of loopback.
func listen(tb testing.TB, e *Engine, newHandler func(*Conn) Handler) *Listener {
	tb.Helper()
	ln, err := e.Listen("tcp", "127.0.0.1:0", newHandler)
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// peer is the other end of a connection: a plain socket, which fails the test rather than
// hang it.
type peer struct {
	net.Conn
	tb testing.TB
}

// dial connects to addr. A receive buffer of 0 is the system's default.
func dial(tb testing.TB, addr net.Addr, receiveBuffer int) *peer {
	tb.Helper()
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if receiveBuffer == 0 {
			return nil
		}
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		})
		return errors.Join(err, cerr)
	}}
	nc, err := d.Dial("tcp", addr.String())
	if err != nil {
		tb.Fatal(err)
	}
	return newPeer(tb, nc)
}

func newPeer(tb testing.TB, nc net.Conn) *peer {
	tb.Helper()
	p := &peer{nc, tb}
	tb.Cleanup(func() { p.Close() })
	if err := p.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	return p
}

// say writes.
func (p *peer) say(b []byte) {
	p.tb.Helper()
	if _, err := p.Write(b); err != nil {
		p.tb.Errorf("the peer's write: %v", err)
	}
}

// hear reads len(want) bytes, which must be want.
func (p *peer) hear(want []byte) {
	p.tb.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(p, got); err != nil {
		p.tb.Fatalf("the peer's read after %d of %d bytes: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		p.tb.Fatalf("the peer got %s, want %s", brief(got), brief(want))
	}
}

func brief(b []byte) string {
	if len(b) <= 64 {
		return string(b)
	}
	sum := sha256.Sum256(b)
	return string(b[:32]) + "… with sha256 " + string(sum[:4])
}

// digest is what a peer received until the end of the stream or an error.
type digest struct {
	n   int64
	sum [sha256.Size]byte
	err error // nil for an orderly end
}

// hearAll reads to the end of the stream.
func (p *peer) hearAll() digest { return hearAll(p) }

func hearAll(from io.Reader) (d digest) {
	h := sha256.New()
	d.n, d.err = io.CopyBuffer(onlyWriter{h}, onlyReader{from}, make([]byte, 256<<10))
	h.Sum(d.sum[:0])
	return d
}

// startHearing is hearAll on a goroutine.
func (p *peer) startHearing() <-chan digest {
	ch := make(chan digest, 1)
	go func() { ch <- p.hearAll() }()
	return ch
}

// The methods beyond Read and Write that io.Copy would prefer are hidden.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// reset closes with RST.
func (p *peer) reset() {
	p.tb.Helper()
	if err := p.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		p.tb.Fatal(err)
	}
	p.Close()
}

// closeWrite ends the peer's half of the stream.
func (p *peer) closeWrite() {
	p.tb.Helper()
	if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		p.tb.Fatal(err)
	}
}

// control runs fn with the peer's descriptor.
func (p *peer) control(fn func(fd int) error) {
	p.tb.Helper()
	raw, err := p.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		p.tb.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = fn(int(fd)) }); errors.Join(err, cerr) != nil {
		p.tb.Fatal(errors.Join(err, cerr))
	}
}

// vanish has the peer's kernel drop everything that arrives: to the other side the host is
// gone.
func (p *peer) vanish() {
	p.tb.Helper()
	p.control(func(fd int) error {
		drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
}

// link is a connection of an engine and its peer.
type link struct {
	tb    testing.TB
	conn  *Conn // its methods only inside do
	peer  *peer
	ended chan error // what Closed was told
}

// watch makes a newHandler that gives the connection h, and sends the connection and its end
// where the test sees them.
func watch(h testHandler, opened chan<- *Conn, ended chan<- error) func(*Conn) Handler {
	h.base().ended = ended
	return func(c *Conn) Handler {
		opened <- c
		return h
	}
}

// connect makes a connection that e accepts, on the only or on some loop.
func connect(tb testing.TB, e *Engine, h testHandler, receiveBuffer int) *link {
	tb.Helper()
	opened, ended := make(chan *Conn, 1), make(chan error, 1)
	ln := listen(tb, e, watch(h, opened, ended))
	p := dial(tb, ln.Addr(), receiveBuffer)
	k := &link{tb: tb, conn: await(tb, opened, "the accepted connection"), peer: p, ended: ended}
	ln.Close()
	return k
}

// plainListener is a server of the net package.
func plainListener(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	return ln
}

// connectOut makes a connection that e dials; loops take turns.
func connectOut(tb testing.TB, e *Engine, h testHandler, receiveBuffer int) *link {
	tb.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if receiveBuffer == 0 {
			return nil
		}
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		})
		return errors.Join(err, cerr)
	}}
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	opened, ended := make(chan *Conn, 1), make(chan error, 1)
	if err := e.Dial(context.Background(), "tcp", ln.Addr().String(), watch(h, opened, ended)); err != nil {
		tb.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return &link{tb: tb, conn: await(tb, opened, "the dialed connection"), peer: newPeer(tb, nc), ended: ended}
}

// adoptUnix has the engine's first loop take over one end of a pair of unix sockets; prepare
// is called with the connection before anything is sent.
func adoptUnix(tb testing.TB, e *Engine, h testHandler, prepare func(c *Conn)) *link {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	f := os.NewFile(uintptr(pair[1]), "unix")
	nc, err := net.FileConn(f)
	f.Close()
	if err != nil {
		tb.Fatal(err)
	}
	opened, ended := make(chan *Conn, 1), make(chan error, 1)
	l := e.loops[0]
	onLoop(tb, l, func() { l.adopt(pair[0], watch(h, opened, ended)) })
	k := &link{tb: tb, conn: <-opened, peer: newPeer(tb, nc), ended: ended}
	k.do(prepare)
	return k
}

// do runs fn on the connection's loop and waits for it.
func (k *link) do(fn func(c *Conn)) {
	k.tb.Helper()
	onLoop(k.tb, k.conn.loop, func() { fn(k.conn) })
}

// end waits for the connection's end and returns what Closed was told.
func (k *link) end() error {
	k.tb.Helper()
	return await(k.tb, k.ended, "the connection's end")
}

// wantEnd expects an orderly end, or one for the given reason.
func (k *link) wantEnd(why error) {
	k.tb.Helper()
	if err := k.end(); !errors.Is(err, why) {
		k.tb.Errorf("the connection ended with %v, want %v", err, why)
	}
}

// stuff sends total bytes of the pool in buffers of the given size to a peer that does not
// read, by a socket that holds little, and waits until it takes no more.
func (k *link) stuff(size, total int) {
	k.tb.Helper()
	k.do(func(c *Conn) {
		limitSendBuffer(k.tb, c)
		for sent := 0; sent < total; sent += size {
			b, err := c.Lease(size)
			if err != nil {
				k.tb.Errorf("lease: %v", err)
				return
			}
			fill(b, sent)
			if err := c.Send(b); err != nil {
				k.tb.Errorf("send: %v", err)
				return
			}
		}
	})
	k.untilStuck()
}

// limitSendBuffer gives the connection's socket the smallest send buffer that there is.
func limitSendBuffer(tb testing.TB, c *Conn) {
	tb.Helper()
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		tb.Errorf("SO_SNDBUF: %v", err)
	}
}

// untilStuck waits until the queue is not getting shorter for want of room in the socket.
func (k *link) untilStuck() {
	k.tb.Helper()
	last, same := int64(-1), 0
	eventually(k.tb, "a socket that takes no more", func() bool {
		var now int64
		k.do(func(c *Conn) { now = c.Queued() })
		if now != last {
			last, same = now, 0
		}
		same++
		return now > 0 && same > 20
	})
}

// pool is the bytes that tests send: the same in every run, and different at every offset.
var pool = sync.OnceValue(func() []byte {
	b := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{'s', 'l', 'u', 'i', 'c', 'e'}).Read(b) // never fails
	return b
})

// poolBytes is n bytes of the repeated pool from off.
func poolBytes(off, n int) []byte {
	b := make([]byte, n)
	for k := 0; k < n; {
		k += copy(b[k:], pool()[(off+k)%len(pool()):])
	}
	return b
}

// fill writes the pool's bytes from off into b.
func fill(b bufreg.Buffer, off int) {
	copy(b.Bytes(), poolBytes(off, b.Len()))
}

// poolFile is a file of n bytes of the pool, repeated. It is in memory: what a disk does to
// the time that tests take is not theirs to find out.
func poolFile(tb testing.TB, n int64) *os.File {
	tb.Helper()
	fd, err := unix.MemfdCreate("pool", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pool")
	tb.Cleanup(func() { f.Close() }) // often closed by then
	writePool(tb, f, n)
	return f
}

func writePool(tb testing.TB, f *os.File, n int64) {
	tb.Helper()
	for n > 0 {
		k := min(n, int64(len(pool())))
		if _, err := f.Write(pool()[:k]); err != nil {
			tb.Fatal(err)
		}
		n -= k
	}
}

// wantDigest expects n bytes of the repeated pool from off, and an orderly end.
func wantDigest(tb testing.TB, got digest, off, n int64) {
	tb.Helper()
	if got.err != nil || got.n != n {
		tb.Fatalf("the peer received %d bytes and then %v, want %d bytes and the end", got.n, got.err, n)
	}
	h := sha256.New()
	for left := n; left > 0; {
		p := pool()[off%int64(len(pool())):]
		p = p[:min(left, int64(len(p)))]
		h.Write(p)
		off += int64(len(p))
		left -= int64(len(p))
	}
	if !bytes.Equal(h.Sum(nil), got.sum[:]) {
		tb.Fatalf("the peer received %d bytes that are not the ones sent", got.n)
	}
}

// wantNotified expects a notification for each zero-copy send.
func wantNotified(tb testing.TB, st Stats) {
	tb.Helper()
	s := &st.Sends
	if got, want := s.NotifiedCopied+s.NotifiedZeroCopy+s.NotifiedUnknown, s.Total(zc.ZeroCopy).Sends; got != want {
		tb.Errorf("%d notifications (%d copied, %d zero-copied, %d unknown) for %d zero-copy sends",
			got, s.NotifiedCopied, s.NotifiedZeroCopy, s.NotifiedUnknown, want)
	}
}
