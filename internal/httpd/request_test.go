package httpd

import (
	"fmt"
	"strings"
	"testing"
)

// parseHead parses the head at the start of in, if one is complete.
func parseHead(p *parser, in []byte) request {
	n, folded := headLen(in)
	return p.parse(in[:n], folded)
}

// parsed is a request whose strings are its own.
func parsed(tb testing.TB, head string) request {
	tb.Helper()
	if n, _ := headLen([]byte(head)); n != len(head) {
		tb.Fatalf("headLen %d of a head of %d bytes", n, len(head))
	}
	var p parser
	p.init()
	r := parseHead(&p, []byte(head))
	r.method, r.path = strings.Clone(r.method), strings.Clone(r.path)
	return r
}

const host = "Host: h\r\n"

func TestWellFormedHeadsAreUnderstood(t *testing.T) {
	for _, c := range []struct {
		name, head string
		want       request
	}{
		{"plain", "GET /a HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/a", plain: true}},
		{"root", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/", plain: true}},
		{"HEAD", "HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "HEAD", path: "/a"}},
		{"query", "GET /a?b=c/../d?e HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/a", plain: true}},
		{"escapes are left alone", "GET /%61%2fb HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/%61%2fb", plain: true}},
		{"dots are left alone", "GET /a/../b HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/a/../b", plain: true}},
		{"absolute form", "GET http://h/a?q HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/a", plain: true}},
		{"absolute form without a path", "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/", plain: true}},
		{"absolute form with only a query", "GET http://h?/a HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/", plain: true}},
		{"a URL in the path", "GET /http://h/a HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "/http://h/a", plain: true}},
		{"two slashes are a path", "GET //h/a HTTP/1.1\r\nHost: h\r\n\r\n", request{method: "GET", path: "//h/a", plain: true}},
		{"field names in any case", "GET /a HTTP/1.1\r\nhOsT: h\r\nrAnGe: bytes=0-\r\n\r\n", request{method: "GET", path: "/a"}},
		{"space around values", "GET /a HTTP/1.1\r\nHost:  h  \r\nConnection:\t close \t\r\n\r\n", request{method: "GET", path: "/a", plain: true, close: true}},
		{"bare LF inside", "GET /a HTTP/1.1\nHost: h\nConnection: close\r\n\r\n", request{method: "GET", path: "/a", plain: true, close: true}},
		{"a later HTTP/1", "GET /a HTTP/1.2\r\nHost: h\r\n\r\n", request{method: "GET", path: "/a", plain: true}},

		{"close", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", request{method: "GET", path: "/a", plain: true, close: true}},
		{"close among tokens, in any case", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: x , CLOSE\r\n\r\n", request{method: "GET", path: "/a", plain: true, close: true}},
		{"a token that only begins like close", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\n", request{method: "GET", path: "/a", plain: true}},
		{"close wins over keep-alive", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", request{method: "GET", path: "/a", plain: true, close: true}},
		{"keep-alive is nothing new", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", request{method: "GET", path: "/a", plain: true}},
		{"HTTP/1.0", "GET /a HTTP/1.0\r\n\r\n", request{method: "GET", path: "/a", plain: true, close: true}},
		{"HTTP/1.0 that stays", "GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", request{method: "GET", path: "/a", plain: true, alive: true}},
		{"HTTP/1.0 that says both", "GET /a HTTP/1.0\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", request{method: "GET", path: "/a", plain: true, close: true}},

		{"Range", "GET /a HTTP/1.1\r\nHost: h\r\nRange: bytes=0-\r\n\r\n", request{method: "GET", path: "/a"}},
		{"If-Range", "GET /a HTTP/1.1\r\nHost: h\r\nIf-Range: x\r\n\r\n", request{method: "GET", path: "/a"}},
		{"If-Match", "GET /a HTTP/1.1\r\nHost: h\r\nIf-Match: *\r\n\r\n", request{method: "GET", path: "/a"}},
		{"If-None-Match", "GET /a HTTP/1.1\r\nHost: h\r\nIf-None-Match: *\r\n\r\n", request{method: "GET", path: "/a"}},
		{"If-Modified-Since", "GET /a HTTP/1.1\r\nHost: h\r\nIf-Modified-Since: x\r\n\r\n", request{method: "GET", path: "/a"}},
		{"If-Unmodified-Since", "GET /a HTTP/1.1\r\nHost: h\r\nIf-Unmodified-Since: x\r\n\r\n", request{method: "GET", path: "/a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := parsed(t, c.head); got != c.want {
				t.Errorf("%q\n got %+v\nwant %+v", c.head, got, c.want)
			}
		})
	}
}

// What has, or may have, a body is never followed by another request: the body's length
// need not be understood when nothing behind it is looked at.
func TestARequestWithABodyIsTheLastOfItsConnection(t *testing.T) {
	for _, fields := range []string{
		"Content-Length: 5\r\n",
		"Content-Length: 00\r\n",
		"content-length: 5\r\n",
		"Transfer-Encoding: chunked\r\n",
		"Transfer-Encoding: identity\r\n",
		"transfer-encoding: CHUNKED\r\n",
		"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
		"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
		"Connection: keep-alive\r\nContent-Length: 5\r\n",
		"X: y\nTransfer-Encoding: chunked\r\n",
	} {
		for _, start := range []string{"GET /a HTTP/1.1\r\n", "POST /a HTTP/1.1\r\n", "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n"} {
			if r := parsed(t, start+host+fields+"\r\n"); !r.close || r.status == 400 {
				t.Errorf("%q %q: %+v", start, fields, r)
			}
		}
	}
	if r := parsed(t, "GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"); r.close {
		t.Error("an empty body has the connection closed")
	}
}

// A head whose meaning could differ between two readers is refused, and the connection with
// it: there is no telling where the next request begins.
func TestMalformedHeadsAreRefusedAndEndTheConnection(t *testing.T) {
	for name, head := range map[string]string{
		"no request line":               "\x00\x01\x02\x03\r\n\r\n",
		"a TLS hello":                   "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"binary":                        "\xff\xfe\xfd GET\x80\r\n\r\n",
		"one word":                      "GET\r\n\r\n",
		"HTTP/0.9":                      "GET /\r\n\r\n",
		"empty target":                  "GET  HTTP/1.1\r\n" + host + "\r\n",
		"space in the target":           "GET /a b HTTP/1.1\r\n" + host + "\r\n",
		"two spaces":                    "GET  / HTTP/1.1\r\n" + host + "\r\n",
		"space before the method":       " GET / HTTP/1.1\r\n" + host + "\r\n",
		"space behind the version":      "GET / HTTP/1.1 \r\n" + host + "\r\n",
		"version in lower case":         "GET / http/1.1\r\n" + host + "\r\n",
		"long version":                  "GET / HTTP/1.10\r\n" + host + "\r\n",
		"method of control bytes":       "G\x01T / HTTP/1.1\r\n" + host + "\r\n",
		"NUL in the target":             "GET /a\x00b HTTP/1.1\r\n" + host + "\r\n",
		"tab in the target":             "GET /a\tb HTTP/1.1\r\n" + host + "\r\n",
		"CR in the target":              "GET /a\rb HTTP/1.1\r\n" + host + "\r\n",
		"relative target":               "GET a HTTP/1.1\r\n" + host + "\r\n",
		"bad scheme":                    "GET ht!tp://h/ HTTP/1.1\r\n" + host + "\r\n",
		"no Host":                       "GET / HTTP/1.1\r\n\r\n",
		"no Host among others":          "GET / HTTP/1.1\r\nX-Host: h\r\n\r\n",
		"two Hosts":                     "GET / HTTP/1.1\r\n" + host + host + "\r\n",
		"two Hosts in HTTP/1.0":         "GET / HTTP/1.0\r\n" + host + "hOST: i\r\n\r\n",
		"space before a colon":          "GET / HTTP/1.1\r\n" + host + "Content-Length : 5\r\n\r\n",
		"tab before a colon":            "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding\t: chunked\r\n\r\n",
		"space in a name":               "GET / HTTP/1.1\r\n" + host + "Content Length: 5\r\n\r\n",
		"no name":                       "GET / HTTP/1.1\r\n" + host + ": x\r\n\r\n",
		"no colon":                      "GET / HTTP/1.1\r\n" + host + "Range\r\n\r\n",
		"NUL in a name":                 "GET / HTTP/1.1\r\n" + host + "X\x00: y\r\n\r\n",
		"NUL in a value":                "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n",
		"CR in a value":                 "GET / HTTP/1.1\r\n" + host + "X: a\rContent-Length: 5\r\n\r\n",
		"name that is not ASCII":        "GET / HTTP/1.1\r\n" + host + "X\xe4: y\r\n\r\n",
		"space before the first field":  "GET / HTTP/1.1\r\n " + host + "\r\n",
		"folded line":                   "GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n",
		"line folded by a tab":          "GET / HTTP/1.1\r\n" + host + "X: a\r\n\tb\r\n\r\n",
		"folded Transfer-Encoding":      "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding:\r\n chunked\r\n\r\n",
		"folded Range":                  "GET / HTTP/1.1\r\n" + host + "Range: bytes=0-\r\n 5\r\n\r\n",
		"fold behind a bare LF":         "GET / HTTP/1.1\r\n" + host + "X: a\n b\r\n\r\n",
		"two Content-Lengths":           "GET / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"the same Content-Length twice": "GET / HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"list of Content-Lengths":       "GET / HTTP/1.1\r\n" + host + "Content-Length: 0, 0\r\n\r\n",
		"signed Content-Length":         "GET / HTTP/1.1\r\n" + host + "Content-Length: +0\r\n\r\n",
		"negative Content-Length":       "GET / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",
		"hexadecimal Content-Length":    "GET / HTTP/1.1\r\n" + host + "Content-Length: 0x0\r\n\r\n",
		"empty Content-Length":          "GET / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n",
		"huge Content-Length":           "GET / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n",
		"unknown Transfer-Encoding":     "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n",
		"list of Transfer-Encodings":    "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n",
		"two Transfer-Encodings":        "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
		"vertical tab in a value":       "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: \x0bchunked\r\n\r\n",
		"only bare LF":                  "GET / HTTP/1.1\nHost: h\n\n",
		"empty line of a bare LF":       "GET / HTTP/1.1\r\nHost: h\r\n\n",
		"last field with a bare LF":     "GET / HTTP/1.1\r\nHost: h\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if r := parsed(t, head); r.status != 400 || !r.close {
				t.Errorf("%q: %+v", head, r)
			}
		})
	}
}

func TestOtherVersionsOfHTTPAreRefused(t *testing.T) {
	for _, v := range []string{"HTTP/0.9", "HTTP/2.0", "HTTP/3.1"} {
		if r := parsed(t, "GET / "+v+"\r\nHost: h\r\n\r\n"); r.status != 505 || !r.close {
			t.Errorf("%s: %+v", v, r)
		}
	}
}

func TestOnlyGetAndHeadAreAllowed(t *testing.T) {
	for _, m := range []string{"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "get", "Head", "GETX"} {
		if r := parsed(t, m+" /a HTTP/1.1\r\nHost: h\r\n\r\n"); r.status != 405 || r.close {
			t.Errorf("%s: %+v", m, r)
		}
	}
	for _, target := range []string{"OPTIONS *", "CONNECT h:80"} {
		if r := parsed(t, target+" HTTP/1.1\r\nHost: h\r\n\r\n"); r.status != 405 {
			t.Errorf("%s: %+v", target, r)
		}
	}
}

func TestATargetWithoutAPathIsRefused(t *testing.T) {
	if r := parsed(t, "GET * HTTP/1.1\r\nHost: h\r\n\r\n"); r.status != 400 {
		t.Errorf("%+v", r)
	}
}

func TestAHeadEndsWithItsFirstEmptyLine(t *testing.T) {
	for in, want := range map[string]int{
		"":                        0,
		"GET / HTTP/1.1":          0,
		"GET / HTTP/1.1\r\n":      0,
		"a\r\n\r":                 0,
		"a\r\n\r\n":               5,
		"a\r\n\r\nb\r\n\r\n":      5,
		"a\n\n":                   3,
		"a\n\nb\r\n\r\n":          3,
		"a\r\n\nb\r\n\r\n":        4,
		"a\n\r\nb\r\n\r\n":        4,
		"a\r\nb\n\r\nc\n\n":       7,
		"a\r\n\r\nb\n\n":          5,
		"a\r\r\n":                 0,
		"a\n \n":                  0,
		"a\r\n \r\n\r\n":          8,
		strings.Repeat("x", 1000): 0,
	} {
		if got, _ := headLen([]byte(in)); got != want {
			t.Errorf("%.40q: %d, want %d", in, got, want)
		}
	}
}

func TestTheParserForgetsTheRequestBefore(t *testing.T) {
	var p parser
	p.init()
	for range 3 {
		parseHead(&p, []byte("POST /x HTTP/1.0\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\nRange: bytes=0-\r\n\r\n"))
		parseHead(&p, []byte("\x00\r\n\r\n"))
		want := request{method: "GET", path: "/a", plain: true}
		if got := parseHead(&p, []byte("GET /a HTTP/1.1\r\nHost: h\r\n\r\n")); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
	}
}

// More heads than the parser remembers, so that they share places, and each is asked for again.
func TestAHeadThatWasSeenSaysTheSame(t *testing.T) {
	var p parser
	p.init()
	for range 2 {
		for i := range 20 * seenHeads {
			for _, c := range []struct {
				head string
				want request
			}{
				{"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", request{plain: true}},
				{"GET /%d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", request{plain: true, close: true}},
				{"GET /%d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", request{plain: true, alive: true}},
				{"GET /%d HTTP/1.1\r\nHost: h\r\nRange: bytes=0-0\r\n\r\n", request{}},
			} {
				c.want.method, c.want.path = "GET", fmt.Sprintf("/%d", i)
				for range 2 {
					if got := parseHead(&p, fmt.Appendf(nil, c.head, i)); got != c.want {
						t.Fatalf("%q: %+v, want %+v", fmt.Sprintf(c.head, i), got, c.want)
					}
				}
			}
		}
	}
}
