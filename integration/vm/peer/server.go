package peer

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Dialer makes the peer's connections.
type Dialer func(addr string, receiveBuffer int) (net.Conn, error)

// Serve carries out the orders of the clients that l accepts, until l is closed.
func Serve(l net.Listener, dial Dialer) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go serve(c, dial)
	}
}

func serve(client net.Conn, dial Dialer) {
	defer client.Close()
	in, out := json.NewDecoder(client), json.NewEncoder(client)
	var data net.Conn
	defer func() {
		if data != nil {
			data.Close()
		}
	}()
	web := &http.Transport{
		DialContext:        func(_ context.Context, _, addr string) (net.Conn, error) { return dial(addr, 0) },
		DisableCompression: true,
	}
	defer web.CloseIdleConnections()
	for {
		var o order
		if in.Decode(&o) != nil {
			return // the client has gone
		}
		var a answer
		var err error
		switch {
		case o.Connect != "" && data == nil:
			data, err = dial(o.Connect, o.ReceiveBuffer)
		case o.Read && data != nil:
			a.Received, err = receive(data)
			data = nil
		case o.Echo > 0 && data != nil:
			a.Received, err = echo(data, o.Echo)
			data = nil
		case o.Fetch != "":
			a.Received, err = fetch(web, o.Fetch)
		default:
			err = errors.New("orders must be to connect, and then to read or to have echoed, or to fetch")
		}
		if err != nil {
			a.Error = err.Error()
		}
		if out.Encode(a) != nil {
			return
		}
	}
}

// receive reads the stream to its end and closes it.
func receive(data net.Conn) (*Received, error) {
	defer data.Close()
	if err := data.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return digest(data), nil
}

// digest reads to the end.
func digest(from io.Reader) *Received {
	h := sha256.New()
	// Not io.Copy, which would prefer the connection's own WriteTo.
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{from}, make([]byte, 1<<20))
	r := &Received{Bytes: n, SHA256: h.Sum(nil)}
	if err != nil {
		r.End = err.Error()
	}
	return r
}

// echo writes and reads at the same time, and closes.
func echo(data net.Conn, n int) (*Received, error) {
	defer data.Close()
	if err := data.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	written := make(chan error, 1)
	go func() {
		_, err := data.Write(Noise(n))
		written <- err
	}()
	r := digest(io.LimitReader(data, int64(n)))
	data.Close() // ends the write, if the stream has ended early
	return r, <-written
}

func fetch(web http.RoundTripper, url string) (*Received, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := web.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := digest(resp.Body)
	r.Status = resp.StatusCode
	return r, nil
}
