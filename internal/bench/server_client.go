package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// maxHead is the longest header of a response that a client reads: servers send some 250 bytes.
const maxHead = 8 << 10

var headEnd = []byte("\r\n\r\n")

// headReader reads the headers of responses that must all be of one length.
type headReader struct {
	size int // of the body
	// known is the last header, which the next one mostly is too: its date changes once a second.
	known  []byte
	closes bool // it says that the connection ends
}

// read looks at the beginning of a response. n is the length of its header; 0: there is more to come. closes
// says that the server will close the connection behind the body.
func (r *headReader) read(b []byte) (n int, closes bool, err error) {
	if len(r.known) > 0 && bytes.HasPrefix(b, r.known) {
		return len(r.known), r.closes, nil
	}
	n = bytes.Index(b, headEnd) + len(headEnd)
	if n < len(headEnd) {
		if len(b) >= maxHead {
			return 0, false, fmt.Errorf("a response's header does not end within %d bytes", maxHead)
		}
		return 0, false, nil
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b[:n])), nil)
	switch {
	case err != nil:
		return 0, false, fmt.Errorf("a response's header: %w", err)
	case response.StatusCode != http.StatusOK:
		return 0, false, fmt.Errorf("a response says %s", response.Status)
	case len(response.TransferEncoding) > 0:
		return 0, false, errors.New("a response comes in chunks")
	case response.ContentLength < 0:
		return 0, false, errors.New("a response has no Content-Length")
	case response.ContentLength != int64(r.size):
		return 0, false, fmt.Errorf("a response of %d bytes, not %d", response.ContentLength, r.size)
	}
	r.known, r.closes = append(r.known[:0], b[:n]...), response.Close
	return n, r.closes, nil
}

// request is what a client sends.
func request(addr, path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
}

// response is where a connection stands in the response that it expects.
type response struct {
	head []byte // of the header, as long as it is not whole
	left int    // bytes of the body to come
	body bool   // the header is whole
	last bool   // the server closes the connection behind it
}

// errTooLong is a body that goes on behind its length.
var errTooLong = errors.New("a response is longer than its Content-Length")

// began takes the bytes with which a response, or what is missing of its header, begins. done reports
// whether that was all of it.
func (p *response) began(r *headReader, b []byte) (done bool, err error) {
	if len(p.head) > 0 {
		p.head = append(p.head, b...)
		b = p.head
	}
	n, last, err := r.read(b)
	if err != nil {
		return false, err
	}
	if n == 0 {
		if len(p.head) == 0 {
			p.head = append(p.head, b...)
		}
		return false, nil
	}
	p.body, p.last, p.left = true, last, r.size
	p.head = p.head[:0]
	return p.went(len(b) - n)
}

// went takes n bytes of the body.
func (p *response) went(n int) (done bool, err error) {
	if n > p.left {
		return false, errTooLong
	}
	p.left -= n
	if p.left > 0 {
		return false, nil
	}
	p.body = false
	return true, nil
}

// cutShort says where a connection ended.
func (p *response) cutShort() error {
	if p.body {
		return fmt.Errorf("the server closed a connection %d bytes before a response's end", p.left)
	}
	return fmt.Errorf("the server closed a connection within a response's header: %q", strings.TrimSpace(string(p.head)))
}
