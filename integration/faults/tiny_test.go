//go:build linux

package faults

import (
	"testing"

	"golang.org/x/sys/unix"

	"sluice/engine"
)

// tinyNetwork is a namespace whose sockets send from one page.
func tinyNetwork(tb testing.TB) *namespace {
	n := newNamespace(tb)
	n.set("ipv4/tcp_wmem", "4096 4096 4096")
	return n
}

// window is the receive buffer of a client, which the kernel doubles. TCP charges each packet
// the memory that it lies in: with a buffer of one packet it drops the next and then sends one
// each time that it asks whether there is room, five a second.
const window = 8 << 10

func TestTinySocketBuffersLoseNothingByAnyRoute(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			const conns, total = 8, 512 << 10
			n := tinyNetwork(t)
			newHandler := w.newSource(t, total)
			var s *server
			n.do(func() {
				s = serve(t, engine.Config{Policy: w.policy}, "127.0.0.1:0", func(c *engine.Conn) engine.Handler {
					if n, err := unix.GetsockoptInt(c.FD(), unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || n > 4096 {
						t.Errorf("the send buffer has %d bytes, %v; want the network's", n, err)
					}
					limitSendBuffer(t, c)
					return newHandler(c)
				})
			})
			all := group{tb: t}
			for range conns {
				c, err := n.dial(s.addr, window)
				if err != nil {
					t.Fatal(err)
				}
				all.run(func() error {
					defer c.Close()
					return sameNoise(c, 0, total)
				})
			}
			all.wait.Wait()
			st := s.allBack()
			if by := st.Sends.Total(w.route); by.Bytes != conns*total || sent(st) != conns*total {
				t.Errorf("%d of %d bytes went by %v, want %d", by.Bytes, sent(st), w.route, conns*total)
			}
			if st.Aborted != 0 || st.Undelivered != 0 {
				t.Errorf("%d connections were reset with %d bytes undelivered", st.Aborted, st.Undelivered)
			}
		})
	}
}

func TestTinySocketBuffersServeFilesWithTheirHeads(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			const conns, requests = 8, 20
			n := tinyNetwork(t)
			var s *server
			n.do(func() { s = serveFiles(t, engine.Config{Policy: p.policy}) })
			all := group{tb: t}
			for i := range conns {
				c, err := n.dial(s.addr, window)
				if err != nil {
					t.Fatal(err)
				}
				all.run(func() error {
					defer c.Close()
					for j := range requests {
						if err := c.fetch(small(i + j*5)); err != nil {
							return err
						}
					}
					return nil
				})
			}
			all.wait.Wait()
			if st := s.allBack(); st.Aborted != 0 {
				t.Errorf("%d connections were reset", st.Aborted)
			}
		})
	}
}
