//go:build linux && !race

package httpd

import (
	"io"
	"runtime"
	"strings"
	"testing"
)

// TestAPlainGetAllocatesNothing counts the allocations of the whole process over thousands of
// requests, with a client that makes none.
func TestAPlainGetAllocatesNothing(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "copied": 1000, "by sendfile": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, options{recheck: forever})
			data := noise(size, 1)
			s.write(t, "a", data)
			c := s.dial(t)
			c.wantFile(c.get("/a"), data)
			request := []byte(head("GET", "/a", "User-Agent: test", "Accept: */*", "Accept-Encoding: gzip, br", "Cookie: a=b; c=d"))
			if _, err := c.Write(request); err != nil {
				t.Fatal(err)
			}
			// The first answer says how long each is: of a fixed length, as its Date is.
			buf := make([]byte, 4<<10+size)
			length := 0
			for length == 0 || length < strings.Index(string(buf), "\r\n\r\n")+4+size {
				n, err := c.Read(buf[length:])
				if err != nil {
					t.Fatal(err)
				}
				length += n
			}
			buf = buf[:length]
			ask := func(times int) {
				for range times {
					if _, err := c.Write(request); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(c.TCPConn, buf); err != nil {
						t.Fatal(err)
					}
				}
			}
			ask(200)
			const times = 3000
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ask(times)
			runtime.ReadMemStats(&after)
			// The runtime itself makes a few now and then.
			if n := after.Mallocs - before.Mallocs; n > times/100 {
				t.Errorf("%d allocations in %d requests", n, times)
			}
			if string(buf[length-size:]) != string(data) {
				t.Error("the last answer is another")
			}
		})
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	var p parser
	p.init()
	raw := []byte(head("GET", "/a/b/c", "User-Agent: test", "Accept: */*", "Connection: keep-alive", "Cookie: a=b; c=d"))
	if n := testing.AllocsPerRun(1000, func() {
		if r := parseHead(&p, raw); r.status != 0 {
			t.Fatal(r)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
