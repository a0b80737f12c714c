//go:build linux

package faults

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"sluice/engine"
)

// TestStreamsThatStopLeaveThoseThatRunTheirRate has 64 peers read endless streams from memory. Then
// a thousand more come, and stop: at once, or when they have read enough to count as readers. Half of the
// rate is asked for, since other tests take processor time too; integration/stalled measures it.
func TestStreamsThatStopLeaveThoseThatRunTheirRate(t *testing.T) {
	goods, stuck, part := 64, 1000, 2.0
	if race { // with the detector the rate is its own
		goods, stuck, part = 8, 100, 10
	}
	for _, p := range policies[:2] {
		for name, after := range map[string]int64{"never read": 0, "read first": 2 << 20} {
			t.Run(p.name+", "+name, func(t *testing.T) {
				cfg := engine.Config{Policy: p.policy, Loops: 1, ArenaSize: goods << 20, WriteStall: time.Minute, PressureStall: time.Minute}
				s := serve(t, cfg, "127.0.0.1:0", func(c *engine.Conn) engine.Handler {
					h := &source{tb: t, total: 1 << 60, size: 32 << 10}
					c.Post(h.Writable)
					return h
				})
				var taken atomic.Int64
				all := group{tb: t}
				var running []net.Conn
				for range goods {
					c := s.dial(t, 0)
					c.SetDeadline(time.Time{})
					running = append(running, c.TCPConn)
					all.run(func() error {
						buf := make([]byte, 256<<10)
						for {
							n, err := c.TCPConn.Read(buf)
							taken.Add(int64(n))
							if err != nil {
								return nil // it is closed below
							}
						}
					})
				}
				rate := func() float64 {
					const window = 500 * time.Millisecond
					before := taken.Load()
					time.Sleep(window)
					return float64(taken.Load()-before) / 1e9 / window.Seconds()
				}
				rate()
				alone := (rate() + rate()) / 2
				stopping := group{tb: t}
				var stopped []net.Conn
				for range stuck {
					c := s.dial(t, 0)
					stopped = append(stopped, c.TCPConn)
					c.SetDeadline(time.Now().Add(5 * time.Second))
					stopping.run(func() error {
						// What those before them hold may be all that there is for newcomers.
						if _, err := io.CopyN(io.Discard, c.TCPConn, after); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
							return err
						}
						return nil
					})
				}
				stopping.wait.Wait()
				rate() // they come to a stop
				beside := rate()
				for range 8 { // what else the machine does comes and goes
					if beside < alone/part {
						beside = rate()
					}
				}
				st := s.eng.Stats()
				t.Logf("%.2f GB/s alone, %.2f beside: %.2f; %d of %d bytes leased, %d connections wait for memory", alone, beside, beside/alone, st.Arena.Leased, st.Arena.Total, st.Starved)
				if beside < alone/part {
					t.Errorf("%.2f GB/s beside %d streams that have stopped, %.2f without", beside, stuck, alone)
				}
				if st.Aborted != 0 {
					t.Errorf("%d connections were reset: the others need not have waited for that", st.Aborted)
				}
				for _, c := range append(running, stopped...) {
					c.Close()
				}
				all.wait.Wait()
				s.allBack()
			})
		}
	}
}
