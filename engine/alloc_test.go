//go:build linux && !race && !invariants

package engine

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/zc"
)

// rawPeer is a peer that allocates nothing: a descriptor and a buffer.
type rawPeer struct {
	tb  testing.TB
	fd  int
	buf []byte
}

// rawDial connects and takes the descriptor away from the net package.
func rawDial(tb testing.TB, k *link) *rawPeer {
	tb.Helper()
	r := &rawPeer{tb: tb, buf: make([]byte, 256<<10)}
	k.peer.control(func(fd int) (err error) { r.fd, err = unix.Dup(fd); return err })
	k.peer.Close()
	tb.Cleanup(func() { unix.Close(r.fd) })
	if err := unix.SetNonblock(r.fd, false); err != nil {
		tb.Fatal(err)
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		tb.Fatal(err)
	}
	return r
}

// exchange sends n bytes and reads as many as the answer has.
func (r *rawPeer) exchange(n, answer int) {
	if k, err := unix.Write(r.fd, r.buf[:n]); k != n || err != nil {
		r.tb.Fatalf("write: %d, %v", k, err)
	}
	for answer > 0 {
		k, err := unix.Read(r.fd, r.buf[:min(answer, len(r.buf))])
		if err == unix.EINTR { // the runtime's own signals
			continue
		}
		if k <= 0 || err != nil {
			r.tb.Fatalf("read with %d bytes to come: %d, %v", answer, k, err)
		}
		answer -= k
	}
}

// wantNoAllocations runs f often and expects less than one heap allocation in a hundred runs,
// in one of a few attempts: pools and queues find their size in the first ones.
func wantNoAllocations(tb testing.TB, runs int, f func()) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("the runtime of a slow processor allocates too")
	}
	var n uint64
	for range 3 {
		if n = allocations(runs, f); float64(n) < float64(runs)/100 {
			return
		}
	}
	tb.Errorf("%d heap allocations in %d messages", n, runs)
}

func allocations(runs int, f func()) uint64 {
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

func TestEchoAllocatesNothing(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: p.policy})
			r := rawDial(t, connect(t, e, echo(), 0))
			wantNoAllocations(t, 2000, func() { r.exchange(64, 64) })
		})
	}
}

func TestPartialConsumptionAllocatesNothing(t *testing.T) {
	e := newEngine(t, Config{})
	h := &handler{received: func(c *Conn, p []byte) int {
		if len(p) < 64 {
			return 0
		}
		n, _ := c.Write(p)
		return n
	}}
	r := rawDial(t, connect(t, e, h, 0))
	wantNoAllocations(t, 1000, func() {
		r.exchange(32, 0)
		r.exchange(32, 64)
	})
}

func TestLeasedSendsAllocateNothing(t *testing.T) {
	for _, p := range policies[:3] {
		for _, size := range []int{100, 64 << 10, bufreg.MaxBuffer} {
			t.Run(fmt.Sprintf("%s, %d bytes", p.name, size), func(t *testing.T) {
				e := newEngine(t, Config{Policy: p.policy, ArenaSize: 32 << 20})
				h := &handler{received: func(c *Conn, p []byte) int {
					b, err := c.Lease(size)
					if err != nil {
						t.Errorf("lease: %v", err)
						return len(p)
					}
					if err := c.Send(b); err != nil {
						t.Errorf("send: %v", err)
					}
					return len(p)
				}}
				r := rawDial(t, connect(t, e, h, 0))
				wantNoAllocations(t, 1000, func() { r.exchange(1, size) })
			})
		}
	}
}

func TestFilesAllocateNothing(t *testing.T) {
	for _, p := range []zc.Policy{everything, copying} {
		for _, size := range []int64{1 << 10, 1 << 20} {
			t.Run(fmt.Sprintf("policy %d, %d bytes", p.Mode, size), func(t *testing.T) {
				e := newEngine(t, Config{Policy: p, ArenaSize: 32 << 20})
				f := NewFile(poolFile(t, size))
				defer f.Release()
				head := pool()[:200]
				h := &handler{received: func(c *Conn, p []byte) int {
					if _, err := c.Write(head); err != nil {
						t.Errorf("write: %v", err)
					}
					if err := c.SendFile(f.Retain(), 0, size); err != nil {
						t.Errorf("send a file: %v", err)
					}
					return len(p)
				}}
				r := rawDial(t, connect(t, e, h, 0))
				wantNoAllocations(t, 1000, func() { r.exchange(1, len(head)+int(size)) })
			})
		}
	}
}

func TestASharedBufferAllocatesNothing(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	b, err := e.Lease(256 << 10)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	h := &handler{received: func(c *Conn, p []byte) int {
		for range 4 {
			if err := c.Send(b.Retain()); err != nil {
				t.Errorf("send: %v", err)
			}
		}
		return len(p)
	}}
	r := rawDial(t, connect(t, e, h, 0))
	wantNoAllocations(t, 1000, func() { r.exchange(1, 4*b.Len()) })
}

func TestColdFilesAllocateNothing(t *testing.T) {
	const size = 1 << 20
	for _, arena := range []int{32 << 20, bufreg.MaxBuffer} { // and one that is used up
		t.Run(fmt.Sprintf("arena of %d bytes", arena), func(t *testing.T) {
			sys := answers(t, kernel.NotResident)
			sys.warmed = true
			e := newEngineOn(t, sys, Config{Policy: copying, ArenaSize: arena})
			if arena == bufreg.MaxBuffer {
				for _, b := range leaseAll(t, e, bufreg.MaxBuffer) {
					defer b.Release()
				}
			}
			f := NewFile(poolFile(t, size))
			defer f.Release()
			h := &handler{received: func(c *Conn, p []byte) int {
				if err := c.SendFile(f.Retain(), 0, size); err != nil {
					t.Errorf("send a file: %v", err)
				}
				return len(p)
			}}
			r := rawDial(t, connect(t, e, h, 0))
			wantNoAllocations(t, 500, func() { r.exchange(1, size) })
		})
	}
}
