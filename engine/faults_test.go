//go:build linux

package engine

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"
)

// stall is the write-stall deadline of these tests; an end by it comes between the bounds.
const (
	stall        = 500 * time.Millisecond
	stallAtLeast = stall * 2 / 3
	stallAtMost  = 10 * stall
)

// neighbour is a connection of the same loop that must notice nothing of what happens to
// another: it echoes until the test ends.
func neighbour(tb testing.TB, e *Engine) (check func()) {
	tb.Helper()
	k := connect(tb, e, echo(), 0)
	return func() {
		tb.Helper()
		k.peer.say([]byte("still there?"))
		k.peer.hear([]byte("still there?"))
	}
}

func TestAPeerThatResetsMidBodyEndsItsConnectionOnly(t *testing.T) {
	t.Parallel()
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			total := amount(4<<20, 1<<20)
			e := newEngine(t, Config{Policy: p.policy})
			check := neighbour(t, e)
			k := connect(t, e, &handler{}, 4096)
			k.stuff(total/16, total)
			k.peer.hear(poolBytes(0, total/8))
			check()
			k.peer.reset()
			if err := k.end(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the connection ended with %v, want a reset", err)
			}
			check()
			if st := settled(t, e); st.Undelivered == 0 {
				t.Error("no bytes are counted as undelivered")
			}
		})
	}
}

func TestAPeerThatClosesMidBodyEndsItsConnectionOnly(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	check := neighbour(t, e)
	k := connect(t, e, &handler{}, 4096)
	k.stuff(1<<20, 4<<20)
	k.peer.Close() // with bytes unread, which is a reset
	if err := k.end(); err == nil {
		t.Error("the connection ended in order")
	}
	check()
}

func TestAPeerThatHalfClosesMidBodyGetsTheRest(t *testing.T) {
	t.Parallel()
	total := amount(4<<20, 1<<20)
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy})
			check := neighbour(t, e)
			k := connect(t, e, &handler{}, 4096)
			k.stuff(total/16, total)
			k.peer.closeWrite()
			check()
			wantDigest(t, k.peer.hearAll(), 0, int64(total))
			k.wantEnd(nil)
			check()
		})
	}
}

// endsByStall expects the end that a peer without progress since then gets: by the engine's
// deadline and not by the kernel's, which would not say why.
func (k *link) endsByStall(since time.Time) {
	k.tb.Helper()
	err := k.end()
	if !errors.Is(err, ErrStalled) {
		k.tb.Errorf("the connection ended with %v, want ErrStalled", err)
	}
	if took := time.Since(since); took < stallAtLeast || took > stallAtMost {
		k.tb.Errorf("the connection ended after %v, want about %v", took, stall)
	}
}

func TestAPeerThatVanishesMidBodyIsGivenUp(t *testing.T) {
	inTime(t)
	const total = 4 << 20
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, Config{Policy: p.policy, WriteStall: stall})
			check := neighbour(t, e)
			k := connect(t, e, &handler{}, 32<<10)
			k.do(func(c *Conn) { limitSendBuffer(t, c); sendPieces(t, c, 0, total/16, 16) })
			k.peer.hear(poolBytes(0, total/8))
			k.peer.vanish()
			since := time.Now()
			go func() { _, _ = io.Copy(io.Discard, onlyReader{k.peer}) }() // what had arrived
			check()
			k.endsByStall(since)
			check()
			if st := settled(t, e); st.Arena.Leased != 0 {
				t.Errorf("%d bytes are still leased", st.Arena.Leased)
			}
		})
	}
}

func TestAPeerThatNeverReadsIsGivenUp(t *testing.T) {
	inTime(t)
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, Config{Policy: p.policy, WriteStall: stall})
			check := neighbour(t, e)
			k := connect(t, e, &handler{}, 4096)
			since := time.Now()
			k.do(func(c *Conn) { limitSendBuffer(t, c); sendPieces(t, c, 0, 1<<20, 3) })
			check()
			k.endsByStall(since)
			check()
			if st := settled(t, e); st.Arena.Leased != 0 {
				t.Errorf("%d bytes are still leased", st.Arena.Leased)
			}
		})
	}
}

func TestAPeerThatNeverReadsAFileIsGivenUp(t *testing.T) {
	inTime(t)
	for _, r := range []struct {
		name string
		cfg  Config
	}{
		{"zero-copy", Config{Policy: everything, WriteStall: stall}},
		{"sendfile", Config{Policy: copying, WriteStall: stall}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, r.cfg)
			check := neighbour(t, e)
			k := connect(t, e, &handler{}, 4096)
			since := time.Now()
			k.sendFile(poolFile(t, 32<<20), 0, 0, 32<<20)
			k.endsByStall(since)
			check()
		})
	}
}

// TestASlowButSteadyReaderIsNotCutOff has a peer take far longer than the write-stall
// deadline for what was queued at once, but never stop.
func TestASlowButSteadyReaderIsNotCutOff(t *testing.T) {
	inTime(t)
	const total = 640 << 10
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, Config{Policy: p.policy, WriteStall: stall})
			k := connect(t, e, &handler{}, 16<<10)
			k.do(func(c *Conn) { limitSendBuffer(t, c); sendPieces(t, c, 0, total/2, 2); c.Close() })
			k.hearSlowly(total, 3*stall)
		})
	}
}

func TestASlowReaderOfAFileIsNotCutOff(t *testing.T) {
	inTime(t)
	const total = 640 << 10
	for _, r := range []struct {
		name string
		cfg  Config
	}{
		{"zero-copy", Config{Policy: everything, WriteStall: stall}},
		{"sendfile", Config{Policy: copying, WriteStall: stall}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, r.cfg)
			k := connect(t, e, &handler{}, 16<<10)
			k.do(func(c *Conn) { limitSendBuffer(t, c) })
			k.sendFile(poolFile(t, total), 0, 0, total)
			k.hearSlowly(total, 3*stall)
		})
	}
}

func TestTheStallDeadlineStartsWithTheFirstQueuedByte(t *testing.T) {
	inTime(t)
	e := newEngine(t, Config{Policy: everything, WriteStall: stall})
	k := connect(t, e, &handler{}, 0)
	idle := time.Now()
	eventually(t, "a time without a byte", func() bool { return time.Since(idle) > 2*stall })
	k.peer.vanish()
	since := time.Now()
	k.do(func(c *Conn) {
		c.acked, _ = c.loop.sys.BytesAcked(c.fd) // or the handshake would count as progress
		limitSendBuffer(t, c)
		sendPieces(t, c, 0, 1<<20, 1) // accepted whole or not at all
	})
	k.endsByStall(since)
}

func TestAnIdleConnectionEnds(t *testing.T) {
	inTime(t)
	const idle = 200 * time.Millisecond
	e := newEngine(t, Config{IdleTimeout: idle})
	k := connect(t, e, echo(), 0)
	since := time.Now() // the connection is active after this, by an unknown time
	k.peer.say([]byte("hello"))
	k.peer.hear([]byte("hello"))
	k.wantEnd(ErrIdle)
	if took := time.Since(since); took < idle || took > 10*idle {
		t.Errorf("the connection ended after %v, want about %v", took, idle)
	}
}

func TestTrafficInEitherDirectionIsNotIdleness(t *testing.T) {
	inTime(t)
	const idle, times = 1500 * time.Millisecond, 10
	for name, step := range map[string]func(k *link){
		"receiving": func(k *link) { k.peer.say([]byte("x")) },
		"sending": func(k *link) {
			k.do(func(c *Conn) {
				if _, err := c.Write([]byte("x")); err != nil {
					k.tb.Errorf("write: %v", err)
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, Config{IdleTimeout: idle})
			k := connect(t, e, &handler{}, 0)
			for range times {
				step(k)
				time.Sleep(idle / 6)
			}
			if len(k.ended) != 0 {
				t.Errorf("the connection ended with %v", <-k.ended)
			}
		})
	}
}

// TestIdleTimeoutSparesAPeerThatReadsWhatTheSocketHolds: nothing is queued in the engine any
// more, but the peer is busy with what the kernel holds for it.
func TestIdleTimeoutSparesAPeerThatReadsWhatTheSocketHolds(t *testing.T) {
	inTime(t)
	const idle, total, chunk, pause = 500 * time.Millisecond, unsentLimit, 4 << 10, 20 * time.Millisecond
	e := newEngine(t, Config{Policy: copying, IdleTimeout: idle})
	k := connect(t, e, &handler{}, 16<<10)
	k.do(func(c *Conn) { sendPieces(t, c, 0, total, 1) })
	eventually(t, "everything in the socket", func() (empty bool) {
		k.do(func(c *Conn) { empty = c.Queued() == 0 })
		return empty
	})
	began := time.Now()
	slow := &slowReader{peer: k.peer, chunk: chunk, pause: pause}
	got := make([]byte, total)
	if n, err := io.ReadFull(slow, got); err != nil {
		t.Fatalf("after %d of %d bytes and %v: %v", n, total, time.Since(began), err)
	}
	if took := time.Since(began); took < 2*idle {
		t.Errorf("all was read within %v: not slow enough to tell anything", took)
	}
	k.wantEnd(ErrIdle) // and then it is idle
}

func TestNegativeIdleTimeoutMeansNever(t *testing.T) {
	inTime(t)
	e := newEngine(t, Config{IdleTimeout: -1, WriteStall: 20 * time.Millisecond})
	k := connect(t, e, echo(), 0)
	began := time.Now()
	eventually(t, "many looks at the connection", func() bool { return time.Since(began) > 200*time.Millisecond })
	k.peer.say([]byte("hello"))
	k.peer.hear([]byte("hello"))
}

func TestSetDeadlineAborts(t *testing.T) {
	inTime(t)
	const d = 150 * time.Millisecond
	e := newEngine(t, Config{})
	k := connect(t, e, echo(), 0)
	since := time.Now()
	k.do(func(c *Conn) { c.SetDeadline(time.Hour); c.SetDeadline(d) })
	for len(k.ended) == 0 { // activity does not move it
		if _, err := k.peer.Write([]byte("x")); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	k.wantEnd(ErrDeadline)
	if took := time.Since(since); took < d*2/3 || took > 10*d {
		t.Errorf("the connection ended after %v, want about %v", took, d)
	}
}

func TestSetDeadlineOfZeroRemovesIt(t *testing.T) {
	inTime(t)
	const d = 50 * time.Millisecond
	e := newEngine(t, Config{})
	k := connect(t, e, echo(), 0)
	k.do(func(c *Conn) { c.SetDeadline(d); c.SetDeadline(0) })
	began := time.Now()
	eventually(t, "the removed deadline", func() bool { return time.Since(began) > 2*d })
	k.peer.say([]byte("hello"))
	k.peer.hear([]byte("hello"))
}

func TestADeadlineOfOneDoesNotTouchAnother(t *testing.T) {
	inTime(t)
	const conns = 10
	e := newEngine(t, Config{})
	links := make([]*link, conns)
	for i := range links {
		links[i] = connect(t, e, echo(), 0)
	}
	for i, k := range links {
		if i%2 == 0 {
			k.do(func(c *Conn) { c.SetDeadline(time.Duration(conns-i) * 10 * time.Millisecond) })
		}
	}
	for i, k := range links {
		if i%2 == 0 {
			k.wantEnd(ErrDeadline)
		}
	}
	for i, k := range links {
		if i%2 == 1 {
			k.peer.say([]byte("hello"))
			k.peer.hear([]byte("hello"))
		}
	}
}

// TestAPeerThatTalksButNeverReadsIsGivenUp has something happen on the connection all the
// time, in a direction that frees nothing.
func TestAPeerThatTalksButNeverReadsIsGivenUp(t *testing.T) {
	inTime(t)
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, Config{Policy: p.policy, WriteStall: stall})
			k := connect(t, e, &handler{}, 4096)
			since := time.Now()
			k.do(func(c *Conn) { limitSendBuffer(t, c); sendPieces(t, c, 0, 1<<20, 3) })
			go func() {
				for err := error(nil); err == nil; time.Sleep(stall / 20) {
					_, err = k.peer.Write([]byte("x"))
				}
			}()
			k.endsByStall(since)
		})
	}
}

// TestSendingMoreToAPeerThatTakesNothingIsNoProgress has the socket accept small sends for longer
// than the deadline, while an earlier one is pinned.
func TestSendingMoreToAPeerThatTakesNothingIsNoProgress(t *testing.T) {
	inTime(t)
	e := newEngine(t, Config{Policy: everything, WriteStall: stall})
	k := connect(t, e, &handler{}, 0)
	k.peer.vanish()
	since := time.Now()
	for len(k.ended) == 0 && time.Since(since) < stallAtMost {
		k.do(func(c *Conn) {
			if c.state == connOpen {
				sendPieces(t, c, 0, 100, 1)
			}
		})
		time.Sleep(stall / 20)
	}
	k.endsByStall(since)
}
