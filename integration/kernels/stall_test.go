//go:build linux

package kernels

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/zc"
)

func TestPinsOfAPeerThatStopsReadingEndByWriteStall(t *testing.T) {
	g := inGuest(t, noSendZC)
	e := newEngine(t, engine.Config{WriteStall: 2 * time.Second})
	// The first send fits the peer's window and the socket's own buffer together, so that it
	// completes; the others wait for room.
	const first, window = 128 << 10, 64 << 10
	opened := make(chan *engine.Conn, 1)
	s, p := newStream(t, 0, []int{first}), newPeer(t, g)
	s.open = true
	connect(t, g, e, p, window, func(c *engine.Conn) engine.Handler {
		opened <- c
		return s.attach(c)
	})
	eventually(t, "a complete send is pinned", func() bool {
		st := e.Stats()
		return st.Sends.Total(zc.ZeroCopy).Bytes == first && notified(&st.Sends) == 0 && st.Arena.Pinned == first
	})
	rest := largeSizes(1, 8<<20)
	(<-opened).Post(func(c *engine.Conn) {
		s.sizes = rest
		s.Writable(c)
	})
	if err := s.end(); !errors.Is(err, engine.ErrStalled) {
		t.Errorf("the connection ended with %v", err)
	}
	eventually(t, "the leases return", func() bool {
		st := e.Stats()
		return st.Arena.Pinned == 0 && st.Arena.Leased == 0
	})
	got, err := p.Read()
	if err != nil || !strings.Contains(got.End, "reset") {
		t.Errorf("the peer: %+v, %v, want a reset", got, err)
	}
	if got.Bytes >= first {
		t.Errorf("the peer took %d bytes: more than its window", got.Bytes)
	}
}

// A peer that stops reading for a while loses nothing, and nothing is copied for its sake.
func TestAPeerThatStallsAndContinuesGetsEverything(t *testing.T) {
	g := inGuest(t, noSendZC)
	e := newEngine(t, engine.Config{})
	const window = 64 << 10
	opened := make(chan *engine.Conn, 1)
	sizes := largeSizes(0, 6<<20)
	s, p := newStream(t, 0, sizes), newPeer(t, g)
	connect(t, g, e, p, window, func(c *engine.Conn) engine.Handler {
		opened <- c
		return s.attach(c)
	})
	fd := (<-opened).FD()
	eventually(t, "the peer's window closes before what is left to send", func() bool {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		return info.Bytes_acked >= window/2 && info.Unacked == 0 && info.Notsent_bytes > 0
	})
	if st := e.Stats(); st.Arena.Pinned == 0 || notified(&st.Sends) != 0 {
		t.Errorf("while the peer stalls %d bytes are pinned and %d sends are notified", st.Arena.Pinned, notified(&st.Sends))
	}
	got, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	wantReceived(t, got, 0, sizes)
	if err := s.end(); err != nil {
		t.Errorf("the connection ended with %v", err)
	}
	wantNotCopied(t, e, wantByZeroCopy(t, e, sum(sizes)))
}
