//go:build linux

package engine

import (
	"io"
	"sync"
	"testing"
	"time"

	"sluice/bufreg"
)

// TestMoreSendsInATurnThanTheSubmissionQueueHolds has the queue submitted in the middle of a
// flush.
func TestMoreSendsInATurnThanTheSubmissionQueueHolds(t *testing.T) {
	const conns, size = 600, 100 // the queue has 512 entries
	e := newEngine(t, Config{})
	links := make([]*link, conns)
	for i := range links {
		links[i] = adoptUnix(t, e, &handler{}, func(*Conn) {})
	}
	onLoop(t, e.loops[0], func() {
		for i, k := range links {
			if _, err := k.conn.Write(poolBytes(i*size, size)); err != nil {
				t.Errorf("write: %v", err)
			}
		}
	})
	for i, k := range links {
		k.peer.hear(poolBytes(i*size, size))
	}
}

// TestAnOverflowOfTheCompletionQueueLosesNothing submits more requests in a turn than it
// has room for.
func TestAnOverflowOfTheCompletionQueueLosesNothing(t *testing.T) {
	const requests = cqEntries + 2000
	e := startEngine(t, Config{})
	l := e.loops[0]
	k := connect(t, e, echo(), 0)
	onLoop(t, l, func() {
		for range requests {
			s := l.sqe()
			s.PrepNop()
			s.UserData = userData(kindPoll, requestID{index: 1 << 30}) // counted as stray
		}
	})
	eventually(t, "all completions", func() bool { return e.Stats().Sends.Stray == requests })
	k.peer.say([]byte("after"))
	k.peer.hear([]byte("after"))
	k.peer.Close()
	k.wantEnd(nil)
	if st := stopEngine(t, e); st.CQOverflows == 0 {
		t.Error("the overflow is not counted")
	}
}

// TestWaitingTakesNoTurns: whatever a connection waits for, the loop sleeps meanwhile.
func TestWaitingTakesNoTurns(t *testing.T) {
	inTime(t)
	for _, c := range []struct {
		name  string
		cfg   Config
		begin func(t *testing.T, e *Engine)
	}{
		{"nothing", Config{}, func(*testing.T, *Engine) {}},
		{"input", Config{}, func(t *testing.T, e *Engine) { connect(t, e, echo(), 0) }},
		{"a peer that reads", Config{Policy: everything}, func(t *testing.T, e *Engine) {
			connect(t, e, &handler{}, 4096).stuff(1<<20, 2<<20)
		}},
		{"a peer that reads a file", Config{Policy: copying}, func(t *testing.T, e *Engine) {
			k := connect(t, e, &handler{}, 4096)
			k.do(func(c *Conn) {
				limitSendBuffer(t, c)
				if err := c.SendFile(NewFile(poolFile(t, 8<<20)), 0, 8<<20); err != nil {
					t.Errorf("send a file: %v", err)
				}
			})
			k.untilStuck()
		}},
		{"a handler that consumes", Config{InputLimit: recvBufferSize}, func(t *testing.T, e *Engine) {
			k := connect(t, e, &handler{received: func(*Conn, []byte) int { return 0 }}, 0)
			k.peer.say(pool()[:4*recvBufferSize])
			eventually(t, "a pause", func() (paused bool) {
				k.do(func(c *Conn) { paused = c.recv == recvIdle })
				return paused
			})
		}},
		{"a buffer", Config{ArenaSize: bufreg.MaxBuffer}, func(t *testing.T, e *Engine) {
			b, err := e.Lease(bufreg.MaxBuffer)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.Release)
			connect(t, e, &handler{}, 0).do(func(c *Conn) {
				if _, err := c.Lease(1); err != ErrNoBuffers {
					t.Errorf("lease: %v", err)
				}
			})
		}},
		{"room below MaxConns", Config{MaxConns: 1}, func(t *testing.T, e *Engine) {
			ln := listen(t, e, func(*Conn) Handler { return echo() })
			p := dial(t, ln.Addr(), 0)
			p.say([]byte("in"))
			p.hear([]byte("in"))
			dial(t, ln.Addr(), 0)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, c.cfg)
			c.begin(t, e)
			before, began := e.Stats().Turns, time.Now()
			eventually(t, "a while", func() bool { return time.Since(began) > 100*time.Millisecond })
			if turns := e.Stats().Turns - before; turns > 20 {
				t.Errorf("the loop took %d turns while it had nothing to do", turns)
			}
		})
	}
}

// TestConnectionsComeAndGo opens and ends many connections in all ways at once.
func TestConnectionsComeAndGo(t *testing.T) {
	const workers, each = 8, 40
	e := newEngine(t, Config{Loops: 2, Policy: everything, ArenaSize: 4 << 20})
	ln := listen(t, e, func(*Conn) Handler { return echo() })
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for i := range each {
				p := dial(t, ln.Addr(), 0)
				size := 1 << (i % 18)
				go p.Write(pool()[:size])
				switch (w + i) % 4 {
				case 0: // hears everything, then closes
					p.hear(pool()[:size])
					p.Close()
				case 1: // closes in the middle
					_, _ = io.ReadFull(p, make([]byte, size/2))
					p.Close()
				case 2:
					p.reset()
				case 3: // ends its half and hears the rest
					p.hear(pool()[:size])
					p.closeWrite()
					if d := p.hearAll(); d.n != 0 || d.err != nil {
						t.Errorf("after the end of the stream the peer hears %d bytes and %v", d.n, d.err)
					}
					p.Close()
				}
			}
		})
	}
	wait.Wait()
	eventually(t, "the end of all connections", func() bool { return e.Stats().Conns == 0 })
	st := settled(t, e)
	if st.Arena.Leased != 0 {
		t.Errorf("%d bytes are leased with no connection open", st.Arena.Leased)
	}
	if st.Accepted != st.ClosedInOrder+st.Aborted {
		t.Errorf("%d connections were accepted, %d closed in order and %d aborted", st.Accepted, st.ClosedInOrder, st.Aborted)
	}
}

func TestAReceiveThatEndsByItselfIsBegunAgain(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, echo(), 0)
	for range 3 {
		k.do(func(c *Conn) { c.loop.cancel(userData(kindRecv, c.id)) })
		k.peer.say([]byte("after"))
		k.peer.hear([]byte("after"))
	}
}
