//go:build linux

package faults

import (
	"errors"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	"sluice/engine"
)

// TestHundredsOfResetsMidTransferDisturbNobody has peers reset somewhere in a large file,
// while others receive files of all sizes.
func TestHundredsOfResetsMidTransferDisturbNobody(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			const resetters, resets, goods, requests = 4, 75, 4, 150
			s := serveFiles(t, engine.Config{Policy: p.policy, Loops: 2})
			all := group{tb: t}
			for i := range goods {
				all.run(func() error {
					c, err := dial(s.addr, "", 0)
					if err != nil {
						return err
					}
					defer c.Close()
					for j := range requests {
						if err := c.fetch(small(i*requests+j), "big"); err != nil {
							return err
						}
					}
					return nil
				})
			}
			for i := range resetters {
				all.run(func() error {
					rnd := rand.New(rand.NewPCG(uint64(i), 0))
					for range resets {
						c, err := dial(s.addr, "", 16<<10) // most of the file never leaves
						if err != nil {
							return err
						}
						// As many requests as keep the server busy, and a part of the answers.
						err = errors.Join(c.ask("big", ""), c.ask("big", ""), c.ask("big", ""))
						if err == nil {
							_, err = io.CopyN(io.Discard, c.in, 1+rnd.Int64N(bigSize))
						}
						if err = errors.Join(err, c.reset()); err != nil {
							return err
						}
						if err := s.end(c.LocalAddr()); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
							t.Errorf("a reset ended the connection with %v", err)
						}
					}
					return nil
				})
			}
			all.wait.Wait()
			st := s.allBack()
			if st.Aborted != resetters*resets || st.ClosedInOrder != goods || st.Undelivered == 0 {
				t.Errorf("%d connections were reset with %d bytes undelivered and %d closed in order, want %d and %d",
					st.Aborted, st.Undelivered, st.ClosedInOrder, resetters*resets, goods)
			}
		})
	}
}
