// Package peer is the host at the other end of the guest's wire: tests in the guest have it
// connect to them, keep quiet for as long as they like, and tell what it received, or fetch a
// file from a server of theirs.
//
// A [Client] is one such connection. Its orders travel over a connection of their own, so
// that the one under test carries nothing but what the test sends.
package peer

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// patience bounds every single step of a peer.
const patience = time.Minute

// order is what a client asks for, a JSON value for each.
type order struct {
	Connect       string // address to connect to
	ReceiveBuffer int    // SO_RCVBUF of that connection in bytes; 0: the system's default
	Read          bool   // read to the end, close, and tell
	Echo          int    // write as many bytes of noise, read as many, close, and tell; see [Noise]
	Fetch         string // URL to get over HTTP, on one connection for all
}

// answer follows each order.
type answer struct {
	Error    string // the order could not be carried out
	Received *Received
}

// Received is a stream as the peer saw it, or the body of a response.
type Received struct {
	Bytes  int64
	SHA256 []byte
	End    string // "" for an orderly end, or the error that ended it
	Status int    // of a response
}

// Noise is what the peer writes for Echo: the same in every run.
func Noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{'e', 'c', 'h', 'o'}).Read(b) // never fails
	return b
}

// Client has the peer do things. It is not for concurrent use.
type Client struct {
	conn net.Conn
	in   *json.Decoder
	out  *json.Encoder
}

// Dial reaches the peer at addr, its address for orders.
func Dial(addr string) (*Client, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, fmt.Errorf("reach the peer: %w", err)
	}
	return &Client{conn, json.NewDecoder(conn), json.NewEncoder(conn)}, nil
}

// Connect has the peer connect to addr. It reads nothing yet.
func (c *Client) Connect(addr string, receiveBuffer int) error {
	_, err := c.order(order{Connect: addr, ReceiveBuffer: receiveBuffer})
	return err
}

// Read has the peer read its connection to the end and close it.
func (c *Client) Read() (Received, error) { return c.receive(order{Read: true}) }

// Echo has the peer write n bytes of [Noise] and read the stream until as many came back.
func (c *Client) Echo(n int) (Received, error) { return c.receive(order{Echo: n}) }

// Fetch has the peer get a URL over HTTP. All fetches share a connection, which ends with
// the client.
func (c *Client) Fetch(url string) (Received, error) { return c.receive(order{Fetch: url}) }

func (c *Client) receive(o order) (Received, error) {
	a, err := c.order(o)
	if err != nil {
		return Received{}, err
	}
	return *a.Received, nil
}

// Close ends the peer's connection too.
func (c *Client) Close() error { return c.conn.Close() }

func (c *Client) order(o order) (a answer, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return a, err
	}
	if err := c.out.Encode(o); err != nil {
		return a, fmt.Errorf("order the peer: %w", err)
	}
	if err := c.in.Decode(&a); err != nil {
		return a, fmt.Errorf("the peer's answer: %w", err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("the peer: %s", a.Error)
	}
	if o.Connect == "" && a.Received == nil {
		return a, fmt.Errorf("the peer did not tell what it received")
	}
	return a, nil
}
