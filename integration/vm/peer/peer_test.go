package peer

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// newClient is a client of a peer on this host, and a listener for that peer to reach.
func newClient(t *testing.T) (*Client, *net.TCPListener) {
	t.Helper()
	orders, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- Serve(orders, func(addr string, _ int) (net.Conn, error) { return net.Dial("tcp", addr) })
	}()
	c, err := Dial(orders.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	data, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		data.Close()
		orders.Close()
		if err := <-served; err != nil {
			t.Errorf("the peer: %v", err)
		}
	})
	return c, data.(*net.TCPListener)
}

// accept has the peer connect.
func accept(t *testing.T, c *Client, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	if err := c.Connect(l.Addr().String(), 0); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestPeerTellsWhatItReceived(t *testing.T) {
	c, l := newClient(t)
	conn, text := accept(t, c, l), []byte("all of this")
	if _, err := conn.Write(text); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	got, err := c.Read()
	if want := sha256.Sum256(text); err != nil || got.Bytes != int64(len(text)) || !bytes.Equal(got.SHA256, want[:]) || got.End != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPeerTellsHowTheStreamEnded(t *testing.T) {
	c, l := newClient(t)
	conn := accept(t, c, l)
	if err := conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	got, err := c.Read()
	if err != nil || !strings.Contains(got.End, "reset") {
		t.Errorf("a reset ended the stream: %+v, %v", got, err)
	}
}

func TestPeerHasItsNoiseEchoed(t *testing.T) {
	const n = 1 << 20
	c, l := newClient(t)
	conn := accept(t, c, l)
	go func() { _, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) }() // the peer tells if it fails
	got, err := c.Echo(n)
	if want := sha256.Sum256(Noise(n)); err != nil || got.Bytes != n || !bytes.Equal(got.SHA256, want[:]) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPeerFetchesOverOneConnection(t *testing.T) {
	text, conns := []byte("a file"), make(chan struct{}, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/file" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(text)
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns <- struct{}{}
		}
	}
	s.Start()
	defer s.Close()
	c, _ := newClient(t)
	for range 3 {
		got, err := c.Fetch(s.URL + "/file")
		if want := sha256.Sum256(text); err != nil || got.Status != http.StatusOK || !bytes.Equal(got.SHA256, want[:]) || got.End != "" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if got, err := c.Fetch(s.URL + "/none"); err != nil || got.Status != http.StatusNotFound {
		t.Errorf("%+v, %v", got, err)
	}
	if len(conns) != 1 {
		t.Errorf("%d connections", len(conns))
	}
}

func TestPeerRefusesOrdersOutOfOrder(t *testing.T) {
	c, l := newClient(t)
	if _, err := c.Read(); err == nil {
		t.Error("the peer read without a connection")
	}
	accept(t, c, l)
	if err := c.Connect(l.Addr().String(), 0); err == nil {
		t.Error("the peer connected twice")
	}
}
