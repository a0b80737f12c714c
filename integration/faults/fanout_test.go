//go:build linux

package faults

import (
	"errors"
	"testing"
	"time"

	"sluice/engine"
)

// TestAFanOutToAThousandTakesOneBuffer sends one buffer of 1 MiB to a thousand connections. It is the
// only one that is ever leased, and it comes back although one peer never reads.
func TestAFanOutToAThousandTakesOneBuffer(t *testing.T) {
	conns := 1000
	if race {
		conns = 100 // the bytes are compared by this process too
	}
	const size, stall = 1 << 20, 2 * time.Second
	for _, p := range policies[:2] {
		t.Run(p.name, func(t *testing.T) {
			opened := make(chan *engine.Conn, conns)
			s := serve(t, engine.Config{Policy: p.policy, WriteStall: stall}, "127.0.0.1:0", func(c *engine.Conn) engine.Handler {
				opened <- c
				return &source{tb: t}
			})
			b, err := s.eng.Lease(size)
			if err != nil {
				t.Fatal(err)
			}
			fillNoise(b.Bytes(), 0)
			var stuck *client
			all := group{tb: t}
			for i := range conns {
				window := 0
				if i == 0 {
					window = 4096
				}
				k := s.dial(t, window)
				c := <-opened
				if i == 0 {
					stuck = k
				} else {
					all.run(func() error {
						defer k.Close()
						return sameNoise(k, 0, size)
					})
				}
				b.Retain()
				c.Post(func(c *engine.Conn) {
					if err := c.Send(b); err != nil {
						t.Error(err)
					}
					if i > 0 {
						c.Close()
					}
				})
				if st := s.eng.Stats(); st.Arena.Leased != size || st.Arena.Private != 0 {
					t.Fatalf("with %d connections %d bytes are leased, want one buffer", i+1, st.Arena.Leased)
				}
			}
			all.wait.Wait()
			// By copy, the socket may have taken all of it, and the buffer is back already.
			eventually(t, "only the owner has the buffer", func() bool { return b.Refs() == 1 })
			b.Release()
			if p.policy == zeroCopy {
				if err := s.end(stuck.LocalAddr()); !errors.Is(err, engine.ErrStalled) {
					t.Errorf("the peer that does not read ended with %v", err)
				}
			}
			stuck.Close()
			if st := s.allBack(); st.Pinned != 0 {
				t.Errorf("%d bytes are still charged to the budget", st.Pinned)
			}
		})
	}
}

// TestAThousandStuckReadersLeaveRoomForThoseThatRead: what they pin stays within the budget, the
// others' transfers end while all of the stuck ones are still connected, and every pin ends.
func TestAThousandStuckReadersLeaveRoomForThoseThatRead(t *testing.T) {
	stuck, goods, rounds := 1000, 64, 20
	if race {
		stuck, goods, rounds = 200, 16, 4
	}
	for _, p := range policies[:2] {
		t.Run(p.name, func(t *testing.T) {
			const stall = 10 * time.Second
			s := serveFiles(t, engine.Config{Policy: p.policy, ArenaSize: 64 << 20, WriteStall: stall})
			held := make([]*client, stuck)
			for i := range held {
				held[i] = s.dial(t, 0)
				if err := held[i].ask("big", ""); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "every stuck reader has something", func() bool { return s.eng.Stats().Queued > int64(stuck)<<10 })
			all := group{tb: t}
			for range goods {
				c := s.dial(t, 0)
				all.run(func() error {
					defer c.Close()
					for range rounds {
						if err := c.fetch("big"); err != nil {
							return err
						}
					}
					return nil
				})
			}
			most := int64(0)
			done := make(chan struct{})
			go func() { all.wait.Wait(); close(done) }()
			for ended := false; !ended; {
				st := s.eng.Stats()
				most = max(most, st.Pinned)
				select {
				case <-done:
					ended = true
				default:
				}
			}
			st := s.eng.Stats()
			if most > st.MaxPinned {
				t.Errorf("%d bytes were pinned, the budget is %d", most, st.MaxPinned)
			}
			if st.Aborted != 0 || st.Conns < stuck {
				t.Errorf("%d stuck connections are left and %d were reset: the others had to wait for them", st.Conns, st.Aborted)
			}
			t.Logf("at most %d of %d bytes were pinned; %d leases were refused", most, st.MaxPinned, st.NoBuffers)
			eventually(t, "every pin ends", func() bool {
				st := s.eng.Stats()
				if st.OldestPin.Age > stall*3/2 { // the deadline is kept to a quarter
					t.Errorf("a pin of %v for %v", st.OldestPin.Peer, st.OldestPin.Age)
				}
				return st.Pinned == 0
			})
			for _, c := range held {
				c.Close()
			}
			s.allBack()
		})
	}
}
