//go:build linux

package serve_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"
)

// operator asks a server's admin address, as Prometheus does.
type operator struct {
	tb   testing.TB
	url  string
	http http.Client
}

// operated starts a server with an admin address.
func operated(tb testing.TB, args ...string) (*server, *operator) {
	tb.Helper()
	s := start(tb, append([]string{"--admin", "127.0.0.1:0"}, args...)...)
	_, url, _ := strings.Cut(s.line("metrics on "), "metrics on ")
	o := &operator{tb: tb, url: strings.TrimSuffix(url, "metrics"), http: http.Client{Timeout: patience, Transport: &http.Transport{}}}
	tb.Cleanup(o.http.CloseIdleConnections)
	return s, o
}

func (o *operator) get(path string) (status int, body string) {
	o.tb.Helper()
	r, err := o.http.Get(o.url + path)
	if err != nil {
		o.tb.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		o.tb.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// scrape is one reading of the metrics.
type scrape map[string]*dto.MetricFamily

func (o *operator) scrape() (scrape, error) {
	r, err := o.http.Get(o.url + "metrics")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("a scrape is answered with %s", r.Status)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	return p.TextToMetricFamilies(r.Body)
}

func (o *operator) mustScrape() scrape {
	o.tb.Helper()
	m, err := o.scrape()
	if err != nil {
		o.tb.Fatal(err)
	}
	return m
}

// sum adds up the series of a metric that have these labels, given as name, value, …. Of a
// histogram it is the number of observations.
func (m scrape) sum(name string, labels ...string) (sum int64) {
	if m[name] == nil {
		panic("no metric " + name)
	}
series:
	for _, s := range m[name].GetMetric() {
		have := map[string]string{}
		for _, l := range s.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		for i := 0; i < len(labels); i += 2 {
			if have[labels[i]] != labels[i+1] {
				continue series
			}
		}
		sum += int64(s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount()))
	}
	return sum
}

// Under load, and scraped all the time, the counters only rise; at its end they are what the clients received.
func TestMetricsAddUp(t *testing.T) {
	for _, threshold := range []string{"auto", "1", "16384"} {
		t.Run("threshold "+threshold, func(t *testing.T) {
			s, o := operated(t, "--zc-threshold", threshold, "--loops", "2")
			c := newClient(t, s)
			const clients = 8
			var loads, scraper sync.WaitGroup
			done := make(chan struct{})
			scraper.Go(func() {
				last, scrapes := int64(0), 0
				for {
					m, err := o.scrape()
					if err != nil {
						t.Error(err)
						return
					}
					sent := m.sum("sluice_sent_bytes_total")
					if sent < last {
						t.Errorf("%d bytes sent after %d", sent, last)
					}
					last, scrapes = sent, scrapes+1
					select {
					case <-done:
						t.Logf("%d scrapes under load", scrapes)
						return
					default:
					}
				}
			})
			for range clients {
				loads.Go(func() {
					for _, name := range []string{"big", "mid", "one", "zero", "s10", "s99", "mid"} {
						if err := c.fetch(name); err != nil {
							t.Error(err)
						}
					}
				})
			}
			loads.Wait()
			close(done)
			scraper.Wait()

			var m scrape
			eventually(t, "what arrived is counted as sent", func() bool {
				m = o.mustScrape()
				return m.sum("sluice_sent_bytes_total") == c.received.Load() && m.sum("sluice_pinned_bytes") == 0
			})
			if n := m.sum("sluice_sent_bytes_total", "route", "zero-copy"); (n > 0) != (threshold != "auto") {
				t.Errorf("%d bytes by zero-copy", n)
			}
			if threshold == "1" && m.sum("sluice_sent_bytes_total") != m.sum("sluice_sent_bytes_total", "route", "zero-copy", "reason", "fixed-policy")+
				m.sum("sluice_sent_bytes_total", "reason", "over-budget") {
				t.Error("not all bytes went by zero-copy, or were over the budget")
			}
			if sent, told := m.sum("sluice_sends_total", "route", "zero-copy"), m.sum("sluice_notifications_total"); sent != told {
				t.Errorf("%d zero-copy sends, %d notifications", sent, told)
			}
			if n, of := m.sum("sluice_notification_delay_seconds"), m.sum("sluice_notifications_total"); n != of {
				t.Errorf("%d delays of %d notifications", n, of)
			}
			if n := m.sum("sluice_response_time_seconds"); n != 7*clients {
				t.Errorf("%d responses were timed, of %d", n, 7*clients)
			}
			if n := m.sum("sluice_connections"); n != int64(c.made.Load()) || n != m.sum("sluice_connections", "state", "open") {
				t.Errorf("%d connections open, of %d", n, c.made.Load())
			}
			if n := m.sum("sluice_connections_accepted_total"); n != int64(c.made.Load()) {
				t.Errorf("%d connections accepted, of %d", n, c.made.Load())
			}
			if n := m.sum("sluice_arena_bytes"); n != 64<<20 {
				t.Errorf("%d bytes of arena", n)
			}
			if m.sum("sluice_pinned_limit_bytes") != 48<<20 || m.sum("sluice_oldest_pin_seconds") != 0 || m.sum("sluice_queued_bytes") != 0 ||
				m.sum("sluice_arena_bytes", "state", "leased") != m.sum("sluice_arena_leased_bytes") {
				t.Error("what is held does not add up")
			}
			c.close()
			got := s.stop()
			accounted(t, got, c.received.Load(), int64(c.made.Load()))
			for route, n := range map[string]count{"copy": got.copied, "zero-copy": got.zeroCopied, "sendfile": got.sendfile} {
				if b := m.sum("sluice_sent_bytes_total", "route", route); b != n.bytes || m.sum("sluice_sends_total", "route", route) != n.sends {
					t.Errorf("%d bytes by %s in the last scrape, %d in the totals", b, route, n.bytes)
				}
			}
		})
	}
}

// A scrape costs each loop what any posted function does: it is woken, once.
func TestAScrapeCostsALoopATurn(t *testing.T) {
	const loops, scrapes = 2, 200
	_, o := operated(t, "--loops", fmt.Sprint(loops))
	before := o.mustScrape()
	for range scrapes {
		o.mustScrape()
	}
	after := o.mustScrape()
	for _, name := range []string{"sluice_loop_turns_total", "sluice_enters_total"} {
		if n := after.sum(name) - before.sum(name); n > (scrapes+1)*loops*3/2 { // one each; the half is for what else may wake a loop
			t.Errorf("%s: %d in %d scrapes of %d loops", name, n, scrapes, loops)
		}
	}
}

func TestAStalledPeerIsSeenInTheMetricsAndNamedInThePins(t *testing.T) {
	s, o := operated(t, "--zc-threshold", "1", "--loops", "1", "--max-pinned", "8MiB")
	c := dialRaw(t, s, 64<<10)
	c.send(request("big"))
	c.stall()
	m := o.mustScrape()
	limit, queued := m.sum("sluice_pinned_limit_bytes"), m.sum("sluice_queued_bytes")
	if limit != 8<<20 || queued < bigSize/2 {
		t.Errorf("limit %d, %d bytes queued", limit, queued)
	}
	if pinned := m.sum("sluice_pinned_bytes"); pinned <= 0 || pinned > limit {
		t.Errorf("%d bytes pinned of %d", pinned, limit)
	}
	status, body := o.get("pins")
	want := regexp.MustCompile(`^pinned: [1-9]\d* of 8388608 bytes\noldest: [1-9]\d* bytes for \S+, to ` + regexp.QuoteMeta(c.LocalAddr().String()) + `\n$`)
	if status != 200 || !want.MatchString(body) {
		t.Errorf("%d %q", status, body)
	}
}

func TestTheAdminPagesAreNotOnTheServingPort(t *testing.T) {
	s, o := operated(t)
	for _, path := range []string{"metrics", "healthz", "pins"} {
		r, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusNotFound {
			t.Errorf("/%s: %d on the serving port", path, r.StatusCode)
		}
	}
	if status, _ := o.get("one"); status != http.StatusNotFound {
		t.Errorf("%d for a file on the admin port", status)
	}
}

func TestNothingListensForOperatorsByDefault(t *testing.T) {
	s := start(t, "--loops", "1")
	if n := s.sockets(); n != 1 {
		t.Errorf("%d sockets", n)
	}
	if strings.Contains(s.log(), "metrics on") {
		t.Error("it says that there are metrics")
	}
}

func TestAnAdminAddressThatIsTakenIsStatus1(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	refused(t, rights{}, 1, []string{addr, "in use", "--admin"}, "serve", "--listen", "127.0.0.1:0", "--admin", addr, dir)
	refused(t, rights{}, 1, []string{"listen", "--admin"}, "serve", "--listen", "127.0.0.1:0", "--admin", "nonsense", dir)
	ln.Close()
	refused(t, rights{}, 1, []string{addr, "in use", "--listen"}, "serve", "--listen", addr, "--admin", addr, dir)
}

func TestHealthAndMetricsDuringADrain(t *testing.T) {
	s, o := operated(t, "--drain", "10m")
	if status, body := o.get("healthz"); status != 200 || body != "serving\n" {
		t.Errorf("%d %q", status, body)
	}
	c := dialRaw(t, s, 64<<10)
	c.send(request("big"))
	c.stall()
	s.signal(syscall.SIGTERM)
	s.line("draining")
	if status, body := o.get("healthz"); status != 503 || body != "draining\n" {
		t.Errorf("%d %q", status, body)
	}
	if n := o.mustScrape().sum("sluice_connections"); n != 1 {
		t.Errorf("%d connections during the drain", n)
	}
	s.signal(syscall.SIGTERM)
	if status := s.exit(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// line of an explained response, as its fields.
var explainLine = regexp.MustCompile(`(INF|WRN) response( cut off)? method=(\S+) path=(\S+) status=(\d+) bytes=(\d+) of=(\d+) ways="([^"]*)" delay=([0-9.]+)ms took=([0-9.]+)ms peer=(\S+)(?: why="?([^"]+)"?)?$`)

func (s *server) explained(path string) []string {
	s.tb.Helper()
	l := s.line(" path=" + path + " ")
	m := explainLine.FindStringSubmatch(l)
	if m == nil {
		s.tb.Fatalf("%q is not what is expected", l)
	}
	return m
}

func TestExplainSaysWhichWayEachResponseWent(t *testing.T) {
	mid := fmt.Sprint(midSize)
	for _, c := range []struct {
		name, file, threshold string
		ways                  string
	}{
		{"copy", "s1", "auto", `\d+ copy file-too-small copied`}, // for a send of its own
		{"sendfile", "mid", "auto", `\d+ copy path-copies copied, ` + mid + ` sendfile path-copies from-page-cache`},
		{"sendfile, forbidden zero-copy", "mid", "off", `\d+ copy policy-off copied, ` + mid + ` sendfile policy-off from-page-cache`},
		{"zero-copy", "mid", "1", `\d+ zero-copy fixed-policy copied-by-kernel`}, // loopback always copies
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, "--explain", "--zc-threshold", c.threshold)
			cl := newClient(t, s)
			cl.want(c.file)
			m := s.explained("/" + c.file)
			cl.close()
			s.stop()
			if want := fmt.Sprint(cl.received.Load()); m[1] != "INF" || m[2] != "" || m[3] != "GET" || m[5] != "200" || m[6] != want || m[7] != want {
				t.Errorf("%q, and %s bytes arrived", m[0], want)
			}
			if !regexp.MustCompile("^" + c.ways + "$").MatchString(m[8]) {
				t.Errorf("%q, want %s", m[8], c.ways)
			}
		})
	}
}

// Every response has its line, and the lines' bytes are what arrived.
func TestEveryResponseIsExplainedOnce(t *testing.T) {
	s := start(t, "--explain", "--loops", "2")
	c := newClient(t, s)
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for _, name := range append(smallNames(), "mid", "zero") {
				if err := c.fetch(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	load.Wait()
	c.close()
	s.stop()
	lines, bytes := 0, int64(0)
	for l := range strings.Lines(s.log()) {
		if m := explainLine.FindStringSubmatch(strings.TrimSuffix(l, "\n")); m != nil {
			n := int64(0)
			fmt.Sscan(m[6], &n)
			lines, bytes = lines+1, bytes+n
		}
	}
	if want := 8 * (smalls + 2); lines != want || bytes != c.received.Load() {
		t.Errorf("%d lines of %d bytes, want %d of %d", lines, bytes, want, c.received.Load())
	}
}

// Nobody reads the log until the server has been told to end: the loops do not wait for it, and nothing of it is lost.
func TestALogThatNobodyReadsHoldsUpNoResponse(t *testing.T) {
	const responses = 1000 // more than a pipe holds
	cmd := rights{}.command("serve", "--listen", "127.0.0.1:0", "--explain", dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	log := bufio.NewScanner(stderr)
	s := &server{tb: t, cmd: cmd}
	for log.Scan() && !strings.Contains(log.Text(), "route: copy") {
		if _, url, ok := strings.Cut(log.Text(), " on http://"); ok {
			s.url = "http://" + url
		}
	}
	c := newClient(t, s)
	for range responses {
		c.want("one")
	}
	c.close()
	s.signal(syscall.SIGTERM)
	lines := 0
	for log.Scan() {
		if strings.Contains(log.Text(), " response method=GET path=/one ") {
			lines++
		}
	}
	if err := cmd.Wait(); err != nil || lines != responses {
		t.Errorf("%d responses of %d are explained; it ended with %v", lines, responses, err)
	}
}

func TestExplainSaysWhatWasCutOff(t *testing.T) {
	withAndWithout(t, func(t *testing.T, args []string) {
		s := start(t, append(args, "--explain")...)
		c := dialRaw(t, s, 64<<10)
		c.send(request("big"))
		c.stall()
		if err := c.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if m := s.explained("/big"); m[1] != "WRN" || m[2] == "" || m[6] == m[7] || m[11] != c.LocalAddr().String() {
			t.Errorf("%q", m[0])
		}
		s.stop()
	})
}

func TestAPathCannotForgeALineOfTheLog(t *testing.T) {
	s := start(t, "--explain")
	for _, target := range []string{"/\x1b[31m", "/%0aINF", `/"\`, "/\xff\u202e", "/a\rINF", "/\x01"} {
		c := dialRaw(t, s, 0)
		c.send("GET " + target + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	s.stop()
	lines := 0
	for l := range strings.Lines(s.log()) {
		if !strings.HasPrefix(l, "20") || strings.ContainsAny(l, "\x1b\r\x01\u202e") {
			t.Errorf("%q", l)
		}
		if strings.Contains(l, " response method=") {
			lines++
		}
	}
	if lines != 6 {
		t.Errorf("%d responses are explained, want 6", lines)
	}
}

func TestWithoutExplainNoResponseIsLogged(t *testing.T) {
	s := start(t)
	newClient(t, s).want("one", "mid")
	s.stop()
	if strings.Contains(s.log(), "response") {
		t.Error("a response is logged")
	}
}

// BenchmarkServingWhileScraped serves a file with no scrapes and with 100 a second. It reports how much
// longer a response takes with them.
func BenchmarkServingWhileScraped(b *testing.B) {
	for _, every := range []time.Duration{0, 10 * time.Millisecond} {
		name := "unscraped"
		if every > 0 {
			name = fmt.Sprintf("scraped every %v", every)
		}
		b.Run(name, func(b *testing.B) {
			s, o := operated(b, "--loops", "1")
			c := newClient(b, s)
			c.want("s99")
			done := make(chan struct{})
			var scraper sync.WaitGroup
			if every > 0 {
				scraper.Go(func() {
					for tick := time.Tick(every); ; {
						select {
						case <-tick:
							if _, err := o.scrape(); err != nil {
								b.Error(err)
							}
						case <-done:
							return
						}
					}
				})
			}
			for b.Loop() {
				if err := c.fetch("s99"); err != nil {
					b.Fatal(err)
				}
			}
			close(done)
			scraper.Wait()
			c.close()
			s.stop()
		})
	}
}
