//go:build linux

package kernels

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"sluice/engine"
	"sluice/integration/vm/peer"
	"sluice/zc"
)

// Copies are the whole of what an engine does on 5.10, and must be right on every kernel.

func TestCopyOnlyStreamsArrive(t *testing.T) {
	g := inGuest(t, nil)
	for _, c := range []struct {
		name string
		how  impairment
	}{
		{"good wire", impairment{}},
		{impairments[0].name, impairments[0].how},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, engine.Config{CopyOnly: true})
			impair(t, g.nic, c.how)
			total := playStreams(t, g, e, 2, 3<<19)
			wantCopies(t, e, total)
		})
	}
}

// wantCopies expects that total bytes were sent, and none of them by zero-copy.
func wantCopies(t *testing.T, e *engine.Engine, total int) {
	t.Helper()
	s := e.Stats().Sends
	if copied := s.Total(zc.Copy); copied.Bytes != uint64(total) || s.Total(zc.ZeroCopy).Sends != 0 || notified(&s) != 0 {
		t.Errorf("%+v by copy, %+v by zero-copy, %d notifications, want %d bytes by copy and nothing else",
			copied, s.Total(zc.ZeroCopy), notified(&s), total)
	}
}

func TestEchoComesBack(t *testing.T) {
	const size = 4 << 20
	for _, copyOnly := range []bool{true, false} {
		name := "zero-copy"
		if copyOnly {
			name = "copy only"
		}
		t.Run(name, func(t *testing.T) {
			not := noSendZC
			if copyOnly {
				not = nil
			}
			g := inGuest(t, not)
			e := newEngine(t, engine.Config{CopyOnly: copyOnly, HighWater: 256 << 10})
			h, p := &echo{ended: make(chan error, 1)}, newPeer(t, g)
			connect(t, g, e, p, 0, func(*engine.Conn) engine.Handler { return h })
			got, err := p.Echo(size)
			if err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(peer.Noise(size)); got.Bytes != size || !bytes.Equal(got.SHA256, want[:]) || got.End != "" {
				t.Errorf("%d bytes came back (sha256 %x), and then %q, want %d (%x)", got.Bytes, got.SHA256, got.End, size, want)
			}
			if err := ended(t, h.ended); err != nil {
				t.Errorf("the connection ended with %v", err)
			}
			if copyOnly {
				wantCopies(t, e, size)
			}
		})
	}
}

// echo sends back what it receives, as fast as the connection takes it.
type echo struct{ ended chan error }

func (h *echo) Received(c *engine.Conn, p []byte) int {
	if c.Congested() {
		return 0
	}
	n, _ := c.Write(p) // what was not taken is presented again
	return n
}

func (h *echo) Writable(c *engine.Conn) { c.Resume() }

func (h *echo) Closed(_ *engine.Conn, err error) { h.ended <- err }
