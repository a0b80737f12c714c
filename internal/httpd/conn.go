package httpd

import (
	"bytes"
	"net/http"

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
	closed  bool
	closing bool // no request is to be answered after the one that waits
}

// Received answers every complete request, as long as the peer takes the responses.
func (c *conn) Received(ec *engine.Conn, p []byte) (consumed int) {
	for !c.waiting && !ec.Congested() {
		rest := bytes.TrimLeft(p[consumed:], "\r\n") // empty lines before a request (RFC 9112, 2.2)
		consumed = len(p) - len(rest)
		n := headLen(rest)
		if n == 0 && len(rest) < maxHead {
			c.expectMore(len(rest) > 0)
			break
		}
		if n == 0 || n > maxHead {
			c.fail(http.StatusRequestHeaderFieldsTooLarge)
			return len(p)
		}
		if !c.answer(c.shard.parser.parse(rest[:n])) {
			break // the same head is presented again
		}
		consumed += n
	}
	return consumed
}

// expectMore sets the deadline of a head that has begun, or removes it.
func (c *conn) expectMore(begun bool) {
	switch {
	case begun && !c.partial:
		c.ec.SetDeadline(headTimeout)
	case !begun && c.partial:
		c.ec.SetDeadline(0)
	}
	c.partial = begun
}

// answer queues the response to r. It reports false when that has to wait.
func (c *conn) answer(r request) bool {
	if r.status != 0 {
		c.text(r, r.status, "")
		return true
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
	if c.closing {
		r.close = true
	}
	switch {
	case e.file == nil:
		c.text(r, e.status, e.target)
	case r.plain:
		c.send(r, append(c.shard.head[:0], e.head...), e, 0, e.info.Size())
	default:
		c.serveContent(r, e)
	}
	return true
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
func (c *conn) serveContent(r request, e *entry) {
	w := &recorder{header: make(http.Header, len(e.header))}
	cloneInto(w.header, e.header)
	delete(w.header, "Content-Length") // of the plain response
	delete(w.header, "Accept-Ranges")
	http.ServeContent(w, c.shard.parser.forServeContent(r.method), e.info.Name(), e.info.ModTime(), &content{size: e.info.Size()})
	if w.text != nil {
		c.textWith(r, w.status, w.header, w.text)
		return
	}
	c.send(r, appendHead(c.shard.head[:0], w.status, w.header), e, w.off, w.bodyLen)
}

// text queues a response that is a line of text.
func (c *conn) text(r request, status int, target string) {
	body := []byte(http.StatusText(status) + "\n")
	h := errorHeader(body)
	switch status {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", "GET, HEAD")
	case http.StatusMovedPermanently:
		h.Set("Location", target)
	}
	c.textWith(r, status, h, body)
}

func (c *conn) textWith(r request, status int, h http.Header, body []byte) {
	head := c.finish(appendHead(c.shard.head[:0], status, h), r)
	if r.method != http.MethodHead {
		head = append(head, body...)
	}
	c.write(head, r.close)
}

// fail answers what is no request, and ends the connection.
func (c *conn) fail(status int) {
	c.expectMore(false)
	c.text(request{close: true}, status, "")
}

// send queues a head and n bytes of the file.
func (c *conn) send(r request, head []byte, e *entry, off, n int64) {
	head = c.finish(head, r)
	if _, err := c.ec.Write(head); err != nil {
		c.ec.Abort() // without its head the response cannot be framed
		return
	}
	c.shard.head = head[:0]
	if n > 0 && r.method != http.MethodHead {
		_ = c.ec.SendFile(e.file.Retain(), off, n) // it fails only with the connection
	}
	if r.close {
		c.ec.Close()
	}
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

func (c *conn) write(head []byte, last bool) {
	if _, err := c.ec.Write(head); err != nil {
		c.ec.Abort()
		return
	}
	c.shard.head = head[:0]
	if last {
		c.ec.Close()
	}
}

// Writable goes on with requests that arrived while the peer did not take responses.
func (c *conn) Writable(ec *engine.Conn) { ec.Resume() }

// EOF ends the connection after the request that waits, if one does.
func (c *conn) EOF(ec *engine.Conn) { c.Drain(ec) }

// Drain ends the connection after what has been asked.
func (c *conn) Drain(ec *engine.Conn) {
	if c.waiting {
		c.closing = true
	} else {
		ec.Close()
	}
}

// Closed lets go of a result that nobody will ask for.
func (c *conn) Closed(*engine.Conn, error) { c.closed = true; c.dropResult() }
