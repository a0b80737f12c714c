package httpd

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"unsafe"

	"github.com/valyala/fasthttp"
)

// request is what a head says, as far as the server cares. Its strings lie in the parser's
// memory and are valid until the next parse.
type request struct {
	method string
	path   string // as sent, without the query
	plain  bool   // a GET without ranges or conditions
	close  bool   // the connection ends after the response
	alive  bool   // HTTP/1.0 that asked to stay
	status int    // 0, or the error that answers it
}

// parser splits heads, one at a time. It belongs to a loop.
type parser struct {
	header fasthttp.RequestHeader
	in     bytes.Reader
	buf    *bufio.Reader
}

func (p *parser) init() {
	p.buf = bufio.NewReaderSize(&p.in, maxHead)
}

// headLen is the length of the request head at the start of in, or 0 when it is not
// complete. It ends with the first empty line, also where lines end with a bare LF: a
// request behind it must not be taken for a part of it. parse then refuses the head.
func headLen(in []byte) (n int) {
	if i := bytes.Index(in, []byte("\n\r\n")); i >= 0 {
		n = i + 3
		in = in[:n]
	}
	if i := bytes.Index(in, []byte("\n\n")); i >= 0 {
		n = i + 2
	}
	return n
}

// folded reports whether a line of the head goes on in the next one. That may be refused
// (RFC 9112, 5.2), and fasthttp unfolds in place: a second look would read something else.
func folded(head []byte) bool {
	return bytes.Contains(head, []byte("\n ")) || bytes.Contains(head, []byte("\n\t"))
}

// conditional are the fields that ServeContent looks at.
func conditional(key string) bool {
	switch key {
	case "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since":
		return true
	}
	return false
}

// parse splits a complete head.
func (p *parser) parse(head []byte) request {
	p.in.Reset(head)
	p.buf.Reset(&p.in)
	h := &p.header
	if err := h.Read(p.buf); err != nil || folded(head) {
		return request{status: http.StatusBadRequest, close: true}
	}
	r := request{method: str(h.Method()), plain: true}
	proto := str(h.Protocol())
	if !strings.HasPrefix(proto, "HTTP/1.") {
		return request{status: http.StatusHTTPVersionNotSupported, close: true}
	}
	hosts, body, stay := 0, false, false
	for k, v := range h.AllInOrder() {
		switch key := str(k); {
		case key == "Host":
			hosts++
		case key == "Connection":
			r.close = r.close || hasToken(v, "close")
			stay = stay || hasToken(v, "keep-alive")
		case key == "Content-Length":
			body = body || str(v) != "0"
		case key == "Transfer-Encoding":
			body = true
		case conditional(key):
			r.plain = false
		case strings.IndexByte(key, ' ') >= 0: // "Content-Length : 5" (RFC 9112, 5.1)
			return request{status: http.StatusBadRequest, close: true}
		}
	}
	if body || proto == "HTTP/1.0" && !stay {
		r.close = true // what follows a body is not a request: nothing here wants it
	}
	r.alive = proto == "HTTP/1.0" && !r.close
	if hosts > 1 || hosts == 0 && proto == "HTTP/1.1" {
		return request{status: http.StatusBadRequest, close: true} // RFC 9112, 3.2
	}
	switch r.method {
	case http.MethodGet:
	case http.MethodHead:
		r.plain = false
	default:
		r.status = http.StatusMethodNotAllowed
	}
	if r.path = requestPath(str(h.RequestURI())); r.path == "" && r.status == 0 {
		r.status = http.StatusBadRequest
	}
	return r
}

// requestPath is the path of a request target in origin or absolute form (RFC 9112, 3.2), or
// nothing when it has none.
func requestPath(target string) string {
	if !strings.HasPrefix(target, "/") {
		_, rest, ok := strings.Cut(target, "://")
		if !ok {
			return ""
		}
		i := strings.IndexAny(rest, "/?")
		if i < 0 || rest[i] == '?' {
			return "/"
		}
		target = rest[i:]
	}
	target, _, _ = strings.Cut(target, "?")
	return target
}

// forServeContent is the request as ServeContent wants to see it.
func (p *parser) forServeContent(method string) *http.Request {
	r := &http.Request{Method: method, Header: make(http.Header)}
	for k, v := range p.header.AllInOrder() {
		if key := string(k); conditional(key) {
			r.Header.Add(key, string(v))
		}
	}
	// Several ranges would be assembled in memory, and are a way to ask for much more than the
	// file has. A server may ignore a Range field (RFC 9110, 14.2).
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range")
	}
	return r
}

// hasToken reports whether a comma-separated field has the token, in any case.
func hasToken(field []byte, token string) bool {
	for part := range bytes.SplitSeq(field, []byte(",")) {
		if strings.EqualFold(str(bytes.TrimSpace(part)), token) {
			return true
		}
	}
	return false
}

// str looks at bytes as a string, without a copy: valid while they are.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
