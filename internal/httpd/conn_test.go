//go:build linux

package httpd

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAHeadMayArriveSplitAtEveryByte(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	raw := head("GET", "/a", "X: y")
	c := s.dial(t)
	for i := 1; i < len(raw); i++ {
		c.sendAndWait(s, raw[:i])
		c.send(raw[i:])
		c.wantFile(c.read("GET"), []byte("content"))
	}
}

func TestAHeadMayArriveByteByByte(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	c := s.dial(t)
	for _, b := range head("GET", "/a") {
		c.sendAndWait(s, string(b))
	}
	c.wantFile(c.read("GET"), []byte("content"))
}

func TestEmptyLinesBeforeARequestAreSkipped(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	c := s.dial(t)
	for _, lines := range []string{"\r\n", "\n", "\r\n\r\n\r\n\r\n", strings.Repeat("\r\n", 3*maxHead)} {
		c.send(lines + head("GET", "/a"))
		c.wantFile(c.read("GET"), []byte("content"))
	}
	c.sendAndWait(s, "\r\n")
	c.send(head("GET", "/a"))
	c.wantFile(c.read("GET"), []byte("content"))
}

// pipeline writes n files and returns what asks for them all, twice each, and what they are.
func pipeline(tb testing.TB, s *site, n, size int) (raw string, want [][]byte) {
	var b strings.Builder
	for i := range n {
		data := noise(size+i, byte(i))
		s.write(tb, fmt.Sprint(i), data)
		b.WriteString(head("GET", fmt.Sprint("/", i)))
		b.WriteString(head("GET", fmt.Sprint("/", i)))
		want = append(want, data, data)
	}
	return b.String(), want
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	raw, want := pipeline(t, s, 100, 1000)
	c := s.dial(t)
	for range 2 { // from files that are looked up, and from files that are kept open
		c.send(raw)
		for _, data := range want {
			c.wantFile(c.read("GET"), data)
		}
	}
}

func TestPipelinedRequestsBehindAFullQueueAreAnsweredInOrder(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	raw, want := pipeline(t, s, 8, 3<<20) // each is above the high-water mark
	c := s.dial(t)
	c.sendAndWait(s, raw)
	for _, data := range want {
		c.wantFile(c.read("GET"), data)
	}
}

func TestPipelinedRequestsOfAllKindsKeepTheStreamInStep(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	data := noise(100<<10, 1)
	s.write(t, "a", data)
	s.write(t, "empty", nil)
	c := s.dial(t)
	for range 3 {
		c.send(head("HEAD", "/a") + head("GET", "/none") + head("GET", "/a", "Range: bytes=5-9") + head("HEAD", "/none") +
			head("GET", "/a", "If-None-Match: *") + head("GET", "/empty") + head("GET", "/a", "Range: bytes=999999-") +
			head("GET", "/a", `If-Match: "x"`) + head("HEAD", "/a", "Range: bytes=999999-") + head("POST", "/a") + head("GET", "/a"))
		if r := c.read("HEAD"); r.status != 200 || r.length != int64(len(data)) {
			t.Fatalf("HEAD: %d, %d bytes", r.status, r.length)
		}
		c.wantStatus(c.read("GET"), 404)
		r := c.read("GET")
		if c.wantStatus(r, 206); !bytes.Equal(r.body, data[5:10]) {
			t.Fatalf("range is %q", r.body)
		}
		c.wantStatus(c.read("HEAD"), 404)
		c.wantStatus(c.read("GET"), 304)
		c.wantFile(c.read("GET"), nil)
		c.wantStatus(c.read("GET"), 416)
		c.wantStatus(c.read("GET"), 412)
		c.wantStatus(c.read("HEAD"), 416)
		c.wantStatus(c.read("POST"), 405)
		c.wantFile(c.read("GET"), data)
	}
}

func TestHeadHasNoBody(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	for path, status := range map[string]int{"/a": 200, "/none": 404, "/%00": 400} {
		c := s.dial(t)
		c.send(head("HEAD", path, "Connection: close"))
		raw, err := io.ReadAll(c.in)
		if err != nil {
			t.Fatal(err)
		}
		h, body, ok := strings.Cut(string(raw), "\r\n\r\n")
		if !ok || body != "" || !strings.HasPrefix(h, fmt.Sprint("HTTP/1.1 ", status)) || !strings.Contains(h, "Content-Length: ") {
			t.Errorf("%s: %q", path, raw)
		}
	}
}

func TestAConnectionStaysUntilOneSideWantsItClosed(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	for _, c := range []struct {
		name, raw  string
		connection string // the field of the response
		stays      bool
	}{
		{"HTTP/1.1", "GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "", true},
		{"HTTP/1.1 close", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "close", false},
		{"HTTP/1.1 keep-alive", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", "", true},
		{"HTTP/1.0", "GET /a HTTP/1.0\r\n\r\n", "close", false},
		{"HTTP/1.0 keep-alive", "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive", true},
		{"HTTP/1.0 close", "GET /a HTTP/1.0\r\nConnection: close\r\n\r\n", "close", false},
	} {
		for _, when := range []string{"first", "again"} { // looked up, and kept open
			t.Run(c.name+" "+when, func(t *testing.T) {
				cl := s.dial(t)
				cl.send(c.raw)
				raw, err := http.ReadResponse(cl.in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(raw.Body); err != nil || string(body) != "content" {
					t.Fatalf("%q, %v", body, err)
				}
				// ReadResponse takes "Connection: close" out of the fields and into Close.
				got := raw.Header.Get("Connection")
				if raw.Close {
					got = "close"
				}
				if got != c.connection {
					t.Errorf("Connection: %q, want %q", got, c.connection)
				}
				if !c.stays {
					cl.wantEnd()
					return
				}
				cl.wantFile(cl.get("/a"), []byte("content"))
			})
		}
	}
}

// What follows the last request must neither be answered nor cost the last response.
func TestNothingIsAnsweredBehindTheLastRequest(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	data := noise(3<<20, 1)
	s.write(t, "a", data)
	more := head("GET", "/a") + "\x00\r\n\r\n" + head("POST", "/a")
	for name, last := range map[string]struct {
		raw    string
		status int
	}{
		"close":             {head("GET", "/a", "Connection: close"), 200},
		"HTTP/1.0":          {"GET /a HTTP/1.0\r\n\r\n", 200},
		"a body":            {head("GET", "/a", "Content-Length: 5"), 200},
		"a chunked body":    {head("GET", "/a", "Transfer-Encoding: chunked"), 200},
		"a body of a POST":  {head("POST", "/a", "Content-Length: 5"), 405},
		"a body, not found": {head("GET", "/none", "Content-Length: 5"), 404},
		"no request":        {"\x00\r\n\r\n", 400},
		"HTTP/2":            {"PRI * HTTP/2.0\r\n\r\n", 505},
		"bare LF":           {"GET /a HTTP/1.1\nHost: h\n\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // looked up, and kept open
				c := s.dial(t)
				c.send(last.raw + more + strings.Repeat(more, 20))
				r := c.read("GET")
				if c.wantStatus(r, last.status); !r.close {
					t.Error("no Connection: close")
				}
				if r.status == 200 {
					c.wantFile(r, data)
				}
				c.wantEnd()
			}
		})
	}
}

func TestErrorsAreFramedAndKeepTheConnection(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	s.write(t, "dir/b", nil)
	c := s.dial(t)
	for _, q := range []struct {
		method, path string
		line         string
		status       int
	}{
		{"GET", "/none", "X: y", 404},
		{"GET", "/%", "X: y", 400},
		{"GET", "*", "X: y", 400},
		{"POST", "/a", "X: y", 405},
		{"POST", "/a", "Content-Length: 0", 405},
		{"GET", "/dir", "X: y", 301},
		{"GET", "/a", "Range: bytes=9-", 416},
		{"GET", "/a", "Range: lines=1-2", 416},
		{"GET", "/a", `If-Match: "other"`, 412},
		{"GET", "/a", "If-Unmodified-Since: Mon, 02 Jan 2006 15:04:05 GMT", 412},
	} {
		r := c.ask(q.method, q.path, q.line)
		c.wantStatus(r, q.status)
		if r.length != int64(len(r.body)) || r.close {
			t.Errorf("%+v: Content-Length %d of %d bytes, close: %t", q, r.length, len(r.body), r.close)
		}
		if len(r.body) > 0 && (r.header.Get("Content-Type") != "text/plain; charset=utf-8" || r.header.Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%+v: %q", q, r.header)
		}
	}
	c.wantFile(c.get("/a"), []byte("content"))
}

func TestMethodNotAllowedSaysWhatIs(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	c := s.dial(t)
	if r := c.ask("DELETE", "/a"); r.status != 405 || r.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%d %q", r.status, r.header)
	}
}

func TestEveryResponseHasADate(t *testing.T) {
	k := &clock{}
	s := newSite(t, options{recheck: forever, before: func(s *Server) { s.now = k.now }})
	s.write(t, "a", []byte("content"))
	c := s.dial(t)
	for range 3 {
		want := k.now(nil).UTC().Format(http.TimeFormat)
		for _, r := range []*response{c.get("/a"), c.ask("HEAD", "/a"), c.get("/none"), c.ask("POST", "/a"), c.get("/a", "If-None-Match: *")} {
			if got := r.header.Values("Date"); len(got) != 1 || got[0] != want {
				t.Errorf("%d: Date: %q, want %q", r.status, got, want)
			}
		}
		k.advance(1500 * time.Millisecond)
	}
}

func TestAHeadOverTheLimitIsRefused(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	long := strings.Repeat("a", maxHead)
	for name, raw := range map[string]string{
		"long target":         "GET /" + long + " HTTP/1.1\r\nHost: h\r\n\r\n",
		"long field":          head("GET", "/a", "X: "+long),
		"many fields":         head("GET", "/a", strings.Repeat("X: y\r\n", maxHead/6)+"X: y"),
		"no end":              "GET /" + long,
		"no line":             long,
		"one byte over":       exactHead(maxHead + 1),
		"behind another one":  head("GET", "/a") + exactHead(maxHead+1),
		"behind a slow start": "G" + exactHead(maxHead + 1)[1:],
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(t)
			c.send(raw)
			if name == "behind another one" {
				c.wantFile(c.read("GET"), []byte("content"))
			}
			r := c.read("GET")
			if c.wantStatus(r, 431); !r.close || r.length != int64(len(r.body)) {
				t.Errorf("%+v", r)
			}
			c.wantEnd()
		})
	}
}

// exactHead is a request for /a of n bytes.
func exactHead(n int) string {
	h := head("GET", "/a", "X: ")
	return strings.Replace(h, "X: ", "X: "+strings.Repeat("y", n-len(h)), 1)
}

func TestAHeadAtTheLimitIsAnswered(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", []byte("content"))
	c := s.dial(t)
	for range 3 {
		c.send(exactHead(maxHead))
		c.wantFile(c.read("GET"), []byte("content"))
	}
}

// holdLookups has every lookup wait until the function that it returns is called.
func (s *site) holdLookups() (goOn func()) {
	for range cap(s.srv.opening) {
		s.srv.opening <- struct{}{}
	}
	return func() {
		for range cap(s.srv.opening) {
			<-s.srv.opening
		}
	}
}

func TestManyConnectionsWaitForOneLookup(t *testing.T) {
	s := newSite(t, options{})
	data := noise(1000, 1)
	name := s.write(t, "a", data)
	goOn := s.holdLookups()
	var all []*client
	for range 20 {
		c := s.dial(t)
		c.sendAndWait(s, head("GET", "/a"))
		all = append(all, c)
	}
	gone := s.dial(t)
	gone.sendAndWait(s, head("GET", "/a"))
	must(t, gone.SetLinger(0))
	gone.Close()
	eventually(t, "one connection has ended", func() bool { return s.eng.Stats().Conns == 20 })
	goOn()
	for _, c := range all {
		c.wantFile(c.read("GET"), data)
	}
	if n := s.openBelow(t); n != 1 {
		t.Errorf("%d descriptors of one file", n)
	}
	must(t, os.Remove(name))
	all[0].wantStatus(all[0].get("/a"), 404)
	if n := s.openBelow(t); n != 0 {
		t.Errorf("%d descriptors that nobody asks for", n)
	}
}

func TestAClientThatDoesNotReadIsNotAnsweredFurther(t *testing.T) {
	const size = 3 << 20
	s := newSite(t, options{recheck: forever})
	s.write(t, "a", noise(size, 1))
	c := s.dial(t)
	c.wantStatus(c.ask("HEAD", "/a"), 200)
	c.sendAndWait(s, strings.Repeat(head("GET", "/a"), 100))
	must(t, c.SetLinger(0))
	c.Close()
	eventually(t, "the connection has ended", func() bool { return s.eng.Stats().Conns == 0 })
	// Two: one may have left the queue in part when the next is queued.
	if n := s.eng.Stats().Undelivered; n == 0 || n > 2*size {
		t.Errorf("%d bytes were queued", n)
	}
}
