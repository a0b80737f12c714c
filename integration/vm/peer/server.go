package peer

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
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
		default:
			err = errors.New("orders must be to connect, and then to read")
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
	h := sha256.New()
	// Not io.Copy, which would prefer the connection's own WriteTo.
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{data}, make([]byte, 1<<20))
	r := &Received{Bytes: n, SHA256: h.Sum(nil)}
	if err != nil {
		r.End = err.Error()
	}
	return r, nil
}
