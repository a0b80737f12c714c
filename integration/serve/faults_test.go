//go:build linux

package serve_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallWindow has a socket receive little without being asked.
func smallWindow(bytes int) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if bytes == 0 {
			return nil
		}
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes) })
		return errors.Join(cerr, err)
	}
}

// waiting is how many bytes have arrived that nobody has read.
func (c rawConn) waiting() (n int) {
	c.tb.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		c.tb.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); errors.Join(cerr, err) != nil {
		c.tb.Fatal(cerr, err)
	}
	return n
}

// stall waits until no more arrives, because nobody reads.
func (c rawConn) stall() {
	c.tb.Helper()
	last, since := -1, time.Now()
	eventually(c.tb, "the connection stalls", func() bool {
		if n := c.waiting(); n == 0 || n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 50*time.Millisecond
	})
}

// wantBody reads a response and compares its body with the file.
func (c rawConn) wantBody(in *bufio.Reader, name string) {
	c.tb.Helper()
	if err := sameBody(in, name); err != nil {
		c.tb.Fatal(err)
	}
}

// sameBody does so on any goroutine.
func sameBody(in *bufio.Reader, name string) error {
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if want := files[name].sum; err != nil || !bytes.Equal(h.Sum(nil), want[:]) {
		return fmt.Errorf("%s: %d bytes that are not the file, %w", name, n, err)
	}
	return nil
}

// withAndWithout runs a test with zero-copy and without.
func withAndWithout(t *testing.T, test func(t *testing.T, args []string)) {
	for _, threshold := range []string{"auto", "1"} {
		t.Run("threshold "+threshold, func(t *testing.T) { test(t, []string{"--zc-threshold", threshold}) })
	}
}

func TestAReaderMayStallAndGoOn(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, args...)
		c := dialRaw(t, s, 64<<10)
		c.send(request("big") + request("mid"))
		c.stall()
		if n := c.waiting(); n >= bigSize {
			t.Fatalf("%d bytes wait: nothing stalled", n)
		}
		in := bufio.NewReaderSize(c, 1<<20)
		c.wantBody(in, "big")
		c.wantBody(in, "mid")
		c.Close()
		s.stop()
	})
}

func TestAStalledReaderDoesNotHoldUpOthers(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, append(args, "--loops", "1")...)
		for range 8 {
			c := dialRaw(t, s, 64<<10)
			c.send(request("big"))
			c.stall()
		}
		newClient(t, s).want("big", "mid", "one")
	})
}

func TestAHalfClosedClientReceivesEverything(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, args...)
		for _, names := range [][]string{{"one"}, {"big"}, {"mid", "big", "zero", "mid"}} {
			c := dialRaw(t, s, 0)
			for _, name := range names {
				c.send(request(name))
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReaderSize(c, 1<<20)
			for _, name := range names {
				c.wantBody(in, name)
			}
			if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
				t.Errorf("%q: then %d bytes and %v", names, len(rest), err)
			}
			c.Close()
		}
		if got := s.stop(); got.reset != 0 || got.closed != 3 {
			t.Errorf("%+v", got)
		}
	})
}

// A client that reads nothing is reset when its time is over, also while it stays connected.
func TestAClientThatNeverReadsIsReset(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, append(args, "--write-stall", "500ms")...)
		newClient(t, s).want("big")
		var all []rawConn
		for range 10 {
			c := dialRaw(t, s, 64<<10)
			c.send(request("big"))
			all = append(all, c)
		}
		all[9].stall()
		began := time.Now()
		for _, c := range all {
			if _, err := io.Copy(io.Discard, afterReset{t, c}); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("it ended with %v", err)
			}
		}
		if d := time.Since(began); d > patience/2 {
			t.Errorf("the resets took %v", d)
		}
		newClient(t, s).want("big")
		if got := s.stop(); got.reset != 10 || got.undelivered < 10*bigSize/2 {
			t.Errorf("%+v", got)
		}
	})
}

// afterReset reads from a connection only after the peer has reset it.
type afterReset struct {
	tb testing.TB
	c  rawConn
}

func (r afterReset) Read(p []byte) (int, error) {
	raw, err := r.c.SyscallConn()
	if err != nil {
		return 0, err
	}
	eventually(r.tb, "the connection is reset", func() bool {
		state := uint8(0)
		cerr := raw.Control(func(fd uintptr) {
			var info *unix.TCPInfo
			if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				state = info.State
			}
		})
		if errors.Join(cerr, err) != nil {
			r.tb.Fatal(cerr, err)
		}
		const closed = 7 // TCP_CLOSE
		return state == closed
	})
	return r.c.Read(p)
}

// misbehave does to a server what clients do.
func misbehave(t *testing.T, s *server, n int) {
	t.Helper()
	for i := range n {
		reset := dialRaw(t, s, 0)
		reset.send(request("big"))
		if _, err := io.ReadFull(reset, make([]byte, 1+i*100000)); err != nil {
			t.Fatal(err)
		}
		if err := reset.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		reset.Close()

		atOnce := dialRaw(t, s, 0)
		atOnce.send(request("big"))
		_ = atOnce.SetLinger(0)
		atOnce.Close()

		gone := dialRaw(t, s, 0) // closes with data unread: a reset too
		gone.send(request("big") + request("mid"))
		if _, err := io.ReadFull(gone, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		gone.Close()

		never := dialRaw(t, s, 64<<10) // stays, and reads nothing
		never.send(strings.Repeat(request("big"), 10))

		half := dialRaw(t, s, 0)
		half.send(request("mid"))
		_ = half.CloseWrite()
		half.wantBody(bufio.NewReader(half), "mid")

		halfHead := dialRaw(t, s, 0)
		halfHead.send("GET /mid HTTP/1.1\r\nHo")
		halfHead.Close()

		garbage := dialRaw(t, s, 0)
		garbage.send("\x16\x03\x01\x02\x00\r\n\r\n" + strings.Repeat("\xff\x00", 5000))
		_, _ = io.Copy(io.Discard, garbage)
		garbage.Close()

		silent := dialRaw(t, s, 0)
		silent.Close()
	}
}

func TestBrokenClientsLeaveNothingBehind(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, append(args, "--write-stall", "500ms", "--loops", "2")...)
		listeners := s.sockets()
		// What the process keeps, it has after the first rounds.
		misbehave(t, s, 8)
		eventually(t, "every connection ends", func() bool { return s.sockets() == listeners })
		open, memory := s.descriptors(), s.resident()
		for range 2 {
			misbehave(t, s, 16)
		}
		eventually(t, "every connection ends", func() bool { return s.sockets() == listeners })
		if n := s.descriptors(); n > open+4 { // a loop opens each file for itself
			t.Errorf("%d descriptors, %d before", n, open)
		}
		slack := int64(32 << 20)
		if race {
			slack *= 4
		}
		if n := s.resident(); n > memory+slack {
			t.Errorf("%d MiB resident, %d before", n>>20, memory>>20)
		}
		newClient(t, s).want("big", "one")
		s.stop()
	})
}

func TestManyConnectionsInTurnLeakNothing(t *testing.T) {
	const conns = 2000
	s := start(t, "--loops", "2")
	ask := func(n int) {
		for i := range n {
			c := dialRaw(t, s, 0)
			name := fmt.Sprint("s", i%smalls)
			c.send(request(name, "Connection: close"))
			c.wantBody(bufio.NewReader(c), name)
			c.Close()
		}
	}
	ask(2 * smalls) // each file on some loop
	listeners := 2
	eventually(t, "every connection ends", func() bool { return s.sockets() == listeners })
	before := s.descriptors()
	ask(conns)
	eventually(t, "every connection ends", func() bool { return s.sockets() == listeners })
	if n := s.descriptors(); n > before+2*smalls { // each file on the other loop
		t.Errorf("%d descriptors, %d before", n, before)
	}
	if got := s.stop(); got.accepted != conns+2*smalls || got.closed+got.reset != got.accepted {
		t.Errorf("%+v", got)
	}
}

func TestAnIdleConnectionIsEnded(t *testing.T) {
	s := start(t, "--idle", "300ms")
	c := dialRaw(t, s, 0)
	c.send(request("one"))
	in := bufio.NewReader(c)
	c.wantBody(in, "one")
	var timeout net.Error
	if _, err := in.ReadByte(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("it ended with %v", err)
	}
}
