//go:build linux

package engine

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/bufreg"
	"sluice/internal/leak"
	"sluice/zc"
)

func TestCloseSendsEverythingThatIsQueued(t *testing.T) {
	const total = 6 << 20
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy})
			k := connect(t, e, &handler{}, 4096)
			k.stuff(total/12, total)
			k.do((*Conn).Close)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, total)
			if st := e.Stats(); st.ClosedInOrder != 1 || st.Aborted != 0 || st.Undelivered != 0 {
				t.Errorf("%d closed in order, %d aborted, %d bytes undelivered; want 1, 0, 0", st.ClosedInOrder, st.Aborted, st.Undelivered)
			}
		})
	}
}

func TestCloseWaitsForThePeersEnd(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 0)
	k.do((*Conn).Close)
	if got := k.peer.hearAll(); got.err != nil {
		t.Fatalf("the peer sees %v, want the end of the stream", got.err)
	}
	k.do(func(c *Conn) {
		if c.state != connHalfClosed {
			t.Errorf("state %d before the peer has closed, want half-closed", c.state)
		}
	})
	k.peer.Close()
	k.wantEnd(nil)
}

func TestCloseTwiceIsCloseOnce(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) { c.Close(); c.Close() })
	k.peer.Close()
	k.wantEnd(nil)
	k.do((*Conn).Close)
	k.do((*Conn).Abort)
	if st := e.Stats(); st.ClosedInOrder != 1 || st.Aborted != 0 {
		t.Errorf("%d closed in order and %d aborted, want 1 and 0", st.ClosedInOrder, st.Aborted)
	}
}

func TestAbortResetsThePeerAndDropsTheQueue(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			const total = 4 << 20
			e := newEngine(t, Config{Policy: p.policy})
			k := connect(t, e, &handler{}, 4096)
			k.stuff(total/8, total)
			k.do((*Conn).Abort)
			k.wantEnd(ErrAborted)
			got := k.peer.hearAll()
			if !errors.Is(got.err, syscall.ECONNRESET) {
				t.Errorf("the peer sees %v after %d bytes, want a reset", got.err, got.n)
			}
			st := settled(t, e)
			if st.Aborted != 1 || st.Undelivered == 0 || st.Undelivered > total {
				t.Errorf("%d aborted with %d bytes undelivered, want 1 with some of %d", st.Aborted, st.Undelivered, total)
			}
			if st.Arena.Leased != 0 {
				t.Errorf("%d bytes are leased after the abort", st.Arena.Leased)
			}
		})
	}
}

// TestACancelledSendIsResumed cancels one of which the kernel had taken nothing, as the
// engine does to have its memory back.
func TestACancelledSendIsResumed(t *testing.T) {
	for _, p := range policies[:3] {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy})
			k := connect(t, e, &handler{}, 4096)
			k.stuff(1<<20, 1<<20)
			// Cut what was accepted off, so that the send that is resumed gets nothing in.
			k.do(func(c *Conn) { c.loop.cancel(userData(kindSend, c.sending.id)) })
			eventually(t, "a short send", func() bool { return e.Stats().Sends.ShortSends > 0 })
			k.do(func(c *Conn) {
				c.loop.cancel(userData(kindSend, c.sending.id))
				c.Close()
			})
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, 1<<20)
			if st := e.Stats(); st.SendErrors != 0 {
				t.Errorf("%d send errors are counted, want none", st.SendErrors)
			}
		})
	}
}

func TestOperationsAfterCloseAreRefused(t *testing.T) {
	for name, end := range map[string]func(*Conn){"Close": (*Conn).Close, "Abort": (*Conn).Abort} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t, Config{})
			k := connect(t, e, &handler{}, 0)
			refuses := func(c *Conn) {
				b, err := c.Lease(100)
				if err != nil {
					t.Errorf("Lease: %v", err)
					return
				}
				if err := c.Send(b); !errors.Is(err, ErrClosed) {
					t.Errorf("Send: %v, want ErrClosed", err)
				}
				if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, ErrClosed) {
					t.Errorf("Write: %d and %v, want ErrClosed", n, err)
				}
				f := NewFile(poolFile(t, 10))
				if err := c.SendFile(f, 0, 10); !errors.Is(err, ErrClosed) {
					t.Errorf("SendFile: %v, want ErrClosed", err)
				}
				if f.refs.Load() != 0 {
					t.Error("SendFile did not take over the reference")
				}
				c.Resume()
				c.SetDeadline(time.Hour)
			}
			k.do(func(c *Conn) { end(c); refuses(c) })
			k.peer.Close()
			k.end()
			k.do(refuses) // and when it has closed
			if st := e.Stats(); st.Arena.Leased != 0 {
				t.Errorf("%d bytes are leased: a refused Send takes over the reference all the same", st.Arena.Leased)
			}
		})
	}
}

func TestSendTakesOverTheReferenceOfAnEmptyBuffer(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) {
		b, err := c.Lease(0)
		if err != nil {
			t.Error(err)
			return
		}
		if err := c.Send(b); err != nil {
			t.Errorf("sending nothing: %v", err)
		}
	})
	if st := e.Stats(); st.Arena.Leased != 0 {
		t.Errorf("%d bytes are leased", st.Arena.Leased)
	}
}

func TestEndingInsideNewHandlerIsAllowed(t *testing.T) {
	for name, end := range map[string]func(*Conn){"Close": (*Conn).Close, "Abort": (*Conn).Abort} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t, Config{})
			server := plainListener(t)
			ended := make(chan error, 1)
			err := e.Dial(context.Background(), "tcp", server.Addr().String(), func(c *Conn) Handler {
				if _, err := c.Write([]byte("bye")); err != nil {
					t.Error(err)
				}
				end(c)
				return &handler{ended: ended}
			})
			if err != nil {
				t.Fatal(err)
			}
			nc, err := server.Accept()
			if err != nil {
				t.Fatal(err)
			}
			p := newPeer(t, nc)
			got := p.hearAll()
			p.Close()
			err = await(t, ended, "the end")
			if name == "Close" && (err != nil || got.n != 3 || got.err != nil) {
				t.Errorf("ended with %v; the peer received %d bytes and %v", err, got.n, got.err)
			}
			if name == "Abort" && (!errors.Is(err, ErrAborted) || got.err == nil) {
				t.Errorf("ended with %v; the peer received %d bytes and %v", err, got.n, got.err)
			}
		})
	}
}

func TestClosedIsTheLastCall(t *testing.T) {
	e := newEngine(t, Config{HighWater: 1000, LowWater: 999})
	var over atomic.Bool
	late := func(what string) {
		if over.Load() {
			t.Errorf("%s is called after Closed", what)
		}
	}
	k := connect(t, e, &handler{
		received: func(_ *Conn, p []byte) int { late("Received"); return len(p) },
		writable: func(*Conn) { late("Writable") },
		closed:   func(*Conn, error) { late("Closed"); over.Store(true) },
	}, 4096)
	k.stuff(100_000, 500_000)
	k.peer.say(pool()[:100_000])
	k.do((*Conn).Abort)
	k.wantEnd(ErrAborted)
	for range 20 {
		k.do(func(*Conn) {})
	}
}

func TestLingerEndsTheWaitForAPeerThatNeverCloses(t *testing.T) {
	inTime(t)
	const linger = 200 * time.Millisecond
	e := newEngine(t, Config{Linger: linger})
	k := connect(t, e, &handler{}, 0)
	began := time.Now()
	k.do(func(c *Conn) { sendPieces(t, c, 0, 1000, 1); c.Close() })
	k.wantEnd(nil)
	if took := time.Since(began); took < linger*9/10 {
		t.Errorf("the connection ended after %v, before the linger of %v", took, linger)
	}
	if got := k.peer.hearAll(); got.n != 1000 || got.err != nil {
		t.Errorf("the peer received %d bytes and %v, want 1000 and the end", got.n, got.err)
	}
}

// TestLingerDoesNotCutOffWhatTheSocketHolds has a peer read only after the linger: copied
// bytes are then the kernel's alone, zero-copied ones keep the connection.
func TestLingerDoesNotCutOffWhatTheSocketHolds(t *testing.T) {
	t.Parallel()
	for _, p := range policies[1:] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			const linger, total = 100 * time.Millisecond, unsentLimit
			e := newEngine(t, Config{Policy: p.policy, Linger: linger})
			k := connect(t, e, &handler{}, 32<<10)
			closed := time.Now()
			k.do(func(c *Conn) { sendPieces(t, c, 0, total/4, 4); c.Close() })
			eventually(t, "twice the linger", func() bool { return time.Since(closed) > 2*linger })
			if p.policy.Mode != zc.Fixed {
				k.wantEnd(nil) // the engine is done; the kernel is not
			} else if len(k.ended) != 0 {
				t.Errorf("the connection ended with %v while the kernel had its buffers", <-k.ended)
			}
			got := k.peer.hearAll()
			if p.policy.Mode == zc.Fixed {
				k.peer.Close()
				k.wantEnd(nil)
			}
			wantDigest(t, got, 0, total)
		})
	}
}

func TestIdleTimeoutDoesNotCutTheLingerShort(t *testing.T) {
	inTime(t)
	const idle, linger = 50 * time.Millisecond, 300 * time.Millisecond
	e := newEngine(t, Config{IdleTimeout: -1, Linger: linger})
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) {
		c.loop.cfg.IdleTimeout = idle // from now on, or it could be over before Close
		c.Close()
	})
	k.wantEnd(nil)
}

func TestShutdownDeliversWhatIsQueuedToASlowReader(t *testing.T) {
	t.Parallel()
	const total = 6 * 160_000
	for _, p := range policies[:3] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := startEngine(t, Config{Policy: p.policy})
			k := connect(t, e, &handler{}, 8192)
			k.stuff(total/6, total)
			down := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				down <- e.Shutdown(ctx)
			}()
			heard := &slowReader{peer: k.peer, chunk: 64 << 10, pause: time.Millisecond}
			got := heard.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			if err := await(t, down, "Shutdown"); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			wantDigest(t, got, 0, total)
			st := e.Stats()
			wantNothingHeld(t, st)
			if st.Undelivered != 0 || st.Aborted != 0 {
				t.Errorf("%d bytes undelivered and %d connections aborted, want none", st.Undelivered, st.Aborted)
			}
		})
	}
}

// slowReader is a peer that reads a chunk and pauses.
type slowReader struct {
	*peer
	chunk int
	pause time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	time.Sleep(r.pause)
	return r.peer.Read(p[:min(len(p), r.chunk)])
}

func (r *slowReader) hearAll() digest { return hearAll(r) }

// hearSlowly reads 400 kB/s until the end, which must take longer than least, and expects total bytes and an end in order.
func (k *link) hearSlowly(total int64, least time.Duration) {
	k.tb.Helper()
	since := time.Now()
	got := (&slowReader{peer: k.peer, chunk: 8 << 10, pause: 20 * time.Millisecond}).hearAll()
	if took := time.Since(since); took < least {
		k.tb.Errorf("all was read within %v: not slow enough to tell anything", took)
	}
	k.peer.Close()
	k.wantEnd(nil)
	wantDigest(k.tb, got, 0, total)
}

func TestShutdownAbortsAtItsDeadlineAndCountsTheRest(t *testing.T) {
	inTime(t)
	const total, limit = 2 << 20, 100 * time.Millisecond
	for _, p := range policies[:3] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := startEngine(t, Config{Policy: p.policy})
			k := connect(t, e, &handler{}, 4096)
			k.stuff(total/8, total)
			var queued uint64
			k.do(func(c *Conn) { queued = uint64(c.Queued()) })
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			began := time.Now()
			if err := e.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			if took := time.Since(began); took < limit/2 || took > patience/2 {
				t.Errorf("shutdown took %v with a deadline of %v", took, limit)
			}
			k.wantEnd(ErrDrained)
			st := e.Stats()
			wantNothingHeld(t, st)
			if st.Aborted != 1 || st.Undelivered == 0 || st.Undelivered > queued {
				t.Errorf("%d aborted with %d bytes undelivered, want 1 with at most the %d queued", st.Aborted, st.Undelivered, queued)
			}
			if got := k.peer.hearAll(); !errors.Is(got.err, syscall.ECONNRESET) {
				t.Errorf("the peer sees %v, want a reset", got.err)
			}
		})
	}
}

func TestShutdownWithAnEndedContextAbortsAtOnce(t *testing.T) {
	e := startEngine(t, Config{})
	k := connect(t, e, &handler{}, 4096)
	k.stuff(1<<20, 2<<20)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	k.wantEnd(ErrDrained)
	wantNothingHeld(t, e.Stats())
}

func TestASecondShutdownHastensTheFirst(t *testing.T) {
	e := startEngine(t, Config{})
	k := connect(t, e, &handler{}, 4096)
	k.stuff(1<<20, 2<<20)
	first := make(chan error, 1)
	go func() { first <- e.Shutdown(context.Background()) }()
	eventually(t, "the drain", func() (closing bool) {
		k.do(func(c *Conn) { closing = c.state != connOpen })
		return closing
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Shutdown(ctx); err != nil {
		t.Errorf("second shutdown: %v", err)
	}
	if err := await(t, first, "the first shutdown"); err != nil {
		t.Errorf("first shutdown: %v", err)
	}
	if err := e.Shutdown(context.Background()); err != nil {
		t.Errorf("third shutdown: %v", err)
	}
	wantNothingHeld(t, e.Stats())
}

func TestShutdownWithLeasesOutSaysSo(t *testing.T) {
	e := startEngine(t, Config{})
	b, err := e.Lease(100_000)
	if err != nil {
		t.Fatal(err)
	}
	err = e.Shutdown(context.Background())
	if err == nil || !strings.Contains(err.Error(), "131072 bytes are still leased") {
		t.Errorf("shutdown with a lease out: %v, want that it says how much", err)
	}
	if got := e.Stats().Arena.Leased; got != 128<<10 {
		t.Errorf("%d bytes are leased by the final counters", got)
	}
	b.Release()
	if err := e.reg.Close(); err != nil { // what the embedder did not wait for
		t.Errorf("close the arena after the last release: %v", err)
	}
}

func TestDrainHandlersFinishWhatTheyHaveBegun(t *testing.T) {
	e := startEngine(t, Config{})
	drains := make(chan struct{}, 10)
	h := &drainHandler{drain: func(*Conn) { drains <- struct{}{} }}
	k := connect(t, e, h, 0)
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		down <- e.Shutdown(ctx)
	}()
	await(t, drains, "Drain")
	k.do(func(c *Conn) {
		if _, err := c.Write([]byte("the rest")); err != nil {
			t.Errorf("write while draining: %v", err)
		}
	})
	k.peer.hear([]byte("the rest"))
	k.do((*Conn).Close)
	k.peer.Close()
	k.wantEnd(nil)
	if err := await(t, down, "Shutdown"); err != nil {
		t.Error(err)
	}
	wantNothingHeld(t, e.Stats())
}

func TestDrainIsCalledOnce(t *testing.T) {
	e := startEngine(t, Config{})
	drains := make(chan struct{}, 10)
	k := connect(t, e, &drainHandler{drain: func(*Conn) { drains <- struct{}{} }}, 0)
	first := make(chan error, 1)
	go func() { first <- e.Shutdown(context.Background()) }()
	await(t, drains, "Drain")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Shutdown(ctx); err != nil {
		t.Errorf("the hastened shutdown: %v", err)
	}
	await(t, first, "the first shutdown")
	k.wantEnd(ErrDrained)
	if len(drains) != 0 {
		t.Error("Drain was called again when the deadline passed")
	}
}

func TestShutdownStopsAccepting(t *testing.T) {
	e := startEngine(t, Config{Loops: 2})
	ln := listen(t, e, func(*Conn) Handler { return echo() })
	p := dial(t, ln.Addr(), 0)
	p.say([]byte("before"))
	p.hear([]byte("before"))
	down := make(chan error, 1)
	go func() { down <- e.Shutdown(context.Background()) }()
	if got := p.hearAll(); got.err != nil { // the drain has begun
		t.Errorf("the peer sees %v, want the end of the stream", got.err)
	}
	eventually(t, "a refused connection", func() bool {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			nc.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	p.Close()
	if err := await(t, down, "Shutdown"); err != nil {
		t.Error(err)
	}
	wantNothingHeld(t, e.Stats())
}

func TestRunEndsWithItsContext(t *testing.T) {
	e := startEngine(t, Config{})
	k := connect(t, e, echo(), 0)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- e.Run(ctx) }()
	k.peer.say([]byte("running"))
	k.peer.hear([]byte("running"))
	if len(ran) != 0 {
		t.Fatalf("Run returned %v before its context ended", <-ran)
	}
	cancel()
	if got := k.peer.hearAll(); got.err != nil {
		t.Errorf("the peer sees %v, want the end of the stream", got.err)
	}
	k.peer.Close()
	if err := await(t, ran, "Run"); err != nil {
		t.Errorf("run: %v", err)
	}
	wantNothingHeld(t, e.Stats())
}

func TestRunAbortsAfterTheDrainTimeout(t *testing.T) {
	inTime(t)
	e := startEngine(t, Config{DrainTimeout: 50 * time.Millisecond})
	k := connect(t, e, &handler{}, 4096)
	k.stuff(1<<20, 2<<20)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Errorf("run: %v", err)
	}
	k.wantEnd(ErrDrained)
	wantNothingHeld(t, e.Stats())
}

func TestAStoppedEngineRefuses(t *testing.T) {
	e := startEngine(t, Config{})
	opened, ended := make(chan *Conn, 1), make(chan error, 1)
	ln := listen(t, e, watch(&handler{}, opened, ended))
	p := dial(t, ln.Addr(), 0)
	c := await(t, opened, "a connection")
	p.Close()
	stopEngine(t, e)
	if c.Post(func(*Conn) { t.Error("a function posted after the end ran") }) {
		t.Error("Post reports that a function will run after the end")
	}
	if _, err := e.Listen("tcp", "127.0.0.1:0", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Listen: %v, want ErrClosed", err)
	}
	if _, err := e.Lease(1); err == nil {
		t.Error("Lease succeeds")
	}
	ln.Close() // does nothing, and does not wait
	server := plainListener(t)
	if err := e.Dial(context.Background(), "tcp", server.Addr().String(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Dial: %v, want ErrClosed", err)
	}
}

func TestSendingToAPeerThatIsGoneFails(t *testing.T) {
	for _, p := range policies[:3] {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy})
			k := connect(t, e, &handler{}, 0)
			holding, release := make(chan struct{}), make(chan struct{})
			k.conn.Post(func(c *Conn) {
				close(holding)
				<-release
				sendPieces(t, c, 0, 50_000, 3) // before the loop can see that the peer is gone
			})
			await(t, holding, "the loop")
			k.peer.reset()
			close(release)
			err := k.end()
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the connection ended with %v, want EPIPE or ECONNRESET", err)
			}
			if st := settled(t, e); st.Arena.Leased != 0 || st.Aborted != 1 {
				t.Errorf("%d bytes leased and %d aborted, want 0 and 1", st.Arena.Leased, st.Aborted)
			}
		})
	}
}

func TestAnEngineCanBeMadeAndEndedOverAndOver(t *testing.T) {
	before := leak.Now()
	for range 20 {
		e := startEngine(t, Config{Loops: 2, ArenaSize: bufreg.MaxBuffer})
		k := connect(t, e, echo(), 0)
		k.peer.say([]byte("hello"))
		k.peer.hear([]byte("hello"))
		k.peer.Close()
		wantNothingHeld(t, stopEngine(t, e))
	}
	if left := leak.Since(before); len(left) != 0 {
		t.Errorf("after Shutdown there is still %q", left)
	}
}
