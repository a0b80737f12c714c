package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestServersAreToldWhereToListenAndWhatToServe(t *testing.T) {
	at := site{Host: "10.0.0.9", Port: 8123, Root: "/srv/files", Config: "/srv/state/config", State: "/srv/state"}
	for _, s := range Servers {
		told := strings.Join(s.args(at), " ")
		if s.config != nil {
			if !slices.Contains(s.args(at), at.Config) {
				t.Errorf("%s is not told of its configuration: %q", s.Name, told)
			}
			told += s.config(at)
		}
		for _, want := range []string{at.Host, "8123", at.Root} {
			if !strings.Contains(told, want) {
				t.Errorf("%s is not told %s: %s", s.Name, want, told)
			}
		}
		if found, ok := ServerNamed(strings.ToUpper(s.Name)); !ok || found.Name != s.Name || s.How == "" || s.Reference == "" {
			t.Errorf("%s is not told of: %+v", s.Name, s.Subject)
		}
		if (s.Program == "") != (s.Package == "") {
			t.Errorf("%s is the program %q of the package %q", s.Name, s.Program, s.Package)
		}
	}
	for name, want := range map[string][]string{
		"nginx-nopush-on":  {"tcp_nopush on;", "sendfile on;", "access_log off;", "keepalive_requests 1000000000;", "open_file_cache max=", "master_process off;"},
		"nginx-nopush-off": {"tcp_nopush off;", "sendfile on;"},
		"lighttpd":         {`server.network-backend = "sendfile"`, "server.max-keep-alive-requests = 65535"},
		"Caddy":            {"admin off", "output discard", "file_server"},
	} {
		s, ok := ServerNamed(name)
		if !ok {
			t.Fatalf("there is no %s", name)
		}
		for _, line := range want {
			if text := s.config(at); !strings.Contains(text, line) {
				t.Errorf("%s is not configured with %q:\n%s", name, line, text)
			}
		}
	}
}

func TestAServerThatIsNotHereIsRefusedWithWhatToInstall(t *testing.T) {
	missing := Server{Subject: Subject{Name: "none"}, Program: "no-such-web-server", Package: "no-such-package"}
	plan := ServerPlan{Places: []*ServerPlace{ServerLoopback()}, Servers: []Server{missing}, Sizes: []int{1 << 10}, Conns: []int{1}, Dir: t.TempDir()}
	cells, done, err := plan.Cells(Machine{})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	var refusal *Refusal
	if _, err := cells[0].Measure(t.Context()); !errors.As(err, &refusal) || !strings.Contains(refusal.Reason, "install no-such-package") {
		t.Errorf("the answer is %v", err)
	}
}

func TestCellsAreInterleavedAndTheirFilesGo(t *testing.T) {
	dir := t.TempDir()
	plan := ServerPlan{Places: []*ServerPlace{ServerLoopback()}, Servers: Servers[:2], Sizes: []int{1 << 10, 4 << 10}, Conns: []int{1, 16}, Dir: dir}
	cells, done, err := plan.Cells(Machine{})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, c := range cells[:5] {
		order = append(order, c.Key.String())
	}
	want := []string{
		"loopback, nginx-nopush-on, 1 KiB, 1 connection", "loopback, nginx-nopush-off, 1 KiB, 1 connection",
		"loopback, nginx-nopush-on, 1 KiB, 16 connections", "loopback, nginx-nopush-off, 1 KiB, 16 connections",
		"loopback, nginx-nopush-on, 4 KiB, 1 connection",
	}
	if len(cells) != 8 || !slices.Equal(order, want) {
		t.Errorf("%d cells begin with %q", len(cells), order)
	}
	if b, err := os.ReadFile(filepath.Join(plan.root, "4096")); err != nil || len(b) != 4096 || bytes.Equal(b[:1024], b[1024:2048]) {
		t.Errorf("the file of 4 KiB has %d bytes, %v", len(b), err)
	}
	done()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

const fiveBytes = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"

func TestClientsRefuseWhatIsNotTheResponse(t *testing.T) {
	for name, c := range map[string]struct{ sent, want string }{
		"another status":       {"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n", "404 Not Found"},
		"another length":       {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "6 bytes, not 5"},
		"two lengths":          {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "Content-Length"},
		"no length":            {"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"},
		"a negative length":    {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "Content-Length"},
		"chunks":               {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "chunks"},
		"no HTTP":              {"hello\r\n\r\n", "a response's header"},
		"an endless header":    {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead), "does not end"},
		"more than its body":   {fiveBytes + "hello!", "longer than its Content-Length"},
		"a header in a header": {"HTTP/1.1 200 OK\r\n X: y\r\nContent-Length: 5\r\n\r\n", "a response's header"},
	} {
		heads := headReader{size: 5}
		var r response
		if _, err := r.began(&heads, []byte(c.sent)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAResponseIsCompleteWhereverItIsCut(t *testing.T) {
	closing := "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConnection: close\r\n\r\nworld"
	for _, whole := range []string{fiveBytes + "hello", closing} {
		for first := range len(whole) {
			for second := first; second < len(whole); second++ {
				var heads headReader
				heads.size = 5
				var r response
				for range 2 { // the second time the header is known
					var done bool
					for _, piece := range []string{whole[:first], whole[first:second], whole[second:]} {
						if done {
							t.Fatalf("complete before %q", piece)
						}
						var err error
						if r.body {
							done, err = r.went(len(piece))
						} else {
							done, err = r.began(&heads, []byte(piece))
						}
						if err != nil {
							t.Fatalf("cut at %d and %d: %v", first, second, err)
						}
					}
					if !done || r.body || len(r.head) > 0 || r.left != 0 {
						t.Fatalf("cut at %d and %d: done %v, %+v", first, second, done, r)
					}
				}
			}
		}
	}
}

// Whatever a server sends, in whatever pieces: a client ends with an error or with what a library reads, and keeps no
// more than a header.
func FuzzClientResponse(f *testing.F) {
	f.Add([]byte(fiveBytes+"hello"), uint8(3))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello"), uint8(1))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"), uint8(200))
	f.Fuzz(func(t *testing.T, sent []byte, piece uint8) {
		heads := headReader{size: 5}
		var r response
		for rest := sent; len(rest) > 0; {
			n := min(int(piece)+1, len(rest))
			var done bool
			var err error
			if r.body {
				done, err = r.went(n)
			} else {
				done, err = r.began(&heads, rest[:n])
			}
			rest = rest[n:]
			if len(r.head) > maxHead+256 {
				t.Fatalf("%d bytes of a header are kept", len(r.head))
			}
			if err != nil {
				return
			}
			if !done {
				continue
			}
			before := len(sent) - len(rest)
			response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(sent[:before])), nil)
			if err != nil || response.StatusCode != 200 || response.ContentLength != 5 || before != len(heads.known)+5 {
				t.Fatalf("%q is taken for a response: %v, %v", sent[:before], response, err)
			}
			return
		}
	})
}

// serverResult is a run of two servers and one that is not there.
func serverResult() *Result {
	r := &Result{Part: "server", Rounds: 2, Window: 0.2, Places: []About{{LoopbackName, "here"}, {WireName, "there"}}}
	for _, name := range []string{"nginx-nopush-on", "darkhttpd", Ours} {
		s, _ := ServerNamed(name)
		r.Subjects = append(r.Subjects, s.Subject)
	}
	for place, wire := range []bool{false, true} {
		for _, size := range []int{1 << 10, 1 << 20} {
			for _, conns := range []int{1, 64} {
				for i, s := range r.Subjects {
					o := Outcome{Key: Key{Subject: s.Name, Place: r.Places[place].Name, Size: size, Conns: conns}}
					if s.Name == "darkhttpd" {
						o.Refused = "darkhttpd is not on this machine: install darkhttpd"
					} else {
						for round := range 2 {
							rate := 1000 * float64(1+i+round) // 1000 and 2000 of nginx, 3000 and 4000 of ours
							if wire {
								rate *= 10
							}
							o.Samples = append(o.Samples, Sample{
								Seconds: 0.5, CPU: 0.25, Responses: rate / 2, Ops: uint64(rate / 2), Bytes: uint64(rate/2) * uint64(size),
								Times: &Times{P50: 0.001, P99: 0.002, P999: 0.003}, Memory: 8 << 20,
							})
						}
					}
					r.Outcomes = append(r.Outcomes, o)
				}
			}
		}
	}
	return r
}

func TestComparisonsSetOursBesideTheBestOfTheOthers(t *testing.T) {
	c := serverResult().Comparisons()
	if len(c) != 8 || c[0].Place != LoopbackName || c[4].Place != WireName {
		t.Fatalf("%d comparisons", len(c))
	}
	rates := c[4]
	if !slices.Equal(rates.Servers, []string{"nginx-nopush-on", Ours}) || len(rates.Missing) != 1 || !strings.Contains(rates.Missing[0].Why, "install darkhttpd") {
		t.Errorf("the servers are %v, missing %v", rates.Servers, rates.Missing)
	}
	if len(rates.Lines) != 4 || rates.Lines[1].What() != "1 KiB × 64" {
		t.Fatalf("the lines are %+v", rates.Lines)
	}
	l := rates.Lines[1]
	if l.Entries[0].Median != 15000 || l.Entries[1].Median != 35000 || math.Abs(l.Ratio-35.0/15) > 1e-9 || l.Entries[0].Best || !l.Entries[1].Best {
		t.Errorf("%+v", l)
	}
	cost := c[5].Lines[1] // less is better: 0.25 s for 7500 on average of the two is 33 and for 17500 14 µs
	if !cost.Entries[1].Best || cost.Ratio > 0.5 || cost.Ratio < 0.3 {
		t.Errorf("what a response costs: %+v", cost)
	}
	if times := c[6].Lines[0].Entries[1]; times.Median != 2 {
		t.Errorf("a p99 of 2 ms is %v", times.Median)
	}
	if memory := c[7].Lines[0].Entries[1]; memory.Median != 8 {
		t.Errorf("8 MiB are %v", memory.Median)
	}
}

func TestServersThatDidNotNeedTheirProcessorAreNamed(t *testing.T) {
	r := serverResult()
	for i := range r.Outcomes {
		o := &r.Outcomes[i]
		for n := range o.Samples {
			if o.Subject == Ours && o.Conns == 64 && o.Place == LoopbackName {
				continue // half of a processor
			}
			o.Samples[n].CPU = 0.5
		}
	}
	c := r.Comparisons()
	if len(c[0].Findings) != 1 || !strings.Contains(c[0].Findings[0], Ours) || !strings.Contains(c[0].Findings[0], "50 % at 1 KiB × 64") || len(c[4].Findings) > 0 {
		t.Errorf("found %q and %q", c[0].Findings, c[4].Findings)
	}
}

func TestTextAndPageOfServers(t *testing.T) {
	r := serverResult()
	var b strings.Builder
	if err := r.Write(&b, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"wire: responses a second", "uringserve over the best of the others", "the best of a line", "*35000 (30000–40000)", "2.33", "darkhttpd: not measured: darkhttpd is not on this machine: install darkhttpd"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, b.String())
		}
	}
	name := filepath.Join(t.TempDir(), "report.html")
	if err := r.WriteReport(name); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{titles["server"], intros["server"], "Responses a second of 1 MiB", "What a gigabyte costs", "Response times of 1 KiB", "Resident memory", "p99.9", "2.33"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(string(page), "copies") {
		t.Error("the page has a column of copies, of which nothing is known")
	}
	// Per place: two sizes' rates and times, cost, memory.
	if plots := svgs(t, string(page)); len(plots) != 2*6 {
		t.Errorf("%d plots, want 12", len(plots))
	}
}

func TestASampleCountsPartsOfResponses(t *testing.T) {
	var begin, end edge
	end.at = begin.at.Add(2e9)
	begin.bytes, end.bytes, begin.responses, end.responses = 100, 100+2500, 1, 3
	begin.use.cpu, end.use.cpu, end.soft, end.use.memory = 1, 2, 0.5, 77
	s := serverSample(begin, end, 100, 900, &Times{P50: 1})
	want := Sample{Seconds: 2, CPU: 1.5, Softirq: 0.5, Bytes: 2250, Ops: 2, Responses: 2.5, Times: s.Times, Memory: 77}
	if s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	if v := fmt.Sprintf("%.2f %.0f", ResponsesPerSecond.Of(s), CPUPerResponse.Of(s)); v != "1.25 600000" {
		t.Errorf("rate and cost are %s", v)
	}
}
