package httpd

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// recorder is the ResponseWriter that ServeContent writes to. It keeps what was said, and of
// a file's bytes only where they lie.
type recorder struct {
	header  http.Header
	status  int
	text    []byte // a body that is not from the file: an error message
	off     int64  // where the body begins in the file
	bodyLen int64  // and how long it is
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.text = append(w.text, p...)
	return len(p), nil
}

// ReadFrom is where ServeContent's io.CopyN arrives.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	w.WriteHeader(http.StatusOK)
	lr, ok := r.(*io.LimitedReader)
	if !ok {
		n, err := io.Copy(writerOnly{w}, r)
		return n, err
	}
	if at, ok := lr.R.(io.Seeker); ok {
		off, err := at.Seek(0, io.SeekCurrent)
		if err != nil {
			return 0, err
		}
		w.off = off
	}
	w.bodyLen = lr.N
	return lr.N, nil
}

type writerOnly struct{ io.Writer }

// appendHead writes a status line and header fields, sorted, without the final empty line.
func appendHead(b []byte, status int, h http.Header) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	w := bytes.NewBuffer(b)
	_ = h.Write(w) // a Buffer takes everything
	return w.Bytes()
}

// errorHeader is for a response of a short text.
func errorHeader(text []byte) http.Header {
	return http.Header{
		"Content-Type":           {"text/plain; charset=utf-8"},
		"X-Content-Type-Options": {"nosniff"},
		"Content-Length":         {strconv.Itoa(len(text))},
	}
}

// cloneInto copies header fields, so that ServeContent may change them.
func cloneInto(dst, src http.Header) {
	for k, v := range src {
		dst[k] = slices.Clone(v)
	}
}

// dateLine is the Date field, made once a second.
type dateLine struct {
	second int64
	line   []byte
}

func (d *dateLine) at(now time.Time) []byte {
	if s := now.Unix(); s != d.second || d.line == nil {
		d.second = s
		d.line = append(d.line[:0], "Date: "...)
		d.line = now.UTC().AppendFormat(d.line, http.TimeFormat)
		d.line = append(d.line, "\r\n"...)
	}
	return d.line
}
