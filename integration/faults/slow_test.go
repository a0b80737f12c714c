//go:build linux

package faults

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/zc"
)

// TestHundredsOfSlowReadersDoNotHoldUpOthers has them ask for far more than the arena holds, and
// take it at 50 KB a second each.
func TestHundredsOfSlowReadersDoNotHoldUpOthers(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			const slow, goods, requests = 300, 4, 100
			s := serveFiles(t, engine.Config{Policy: p.policy, Loops: 2})
			var hurry atomic.Bool
			slows := group{tb: t}
			for range slow {
				c := s.dial(t, 32<<10)
				if err := c.ask("big", ""); err != nil {
					t.Fatal(err)
				}
				c.in.Reset(trickle{c.TCPConn, 1 << 10, &hurry})
				slows.run(func() error {
					defer c.Close()
					return c.receive("big")
				})
			}
			eventually(t, "every slow reader is being served", func() bool {
				st := s.eng.Stats()
				return st.Conns == slow && sent(st) > slow*1000 && (p.policy != zeroCopy || st.Sends.By[zc.Sendfile][zc.OverBudget].Sends > 0)
			})
			all := group{tb: t}
			for i := range goods {
				all.run(func() error {
					c, err := dial(s.addr, "", 0)
					if err != nil {
						return err
					}
					defer c.Close()
					for j := range requests {
						if err := c.fetch(small(i*requests + j)); err != nil {
							return err
						}
					}
					return c.fetch("big", "big", "big")
				})
			}
			all.wait.Wait()
			st := s.eng.Stats()
			if st.Conns < slow || st.Aborted != 0 {
				t.Errorf("%d connections are open and %d were reset: the others had to wait for slow readers to end", st.Conns, st.Aborted)
			}
			hurry.Store(true)
			slows.wait.Wait()
			if st := s.allBack(); st.Aborted != 0 || st.Undelivered != 0 {
				t.Errorf("%d connections were reset with %d bytes undelivered", st.Aborted, st.Undelivered)
			}
		})
	}
}

// limitSendBuffer gives a connection's socket the smallest send buffer that there is.
func limitSendBuffer(tb testing.TB, c *engine.Conn) {
	if err := unix.SetsockoptInt(c.FD(), unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		tb.Errorf("SO_SNDBUF: %v", err)
	}
}

// TestAnArenaThatStuckReadersHoldComesBack has peers that never read hold as much of the arena as
// they may, so that some of them and of the newcomers wait for memory. All must go on, the latest
// as the stuck ones are given up.
func TestAnArenaThatStuckReadersHoldComesBack(t *testing.T) {
	for _, p := range ways[:2] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			const stuck, goods, total, size, stall = 300, 20, 1 << 20, 32 << 10, 500 * time.Millisecond
			cfg := engine.Config{Policy: p.policy, Loops: 2, ArenaSize: 8 << 20, HighWater: 64 << 10, WriteStall: stall}
			s := serve(t, cfg, "127.0.0.1:0", func(c *engine.Conn) engine.Handler {
				h := &source{tb: t, total: total, size: size}
				limitSendBuffer(t, c)
				c.Post(h.Writable)
				return h
			})
			held := make([]*client, stuck)
			for i := range held {
				held[i] = s.dial(t, 4096)
			}
			eventually(t, "half of the arena is leased, and some wait for more", func() bool {
				st := s.eng.Stats()
				return st.Arena.Leased >= st.Arena.Total/2 && st.Starved > 0
			})
			all := group{tb: t}
			for range goods {
				c := s.dial(t, 0)
				all.run(func() error {
					defer c.Close()
					return sameNoise(c, 0, total)
				})
			}
			all.wait.Wait()
			for _, c := range held {
				if err := s.end(c.LocalAddr()); !errors.Is(err, engine.ErrStalled) {
					t.Errorf("a stuck reader's connection ended with %v, want ErrStalled", err)
				}
			}
			if st := s.allBack(); st.Aborted != stuck || st.ClosedInOrder != goods || st.NoBuffers == 0 {
				t.Errorf("%d connections were reset and %d closed in order, want %d and %d; %d leases were refused", st.Aborted, st.ClosedInOrder, stuck, goods, st.NoBuffers)
			}
		})
	}
}
