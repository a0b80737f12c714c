package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// listen makes a listener where the clients expect it.
func listen(t *testing.T, r *Rig) net.Listener {
	t.Helper()
	var l net.Listener
	err := r.Do(func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		l, err = config.Listen(context.Background(), "tcp", r.Local())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve answers all requests for a path with a body of that size, and counts them.
func serve(t *testing.T, r *Rig, path string, size int) *atomic.Uint64 {
	t.Helper()
	served := new(atomic.Uint64)
	body := make([]byte, size)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != path {
			http.NotFound(w, q)
			return
		}
		served.Add(1)
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Write(body)
	})}
	go server.Serve(listen(t, r))
	t.Cleanup(func() { server.Close() })
	return served
}

func TestClientsCountWhatWasServed(t *testing.T) {
	for _, test := range []struct {
		Options
		Clients
		size int
	}{
		{Options{}, Clients{Connections: 1}, 100},
		{Options{}, Clients{Connections: 1}, 1 << 20},
		{Options{}, Clients{Connections: 64}, 100},
		{Options{}, Clients{Connections: 64, Port: 80, Path: "/a?b"}, 300_000},
		{Options{}, Clients{Connections: 64, Outstanding: 5}, 300_000},
		{Options{GSO: 400_000}, Clients{Connections: 4}, 2 << 20},
		{Options{Loss: 30}, Clients{Connections: 4}, 300_000},
		{Options{InFlight: 1 << 20}, Clients{Connections: 4}, 8 << 20},
		{Options{IPv6: true}, Clients{Connections: 64}, 10_000},
		{Options{IPv6: true, Loss: 30}, Clients{Connections: 4}, 300_000},
	} {
		name := fmt.Sprintf("%+v %+v %d bytes", test.Options, test.Clients, test.size)
		t.Run(name, func(t *testing.T) {
			o := test.Options
			o.Clients = &test.Clients
			r := newRig(t, o)
			path, _, _ := strings.Cut(test.Path, "?")
			if path == "" {
				path = "/"
			}
			served := serve(t, r, path, test.size)
			if err := r.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			if err := r.Stop(); err != nil {
				t.Fatal(err)
			}
			got := totals(t, r, func(t Totals) bool { return t.Responses == t.Requests })
			if got.Responses != served.Load() {
				t.Errorf("%d responses have arrived, and %d were served", got.Responses, served.Load())
			}
			if at := uint64(test.Connections); got.Opened != at || got.Finished != 0 {
				t.Errorf("%d connections were opened and %d closed, want %d that stay", got.Opened, got.Finished, at)
			}
			if least := got.Responses * uint64(test.size); got.Bytes < least || got.Bytes > least+got.Responses*300 {
				t.Errorf("%d responses of %d bytes and a header were %d bytes", got.Responses, test.size, got.Bytes)
			}
			if test.Options.Loss > 0 && got.Lost == 0 {
				t.Error("nothing was lost")
			}
			if trouble := got.Trouble(); trouble != "" {
				t.Error(trouble)
			}
			times, err := r.Latencies()
			if err != nil {
				t.Fatal(err)
			}
			if p50 := times.Quantile(.5); times.Count() != got.Responses || p50 <= 0 || p50 > time.Second {
				t.Errorf("%d response times with a median of %v for %d responses", times.Count(), p50, got.Responses)
			}
		})
	}
}

// respond answers each request on a connection of its own with these segments.
func respond(t *testing.T, r *Rig, segments ...string) {
	l := listen(t, r)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				request := make([]byte, 1024)
				for {
					if _, err := c.Read(request); err != nil {
						return
					}
					for _, s := range segments {
						if _, err := io.WriteString(c, s); err != nil { // a segment each: Go turns Nagle's algorithm off
							return
						}
					}
				}
			}()
		}
	}()
}

func TestHeadersThatClientsUnderstand(t *testing.T) {
	for name, segments := range map[string][]string{
		"whole":           {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		"in pieces":       {"HTTP/1.1 200 OK\r\nContent-Le", "ngth: ", "5\r", "\n\r\nhe", "llo"},
		"any case":        {"HTTP/1.1 200 OK\r\nX: content-length: 9\r\nCONTENT-LENGTH:5\r\nX-Content-Length: 7\r\n\r\nhello"},
		"without a body":  {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"apart from body": {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: " + strings.Repeat("x", 900) + "\r\n\r\n", "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{Clients: &Clients{}})
			respond(t, r, segments...)
			if err := r.Start(); err != nil {
				t.Fatal(err)
			}
			totals(t, r, func(t Totals) bool { return t.Responses > 100 })
			if err := r.Stop(); err != nil {
				t.Fatal(err)
			}
			got := totals(t, r, func(t Totals) bool { return t.Responses == t.Requests })
			if want := got.Responses * uint64(len(strings.Join(segments, ""))); got.Bytes != want || got.Trouble() != "" {
				t.Errorf("%d responses were %d bytes, want %d; trouble: %s", got.Responses, got.Bytes, want, got.Trouble())
			}
		})
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		segments []string
		want     string
	}{
		"nobody listens":    {nil, "0 of 1 clients"},
		"no length":         {[]string{"HTTP/1.1 200 OK\r\n\r\nhello"}, "1 responses without a Content-Length"},
		"an endless header": {[]string{"HTTP/1.1 200 OK\r\n" + strings.Repeat("x", 1100)}, "1 responses without a Content-Length"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Options{Clients: &Clients{}})
			r.patience = 200 * time.Millisecond
			if test.segments != nil {
				respond(t, r, test.segments...)
			}
			if err := r.Start(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want one that says %q", err, test.want)
			}
		})
	}
}

func TestOtherStatusIsTrouble(t *testing.T) {
	r := newRig(t, Options{Clients: &Clients{Path: "/nothing"}})
	serve(t, r, "/", 10)
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if got := totals(t, r, func(t Totals) bool { return t.Responses > 10 }); got.Refused < got.Responses {
		t.Errorf("of %d responses %d count as refused, want all", got.Responses, got.Refused)
	}
}

func TestServerThatClosesIsCounted(t *testing.T) {
	r := newRig(t, Options{Clients: &Clients{Connections: 3}})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "bye")
	})}
	go server.Serve(listen(t, r))
	defer server.Close()
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	totals(t, r, func(t Totals) bool { return t.Finished+t.Reset == 3 })
}
