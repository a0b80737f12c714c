//go:build linux

package serve_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// refusesConnections waits until the server no longer accepts.
func (s *server) refusesConnections() {
	s.tb.Helper()
	eventually(s.tb, "new connections are refused", func() bool {
		nc, err := net.Dial("tcp", s.addr)
		if err == nil {
			nc.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func TestDownloadsInProgressCompleteAfterSIGTERM(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, append(args, "--loops", "2", "--drain", "15s")...)
		var all []rawConn
		for range 10 {
			c := dialRaw(t, s, 64<<10)
			c.send(request("big"))
			c.stall()
			all = append(all, c)
		}
		idle := newClient(t, s)
		idle.want("one")
		s.signal(syscall.SIGTERM)
		s.refusesConnections()
		if !s.running() {
			t.Fatal("it ended while downloads were in progress")
		}
		for _, c := range all {
			in := bufio.NewReaderSize(c, 1<<20)
			c.wantBody(in, "big")
			if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
				t.Errorf("then %d bytes and %v", len(rest), err)
			}
			c.Close()
		}
		if status := s.exit(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		if got := s.totals(); got.undelivered != 0 || got.reset != 0 || got.closed < 11 {
			t.Errorf("%+v", got)
		}
	})
}

func TestTheDrainDeadlineEndsWhatIsNotDone(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, append(args, "--drain", "200ms")...)
		for range 5 {
			c := dialRaw(t, s, 64<<10)
			c.send(request("big"))
			c.stall()
		}
		s.signal(syscall.SIGTERM)
		if status := s.exit(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		if got := s.totals(); got.reset != 5 || got.undelivered < 5*bigSize/2 {
			t.Errorf("%+v", got)
		}
	})
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			s := start(t, "--drain", "10m")
			c := dialRaw(t, s, 64<<10)
			c.send(request("big"))
			c.stall()
			s.signal(sig)
			s.line("draining")
			if !s.running() {
				t.Fatal("it did not wait for the download")
			}
			s.signal(sig)
			began := time.Now()
			if status := s.exit(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			if d := time.Since(began); d > patience/2 {
				t.Errorf("it ended after %v", d)
			}
			if got := s.totals(); got.reset != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestAnIdleServerEndsAtOnce(t *testing.T) {
	s := start(t, "--drain", "10m")
	newClient(t, s).want("one") // and its connection stays
	s.stop()
}

// load has clients ask without a pause, until the server ends their connections. wait returns how
// many responses they received whole, and reports any that was cut or is not the file.
func load(t *testing.T, s *server, clients int) (wait func() int) {
	t.Helper()
	var answered, first atomic.Int64
	ended := make(chan error, clients)
	for range clients {
		c := dialRaw(t, s, 0)
		go func() {
			defer c.Close()
			in := bufio.NewReader(c)
			for i := 0; ; i++ {
				name := []string{"mid", "one", "s99", "mid"}[i%4]
				if _, err := io.WriteString(c, request(name)); err != nil {
					ended <- nil // the server has closed
					return
				}
				if _, err := in.Peek(1); err != nil {
					ended <- nil
					return
				}
				if err := sameBody(in, name); err != nil {
					ended <- err
					return
				}
				if answered.Add(1); i == 0 {
					first.Add(1)
				}
			}
		}()
	}
	eventually(t, "each client has had an answer", func() bool { return first.Load() == int64(clients) })
	return func() int {
		for range clients {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		return int(answered.Load())
	}
}

// A request that is sent while the server drains is answered, or its connection is closed in
// order: neither it nor a download that goes on for longer is cut in the middle.
func TestSIGTERMUnderLoadCutsNoResponse(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, append(args, "--loops", "2", "--drain", "15s")...)
		const clients, downloads = 32, 8
		var slow []rawConn
		for range downloads {
			c := dialRaw(t, s, 64<<10)
			c.send(request("big"))
			c.stall()
			slow = append(slow, c)
		}
		wait := load(t, s, clients)
		s.signal(syscall.SIGTERM)
		answered := wait()
		if !s.running() {
			t.Fatal("it ended while downloads were in progress")
		}
		for _, c := range slow {
			c.wantBody(bufio.NewReaderSize(c, 1<<20), "big")
			c.Close()
		}
		if status := s.exit(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		// What clients sent to a connection that had just been closed is answered by a reset.
		if got := s.totals(); got.undelivered != 0 || got.failed != 0 || got.accepted != clients+downloads || got.closed+got.reset != got.accepted {
			t.Errorf("%+v with %d responses", got, answered)
		}
	})
}
