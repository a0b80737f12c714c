//go:build linux

package engine

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/ring"
	"sluice/zc"
)

// TestStrayCompletionsAreCountedAndDropped feeds the loop completions whose request has
// ended: of a generation that is over, and of a slot that never was.
func TestStrayCompletionsAreCountedAndDropped(t *testing.T) {
	for _, c := range []struct {
		name string
		kind requestKind
		res  int32
		more uint32
	}{
		{"send", kindSend, 100, ring.CQEMore},
		{"failed send", kindSend, -int32(syscall.EPIPE), 0},
		{"notification", kindSend, 0, ring.CQENotif},
		{"receive", kindRecv, 100, ring.CQEMore},
		{"end of stream", kindRecv, 0, 0},
		{"file read", kindRead, 100, 0},
		{"poll", kindPoll, unix.POLLOUT, 0},
		{"accept that failed", kindAccept, -int32(syscall.ECANCELED), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startEngine(t, Config{Policy: everything})
			k := connect(t, e, echo(), 0) // what the index named before, and names now, exists
			k.peer.say([]byte("before"))
			k.peer.hear([]byte("before"))
			strays := []requestID{{index: 0, gen: 77}, {index: 1 << 30}}
			k.do(func(*Conn) {
				for _, id := range strays {
					k.conn.loop.complete(&ring.CQE{UserData: userData(c.kind, id), Res: c.res, Flags: c.more})
				}
			})
			k.peer.say([]byte("after"))
			k.peer.hear([]byte("after"))
			k.peer.Close()
			k.wantEnd(nil)
			st := stopEngine(t, e)
			if st.Sends.Stray != uint64(len(strays)) {
				t.Errorf("%d stray completions are counted, want %d", st.Sends.Stray, len(strays))
			}
			st.Sends.Stray = 0
			wantNothingHeld(t, st)
		})
	}
}

func TestASecondNotificationIsStray(t *testing.T) {
	e := startEngine(t, Config{Policy: everything})
	k := connect(t, e, &handler{}, 0)
	var id requestID
	k.do(func(c *Conn) { id = requestID{index: 0}; sendPieces(t, c, 0, 5000, 1) })
	k.peer.hear(poolBytes(0, 5000))
	settled(t, e)
	k.do(func(c *Conn) {
		c.loop.complete(&ring.CQE{UserData: userData(kindSend, id), Flags: ring.CQENotif})
	})
	k.do(func(c *Conn) { sendPieces(t, c, 5000, 5000, 1) })
	k.peer.hear(poolBytes(5000, 5000))
	k.peer.Close()
	k.wantEnd(nil)
	st := stopEngine(t, e)
	if st.Sends.Stray != 1 {
		t.Errorf("%d stray completions are counted, want 1", st.Sends.Stray)
	}
	st.Sends.Stray = 0
	wantNothingHeld(t, st)
	wantNotified(t, st)
}

// TestAStrayAcceptIsClosed: the completion carries a connection that nobody waits for.
func TestAStrayAcceptIsClosed(t *testing.T) {
	e := startEngine(t, Config{})
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	onLoop(t, e.loops[0], func() {
		e.loops[0].complete(&ring.CQE{UserData: userData(kindAccept, requestID{gen: 5}), Res: int32(pair[0])})
	})
	if n, err := unix.Read(pair[1], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the other end reads %d bytes and %v, want the end of the stream", n, err)
	}
	unix.Close(pair[1])
	if st := stopEngine(t, e); st.Sends.Stray != 1 || st.Accepted != 0 {
		t.Errorf("%d stray and %d accepted, want 1 and 0", st.Sends.Stray, st.Accepted)
	}
}

func TestIgnoredAndWakeCompletionsAreNotStray(t *testing.T) {
	e := newEngine(t, Config{}) // which expects no stray ones
	onLoop(t, e.loops[0], func() {
		e.loops[0].complete(&ring.CQE{UserData: userData(kindIgnored, requestID{index: 9}), Res: -int32(syscall.ENOENT)})
		e.loops[0].complete(&ring.CQE{UserData: userData(kindWake, requestID{}), Res: 1, Flags: ring.CQEMore})
	})
}

func TestUserDataKeepsKindGenerationAndIndex(t *testing.T) {
	for _, k := range []requestKind{kindIgnored, kindWake, kindAccept, kindRecv, kindPoll, kindRead, kindSend} {
		for _, id := range []requestID{{}, {1, 2}, {1<<32 - 1, genMask}, {0, genMask}} {
			if kind, got := unpack(userData(k, id)); kind != k || got != id {
				t.Errorf("kind %d, %+v became kind %d, %+v", k, id, kind, got)
			}
		}
	}
}

func TestATableSlotThatIsUsedAgainHasANewGeneration(t *testing.T) {
	var tab table[int]
	v := 7
	old := tab.put(&v)
	tab.remove(old)
	now := tab.put(&v)
	if now.index != old.index {
		t.Fatalf("slot %d is used after %d was freed", now.index, old.index)
	}
	if tab.get(old) != nil || tab.get(now) != &v {
		t.Errorf("the old id finds %v, the new one %v", tab.get(old), tab.get(now))
	}
	defer func() {
		if recover() == nil {
			t.Error("removing the old id does not panic")
		}
	}()
	tab.remove(old)
}

func TestTheGenerationComesRound(t *testing.T) {
	var tab table[int]
	v := 7
	id := tab.put(&v)
	tab.slots[id.index].gen, id.gen = genMask, genMask
	tab.remove(id)
	if next := tab.put(&v); next.gen != 0 || tab.get(next) != &v {
		t.Errorf("generation %d follows %d", next.gen, genMask)
	}
}

func TestStatsMayBeAskedForFromManyGoroutines(t *testing.T) {
	e := newEngine(t, Config{Loops: 2})
	h := sender(t, 4<<20)
	k := connect(t, e, h, 0)
	heard := k.peer.startHearing()
	k.conn.Post(h.writable)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			var last uint64
			for range 200 {
				st := e.Stats()
				if st.Turns < last {
					t.Errorf("%d turns after %d", st.Turns, last)
				}
				last = st.Turns
			}
		})
	}
	wait.Wait()
	wantDigest(t, await(t, heard, "the stream"), 0, 4<<20)
	k.peer.Close()
	k.wantEnd(nil)
}

func TestStatsOfALoopAddUp(t *testing.T) {
	e := startEngine(t, Config{Loops: 2, Policy: copying})
	for range 4 {
		k := connectOut(t, e, echo(), 0)
		k.peer.say(pool()[:1000])
		k.peer.hear(pool()[:1000])
		if st := e.Stats(); st.Conns != 1 {
			t.Errorf("%d connections open, want 1", st.Conns)
		}
		k.peer.Close()
		k.wantEnd(nil)
	}
	stopEngine(t, e)
	st := e.Stats()
	if st.Accepted != 4 || st.ClosedInOrder != 4 || st.BytesReceived != 4000 || st.Conns != 0 {
		t.Errorf("%d connections, %d closed in order, %d bytes received, %d open; want 4, 4, 4000, 0",
			st.Accepted, st.ClosedInOrder, st.BytesReceived, st.Conns)
	}
	if got := st.Sends.By[zc.Copy][zc.PolicyOff]; got.Bytes != 4000 {
		t.Errorf("%+v sent by copy, want 4000 bytes", got)
	}
	if st.Turns == 0 || st.Enters == 0 {
		t.Errorf("%d turns and %d enters", st.Turns, st.Enters)
	}
	if st.Arena.Total != int64(16<<20) {
		t.Errorf("an arena of %d bytes, want 16 MiB", st.Arena.Total)
	}
}

// BenchmarkStats is what a scrape costs the loop, beside few connections and beside many: the same.
func BenchmarkStats(b *testing.B) {
	for _, conns := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d connections", conns), func(b *testing.B) {
			e := newEngine(b, Config{})
			for range conns {
				connect(b, e, &handler{}, 0)
			}
			l := e.loops[0]
			onLoop(b, l, func() {
				for b.Loop() {
					s := l.stats
					l.observe(&s)
				}
			})
		})
	}
}

// Every way to end is told apart, also where the error says more.
func TestResetsAreCountedByReason(t *testing.T) {
	for why, name := range map[error]string{
		ErrStalled: "stalled", ErrPinned: "pin-limit", ErrLagged: "lagged", ErrIdle: "idle", ErrDeadline: "deadline", ErrDrained: "drained", ErrAborted: "aborted",
		fmt.Errorf("f at byte 1: %w", ErrFileTruncated): "file-truncated", fmt.Errorf("send: %w", syscall.EPIPE): "by-peer",
		fmt.Errorf("receive: %w", syscall.ECONNRESET): "by-peer", fmt.Errorf("send: %w", syscall.ETIMEDOUT): "tcp-timeout", syscall.EIO: "failed",
	} {
		if got := ResetName(resetFor(why)); got != name {
			t.Errorf("%v is counted as %s, want %s", why, got, name)
		}
	}
}
