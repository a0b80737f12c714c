//go:build linux

package serve_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

// A request that is sent while the server drains is answered, or its connection is closed in
// order: it is never cut in the middle.
func TestRequestsDuringADrainAreAnsweredWholeOrNotAtAll(t *testing.T) {
	s := start(t, "--loops", "2", "--drain", "15s")
	const clients = 8
	ended := make(chan error, clients)
	for range clients {
		c := dialRaw(t, s, 0)
		go func() {
			defer c.Close()
			in := bufio.NewReader(c)
			for {
				if _, err := io.WriteString(c, request("mid")); err != nil {
					ended <- nil // the server has closed
					return
				}
				if _, err := in.Peek(1); err != nil {
					ended <- nil
					return
				}
				r, err := http.ReadResponse(in, nil)
				if err != nil {
					ended <- err
					return
				}
				if n, err := io.Copy(io.Discard, r.Body); err != nil || n != midSize {
					ended <- fmt.Errorf("%d bytes, %w", n, err)
					return
				}
			}
		}()
	}
	newClient(t, s).want("big") // while the others go round
	s.signal(syscall.SIGTERM)
	for range clients {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if status := s.exit(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}
