package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/engine"
	"sluice/zc"
)

// served is an admin server of these numbers, and what a GET of one of its pages answers.
func served(t *testing.T, s engine.Stats) (*admin, func(method, path string) (int, string)) {
	t.Helper()
	a, err := listenAdmin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.serve(zerolog.Nop(), func() engine.Stats { return s })
	t.Cleanup(a.close)
	return a, func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+a.ln.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
}

func TestTheFirstPageNamesTheOthers(t *testing.T) {
	_, ask := served(t, engine.Stats{})
	_, first := ask("GET", "/")
	for _, path := range []string{"/metrics", "/healthz", "/pins", "/paths"} {
		if !strings.Contains(first, path+" ") {
			t.Errorf("%s is not named", path)
		}
		if status, body := ask("GET", path); status != 200 || body == "" {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
}

func TestNothingElseIsThere(t *testing.T) {
	_, ask := served(t, engine.Stats{})
	for _, path := range []string{"/nope", "/metrics/x", "/debug/pprof/", "/debug/vars", "/healthz/"} {
		if status, _ := ask("GET", path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	for _, path := range []string{"/", "/metrics", "/healthz", "/pins"} {
		if status, _ := ask("POST", path); status != 405 {
			t.Errorf("POST %s: %d", path, status)
		}
	}
}

func TestHealthEndsWithTheDrain(t *testing.T) {
	a, ask := served(t, engine.Stats{})
	if status, body := ask("GET", "/healthz"); status != 200 || body != "serving\n" {
		t.Errorf("%d %q", status, body)
	}
	a.drain()
	if status, body := ask("GET", "/healthz"); status != 503 || body != "draining\n" {
		t.Errorf("%d %q", status, body)
	}
	if status, _ := ask("GET", "/metrics"); status != 200 {
		t.Errorf("metrics during the drain: %d", status)
	}
	a.close()
	if nc, err := net.Dial("tcp", a.ln.Addr().String()); err == nil {
		nc.Close()
		t.Error("it still accepts after the end")
	}
}

func TestTheOldestPinNamesItsPeer(t *testing.T) {
	s := engine.Stats{Pinned: 700, MaxPinned: 1000}
	if got := pins(s); got != "pinned: 700 of 1000 bytes\n" {
		t.Errorf("%q", got)
	}
	s.OldestPin = engine.Pin{Age: 1500 * time.Millisecond, Bytes: 600, Peer: netip.MustParseAddrPort("[2001:db8::1]:443")}
	if got := pins(s); got != "pinned: 700 of 1000 bytes\noldest: 600 bytes for 1.5s, to [2001:db8::1]:443\n" {
		t.Errorf("%q", got)
	}
}

func TestAPathSaysWhatWasLearned(t *testing.T) {
	if got := paths(engine.Stats{}); !strings.HasPrefix(got, "nothing is learned") {
		t.Errorf("%q", got)
	}
	far := zc.PathState{PathKey: zc.PathKey{Device: "eth0"}, Threshold: 16384, Trials: 5, Switches: 2, Probes: 7}
	near := zc.PathState{PathKey: zc.PathKey{Device: "lo", Local: true}, Threshold: 16384, Copies: true}
	bad := zc.PathState{Threshold: -1}
	got := paths(engine.Stats{Paths: []engine.LoopPath{{Loop: 0, PathState: far}, {Loop: 1, PathState: near}, {Loop: 2, PathState: bad}}})
	want := `loop 0, to other hosts by "eth0": zero-copy from 16384 bytes; 5 trials, 2 changed it, 7 probes
loop 1, to this host by "lo": zero-copy never, the kernel copies anyway; 0 trials, 0 changed it, 0 probes
loop 2, to other hosts by "": zero-copy never; 0 trials, 0 changed it, 0 probes
`
	if got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
}

func TestTheAdminServerIsNotServedByDefault(t *testing.T) {
	a, err := listenAdmin("")
	if a != nil || err != nil {
		t.Errorf("%v, %v", a, err)
	}
	a.serve(zerolog.Nop(), nil)
	a.drain()
	a.close()
}

func TestEveryRequestOfAnOperatorHasALimit(t *testing.T) {
	a, _ := served(t, engine.Stats{})
	h := &a.http
	if h.ReadTimeout <= 0 || h.ReadHeaderTimeout <= 0 || h.WriteTimeout <= 0 || h.IdleTimeout <= 0 || h.MaxHeaderBytes <= 0 {
		t.Errorf("%+v", h)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X", strings.Repeat("x", 2*adminHead))
	r.URL.Host, r.URL.Scheme, r.RequestURI = a.ln.Addr().String(), "http", ""
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d for a head over the limit", resp.StatusCode)
	}
}
