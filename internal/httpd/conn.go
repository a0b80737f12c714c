package httpd

import (
	"errors"
	"net/http"
	"strconv"

	"sluice/engine"
)

// conn is the handler of one connection: requests are answered in the order they came, and
// the next one is looked at when the one before is queued whole.
type conn struct {
	shard   *shard
	ec      *engine.Conn
	waiting bool   // for the lookup of the request at the head of the input
	result  *entry // of that lookup
	partial bool   // a head has begun, and its deadline runs
	held    bool   // requests that have arrived wait: for a lookup, for memory, or for the peer
	eof     bool   // no further ones will arrive
	last    bool   // no further ones are answered
	closed  bool
	closing bool // no request is to be answered after the one that waits
}

// Received answers every complete request, as long as the peer takes the responses.
func (c *conn) Received(ec *engine.Conn, p []byte) (consumed int) {
	for !c.last && consumed < len(p) {
		if c.held = c.waiting || ec.Congested(); c.held {
			return consumed
		}
		for consumed < len(p) && (p[consumed] == '\r' || p[consumed] == '\n') {
			consumed++ // empty lines before a request (RFC 9112, 2.2)
		}
		rest := p[consumed:]
		n, folded := headLen(rest)
		if n == 0 && len(rest) < maxHead {
			c.expectMore(len(rest) > 0)
			break
		}
		c.expectMore(false)
		if n == 0 || n > maxHead {
			c.held = !c.text(request{close: true}, http.StatusRequestHeaderFieldsTooLarge, "")
		} else {
			c.held = !c.answer(c.shard.parser.parse(rest[:n], folded))
		}
		if c.held {
			return consumed // the same head is presented again
		}
		consumed += n
	}
	if c.eof && !c.last {
		c.end()
	}
	return consumed
}

// expectMore sets the deadline of a head that has begun, or removes it.
func (c *conn) expectMore(begun bool) {
	switch {
	case begun && !c.partial:
		c.ec.SetDeadline(c.shard.srv.headTimeout)
	case !begun && c.partial:
		c.ec.SetDeadline(0)
	}
	c.partial = begun
}

// answer queues the response to r. It reports false when that has to wait.
func (c *conn) answer(r request) bool {
	if c.closing {
		r.close = true
	}
	if r.status != 0 {
		return c.text(r, r.status, "")
	}
	e := c.result
	if e != nil {
		defer c.dropResult()
	} else {
		if e = c.shard.lookup(c, r.path); e == nil {
			c.waiting = true
			return false
		}
	}
	switch {
	case e.file == nil:
		return c.text(r, e.status, e.target)
	case r.plain:
		return c.send(r, http.StatusOK, append(c.shard.head[:0], e.head...), e, 0, e.info.Size())
	}
	return c.serveContent(r, e)
}

// resume goes on with the request that waited for a lookup. The result is held until then,
// because the cache may let go of it.
func (c *conn) resume(e *entry) {
	c.waiting = false
	if e != nil && !c.closed {
		c.result = e.retain()
	}
	c.ec.Resume()
}

func (c *conn) dropResult() {
	if c.result != nil {
		c.result.release()
		c.result = nil
	}
}

// serveContent answers a HEAD, a range or a condition.
func (c *conn) serveContent(r request, e *entry) bool {
	w := &recorder{header: make(http.Header, len(e.header))}
	cloneInto(w.header, e.header)
	delete(w.header, "Content-Length") // of the plain response
	delete(w.header, "Accept-Ranges")
	http.ServeContent(w, c.shard.parser.forServeContent(r.method), e.info.Name(), e.info.ModTime(), &content{size: e.info.Size()})
	// ServeContent leaves the length of what is not from the file to its server.
	if w.text != nil {
		w.header.Set("Content-Length", strconv.Itoa(len(w.text)))
		return c.textWith(r, w.status, w.header, w.text)
	}
	if w.status == http.StatusPreconditionFailed {
		w.header.Del("Content-Type")
		w.header.Set("Content-Length", "0")
	}
	return c.send(r, w.status, appendHead(c.shard.head[:0], w.status, w.header), e, w.off, w.bodyLen)
}

// text queues a response that is a line of text.
func (c *conn) text(r request, status int, target string) bool {
	body := []byte(http.StatusText(status) + "\n")
	h := errorHeader(body)
	switch status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", "GET, HEAD")
	case http.StatusMovedPermanently:
		h.Set("Location", target)
	}
	return c.textWith(r, status, h, body)
}

func (c *conn) textWith(r request, status int, h http.Header, body []byte) bool {
	head := c.finish(appendHead(c.shard.head[:0], status, h), r)
	if r.method != http.MethodHead {
		head = append(head, body...)
	}
	if !c.write(head) {
		return false
	}
	c.explain(r, status, int64(len(head)))
	if r.close {
		c.end()
	}
	return true
}

// send queues a head and n bytes of the file.
func (c *conn) send(r request, status int, head []byte, e *entry, off, n int64) bool {
	head = c.finish(head, r)
	if !c.write(head) {
		return false
	}
	if r.method == http.MethodHead {
		n = 0
	}
	if n > 0 {
		_ = c.ec.SendFile(e.file.Retain(), off, n) // it fails only with the connection
	}
	c.explain(r, status, int64(len(head))+n)
	if r.close {
		c.end()
	}
	return true
}

// finish completes a head.
func (c *conn) finish(head []byte, r request) []byte {
	head = append(head, c.shard.date.at(c.shard.srv.now(c.ec))...)
	switch {
	case r.close:
		head = append(head, "Connection: close\r\n"...)
	case r.alive:
		head = append(head, "Connection: keep-alive\r\n"...)
	}
	return append(head, "\r\n"...)
}

// write queues a head. It reports false when that has to wait for memory, of whose return
// Writable tells.
func (c *conn) write(head []byte) bool {
	c.shard.head = head[:0]
	n, err := c.ec.Write(head)
	if n == 0 && errors.Is(err, engine.ErrNoBuffers) {
		return false
	}
	if err != nil {
		c.last = true
		c.ec.Abort() // without its head the response cannot be framed
	}
	return true
}

// end closes the connection after what is queued.
func (c *conn) end() {
	c.last = true
	c.ec.Close()
}

// Writable goes on with requests that arrived while the peer did not take responses, or
// while there was no memory for them.
func (c *conn) Writable(ec *engine.Conn) { ec.Resume() }

// EOF ends the connection after the requests that have arrived.
func (c *conn) EOF(*engine.Conn) {
	if c.eof = true; !c.held {
		c.end()
	}
}

// Drain ends the connection after the request that waits, if one does.
func (c *conn) Drain(ec *engine.Conn) {
	if c.held && !ec.Congested() {
		c.closing = true
	} else {
		c.end()
	}
}

// Closed lets go of a result that nobody will ask for.
func (c *conn) Closed(*engine.Conn, error) { c.closed = true; c.dropResult() }
