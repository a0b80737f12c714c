package bench

import (
	"crypto/sha256"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// answering is a server that answers each request with these pieces, and closes the connection behind them if it is
// told to.
func answering(t *testing.T, closes bool, pieces ...string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1024)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					for _, p := range pieces {
						if _, err := io.WriteString(c, p); err != nil {
							return
						}
					}
					if closes {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// ask has clients ask for bodies of 5 bytes.
func ask(addr string, conns int) (Sample, error) {
	j := loadJob{Addr: addr, Path: "/", Size: 5, Conns: conns, Warm: time.Millisecond, Window: 10 * time.Millisecond, Server: serverProcess{PID: os.Getpid()}}
	return j.load()
}

func TestClientsMeasureAServer(t *testing.T) {
	for name, c := range map[string]struct {
		closes bool
		pieces []string
	}{
		"at once":             {false, []string{fiveBytes + "hello"}},
		"in pieces":           {false, []string{fiveBytes[:20], fiveBytes[20:] + "he", "llo"}},
		"apart":               {false, []string{fiveBytes, "hello"}},
		"closing":             {true, []string{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"}},
		"closing, and silent": {true, []string{fiveBytes + "hello"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := ask(answering(t, c.closes, c.pieces...), 3)
			if err != nil {
				t.Fatal(err)
			}
			if s.Ops < 3 || s.Responses < 3 || s.Bytes < 15 || s.CPU <= 0 || s.Memory < 1<<20 || s.Seconds < 0.01 || s.Seconds > 5 {
				t.Errorf("%+v", s)
			}
			if p := s.Times; p == nil || p.P50 < 1e-6 || p.P50 > p.P99 || p.P99 > p.P999 || p.P999 > s.Seconds+1 {
				t.Errorf("response times %+v", p)
			}
		})
	}
}

func TestTheWarmUpIsNotMeasured(t *testing.T) {
	const slow = 300 * time.Millisecond
	addr := answering(t, false, fiveBytes+"hello")
	slowly, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer slowly.Close()
	go func() { // in front of the server, it holds the first request back
		c, err := slowly.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		behind, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer behind.Close()
		time.Sleep(slow)
		go io.Copy(c, behind)
		io.Copy(behind, c)
	}()
	s, err := ask(slowly.Addr().String(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if s.Times.P999 >= slow.Seconds() {
		t.Errorf("the first response, which took %v, is in the times: %+v", slow, s.Times)
	}
}

func TestClientsSayWhatAServerDidWrong(t *testing.T) {
	for name, c := range map[string]struct {
		want   string
		pieces []string
	}{
		"a body that ends early":   {"3 bytes before a response's end", []string{fiveBytes + "he"}},
		"a header that ends early": {"within a response's header", []string{"HTTP/1.1 200 OK\r\nContent-"}},
		"another status":           {"500 Oops", []string{"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nhello"}},
		"no answer":                {"without a response", nil},
		"too much":                 {"longer than its Content-Length", []string{fiveBytes + "hello, world"}},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := ask(answering(t, true, c.pieces...), 2); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v, want %q", s, err, c.want)
			}
		})
	}
	if _, err := ask("127.0.0.1:1", 1); err == nil || !strings.Contains(err.Error(), "connect to 127.0.0.1:1") {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestABodyIsComparedWithItsFile(t *testing.T) {
	for sent, want := range map[string]string{
		fiveBytes + "hello": "",
		fiveBytes + "jello": "not what the file holds",
		fiveBytes + "hell":  "the body of a response",
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhell": "4 bytes, not 5",
		"HTTP/1.1 200": "a response's header",
	} {
		c, err := net.Dial("tcp", answering(t, true, sent))
		if err != nil {
			t.Fatal(err)
		}
		head, err := fetch(c, "/", servedFile{size: 5, sum: sha256.Sum256([]byte("hello"))})
		if want == "" && (err != nil || head != len(fiveBytes)) {
			t.Errorf("%q: a header of %d bytes, %v", sent, head, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", sent, err, want)
		}
	}
}

func TestAServerThatEndsAtOnceIsQuoted(t *testing.T) {
	s := Server{Subject: Subject{Name: "brief"}, Program: "sh", args: func(site) []string { return []string{"-c", "echo no such option >&2; exit 3"} }}
	at := site{Host: "127.0.0.1", Port: 1, State: t.TempDir()}
	if _, err := s.start(t.Context(), at, AllowedCPUs()[0], here); err == nil || !strings.Contains(err.Error(), "exit status 3: no such option") {
		t.Errorf("the error is %v", err)
	}
}

func TestAProcessStartsOnItsProcessorAlone(t *testing.T) {
	cpus := AllowedCPUs()
	for _, cpu := range cpus {
		var out strings.Builder
		cmd := exec.Command("cat", "/proc/self/status")
		cmd.Stdout = &out
		if err := on(cpu, cmd.Start); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if allowed := procField([]byte(out.String()), "Cpus_allowed_list"); allowed != strconv.Itoa(cpu) {
			t.Errorf("started on processor %d it may use %s", cpu, allowed)
		}
	}
	if now := AllowedCPUs(); !slices.Equal(now, cpus) {
		t.Errorf("this thread may use %v, no longer %v", now, cpus)
	}
}
