//go:build linux

package engine

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/bufreg"
	"sluice/zc"
)

func TestABudgetLargerThanTheArenaIsRefused(t *testing.T) {
	_, err := New(Config{Loops: 1, ArenaSize: 1 << 20, MaxPinned: 2 << 20})
	if err == nil || !strings.Contains(err.Error(), "MaxPinned") || !strings.Contains(err.Error(), "ArenaSize") {
		t.Errorf("%v, want an error that names both settings", err)
	}
	newEngine(t, Config{ArenaSize: 1 << 20, MaxPinned: 1 << 20})
}

// TestPeersThatStopReadingLeaveRoomForOthers has a hundred peers that read nothing take all the
// memory they get. One that reads is served at once, long before the others' deadlines.
func TestPeersThatStopReadingLeaveRoomForOthers(t *testing.T) {
	for _, p := range policies[:3] {
		t.Run(p.name, func(t *testing.T) {
			const total, piece = 32 << 20, 64 << 10
			e := newEngine(t, Config{Policy: p.policy, WriteStall: time.Hour, PressureStall: stall})
			greedy := func() *handler {
				play := func(c *Conn) {
					for {
						b, err := c.Lease(piece)
						if err != nil {
							return
						}
						if err := c.Send(b); err != nil {
							return
						}
					}
				}
				return &handler{writable: play}
			}
			var stalled []*link
			since := time.Now()
			for range 100 {
				h := greedy()
				k := connectOut(t, e, h, 4096)
				k.do(func(c *Conn) { limitSendBuffer(t, c); h.writable(c) })
				stalled = append(stalled, k)
			}
			h := sender(t, total)
			k := connectOut(t, e, h, 0)
			k.conn.Post(h.writable)
			done := k.peer.startHearing()
			got := await(t, done, "the stream of the peer that reads")
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, total)
			st := e.Stats()
			if st.Pinned > st.MaxPinned {
				t.Errorf("%d bytes are pinned, the limit is %d", st.Pinned, st.MaxPinned)
			}
			for _, k := range stalled {
				k.do((*Conn).Abort)
				if err := k.end(); !errors.Is(err, ErrAborted) && !errors.Is(err, ErrStalled) {
					t.Errorf("a stalled connection ended with %v", err)
				}
			}
			t.Logf("after %v", time.Since(since))
			if st := settled(t, e); st.Pinned != 0 {
				t.Errorf("%d bytes stay pinned", st.Pinned)
			}
		})
	}
}

// TestWhatGoesBeyondTheBudgetIsCopied has two sends of a peer that does not read.
func TestWhatGoesBeyondTheBudgetIsCopied(t *testing.T) {
	e := newEngine(t, Config{Policy: everything, ArenaSize: 4 << 20, MaxPinned: 1 << 20})
	k := connect(t, e, &handler{}, 4096)
	k.do(func(c *Conn) {
		limitSendBuffer(t, c)
		sendPieces(t, c, 0, 600<<10, 1) // more than half of the budget
	})
	k.peer.hear(poolBytes(0, 600<<10))
	k.do(func(c *Conn) { sendPieces(t, c, 0, 200<<10, 1) })
	k.peer.hear(poolBytes(0, 200<<10))
	st := settled(t, e)
	if over, zero := st.Sends.By[zc.Copy][zc.OverBudget].Bytes, st.Sends.Total(zc.ZeroCopy).Bytes; over != 600<<10 || zero != 200<<10 {
		t.Errorf("%s; want 600 KiB copied over the budget, 200 KiB by zero-copy", taken(st))
	}
}

// TestASharedBufferIsChargedOnce sends one buffer to so many that each alone would be over the budget.
func TestASharedBufferIsChargedOnce(t *testing.T) {
	const conns, size = 40, 512 << 10
	e := newEngine(t, Config{Policy: everything, MaxPinned: 4 << 20})
	b, err := e.Lease(size)
	if err != nil {
		t.Fatal(err)
	}
	fill(b, 0)
	links := make([]*link, conns)
	for i := range links {
		links[i] = connectOut(t, e, &handler{}, 0)
		b.Retain()
	}
	var wait sync.WaitGroup
	for _, k := range links {
		k.do(func(c *Conn) {
			if err := c.Send(b); err != nil {
				t.Error(err)
			}
		})
	}
	for _, k := range links {
		wait.Go(func() { k.peer.hear(poolBytes(0, size)) })
	}
	wait.Wait()
	b.Release()
	if st := settled(t, e); st.Sends.Total(zc.ZeroCopy).Bytes != conns*size {
		t.Errorf("%s; want all of it by zero-copy", taken(st))
	}
}

// TestALaggardGivesSharedMemoryBack fans one buffer out to peers of which one does not read. Its
// connection lives on, and gets every byte in the end.
func TestALaggardGivesSharedMemoryBack(t *testing.T) {
	const conns, size, pieces = 8, 256 << 10, 4
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy, LagAfter: 50 * time.Millisecond})
			var shared []bufreg.Buffer
			for i := range pieces {
				b, err := e.Lease(size)
				if err != nil {
					t.Fatal(err)
				}
				fill(b, i*size)
				shared = append(shared, b)
			}
			send := func(c *Conn) {
				for _, b := range shared {
					if err := c.Send(b.Retain()); err != nil {
						t.Error(err)
					}
				}
			}
			slow := connectOut(t, e, &handler{}, 4096)
			slow.do(func(c *Conn) { limitSendBuffer(t, c); send(c) })
			for range conns - 1 {
				k := connectOut(t, e, &handler{}, 0)
				k.do(send)
				k.peer.hear(poolBytes(0, pieces*size))
				k.peer.Close()
				k.wantEnd(nil)
			}
			eventually(t, "a private copy", func() bool { return e.Stats().Arena.Private > 0 })
			for i, b := range shared {
				if p.policy.Mode != zc.Fixed { // those a zero-copy send has given to the socket
					eventually(t, fmt.Sprintf("the laggard gives piece %d back", i), func() bool { return b.Refs() == 1 })
				}
			}
			if st := e.Stats(); st.Demoted == 0 || st.Arena.Private == 0 {
				t.Errorf("%d bytes demoted, %d in private copies", st.Demoted, st.Arena.Private)
			}
			for _, b := range shared {
				b.Release()
			}
			slow.peer.hear(poolBytes(0, pieces*size))
			slow.peer.Close()
			slow.wantEnd(nil)
			st := settled(t, e)
			if st.Arena.Private != 0 {
				t.Errorf("%d bytes of private copies are left", st.Arena.Private)
			}
			if st.Sends.By[zc.Copy][zc.Demoted].Bytes == 0 {
				t.Errorf("%s; want some from private memory", taken(st))
			}
		})
	}
}

// TestWithoutDemotionSharedMemoryStaysUntilTheStall is the other setting.
func TestWithoutDemotionSharedMemoryStaysUntilTheStall(t *testing.T) {
	e := newEngine(t, Config{Policy: copying, WriteStall: stall})
	b, err := e.Lease(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	k := connectOut(t, e, &handler{}, 4096)
	k.do(func(c *Conn) {
		limitSendBuffer(t, c)
		if err := c.Send(b.Retain()); err != nil {
			t.Error(err)
		}
	})
	if err := k.end(); !errors.Is(err, ErrStalled) {
		t.Errorf("ended with %v", err)
	}
	if b.Refs() != 1 {
		t.Errorf("%d references after the end, want the owner's", b.Refs())
	}
	if st := e.Stats(); st.Demoted != 0 {
		t.Errorf("%d bytes were demoted", st.Demoted)
	}
	b.Release()
}

// lend has a slow peer sent memory that the test keeps too, and half as much again that it does not.
func lend(t *testing.T, e *Engine, size, own int) (slow *link, lent bufreg.Buffer) {
	t.Helper()
	b, err := e.Lease(size)
	if err != nil {
		t.Fatal(err)
	}
	fill(b, 0)
	slow = connectOut(t, e, &handler{}, 16<<10)
	slow.do(func(c *Conn) {
		limitSendBuffer(t, c)
		if err := c.Send(b.Retain()); err != nil {
			t.Error(err)
		}
		sendPieces(t, c, size, own, 1)
	})
	return slow, b
}

// TestALaggardThatReadsGivesSharedMemoryBackToo: it takes some all the time, and would keep it for long.
func TestALaggardThatReadsGivesSharedMemoryBackToo(t *testing.T) {
	inTime(t)
	const size, own, lag = 512 << 10, 256 << 10, 100 * time.Millisecond
	e := newEngine(t, Config{Policy: copying, LagAfter: lag})
	slow, b := lend(t, e, size, own)
	since := time.Now()
	done := make(chan digest)
	go func() { done <- (&slowReader{peer: slow.peer, chunk: 8 << 10, pause: 20 * time.Millisecond}).hearAll() }()
	eventually(t, "the shared buffer is given back", func() bool { return b.Refs() == 1 })
	if took := time.Since(since); took < lag/2 || took > 5*lag {
		t.Errorf("given back after %v, want %v", took, lag)
	}
	b.Release()
	if st := e.Stats(); st.Demoted == 0 || st.Demoted > size {
		t.Errorf("%d bytes were demoted, want some of the %d that were shared", st.Demoted, size)
	}
	slow.do((*Conn).Close)
	wantDigest(t, await(t, done, "the stream of the laggard"), 0, size+own)
	slow.peer.Close()
	slow.wantEnd(nil)
}

// TestALaggardIsCutOff where the policy is that: the buffer comes back also from its socket.
func TestALaggardIsCutOff(t *testing.T) {
	inTime(t)
	const size, lag = 1 << 20, 100 * time.Millisecond
	for _, p := range policies {
		for name, pause := range map[string]time.Duration{"reads": 20 * time.Millisecond, "does not read": time.Hour} {
			t.Run(p.name+", "+name, func(t *testing.T) {
				t.Parallel()
				e := newEngine(t, Config{Policy: p.policy, LagAfter: lag, Laggards: CutOff})
				slow, b := lend(t, e, size, 1)
				since := time.Now()
				if pause < time.Hour {
					go (&slowReader{peer: slow.peer, chunk: 8 << 10, pause: pause}).hearAll()
				}
				if err := slow.end(); !errors.Is(err, ErrLagged) {
					t.Errorf("ended with %v", err)
				}
				if took := time.Since(since); took < lag/2 || took > 5*lag {
					t.Errorf("cut off after %v, want %v", took, lag)
				}
				eventually(t, "the buffer is given back", func() bool { return b.Refs() == 1 })
				b.Release()
			})
		}
	}
}

// TestOnlyLaggardsAreCutOff: not who is slow with memory of its own, and not who takes what it shares in time.
func TestOnlyLaggardsAreCutOff(t *testing.T) {
	inTime(t)
	const size, own, lag = 64 << 10, 512 << 10, 500 * time.Millisecond
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, Config{Policy: p.policy, LagAfter: lag, Laggards: CutOff})
			slow, b := lend(t, e, size, own)
			slow.do((*Conn).Close)
			slow.hearSlowly(size+own, 2*lag)
			b.Release()
		})
	}
}

// TestALaggardIsCutOffForWhatItsSocketHolds of shared memory, and not for memory of its own.
func TestALaggardIsCutOffForWhatItsSocketHolds(t *testing.T) {
	inTime(t)
	const size, lag = 16 << 10, 100 * time.Millisecond
	e := newEngine(t, Config{Policy: everything, WriteStall: 10 * lag, LagAfter: lag, Laggards: CutOff})
	for name, c := range map[string]struct {
		shared bool
		why    error
		after  time.Duration
	}{
		"shared": {true, ErrLagged, lag},
		"own":    {false, ErrStalled, 10 * lag},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := e.Lease(size)
			if err != nil {
				t.Fatal(err)
			}
			k := connectOut(t, e, &handler{}, 0)
			k.peer.vanish()
			since := time.Now()
			k.do(func(ec *Conn) {
				if c.shared {
					b.Retain()
				}
				if err := ec.Send(b); err != nil {
					t.Error(err)
				}
			})
			eventually(t, "the socket has taken it", func() (all bool) { k.do(func(c *Conn) { all = c.Queued() == 0 }); return all })
			if err := k.end(); !errors.Is(err, c.why) {
				t.Errorf("ended with %v, want %v", err, c.why)
			}
			if took := time.Since(since); took < c.after || took > 5*c.after {
				t.Errorf("cut off after %v, want %v", took, c.after)
			}
			if c.shared {
				eventually(t, "the buffer is given back", func() bool { return b.Refs() == 1 })
				b.Release()
			}
		})
	}
}

// TestManySmallSharedPiecesAreCopiedTogether: not a mapping for each.
func TestManySmallSharedPiecesAreCopiedTogether(t *testing.T) {
	inTime(t)
	const size, pieces, lag = 200, 4000, 100 * time.Millisecond
	e := newEngine(t, Config{Policy: copying, LagAfter: lag})
	b, err := e.Lease(size)
	if err != nil {
		t.Fatal(err)
	}
	fill(b, 0)
	k := connectOut(t, e, &handler{}, 4096)
	k.do(func(c *Conn) {
		limitSendBuffer(t, c)
		for range pieces {
			if err := c.Send(b.Retain()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	eventually(t, "the shared buffer is given back", func() bool { return b.Refs() == 1 })
	if st := e.Stats(); st.Arena.Private > 2<<20 {
		t.Errorf("%d bytes of private memory for %d", st.Arena.Private, size*pieces)
	}
	b.Release()
	k.do(func(c *Conn) {
		if n := c.queue.len(); n > 8 {
			t.Errorf("%d pieces are queued, want them joined", n)
		}
	})
	for range pieces {
		k.peer.hear(poolBytes(0, size))
	}
}
