package httpd

import (
	"bufio"
	"bytes"
	"hash/maphash"
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
	seen   [seenHeads]seenHead
	seed   maphash.Seed
}

// seenHead is a head that came before, and what it says: clients that ask again, and proxies, say the same in the same
// bytes, and of what a response of 1 KiB takes of a loop a twentieth is parsing. It is of a plain request.
type seenHead struct {
	head, path   []byte
	close, alive bool
}

const (
	seenHeads   = 256     // places, each with the head that came last of those that share it
	maxSeenHead = 1 << 10 // longer ones, with cookies, come from one client only: 256 KiB a loop at most
)

func (p *parser) init() {
	p.buf = bufio.NewReaderSize(&p.in, maxHead)
	p.seed = maphash.MakeSeed()
}

// headLen is the length of the request head at the start of in, or 0 when it is not
// complete, and whether a line of it goes on in the next one. It ends with the first empty line, also where
// lines end with a bare LF: a request behind it must not be taken for a part of it. parse then refuses the head.
func headLen(in []byte) (n int, folded bool) {
	for {
		i := bytes.IndexByte(in[n:], '\n')
		if i < 0 {
			return 0, false
		}
		n += i + 1
		switch rest := in[n:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return n + 1, folded
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return n + 2, folded
		case len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t'):
			folded = true
		}
	}
}

// conditional are the fields that ServeContent looks at.
func conditional(key string) bool {
	switch key {
	case "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since":
		return true
	}
	return false
}

// parse splits a complete head. One with a folded line is refused, as it may be (RFC 9112, 5.2): fasthttp unfolds in
// place, so that a second look would read something else.
func (p *parser) parse(head []byte, folded bool) request {
	if folded {
		return request{status: http.StatusBadRequest, close: true}
	}
	if len(head) > maxSeenHead {
		return p.split(head)
	}
	s := &p.seen[maphash.Bytes(p.seed, head)%seenHeads]
	if len(s.path) > 0 && bytes.Equal(s.head, head) {
		return request{method: http.MethodGet, path: str(s.path), plain: true, close: s.close, alive: s.alive}
	}
	r := p.split(head)
	if r.plain && r.status == 0 {
		s.head, s.path = append(s.head[:0], head...), append(s.path[:0], r.path...)
		s.close, s.alive = r.close, r.alive
	}
	return r
}

// split is parse of a head that has no folded lines.
func (p *parser) split(head []byte) request {
	p.in.Reset(head)
	p.buf.Reset(&p.in)
	h := &p.header
	if err := h.Read(p.buf); err != nil {
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
