//go:build linux

package httpd

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/engine"
)

// FuzzParse checks what must hold for any input: nothing panics, a head ends where an empty
// line does and never before what came in earlier, and what is answered makes sense.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET http://h/a?b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"HEAD /%2e%2e HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\nIf-Range: x\r\n\r\nGET / HTTP/1.1\r\n",
		"POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nX:\r\n y\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length : 2\r\nTrailer: x\r\nCookie: a=b\r\n\r\n",
		"\x16\x03\x01\r\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		n, _ := headLen(in)
		if n == 0 {
			if bytes.Contains(in, []byte("\n\n")) || bytes.Contains(in, []byte("\n\r\n")) {
				t.Fatalf("no end in %q", in)
			}
			return
		}
		if n > maxHead {
			return
		}
		if m, _ := headLen(in[:n-1]); m != 0 {
			t.Fatalf("%q ends before it does", in[:n])
		}
		var p parser
		p.init()
		r := parseHead(&p, bytes.Clone(in[:n]))
		switch r.status {
		case 0:
			if r.method != "GET" && r.method != "HEAD" || !strings.HasPrefix(r.path, "/") || strings.ContainsAny(r.path, "?\r\n\x00 ") {
				t.Fatalf("%q: %+v", in[:n], r)
			}
			if !bytes.HasSuffix(in[:n], []byte("\r\n\r\n")) && !bytes.HasSuffix(in[:n], []byte("\n\r\n")) {
				t.Fatalf("%q does not end with CRLF: %+v", in[:n], r)
			}
		case 400, 405, 505:
		default:
			t.Fatalf("%q: %+v", in[:n], r)
		}
		if r.alive && r.close {
			t.Fatalf("%q: %+v", in[:n], r)
		}
		if lower := bytes.ToLower(in[:n]); r.status == 0 && !r.close && bytes.Contains(lower, []byte("\ntransfer-encoding:")) {
			t.Fatalf("%q has a body and stays: %+v", in[:n], r)
		}
		once := request{strings.Clone(r.method), strings.Clone(r.path), r.plain, r.close, r.alive, r.status}
		if r.status == 0 {
			p.forServeContent(r.method)
		}
		if again := parseHead(&p, bytes.Clone(in[:n])); again != once {
			t.Fatalf("%q: %+v, then %+v", in[:n], once, again)
		}
	})
}

// FuzzPath checks that no path leads out of the directory, or to a file whose bytes are not there.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/a", "/dir/", "/../secret", "/%2e%2e%2fsecret", "/outside", "/absolute", "/dirlink/../../secret", "//x/..", "/%00", "/proc", "/in-and-out"} {
		f.Add(seed)
	}
	s, dir := tree(f)
	f.Fuzz(func(t *testing.T, path string) {
		e := s.open(path, nil)
		defer e.release()
		switch {
		case e.file == nil && (e.status == 301 && strings.HasPrefix(e.target, "./") || e.status == 400 || e.status == 404):
			return
		case e.file == nil:
			t.Fatalf("%q: %d, Location %q", path, e.status, e.target)
		}
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", e.file.File().Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(name, dir+"/") {
			t.Fatalf("%q leads to %s", path, name)
		}
	})
}

// FuzzConditions checks that ranges and conditions are answered as net/http answers them.
func FuzzConditions(f *testing.F) {
	ours, theirs, _, tags := bothServers(f, modified)
	f.Add(false, "bytes=2-5", "", "", "", "", "")
	f.Add(true, "bytes=-1", httpTime(0), "", "", "", "")
	f.Add(false, "bytes=0-", tags["/ten.txt"], tags["/ten.txt"], `"other"`, httpTime(-time.Hour), httpTime(time.Hour))
	f.Add(false, "", "", "*", `W/"x" , "y`, httpTime(0), "")
	f.Fuzz(func(t *testing.T, isHead bool, ranges, ifRange, ifMatch, ifNoneMatch, ifModified, ifUnmodified string) {
		if strings.Contains(ranges, ",") {
			return // several ranges are answered with the whole file
		}
		var lines []string
		for i, v := range []string{ranges, ifRange, ifMatch, ifNoneMatch, ifModified, ifUnmodified} {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return // how a head is refused is FuzzParse's
			}
			if v != "" {
				lines = append(lines, []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"}[i]+": "+v)
			}
		}
		if len(strings.Join(lines, "")) > maxHead/2 {
			return // refused for its size
		}
		for _, c := range []*client{ours, theirs} {
			c.tb = t
			must(t, c.SetDeadline(time.Now().Add(patience)))
		}
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		sameAnswer(t, ours, theirs, method, head(method, "/ten.txt", lines...))
	})
}

// dates are in every response, and another in each second.
var dates = regexp.MustCompile(`\r\nDate: [^\r]*`)

// FuzzStream checks that it makes no difference how what a client says is cut into packets.
func FuzzStream(f *testing.F) {
	for _, seed := range []string{
		"GET /a HTTP/1.1\r\nHost: h\r\n\r\nHEAD /none HTTP/1.1\r\nHost: h\r\n\r\nGET /large HTTP/1.1\r\nHost: h\r\nRange: bytes=5-\r\n\r\n",
		"\r\n\nGET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /dir HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP",
		"GET /a HTTP/1.1\nHost: h\n\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
	} {
		f.Add([]byte(seed), uint16(1), uint16(40))
	}
	s := newSite(f, options{recheck: forever})
	s.write(f, "a", []byte("a"))
	s.write(f, "large", noise(100<<10, 1))
	s.write(f, "dir/index.html", []byte("index"))
	f.Fuzz(func(t *testing.T, in []byte, cut1, cut2 uint16) {
		a := int(cut1) % (len(in) + 1)
		b := a + int(cut2)%(len(in)-a+1)
		whole, cut := s.talk(t, in), s.talk(t, in[:a], in[a:b], in[b:])
		if !bytes.Equal(whole, cut) {
			t.Fatalf("%q: %q in one piece, %q when cut at %d and %d", in, whole, cut, a, b)
		}
		if len(whole) > 0 && !bytes.HasPrefix(whole, []byte("HTTP/1.1 ")) {
			t.Fatalf("%q: %q", in, whole)
		}
	})
}

// talk says the pieces, each after the server has received the one before, and returns everything
// that it answers, without the dates.
func (s *site) talk(t *testing.T, pieces ...[]byte) []byte {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	must(t, err)
	defer nc.Close()
	must(t, nc.SetDeadline(time.Now().Add(patience)))
	for _, p := range pieces {
		want := s.eng.Stats().BytesReceived + uint64(len(p))
		if _, err := nc.Write(p); err != nil {
			break // it has ended the connection
		}
		s.soon(t, func(st engine.Stats) bool { return st.BytesReceived >= want || st.Conns == 0 })
	}
	_ = nc.(*net.TCPConn).CloseWrite() // also when it has
	out, err := io.ReadAll(nc)
	must(t, err)
	nc.Close()
	s.soon(t, func(st engine.Stats) bool { return st.Conns == 0 })
	return dates.ReplaceAll(out, nil)
}

// soon waits without a pause for what takes microseconds.
func (s *site) soon(t *testing.T, holds func(engine.Stats) bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(s.eng.Stats()); {
		if time.Now().After(end) {
			t.Fatal("the server has not done it")
		}
	}
}
