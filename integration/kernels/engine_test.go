//go:build linux

package kernels

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/integration/vm/peer"
	"sluice/zc"
)

// patience is how long a test waits for what must happen, on an emulated processor.
const patience = time.Minute

// newEngine makes an engine of one loop, at whose end nothing may be held.
func newEngine(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	cfg.Loops = 1
	e, err := engine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := e.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		st := e.Stats()
		if st.Arena.Leased != 0 || st.Arena.Pinned != 0 || st.Conns != 0 {
			t.Errorf("at the end %d bytes are leased, %d pinned, %d connections open", st.Arena.Leased, st.Arena.Pinned, st.Conns)
		}
		if st.Sends.Stray != 0 {
			t.Errorf("%d completions had nothing waiting for them", st.Sends.Stray)
		}
	})
	return e
}

// stream sends bytes of its own in leased buffers of the given sizes as fast as the
// connection takes them, and then closes it.
type stream struct {
	t     *testing.T
	sizes []int // what is left to send
	noise *rand.ChaCha8
	open  bool // do not close at the end
	ended chan error
}

func newStream(t *testing.T, seed byte, sizes []int) *stream {
	return &stream{t: t, sizes: sizes, noise: rand.NewChaCha8([32]byte{seed}), ended: make(chan error, 1)}
}

// attach makes the stream a connection's handler. It plays once the connection is whole.
func (s *stream) attach(c *engine.Conn) engine.Handler {
	c.Post(s.Writable)
	return s
}

func (s *stream) Writable(c *engine.Conn) {
	for len(s.sizes) > 0 && !c.Congested() {
		b, err := c.Lease(s.sizes[0])
		if errors.Is(err, engine.ErrNoBuffers) {
			return // called again when one returns
		}
		if err == nil {
			_, _ = s.noise.Read(b.Bytes()) // never fails
			err = c.Send(b)
		}
		if err != nil {
			s.t.Errorf("send: %v", err)
			c.Abort()
			return
		}
		s.sizes = s.sizes[1:]
	}
	if len(s.sizes) == 0 && !s.open {
		c.Close()
	}
}

func (s *stream) Received(_ *engine.Conn, p []byte) int { return len(p) }

func (s *stream) Closed(_ *engine.Conn, err error) { s.ended <- err }

// end waits for the connection's end.
func (s *stream) end() error {
	s.t.Helper()
	return ended(s.t, s.ended)
}

// ended waits for what a handler's Closed was told.
func ended(t *testing.T, ch <-chan error) error {
	t.Helper()
	select {
	case err := <-ch:
		return err
	case <-time.After(patience):
		t.Fatal("the connection has not ended")
		return nil
	}
}

// wantReceived expects that the peer got exactly what newStream(t, seed, sizes) sends.
func wantReceived(t *testing.T, got peer.Received, seed byte, sizes []int) {
	t.Helper()
	h, noise, total := sha256.New(), rand.NewChaCha8([32]byte{seed}), 0
	for _, n := range sizes {
		b := make([]byte, n)
		_, _ = noise.Read(b)
		h.Write(b)
		total += n
	}
	if got.Bytes != int64(total) || !bytes.Equal(got.SHA256, h.Sum(nil)) || got.End != "" {
		t.Errorf("the peer received %d bytes (sha256 %x) and then %q, want %d (%x) and the end", got.Bytes, got.SHA256, got.End, total, h.Sum(nil))
	}
}

// largeSizes are buffers of which each is a zero-copy send by itself on every kernel, up to
// about total bytes. Few are aligned.
func largeSizes(seed uint64, total int) (sizes []int) {
	r := rand.New(rand.NewPCG(seed, 0))
	const least = 128 << 10 // zc.DefaultThreshold before 6.10
	for sum := 0; sum < total; sum += sizes[len(sizes)-1] {
		sizes = append(sizes, least+r.IntN(bufreg.MaxBuffer-least+1))
	}
	return sizes
}

// newPeer reaches the host.
func newPeer(t *testing.T, g guest) *peer.Client {
	t.Helper()
	p, err := peer.Dial(g.peer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// connect has the peer connect to a listener of the engine's, and h be its handler.
func connect(t *testing.T, g guest, e *engine.Engine, p *peer.Client, receiveBuffer int, h func(*engine.Conn) engine.Handler) {
	t.Helper()
	before := e.Stats().Accepted
	ln, err := e.Listen("tcp", net.JoinHostPort(g.address, "0"), h)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Connect(ln.Addr().String(), receiveBuffer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine accepts the peer", func() bool { return e.Stats().Accepted > before })
	ln.Close()
}

// eventually waits for what comes about by itself.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// wantByZeroCopy expects that every byte went by zero-copy, and waits for a notification of
// each send.
func wantByZeroCopy(t *testing.T, e *engine.Engine, total int) (s zc.Counters) {
	t.Helper()
	eventually(t, "every send is notified", func() bool {
		s = e.Stats().Sends
		return notified(&s) >= s.Total(zc.ZeroCopy).Sends
	})
	sent := s.Total(zc.ZeroCopy)
	if sent.Bytes != uint64(total) || s.Total(zc.Copy).Sends != 0 {
		t.Errorf("%+v by zero-copy and %+v by copy, want all %d bytes by zero-copy", sent, s.Total(zc.Copy), total)
	}
	return s
}

// wantNotCopied expects the kernel to say of each send that it copied nothing.
func wantNotCopied(t *testing.T, e *engine.Engine, s zc.Counters) {
	t.Helper()
	sent := s.Total(zc.ZeroCopy)
	notCopied, unknown := sent.Sends, uint64(0)
	if !e.Caps().UsageReport { // before 6.2; see TestProbeAgreesWithTheDeclaredReleases
		notCopied, unknown = unknown, notCopied
	}
	if s.NotifiedZeroCopy != notCopied || s.NotifiedCopied != 0 || s.NotifiedUnknown != unknown {
		t.Errorf("of %d zero-copy sends %d are reported as not copied, %d as copied, %d do not tell",
			sent.Sends, s.NotifiedZeroCopy, s.NotifiedCopied, s.NotifiedUnknown)
	}
}

// notified is how many notifications there were.
func notified(s *zc.Counters) uint64 {
	return s.NotifiedZeroCopy + s.NotifiedCopied + s.NotifiedUnknown
}

func sum(sizes []int) (n int) {
	for _, s := range sizes {
		n += s
	}
	return n
}
