//go:build linux

package serve_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// client is net/http's, with its connections counted, and every byte that they received.
type client struct {
	tb       testing.TB
	s        *server
	http     *http.Client
	received atomic.Int64
	made     atomic.Int32 // connections that a request was the first of
}

func newClient(tb testing.TB, s *server) *client {
	c := &client{tb: tb, s: s}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return countedConn{nc, &c.received}, err
		},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 1000, // what a test asks for at once has a connection each, and keeps it
	}
	c.http = &http.Client{Transport: tr, Timeout: patience}
	tb.Cleanup(tr.CloseIdleConnections)
	return c
}

// countedConn counts what arrives.
type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// close ends the idle connections, which also has their last bytes counted.
func (c *client) close() { c.http.CloseIdleConnections() }

// get asks for a file of the server. The caller closes the body.
func (c *client) get(name string, fields ...string) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			c.made.Add(1)
		}
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, c.s.url+name, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	return c.http.Do(req)
}

// fetch receives a file and compares its sum.
func (c *client) fetch(name string) error {
	r, err := c.get(name)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if err != nil {
		return fmt.Errorf("%s: after %d bytes: %w", name, n, err)
	}
	if want := files[name]; r.StatusCode != 200 || r.ContentLength != int64(len(want.data)) || !bytes.Equal(h.Sum(nil), want.sum[:]) {
		return fmt.Errorf("%s: status %d, %d bytes with sha256 %.6x, want %d with %.6x", name, r.StatusCode, n, h.Sum(nil), len(want.data), want.sum)
	}
	return nil
}

// want fetches files.
func (c *client) want(names ...string) {
	c.tb.Helper()
	for _, name := range names {
		if err := c.fetch(name); err != nil {
			c.tb.Fatal(err)
		}
	}
}

// wantRange fetches n bytes of a file.
func (c *client) wantRange(name string, off, n int) {
	c.tb.Helper()
	r, err := c.get(name, "Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	if err != nil {
		c.tb.Fatal(err)
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err != nil {
		c.tb.Fatal(err)
	}
	want := files[name].data[off : off+n]
	if r.StatusCode != 206 || sha256.Sum256(got) != sha256.Sum256(want) {
		c.tb.Fatalf("%s from %d: status %d, %d bytes, want %d", name, off, r.StatusCode, len(got), len(want))
	}
}

// atOnce fetches a file over n connections that are all in use at the same time.
func (c *client) atOnce(n int, name string) {
	c.tb.Helper()
	// Each holds its response until all have one.
	bodies, errs := make(chan io.ReadCloser, n), make(chan error, n)
	for range n {
		go func() {
			r, err := c.get(name)
			if err != nil {
				errs <- err
				return
			}
			bodies <- r.Body
		}()
	}
	all := make([]io.ReadCloser, 0, n)
	for len(all) < n {
		select {
		case b := <-bodies:
			all = append(all, b)
		case err := <-errs:
			c.tb.Fatal(err)
		}
	}
	for _, b := range all {
		go func() {
			defer b.Close()
			h := sha256.New()
			n, err := io.Copy(h, b)
			if want := files[name].sum; err == nil && !bytes.Equal(h.Sum(nil), want[:]) {
				err = fmt.Errorf("%s: %d bytes with sha256 %.6x, want %.6x", name, n, h.Sum(nil), want)
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			c.tb.Fatal(err)
		}
	}
}

// curl runs curl and returns what it wrote and how many bytes it received.
func curl(tb testing.TB, args ...string) (out []byte, received int64) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "curl", append([]string{"--silent", "--show-error", "--no-progress-meter", "--write-out", `%{stderr}received %{size_header} %{size_download}\n`}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		tb.Fatalf("curl %s: %v: %s", args[0], err, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		var header, body int64
		if n, _ := fmt.Sscanf(line, "received %d %d", &header, &body); n == 2 { // parallel transfers also tell of their progress
			received += header + body
		}
	}
	return stdout.Bytes(), received
}

// curlFiles fetches files with one curl, n times each, and compares their sums.
func curlFiles(tb testing.TB, s *server, n int, names []string, options ...string) (received int64) {
	tb.Helper()
	to := tb.TempDir()
	args := options
	for i := range n {
		for _, name := range names {
			args = append(args, s.url+name, "--output", filepath.Join(to, fmt.Sprint(name, "-", i)))
		}
	}
	_, received = curl(tb, args...)
	for i := range n {
		for _, name := range names {
			got, err := os.ReadFile(filepath.Join(to, fmt.Sprint(name, "-", i)))
			if err != nil && len(files[name].data) > 0 { // curl makes no file of nothing
				tb.Fatal(err)
			}
			if sum := sha256.Sum256(got); sum != files[name].sum {
				tb.Fatalf("curl %s: %d bytes with sha256 %.6x, want %d with %.6x", name, len(got), sum, len(files[name].data), files[name].sum)
			}
		}
	}
	return received
}

// rawConn is a connection on which a test decides about every byte.
type rawConn struct {
	tb testing.TB
	*net.TCPConn
}

// dialRaw connects; window bounds what the kernel receives without being asked, 0: its default.
func dialRaw(tb testing.TB, s *server, window int) rawConn {
	tb.Helper()
	d := net.Dialer{Control: smallWindow(window)}
	nc, err := d.Dial("tcp", s.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	return rawConn{tb, nc.(*net.TCPConn)}
}

func (c rawConn) send(s string) {
	c.tb.Helper()
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.tb.Fatal(err)
	}
}

func request(name string, fields ...string) string {
	h := "GET /" + name + " HTTP/1.1\r\nHost: test\r\n"
	for _, f := range fields {
		h += f + "\r\n"
	}
	return h + "\r\n"
}
