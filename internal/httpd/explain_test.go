//go:build linux

package httpd

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/engine"
	"sluice/zc"
)

// newExplainedSite is a site whose responses are told about on the channel.
func newExplainedSite(tb testing.TB, policy zc.Policy) (*site, chan Response) {
	told := make(chan Response, 100)
	return newSite(tb, options{recheck: forever, config: engine.Config{Policy: policy}, before: func(s *Server) {
		s.Explain = func(r Response) { told <- r }
	}}), told
}

// next is the next response that is told about.
func next(tb testing.TB, told chan Response) Response {
	tb.Helper()
	select {
	case r := <-told:
		return r
	case <-time.After(patience):
		tb.Fatal("nothing is told")
		panic("unreachable")
	}
}

// raw asks, half-closes, and returns everything that the server says until it closes.
func (c *client) raw(requests string) string {
	c.tb.Helper()
	c.send(requests)
	must(c.tb, c.CloseWrite())
	all, err := io.ReadAll(c.in)
	must(c.tb, err)
	return string(all)
}

// way is what a response's bytes of one kind are expected to have done.
type way struct {
	route  zc.Route
	reason zc.Reason
	fate   engine.Fate
}

func TestAResponseSaysWhichWayItsBytesWent(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy zc.Policy
		size   int
		want   []way
	}{
		{"copied", zc.Policy{}, 1000, []way{{zc.Copy, zc.FileTooSmall, engine.ByRoute}}},
		{"sendfile", zc.Policy{}, 300 << 10, []way{{zc.Copy, zc.PathCopies, engine.ByRoute}, {zc.Sendfile, zc.PathCopies, engine.ByRoute}}},
		{"zero-copy", zc.Policy{Mode: zc.Fixed, Threshold: 1}, 300 << 10, []way{{zc.ZeroCopy, zc.FixedPolicy, engine.CopiedByKernel}}}, // loopback always copies
	} {
		t.Run(c.name, func(t *testing.T) {
			s, told := newExplainedSite(t, c.policy)
			s.write(t, "a", noise(c.size, 1))
			cl := s.dial(t)
			peer := cl.LocalAddr().String()
			got := cl.raw(head("GET", "/a"))
			r := next(t, told)
			if r.Method != "GET" || r.Path != "/a" || r.Status != 200 || r.Peer != netip.MustParseAddrPort(peer) {
				t.Errorf("%+v", r)
			}
			if !r.Whole() || r.Size != int64(len(got)) || r.Sent() != r.Size {
				t.Errorf("%d of %d bytes left, %d arrived: %+v", r.Sent(), r.Size, len(got), r)
			}
			if r.Took < 0 || r.Took > patience || r.Delay < 0 || r.Delay > patience {
				t.Errorf("took %v, delay %v", r.Took, r.Delay)
			}
			for _, w := range r.Ways {
				ok := false
				for _, want := range c.want {
					ok = ok || want == way{w.Route, w.Reason, w.Fate}
				}
				if !ok {
					t.Errorf("%d bytes by %v because of %v, %v", w.Bytes, w.Route, w.Reason, w.Fate)
				}
			}
		})
	}
}

// Every kind of response is told about, in order and with the bytes that arrived for it.
func TestEveryKindOfResponseIsToldAbout(t *testing.T) {
	for _, policy := range []zc.Policy{{}, {Mode: zc.Fixed, Threshold: 1}} {
		s, told := newExplainedSite(t, policy)
		s.write(t, "a", noise(100<<10, 1))
		s.write(t, "empty", nil)
		s.write(t, "dir/b", nil)
		want := []struct {
			method, path string
			line         string
			status       int
		}{
			{"GET", "/a", "X: y", 200},
			{"HEAD", "/a", "X: y", 200},
			{"GET", "/a", "Range: bytes=5-9", 206},
			{"GET", "/a", "If-None-Match: *", 304},
			{"GET", "/a", `If-Match: "x"`, 412},
			{"GET", "/a", "Range: bytes=999999-", 416},
			{"GET", "/none", "X: y", 404},
			{"GET", "/dir", "X: y", 301},
			{"GET", "/%00", "X: y", 400},
			{"POST", "/a", "X: y", 405},
			{"GET", "/empty", "X: y", 200},
			{"GET", "/a", "X: y", 200},
		}
		requests := ""
		for _, w := range want {
			requests += head(w.method, w.path, w.line)
		}
		got := s.dial(t).raw(requests + "\x00\r\n\r\n")
		sent := int64(0)
		for _, w := range want {
			r := next(t, told)
			if r.Method != w.method || r.Path != w.path || r.Status != w.status || !r.Whole() {
				t.Errorf("%+v, want %+v", r, w)
			}
			sent += r.Size
		}
		if r := next(t, told); r.Status != 400 || r.Method != "" || r.Path != "" || !r.Whole() {
			t.Errorf("%+v for what is no request", r)
		} else {
			sent += r.Size
		}
		if sent != int64(len(got)) {
			t.Errorf("%d bytes are told about, %d arrived", sent, len(got))
		}
	}
}

func TestAResponseThatIsCutOffSaysSo(t *testing.T) {
	for name, policy := range map[string]zc.Policy{"sendfile": {}, "zero-copy": {Mode: zc.Fixed, Threshold: 1}} {
		t.Run(name, func(t *testing.T) {
			const size = 64 << 20
			s, told := newExplainedSite(t, policy)
			s.write(t, "a", make([]byte, size))
			c := s.dial(t)
			c.send(strings.Repeat(head("GET", "/a"), 2))
			if _, err := io.ReadFull(c.in, make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			must(t, c.SetLinger(0))
			c.Close()
			r := next(t, told)
			if r.Whole() || r.Delivered || r.Sent() < 1<<20 || r.Sent() >= size || r.Size < size {
				t.Errorf("%d of %d bytes left, whole: %t", r.Sent(), r.Size, r.Whole())
			}
			eventually(t, "the connection ends", func() bool { return s.eng.Stats().Conns == 0 })
			if len(told) != 0 {
				t.Errorf("%+v, which was never begun", <-told)
			}
		})
	}
}
