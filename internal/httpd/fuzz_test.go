//go:build linux

package httpd

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
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
		n := headLen(in)
		if n == 0 {
			if bytes.Contains(in, []byte("\n\n")) || bytes.Contains(in, []byte("\n\r\n")) {
				t.Fatalf("no end in %q", in)
			}
			return
		}
		if n > maxHead {
			return
		}
		if headLen(in[:n-1]) != 0 {
			t.Fatalf("%q ends before it does", in[:n])
		}
		var p parser
		p.init()
		r := p.parse(bytes.Clone(in[:n]))
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
		if again := p.parse(bytes.Clone(in[:n])); again != once {
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
