//go:build linux

package httpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/bufreg"
	"sluice/engine"
)

// How connections end: by deadlines, by either side's close, for want of what they need, and
// with the engine.

func TestAHeadThatDoesNotEndInTimeEndsTheConnection(t *testing.T) {
	s := newSite(t, options{recheck: forever, before: func(s *Server) { s.headTimeout = 50 * time.Millisecond }})
	s.write(t, "a", []byte("content"))
	c := s.dial(t)
	c.wantFile(c.get("/a"), []byte("content"))
	c.send("GET /a HT")
	c.wantReset()
}

// A deadline for a head must not outlive it: the response may take as long as it makes progress.
func TestTheTimeOfAHeadEndsWithTheHead(t *testing.T) {
	s := newSite(t, options{recheck: forever, before: func(s *Server) { s.headTimeout = 400 * time.Millisecond }})
	data := noise(16<<20, 1)
	s.write(t, "a", data)
	raw := head("GET", "/a")
	for range 2 { // looked up, and kept open
		c := s.dial(t)
		c.sendAndWait(s, raw[:9])
		c.sendAndWait(s, raw[9:])
		later := s.dial(t) // ends by the same deadline, after c would have
		later.send("G")
		later.wantReset()
		c.wantFile(c.read("GET"), data)
	}
}

func TestPartOfANextHeadStartsItsTime(t *testing.T) {
	s := newSite(t, options{recheck: forever, before: func(s *Server) { s.headTimeout = 50 * time.Millisecond }})
	s.write(t, "a", []byte("content"))
	c := s.dial(t)
	c.send(head("GET", "/a") + "GET /")
	c.wantFile(c.read("GET"), []byte("content"))
	c.wantReset()
}

func TestAHalfClosedClientGetsEveryAnswer(t *testing.T) {
	for name, size := range map[string]int{"small": 1000, "above the high-water mark": 3 << 20} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, options{recheck: forever})
			raw, want := pipeline(t, s, 5, size)
			for range 2 { // looked up, and kept open
				c := s.dial(t)
				c.send(raw)
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				for _, data := range want {
					c.wantFile(c.read("GET"), data)
				}
				c.wantEnd()
			}
		})
	}
}

func TestAHalfCloseWithoutAWholeRequestEndsTheConnection(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	for _, raw := range []string{"", "GET /a HTTP/1.1\r\n", "\r\n"} {
		c := s.dial(t)
		c.send(raw)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c.wantEnd()
	}
	c := s.dial(t)
	c.send(head("GET", "/a") + "GET /")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.wantFile(c.read("GET"), []byte("content"))
	c.wantEnd()
}

// A used-up arena is a reason to wait, not to reset clients.
func TestARequestWaitsForMemory(t *testing.T) {
	s := newSite(t, options{recheck: forever, config: engine.Config{ArenaSize: 1 << 20}})
	data := noise(1000, 1)
	s.write(t, "a", data)
	c := s.dial(t)
	c.wantFile(c.get("/a"), data)
	eventually(t, "everything is sent", func() bool { return s.eng.Stats().Arena.Leased == 0 })
	var all []bufreg.Buffer
	for {
		b, err := s.eng.Lease(bufreg.MinBuffer)
		if errors.Is(err, bufreg.ErrNoBuffers) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	c.send(head("GET", "/a") + head("GET", "/none") + head("HEAD", "/a") + head("POST", "/a"))
	eventually(t, "the request asks for memory", func() bool { return s.eng.Stats().NoBuffers > 0 })
	for _, b := range all {
		b.Release()
	}
	c.wantFile(c.read("GET"), data)
	c.wantStatus(c.read("GET"), 404)
	c.wantStatus(c.read("HEAD"), 200)
	c.wantStatus(c.read("POST"), 405)
	c.wantFile(c.get("/a"), data)
}

// A file that shrinks while it is sent leaves the response without its end. What would
// follow on the stream would be taken for it, so the connection must not go on.
func TestAFileTruncatedWhileItIsSentEndsTheConnection(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	name := s.write(t, "a", noise(64<<20, 1))
	c := s.dial(t)
	c.send(head("GET", "/a") + head("GET", "/a"))
	if _, err := io.ReadFull(c.in, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Truncate(name, 1<<20); err != nil {
		t.Fatal(err)
	}
	c.wantReset()
}

func TestAFileTruncatedWhileItIsKeptOpenEndsTheConnection(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	for _, size := range []int{10 << 10, 1 << 20} { // by a read, and by sendfile
		path := fmt.Sprint("/", size)
		name := s.write(t, path, noise(size, 1))
		c := s.dial(t)
		c.get(path)
		if err := syscall.Truncate(name, 100); err != nil {
			t.Fatal(err)
		}
		c.send(head("GET", path) + head("GET", path))
		c.wantReset()
	}
}

// drain has the engine stop, and returns when it does.
func (s *site) drain(t *testing.T) {
	t.Helper()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = s.eng.Shutdown(ctx) // what it returns, a further call does too
	}()
	eventually(t, "the server no longer accepts", func() bool {
		nc, err := net.Dial("tcp", s.addr)
		if err == nil {
			nc.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

func TestADrainAnswersTheRequestThatWaits(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	data := noise(1000, 1)
	s.write(t, "a", data)
	goOn := s.holdLookups()
	idle, waits := s.dial(t), s.dial(t)
	waits.sendAndWait(s, head("GET", "/a")+head("GET", "/a"))
	s.drain(t)
	idle.wantEnd()
	goOn()
	r := waits.read("GET")
	if waits.wantFile(r, data); !r.close {
		t.Error("no Connection: close")
	}
	waits.wantEnd()
}

func TestADrainFinishesTheResponseThatIsBeingSent(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	data := noise(16<<20, 1)
	s.write(t, "a", data)
	c := s.dial(t)
	c.sendAndWait(s, strings.Repeat(head("GET", "/a"), 5))
	if _, err := c.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	s.drain(t)
	c.wantFile(c.read("GET"), data)
	c.wantEnd()
}
