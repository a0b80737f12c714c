package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"sluice/engine"
	"sluice/internal/httpd"
	"sluice/zc"
)

// explained is what is logged about responses, without the time.
func explained(tb testing.TB, all ...httpd.Response) []string {
	tb.Helper()
	var out bytes.Buffer
	x := newExplainer(zerolog.ConsoleWriter{Out: &out, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName}})
	for _, r := range all {
		x.response(r)
	}
	x.close()
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

var explainedResponse = httpd.Response{
	Method: "GET", Path: "/a", Status: 200, Peer: netip.MustParseAddrPort("10.0.0.1:5"), Size: 300,
	Report: engine.Report{
		Delivered: true, Took: 1500 * time.Microsecond, Delay: 63 * time.Microsecond,
		Ways: []engine.Way{
			{Route: zc.Copy, Reason: zc.BelowThreshold, Bytes: 50},
			{Route: zc.ZeroCopy, Reason: zc.AboveThreshold, Fate: engine.ZeroCopied, Bytes: 150},
			{Route: zc.Sendfile, Reason: zc.OverBudget, Bytes: 100},
		},
	},
}

func TestAResponseIsOneLine(t *testing.T) {
	got := explained(t, explainedResponse)
	want := `INF response method=GET path=/a status=200 bytes=300 of=300 ways="50 copy below-threshold copied, ` +
		`150 zero-copy above-threshold zero-copied, 100 sendfile over-budget from-page-cache" delay=0.063ms took=1.500ms peer=10.0.0.1:5`
	if len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestACutOffResponseIsAWarning(t *testing.T) {
	unknown, short := explainedResponse, explainedResponse
	unknown.Delivered = false
	short.Size = 301
	stalled := short
	stalled.Err = engine.ErrStalled
	for _, tt := range []struct {
		r    httpd.Response
		ends string
	}{{unknown, " peer=10.0.0.1:5"}, {short, " peer=10.0.0.1:5"}, {stalled, ` why="` + engine.ErrStalled.Error() + `"`}} {
		got := explained(t, tt.r)
		if want := fmt.Sprintf("WRN response cut off method=GET path=/a status=200 bytes=300 of=%d ", tt.r.Size); !strings.HasPrefix(got[0], want) || !strings.HasSuffix(got[0], tt.ends) {
			t.Errorf("%q, want %q and %q at its end", got, want, tt.ends)
		}
	}
}

// What a client sends can neither begin a line of its own, nor end a field, nor reach the terminal.
func TestARequestCannotForgeALine(t *testing.T) {
	for _, path := range []string{
		"/\n2026-01-01T00:00:00Z INF response method=GET", "/\r", "/a status=200", `/" status=200 x="`, "/\x1b[31m", "/\x00", "/\u202e", "/\xff",
		"/" + strings.Repeat("\n", 16<<10), "/" + strings.Repeat("é", 16<<10),
	} {
		for _, r := range []httpd.Response{{Path: path}, {Method: path}} {
			got := explained(t, r)
			if len(got) != 1 {
				t.Errorf("%.80q became %d lines", path, len(got))
			}
			if n := strings.Count(got[0], " status="); n != 1 && !strings.Contains(got[0], `"/`) {
				t.Errorf("%.80q became %q", path, got[0])
			}
			for _, c := range got[0] {
				if !unicode.IsPrint(c) {
					t.Errorf("%.80q has %q in the line", path, c)
					break
				}
			}
			if n := len(got[0]); n > 8*maxPathLogged {
				t.Errorf("a line of %d bytes", n)
			}
		}
	}
}

// slow is a standard error that nobody reads.
type slow struct{ goOn chan struct{} }

func (s slow) Write(p []byte) (int, error) { <-s.goOn; return len(p), nil }

func TestASlowLogHoldsUpNoResponse(t *testing.T) {
	s := slow{make(chan struct{})}
	x := newExplainer(zerolog.ConsoleWriter{Out: s})
	for range 3 * maxUnwritten {
		x.response(explainedResponse) // or the test would never end
	}
	close(s.goOn)
	x.close()
}

func TestLostLinesAreCounted(t *testing.T) {
	var out bytes.Buffer
	s := slow{make(chan struct{})}
	x := newExplainer(zerolog.ConsoleWriter{Out: tee{s, &out}, NoColor: true})
	for range 3 * maxUnwritten {
		x.response(explainedResponse)
	}
	close(s.goOn)
	x.close()
	if !strings.Contains(out.String(), "responses are not explained") {
		t.Error("nothing is said about lost lines")
	}
}

// tee writes to both, one after the other: from one goroutine at a time.
type tee struct {
	slow
	out *bytes.Buffer
}

func (t tee) Write(p []byte) (int, error) { _, _ = t.slow.Write(p); return t.out.Write(p) }
