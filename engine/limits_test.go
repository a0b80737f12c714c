//go:build linux

package engine

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/zc"
)

// sendPieces sends n buffers of size bytes of the pool, continuing at off.
func sendPieces(tb testing.TB, c *Conn, off, size, n int) {
	tb.Helper()
	for i := range n {
		b, err := c.Lease(size)
		if err != nil {
			tb.Errorf("lease: %v", err)
			return
		}
		fill(b, off+i*size)
		if err := c.Send(b); err != nil {
			tb.Errorf("send: %v", err)
			return
		}
	}
}

func TestCongestionBeginsAboveHighWaterAndEndsBelowLowWater(t *testing.T) {
	const high, low, size = 400_000, 100_000, 50_000
	for _, p := range policies[:3] {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy, HighWater: high, LowWater: low})
			writable := make(chan int64, 10)
			k := connect(t, e, &handler{writable: func(c *Conn) {
				if c.Congested() {
					t.Error("Writable is called on a congested connection")
				}
				writable <- c.Queued()
			}}, 4096)
			k.do(func(c *Conn) {
				limitSendBuffer(t, c)
				sendPieces(t, c, 0, size, high/size)
				if c.Congested() {
					t.Errorf("congested with %d bytes queued, at the high-water mark and not above", c.Queued())
				}
				sendPieces(t, c, high, 1, 1)
				if !c.Congested() {
					t.Errorf("not congested with %d bytes queued", c.Queued())
				}
			})
			k.untilStuck()
			if len(writable) != 0 {
				t.Errorf("Writable is called with %d bytes queued", <-writable)
			}
			k.peer.hear(poolBytes(0, high+1))
			if queued := await(t, writable, "Writable"); queued >= low {
				t.Errorf("Writable is called with %d bytes queued", queued)
			}
			k.do(func(*Conn) {})
			if len(writable) != 0 {
				t.Error("Writable is called twice for one congestion")
			}
		})
	}
}

func TestSendAtTheQueueLimitQueuesNothing(t *testing.T) {
	const limit, size = 1 << 20, 100_000
	e := newEngine(t, Config{MaxQueued: limit, HighWater: limit, LowWater: 1000})
	writable := make(chan struct{}, 1)
	k := connect(t, e, &handler{writable: func(*Conn) { writable <- struct{}{} }}, 4096)
	k.stuff(size, 10*size)
	var queued int64
	k.do(func(c *Conn) {
		sendPieces(t, c, 10*size, int(limit-c.queue.memory), 1)
		queued = c.Queued()
		b, err := c.Lease(1)
		if err != nil {
			t.Error(err)
			return
		}
		if err := c.Send(b.Retain()); !errors.Is(err, ErrBacklogFull) {
			t.Errorf("Send at the limit: %v, want ErrBacklogFull", err)
		}
		if b.Refs() != 1 {
			t.Errorf("a refused Send left %d references, want that it took over one of 2", b.Refs())
		}
		b.Release()
		if n, err := c.Write([]byte{1}); n != 0 || !errors.Is(err, ErrBacklogFull) {
			t.Errorf("Write at the limit: %d and %v, want ErrBacklogFull", n, err)
		}
		if c.Queued() != queued {
			t.Errorf("%d bytes are queued, %d were before", c.Queued(), queued)
		}
		// A file takes no memory before it is read.
		if err := c.SendFile(NewFile(poolFile(t, 0)), 0, 0); err != nil {
			t.Errorf("SendFile at the limit: %v", err)
		}
		c.congested = true
	})
	k.peer.hear(poolBytes(0, size))
	k.do((*Conn).Close)
	got := k.peer.hearAll()
	k.peer.Close()
	k.wantEnd(nil)
	if got.n+size < limit {
		t.Errorf("%d bytes arrived of more than %d", got.n+size, limit)
	}
}

func TestALargerSendThanTheQueueLimitIsTakenWhenTheQueueIsEmpty(t *testing.T) {
	e := newEngine(t, Config{MaxQueued: 1000, HighWater: 1000})
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) { sendPieces(t, c, 0, 100_000, 1) })
	k.peer.hear(poolBytes(0, 100_000))
}

func TestTheQueueHoldsALimitedNumberOfPieces(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 4096)
	b, err := e.Lease(1)
	if err != nil {
		t.Fatal(err)
	}
	k.do(func(c *Conn) {
		for i := range maxItems {
			if err := c.Send(b.Retain()); err != nil {
				t.Errorf("piece %d: %v", i, err)
				return
			}
		}
		if err := c.Send(b.Retain()); !errors.Is(err, ErrBacklogFull) {
			t.Errorf("piece %d: %v, want ErrBacklogFull", maxItems, err)
		}
		if err := c.SendFile(NewFile(poolFile(t, 1)), 0, 1); !errors.Is(err, ErrBacklogFull) {
			t.Errorf("a file as piece %d: %v, want ErrBacklogFull", maxItems, err)
		}
		c.Close()
	})
	b.Release()
	if got := k.peer.hearAll(); got.n != maxItems || got.err != nil {
		t.Errorf("the peer received %d bytes and then %v, want %d", got.n, got.err, maxItems)
	}
	k.peer.Close()
	k.wantEnd(nil)
}

// TestNoBuffersIsFollowedByWritable uses up the arena, so that a lease fails, and returns
// one buffer from somewhere.
func TestNoBuffersIsFollowedByWritable(t *testing.T) {
	for _, from := range []struct {
		name    string
		release func(e *Engine, b bufreg.Buffer)
	}{
		{"another goroutine", func(_ *Engine, b bufreg.Buffer) { b.Release() }},
		{"another loop", func(e *Engine, b bufreg.Buffer) { e.loops[1].post(b.Release) }},
		{"the same loop", func(e *Engine, b bufreg.Buffer) { e.loops[0].post(b.Release) }},
	} {
		t.Run(from.name, func(t *testing.T) {
			e := newEngine(t, Config{Loops: 2, ArenaSize: bufreg.MaxBuffer})
			got := make(chan error, 1)
			k := adoptUnix(t, e, &handler{writable: func(c *Conn) {
				_, err := c.Write([]byte("now"))
				got <- err
			}}, func(*Conn) {}) // on the first loop
			var held bufreg.Buffer
			k.do(func(c *Conn) {
				b, err := c.Lease(bufreg.MaxBuffer)
				if err != nil {
					t.Errorf("lease: %v", err)
				}
				held = b
				if _, err := c.Lease(1); !errors.Is(err, ErrNoBuffers) {
					t.Errorf("lease from a used-up arena: %v", err)
				}
				if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, ErrNoBuffers) {
					t.Errorf("write with a used-up arena: %d and %v", n, err)
				}
			})
			if len(got) != 0 {
				t.Error("Writable was called with nothing returned")
			}
			from.release(e, held)
			if err := await(t, got, "Writable"); err != nil {
				t.Errorf("write from Writable: %v", err)
			}
			k.peer.hear([]byte("now"))
			if st := e.Stats(); st.NoBuffers != 2 {
				t.Errorf("%d refused leases are counted, want 2", st.NoBuffers)
			}
		})
	}
}

// Half of the arena is for connections whose peers have shown that they read.
func TestWriteSaysHowMuchItTookBeforeTheArenaWasUsedUp(t *testing.T) {
	e := newEngine(t, Config{ArenaSize: bufreg.MaxBuffer})
	k := connect(t, e, &handler{}, 0)
	n := 0
	k.do(func(c *Conn) {
		var err error
		n, err = c.Write(poolBytes(0, 3*bufreg.MaxBuffer))
		if n < bufreg.MaxBuffer/2 || n >= bufreg.MaxBuffer || !errors.Is(err, ErrNoBuffers) {
			t.Errorf("wrote %d bytes and %v, want half of an arena of %d, a buffer more, and ErrNoBuffers", n, err, bufreg.MaxBuffer)
		}
	})
	k.peer.hear(poolBytes(0, n))
}

// TestManyConnectionsShareASmallArena starves them all over and over: a lost wake-up would
// leave one of them waiting for ever.
func TestManyConnectionsShareASmallArena(t *testing.T) {
	const conns, total = 16, 2 << 20
	e := newEngine(t, Config{Loops: 2, ArenaSize: bufreg.MaxBuffer, Policy: everything})
	var wait sync.WaitGroup
	for range conns {
		h := sender(t, total)
		k := connectOut(t, e, h, 0)
		wait.Go(func() {
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, total)
		})
		k.conn.Post(h.writable)
	}
	wait.Wait()
	if e.Stats().NoBuffers == 0 {
		t.Error("the arena was never used up")
	}
}

// TestSendsWaitForASlotAtTheLimit gives the loop a single slot. A zero-copy send to a peer
// that does not read keeps it; another connection's goes on when it comes back.
func TestSendsWaitForASlotAtTheLimit(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	a := connect(t, e, &handler{}, 4096)
	b := connect(t, e, &handler{}, 0)
	a.do(func(c *Conn) {
		s := &c.loop.sends
		if len(s.idle) == 0 {
			if err := s.grow(); err != nil {
				t.Error(err)
			}
		}
		s.idle, s.made = s.idle[:1], maxSends
	})
	const size = 1 << 20
	a.stuff(size, size)
	b.do(func(c *Conn) { sendPieces(t, c, 0, 1000, 1) })
	b.do(func(c *Conn) {
		if !c.starved || c.Queued() != 1000 {
			t.Errorf("starved %v with %d bytes queued, want a connection that waits for a slot", c.starved, c.Queued())
		}
	})
	a.peer.hear(poolBytes(0, size))
	b.peer.hear(poolBytes(0, 1000))
}

func TestOneBufferForManyConnectionsIsOneLease(t *testing.T) {
	const size = bufreg.MaxBuffer
	conns := amount(50, 10)
	for _, policy := range []zc.Policy{everything, copying} {
		t.Run(fmt.Sprintf("policy %d", policy.Mode), func(t *testing.T) {
			e := newEngine(t, Config{Loops: 2, Policy: policy, HighWater: size, LowWater: 1})
			b, err := e.Lease(size)
			if err != nil {
				t.Fatal(err)
			}
			fill(b, 0)
			links := make([]*link, conns)
			for i := range links {
				links[i] = connectOut(t, e, &handler{}, 4096)
				links[i].do(func(c *Conn) {
					limitSendBuffer(t, c)
					if err := c.Send(b.Retain()); err != nil {
						t.Error(err)
					}
					c.Close()
				})
			}
			eventually(t, "a send of each connection", func() bool { return e.Stats().Arena.Pinned == int64(conns*size) })
			if got := b.Refs(); got < 1+conns {
				t.Errorf("%d references while %d connections send, want one each and the owner's", got, conns)
			}
			if st := e.Stats(); st.Arena.Leased != size {
				t.Errorf("%d bytes are leased, want one buffer", st.Arena.Leased)
			}
			var wait sync.WaitGroup
			for _, k := range links {
				wait.Go(func() {
					got := k.peer.hearAll()
					k.peer.Close()
					wantDigest(t, got, 0, size)
				})
			}
			wait.Wait()
			for _, k := range links {
				k.wantEnd(nil)
			}
			if got := b.Refs(); got != 1 {
				t.Errorf("%d references after all connections ended, want the owner's", got)
			}
			b.Release()
		})
	}
}

// TestAStreamPinsLittleMoreThanItsSocketHolds streams without a pause: the kernel would
// join all notifications into one at the end, if no skb boundary was asked for.
func TestAStreamPinsLittleMoreThanItsSocketHolds(t *testing.T) {
	const window, bound = 256 << 10, 16 << 20
	total := amount(48<<20, 24<<20)
	for _, size := range []int{64 << 10, 100_000, bufreg.MaxBuffer} {
		t.Run(fmt.Sprintf("buffers of %d bytes", size), func(t *testing.T) {
			e := newEngine(t, Config{Policy: everything, ArenaSize: 2 * total})
			sent, most := 0, int64(0)
			play := func(c *Conn) {
				for sent < total && !c.Congested() {
					most = max(most, c.loop.cache.Pinned())
					n := min(size, total-sent)
					sendPieces(t, c, sent, n, 1)
					sent += n
				}
				if sent == total {
					c.Close()
				}
			}
			k := connect(t, e, &handler{writable: play}, window)
			k.conn.Post(play)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, int64(total))
			if most > bound {
				t.Errorf("%d bytes were pinned at once for a window of %d", most, window)
			}
		})
	}
}

func TestMaxConnsLeavesNewcomersInTheBacklog(t *testing.T) {
	const limit = 2
	e := newEngine(t, Config{MaxConns: limit})
	ln := listen(t, e, func(*Conn) Handler { return echo() })
	var in []*peer
	for range limit {
		p := dial(t, ln.Addr(), 0)
		p.say([]byte("in"))
		p.hear([]byte("in"))
		in = append(in, p)
	}
	out := dial(t, ln.Addr(), 0)
	out.say([]byte("out"))
	for range 20 { // turns in which the newcomer could be accepted
		in[0].say([]byte("in"))
		in[0].hear([]byte("in"))
	}
	if st := e.Stats(); st.Accepted != limit || st.Conns != limit {
		t.Errorf("%d connections accepted and %d open at a limit of %d", st.Accepted, st.Conns, limit)
	}
	in[1].Close()
	out.hear([]byte("out"))
}

func TestMaxConnsHoldsInABurst(t *testing.T) {
	const limit, burst = 3, 50
	e := newEngine(t, Config{MaxConns: limit})
	open, most, served := 0, 0, 0
	ln := listen(t, e, func(*Conn) Handler {
		open++
		served++
		most = max(most, open)
		h := echo()
		h.closed = func(*Conn, error) { open-- }
		return h
	})
	release := make(chan struct{})
	e.loops[0].post(func() { <-release })
	var peers []*peer
	for range burst {
		peers = append(peers, dial(t, ln.Addr(), 0))
	}
	close(release)
	var wait sync.WaitGroup
	for _, p := range peers {
		wait.Go(func() {
			p.say([]byte("hello"))
			p.hear([]byte("hello"))
			p.Close()
		})
	}
	wait.Wait()
	eventually(t, "the end of all connections", func() bool { return e.Stats().Conns == 0 })
	onLoop(t, e.loops[0], func() {
		if most > limit || served != burst {
			t.Errorf("%d connections were open at once with a limit of %d; %d of %d were served", most, limit, served, burst)
		}
	})
}

func TestAcceptingIsMultishotUntilTheLimitIsNear(t *testing.T) {
	e := newEngine(t, Config{MaxConns: cqEntries + 2})
	ln := listen(t, e, func(*Conn) Handler { return echo() })
	for _, multishot := range []bool{true, false, false} {
		p := dial(t, ln.Addr(), 0)
		p.say([]byte("in"))
		p.hear([]byte("in"))
		eventually(t, "the next accept", func() (armed bool) {
			onLoop(t, e.loops[0], func() { armed = ln.per[0].armed && ln.per[0].multishot == multishot })
			return armed
		})
	}
}

// TestASocketHoldsLittleForAPeerThatDoesNotRead: what many of them hold is taken from all
// connections of the host.
func TestASocketHoldsLittleForAPeerThatDoesNotRead(t *testing.T) {
	const total, skb = 8 << 20, 64 << 10
	file := func(c *Conn) error { return c.SendFile(NewFile(poolFile(t, total)), 0, total) }
	memory := func(c *Conn) error {
		sendPieces(t, c, 0, 1<<20, total>>20)
		return nil
	}
	for name, way := range map[string]struct {
		policy zc.Policy
		send   func(*Conn) error
	}{
		"copy":      {policy: zc.Policy{Mode: zc.Off}, send: memory},
		"zero-copy": {policy: zc.Policy{Mode: zc.Fixed, Threshold: 1}, send: memory},
		"sendfile":  {policy: zc.Policy{Mode: zc.Off}, send: file},
	} {
		for _, dialed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, dialed %v", name, dialed), func(t *testing.T) {
				e := newEngine(t, Config{Policy: way.policy})
				begin := connect
				if dialed {
					begin = connectOut
				}
				k := begin(t, e, &handler{}, 4096)
				k.do(func(c *Conn) {
					if err := way.send(c); err != nil {
						t.Error(err)
					}
				})
				last, same := -1, 0
				eventually(t, "a socket that takes no more", func() bool {
					var unsent int
					k.do(func(c *Conn) { unsent = unsentBytes(t, c) })
					if unsent != last {
						last, same = unsent, 0
					}
					same++
					return last > 0 && same == 50
				})
				if last > unsentLimit+skb {
					t.Errorf("the socket holds %d bytes that the peer has no room for, want at most %d and an skb", last, unsentLimit)
				}
				k.do((*Conn).Abort)
				k.wantEnd(ErrAborted)
			})
		}
	}
}

// unsentBytes is what a connection's socket has not sent once (tcp(7), SIOCOUTQNSD).
func unsentBytes(tb testing.TB, c *Conn) int {
	n, err := unix.IoctlGetInt(c.FD(), unix.SIOCOUTQNSD)
	if err != nil {
		tb.Errorf("SIOCOUTQNSD: %v", err)
	}
	return n
}
