//go:build linux

package faults

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/engine"
	"sluice/zc"
)

// dropAll has a host receive nothing.
const dropAll = `table ip hole {
	chain input {
		type filter hook input priority 0; policy drop;
	}
}`

// TestABlackHoledPeerIsGivenUpAndOthersGoOn has one of two networks swallow everything while
// transfers are under way on both.
func TestABlackHoledPeerIsGivenUpAndOthersGoOn(t *testing.T) {
	for _, fault := range []struct {
		name      string
		fall, end func(server, lost *namespace)
	}{
		{"link down", func(s, _ *namespace) { s.ip("link set hole down") }, func(s, _ *namespace) { s.ip("link set hole up") }},
		{"nft drop", func(_, l *namespace) { l.command(dropAll, "nft", "-f", "-") }, func(_, l *namespace) { l.command("", "nft", "delete", "table", "ip", "hole") }},
	} {
		for _, w := range ways {
			t.Run(fault.name+", "+w.name, func(t *testing.T) {
				t.Parallel()
				// The stall leaves room for many transfers to neighbours, on a busy machine too.
				const stall, holed, good, total, nearTotal = 2 * time.Second, 6, 3, 32 << 20, 512 << 10
				here, lost, near := newNamespace(t), newNamespace(t), newNamespace(t)
				here.link(lost, "hole", 1)
				here.link(near, "good", 2)
				far, neighbour := w.newSource(t, total), w.newSource(t, nearTotal)
				var s *server
				var nearAddr string
				here.do(func() {
					s = serve(t, engine.Config{Policy: w.policy, WriteStall: stall, ArenaSize: 64 << 20}, "10.0.1.1:0", far)
					nearAddr = s.listen("10.0.2.1:0", neighbour)
				})
				var err error
				// They read all the time, so that only the network can be what stops them, but not so fast
				// that they would have received everything before.
				gone, readers := make([]*client, holed), group{tb: t}
				for i := range gone {
					if gone[i], err = lost.dial(s.addr, 64<<10); err != nil {
						t.Fatal(err)
					}
					readers.run(func() error {
						err := sameNoise(trickle{Reader: gone[i], chunk: 16 << 10}, 0, total)
						if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) { // when it hears of the server again
							return nil
						}
						return fmt.Errorf("in the hole: %w", err)
					})
				}
				t.Cleanup(func() {
					for _, c := range gone {
						c.Close()
					}
					readers.wait.Wait()
				})
				// The others go round until those have ended.
				var begun, fallen, over atomic.Bool
				var whileDown atomic.Int32
				neighbours := group{tb: t}
				t.Cleanup(func() { // also when the test has failed
					over.Store(true)
					neighbours.wait.Wait()
				})
				for range good {
					neighbours.run(func() error {
						for !over.Load() {
							isDown := fallen.Load()
							c, err := near.dial(nearAddr, 0)
							if err != nil {
								return err
							}
							err = sameNoise(c, 0, nearTotal)
							c.Close()
							if err != nil {
								return fmt.Errorf("a neighbour: %w", err)
							}
							begun.Store(true)
							if isDown && !over.Load() {
								whileDown.Add(1)
							}
						}
						return nil
					})
				}
				eventually(t, "transfers to the neighbours", begun.Load)
				if st := s.eng.Stats(); w.route == zc.ZeroCopy && st.Pinned == 0 {
					t.Error("nothing is pinned: nothing is at stake")
				}
				since := time.Now() // there is progress until the fault falls
				fault.fall(here, lost)
				fallen.Store(true)
				for _, c := range gone {
					if err := s.end(c.LocalAddr()); !errors.Is(err, engine.ErrStalled) {
						t.Errorf("a connection into the hole ended with %v, want ErrStalled", err)
					}
				}
				took := time.Since(since)
				over.Store(true)
				neighbours.wait.Wait()
				if took < stall/2 || took > 10*stall {
					t.Errorf("the connections into the hole ended after %v, want about %v", took, stall)
				}
				if whileDown.Load() == 0 {
					t.Error("no transfer to a neighbour began and ended meanwhile")
				}
				st := s.allBack()
				if st.Aborted != holed || st.Undelivered == 0 {
					t.Errorf("%d connections were reset with %d bytes undelivered, want %d", st.Aborted, st.Undelivered, holed)
				}
				if all, by := sent(st), st.Sends.Total(w.route).Bytes; by != all {
					t.Errorf("%d of %d bytes went by %v", by, all, w.route)
				}
				fault.end(here, lost)
				var c *client
				eventually(t, "the network is back", func() bool { // the hosts have to find each other again
					c, err = lost.dial(s.addr, 0)
					return err == nil
				})
				defer c.Close()
				if err := sameNoise(c, 0, total); err != nil {
					t.Errorf("after the network's return: %v", err)
				}
			})
		}
	}
}

// sent is the number of bytes by all routes.
func sent(st engine.Stats) (n uint64) {
	for r := range zc.Route(zc.NumRoutes) {
		n += st.Sends.Total(r).Bytes
	}
	return n
}
