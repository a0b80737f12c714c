package httpd

import (
	"net/netip"
	"strings"

	"sluice/engine"
)

// Response is how one response went. Method and Path are as the client sent them, and empty
// where its request could not be read: they may hold anything.
type Response struct {
	Method, Path string
	Status       int
	Peer         netip.AddrPort
	Size         int64 // of the head and the body, in bytes
	engine.Report
}

// Sent is how many bytes the socket has accepted.
func (r *Response) Sent() (n int64) {
	for _, w := range r.Ways {
		n += int64(w.Bytes)
	}
	return n
}

// Whole reports whether the response got out whole.
func (r *Response) Whole() bool { return r.Delivered && r.Sent() == r.Size }

// explain has the response that was just queued told about when it has left.
func (c *conn) explain(r request, status int, size int64) {
	tell := c.shard.srv.Explain
	if tell == nil {
		return
	}
	// The strings lie in the parser's memory.
	resp := Response{Method: strings.Clone(r.method), Path: strings.Clone(r.path), Status: status, Peer: c.ec.RemoteAddr(), Size: size}
	c.ec.Report(func(rep engine.Report) {
		resp.Report = rep
		tell(resp)
	})
}
