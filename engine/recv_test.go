//go:build linux

package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// recorder notes what was presented, and consumes what take says.
func recorder(presented chan<- string, take func(p []byte) int) *handler {
	return &handler{received: func(_ *Conn, p []byte) int {
		presented <- string(p)
		return take(p)
	}}
}

func TestUnconsumedInputIsPresentedAgainWithWhatFollows(t *testing.T) {
	e := newEngine(t, Config{})
	presented := make(chan string, 10)
	k := connect(t, e, recorder(presented, func(p []byte) int { return len(p) / 2 }), 0)
	for _, step := range []struct{ say, presented string }{
		{"abcd", "abcd"},
		{"ef", "cdef"},
		{"gh", "efgh"},
	} {
		k.peer.say([]byte(step.say))
		if got := await(t, presented, "input"); got != step.presented {
			t.Errorf("presented %q, want %q", got, step.presented)
		}
	}
}

func TestResumePresentsInputAgain(t *testing.T) {
	e := newEngine(t, Config{})
	presented := make(chan string, 10)
	enough := false
	k := connect(t, e, recorder(presented, func(p []byte) int {
		if enough {
			return len(p)
		}
		return 0
	}), 0)
	k.peer.say([]byte("wait"))
	await(t, presented, "the first look")
	k.do(func(c *Conn) {
		enough = true
		c.Resume()
		c.Resume() // counts once
	})
	if got := await(t, presented, "the second look"); got != "wait" {
		t.Errorf("presented %q after Resume, want %q", got, "wait")
	}
	k.do((*Conn).Resume) // nothing is left to present
	k.do(func(*Conn) {})
	if len(presented) != 0 {
		t.Errorf("presented %q after everything was consumed", <-presented)
	}
}

func TestClosingWithKeptInputDropsIt(t *testing.T) {
	for name, end := range map[string]func(*Conn){"Close": (*Conn).Close, "Abort": (*Conn).Abort} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t, Config{})
			looks := make(chan int, 10)
			k := connect(t, e, &handler{received: func(c *Conn, p []byte) int {
				looks <- len(p)
				if len(p) < 6 {
					return 0
				}
				end(c)
				return len(p) // the input is gone by now
			}}, 0)
			k.peer.say([]byte("abc"))
			await(t, looks, "the first look")
			k.peer.say([]byte("def"))
			await(t, looks, "the second look")
			k.peer.Close()
			if err := k.end(); name == "Close" && err != nil {
				t.Errorf("the connection ended with %v", err)
			}
		})
	}
}

func TestConsumingMoreThanPresentedPanics(t *testing.T) {
	c := &Conn{handler: &handler{received: func(_ *Conn, p []byte) int { return len(p) + 1 }}}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	c.consume([]byte("abc"))
}

func TestInputLimitStopsThePeerUntilTheHandlerConsumes(t *testing.T) {
	const limit, total = 64 << 10, 32 << 20
	e := newEngine(t, Config{InputLimit: limit})
	consume, most := false, 0
	h := sha256.New()
	k := connect(t, e, &handler{received: func(_ *Conn, p []byte) int {
		most = max(most, len(p))
		if !consume {
			return 0
		}
		h.Write(p)
		return len(p)
	}}, 0)
	want := sha256.New()
	var written sync.WaitGroup
	written.Go(func() {
		for off := 0; off < total; off += len(pool()) {
			want.Write(pool())
			k.peer.say(pool())
		}
		k.peer.closeWrite()
	})
	// The engine has stopped receiving and the peer's socket is full.
	last, same := -1, 0
	eventually(t, "a peer that is held up", func() bool {
		received := 0
		k.do(func(c *Conn) {
			if c.recv == recvIdle {
				received = int(c.loop.stats.BytesReceived)
			}
		})
		if received != last || received < limit {
			last, same = received, 0
		}
		same++
		return same > 20
	})
	if last >= total {
		t.Fatalf("all %d bytes were received past a limit of %d", last, limit)
	}
	if bound := limit + recvBuffers*recvBufferSize; most > bound {
		t.Errorf("%d bytes were kept, more than the limit and one turn's buffers, %d", most, bound)
	}
	k.do(func(c *Conn) {
		consume = true
		c.Resume()
	})
	written.Wait()
	k.peer.Close()
	k.wantEnd(nil)
	if !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		t.Error("what was received after the pause is not what was sent")
	}
}

func TestAPausedConnectionCanStillBeClosed(t *testing.T) {
	e := newEngine(t, Config{InputLimit: recvBufferSize})
	k := connect(t, e, &handler{received: func(*Conn, []byte) int { return 0 }}, 0)
	k.peer.say(pool()[:2*recvBufferSize])
	eventually(t, "a pause", func() (paused bool) {
		k.do(func(c *Conn) { paused = c.recv == recvIdle })
		return paused
	})
	k.do((*Conn).Close)
	if got := k.peer.hearAll(); got.n != 0 || got.err != nil {
		t.Errorf("the peer received %d bytes and %v, want the end of the stream", got.n, got.err)
	}
	k.peer.Close()
	k.wantEnd(nil)
}

func TestEndOfStreamClosesTheConnectionAfterWhatIsQueued(t *testing.T) {
	const answer = 3 << 20
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 64<<10)
	k.stuff(1<<20, answer)
	k.peer.closeWrite()
	got := k.peer.hearAll()
	k.wantEnd(nil)
	wantDigest(t, got, 0, answer)
}

func TestEOFHandlerDecidesWhatTheEndOfStreamMeans(t *testing.T) {
	e := newEngine(t, Config{})
	told := make(chan struct{})
	k := connect(t, e, &eofHandler{eof: func(*Conn) { close(told) }}, 0)
	k.peer.closeWrite()
	await(t, told, "EOF")
	k.do(func(c *Conn) {
		if _, err := c.Write([]byte("still here")); err != nil {
			t.Errorf("write after the peer's end of stream: %v", err)
		}
	})
	k.peer.hear([]byte("still here"))
	k.do((*Conn).Close)
	k.wantEnd(nil)
}

// TestPipelinedMessagesAreEchoedInOrder sends messages without waiting for the answers, in
// pieces that respect no boundary.
func TestPipelinedMessagesAreEchoedInOrder(t *testing.T) {
	const messages, size = 1000, 24
	e := newEngine(t, Config{Loops: 2})
	handled := 0
	k := connect(t, e, &handler{received: func(c *Conn, p []byte) (n int) {
		for ; len(p)-n >= size; n += size {
			if got := binary.BigEndian.Uint64(p[n:]); got != uint64(handled) {
				t.Errorf("message %d comes in place of %d", got, handled)
			}
			handled++
			if _, err := c.Write(p[n : n+size]); err != nil {
				t.Errorf("write: %v", err)
			}
		}
		return n
	}}, 0)
	stream := make([]byte, messages*size)
	for i := range messages {
		binary.BigEndian.PutUint64(stream[i*size:], uint64(i))
	}
	go func() {
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%997)
			k.peer.say(rest[:n])
			rest = rest[n:]
		}
	}()
	k.peer.hear(stream)
}

// TestUsedUpReceiveBuffersLoseNothing has many peers fill their sockets while the loop is
// held up; then more bytes are there than it has buffers for.
func TestUsedUpReceiveBuffersLoseNothing(t *testing.T) {
	const conns, size = 40, 200 << 10
	e := newEngine(t, Config{})
	links := make([]*link, conns)
	sums := make([][]byte, conns)
	for i := range links {
		h := sha256.New()
		eof := &eofHandler{handler: handler{received: func(_ *Conn, p []byte) int {
			h.Write(p)
			return len(p)
		}}}
		eof.eof = func(c *Conn) { sums[i] = h.Sum(nil); c.Close() }
		links[i] = connect(t, e, eof, 0)
		links[i].do(func(c *Conn) {
			if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size); err != nil {
				t.Errorf("SO_RCVBUF: %v", err)
			}
		})
	}
	release := make(chan struct{})
	holding := make(chan struct{})
	e.loops[0].post(func() { close(holding); <-release })
	await(t, holding, "the loop")
	var written sync.WaitGroup
	for i, k := range links {
		written.Go(func() {
			k.peer.say(poolBytes(i*size, size))
			k.peer.closeWrite()
		})
	}
	// The kernel takes up to 32 buffers for a connection before it looks at the next, and up to
	// 20 connections in one call.
	eventually(t, "more unread bytes than there are buffers for", func() bool {
		unread := 0
		for _, k := range links {
			n, err := unix.IoctlGetInt(k.conn.fd, unix.SIOCINQ)
			if err != nil {
				t.Fatal(err)
			}
			unread += min(n, 32*recvBufferSize)
		}
		return unread == conns*32*recvBufferSize
	})
	close(release)
	written.Wait()
	for i, k := range links {
		k.wantEnd(nil)
		if want := sha256.Sum256(poolBytes(i*size, size)); !bytes.Equal(sums[i], want[:]) {
			t.Errorf("connection %d received something else", i)
		}
	}
	st := e.Stats()
	if st.RecvNoBuffers == 0 {
		t.Error("the receive buffers were never used up")
	}
	if st.BytesReceived != conns*size {
		t.Errorf("%d bytes received, want %d", st.BytesReceived, conns*size)
	}
}

func TestEchoUnderBackpressureLosesNothing(t *testing.T) {
	const total = 8 << 20
	for _, p := range policies[:3] {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy, HighWater: 64 << 10})
			h := echo()
			k := connect(t, e, h, 64<<10)
			go func() {
				k.peer.say(poolBytes(0, total))
				// The end of the stream would have the rest of the input dropped: the peer
				// closes after it heard everything.
			}()
			k.peer.hear(poolBytes(0, total))
			k.peer.Close()
			k.wantEnd(nil)
		})
	}
}

func TestDataAfterCloseIsDropped(t *testing.T) {
	e := newEngine(t, Config{})
	looks := 0
	k := connect(t, e, &handler{received: func(_ *Conn, p []byte) int { looks++; return len(p) }}, 0)
	k.do((*Conn).Close)
	if got := k.peer.hearAll(); got.err != nil {
		t.Fatalf("the peer sees %v, want the end of the stream", got.err)
	}
	k.peer.say(pool()[:100_000])
	k.peer.Close()
	k.wantEnd(nil)
	if looks != 0 {
		t.Errorf("the handler was called %d times after Close", looks)
	}
	if st := e.Stats(); st.BytesReceived != 100_000 {
		t.Errorf("%d bytes received, want that all are read: unread ones would cause a reset", st.BytesReceived)
	}
}

func TestInputMemoryIsReused(t *testing.T) {
	e := newEngine(t, Config{})
	for i := range 3 {
		k := connect(t, e, &handler{received: func(*Conn, []byte) int { return 0 }}, 0)
		k.peer.say([]byte("kept"))
		eventually(t, "kept input", func() (kept bool) {
			k.do(func(c *Conn) { kept = len(c.input) > 0 })
			return kept
		})
		k.do((*Conn).Abort)
		k.wantEnd(ErrAborted)
		k.peer.Close()
		onLoop(t, k.conn.loop, func() {
			if n := len(k.conn.loop.inputs); n != 1 {
				t.Errorf("%d pieces of memory are in the pool after %s, want 1", n, fmt.Sprintf("%d connections", i+1))
			}
		})
	}
}
