//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be the servers and the client that a run starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "load") {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestEverySubjectServesEveryCellRightly(t *testing.T) {
	r := &run{rounds: 1, length: 100 * time.Millisecond, verify: true, cells: allCells(), progress: io.Discard}
	res, err := r.do(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range res.Warnings {
		t.Log(w)
	}
	for _, c := range allCells() {
		for _, s := range res.subjects {
			if s.only != "" && s.only != c.Work {
				continue
			}
			i := slices.IndexFunc(res.Cells, func(w *row) bool { return w.cell == c && w.Subject == s.name })
			if i < 0 || len(res.Cells[i].Samples) != 1 {
				t.Errorf("%s, %s: not measured once", s.name, c)
				continue
			}
			m := res.Cells[i].Samples[0]
			// What 1,000 sockets hold lasts a slow client for the whole sample, in which the server may rest.
			rests := c.Work == stream && c.Conns >= 1000
			if m.Messages <= 0 || m.Bytes == 0 || m.ServerCPU <= 0 && !rests || m.ClientCPU <= 0 || m.Seconds < 0.1 || c.Work == echo && (m.P50 <= 0 || m.P99 < m.P50) {
				t.Errorf("%s, %s: %+v", s.name, c, m)
			}
		}
	}
	for _, name := range []string{"sluice", "gnet", "netpoll", "net"} {
		if !slices.ContainsFunc(res.subjects, func(s *subject) bool { return s.name == name }) {
			t.Errorf("%s was left out", name)
		}
	}
}

// liar answers one connection with what the function makes of it.
func liar(t *testing.T, answer func(c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		answer(c)
		c.Close()
	}()
	return ln.Addr().String()
}

func TestTheClientNoticesWrongAnswers(t *testing.T) {
	percent := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(percent) }) // which load turns off
	message := make([]byte, 100)
	fill(message)
	push := func(messages ...[]byte) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Write(slices.Concat(messages...)) // the client may be gone by then
			_, _ = io.Copy(io.Discard, c)
		}
	}
	flipped := slices.Clone(message)
	flipped[99] ^= 1
	for _, test := range []struct {
		name, work, want string
		answer           func(net.Conn)
	}{
		{"another byte", "echo", "came back as 100 others", func(c net.Conn) {
			p := make([]byte, 100)
			for {
				if _, err := io.ReadFull(c, p); err != nil {
					return
				}
				p[99] ^= 1
				_, _ = c.Write(p)
			}
		}},
		{"a byte too many", "echo", "came back as 101 others", func(c net.Conn) {
			p := make([]byte, 101)
			_, _ = io.ReadFull(c, p[:100])
			_, _ = c.Write(p)
			_, _ = io.Copy(io.Discard, c)
		}},
		{"the end", "echo", "closed the connection", func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 100)) }},
		{"another byte", "stream", "content is wrong", push(message, message, flipped)},
		{"a byte too few", "stream", "content is wrong", push(message, message[:99], message)},
		{"a byte too many", "stream", "content is wrong", push(message, message, message[:1], message)},
		{"the end", "stream", "closed the connection", func(c net.Conn) { _, _ = c.Write(message) }},
	} {
		t.Run(test.work+", "+test.name, func(t *testing.T) {
			err := load([]string{"-addr", liar(t, test.answer), "-work", test.work, "-size", "100", "-verify", "-time", "2s"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
		})
	}
}

func TestTheLimitStreamsToWhomItDials(t *testing.T) {
	path, err := buildLimit(t.Context(), t.TempDir())
	if errors.Is(err, errMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	const size = 10000
	want := make([]byte, 2*size)
	fill(want[:size])
	copy(want[size:], want[:size])
	for _, mode := range []string{"send", "zc", "zcfix", "write", "sendfile"} {
		t.Run(mode, func(t *testing.T) {
			received := 0
			addr := liar(t, func(c net.Conn) {
				p := make([]byte, size)
				for {
					n, err := c.Read(p)
					if !bytes.Equal(p[:n], want[received%size:][:n]) {
						t.Errorf("the content is wrong from byte %d on", received)
						return
					}
					if received += n; err != nil {
						return // it ends, or is reset with unsent data
					}
				}
			})
			out, err := exec.Command(path, "-connect", addr, "-size", "10000", "-warm", "0.05", "-seconds", "0.1", "-mode", mode).Output()
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Bytes      int     `json:"bytes"`
				CPU        float64 `json:"cpu_seconds"`
				Seconds    float64 `json:"seconds"`
				ZeroCopied int     `json:"zero_copied"`
				Copied     int     `json:"copied"`
			}
			if err := json.Unmarshal(out, &got); err != nil || bytes.Count(out, []byte("\n")) != 1 {
				t.Fatalf("%q: %v", out, err)
			}
			if got.Bytes < size || got.Bytes%size != 0 || got.CPU <= 0 || got.CPU > 1 || got.Seconds < 0.1 || got.Seconds > 1 {
				t.Errorf("%s", out)
			}
			if notified := got.ZeroCopied+got.Copied > 0; notified != strings.HasPrefix(mode, "zc") {
				t.Errorf("%d notifications of zero-copy, %d of a copy", got.ZeroCopied, got.Copied)
			}
		})
	}
}

func TestTheLimitSaysThatItsPeerHasGone(t *testing.T) {
	path, err := buildLimit(t.Context(), t.TempDir())
	if errors.Is(err, errMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"send", "zcfix", "write", "sendfile"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		cmd := exec.CommandContext(ctx, path, "-connect", liar(t, func(net.Conn) {}), "-seconds", "20", "-mode", mode)
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil || err == nil || !strings.HasPrefix(string(out), "limit: ") {
			t.Errorf("%s: %v, %q", mode, err, out)
		}
		cancel()
	}
}

func TestTheTableComparesWithTheBestPeer(t *testing.T) {
	c := cell{echo, 64, 1}
	all := subjects()
	res := &result{subjects: []*subject{all[0], all[1], all[2], all[5]}}
	for i, cpus := range [][]float64{{3, 1, 2}, {4, 4, 5}, {6, 5, 7}, {1, 1, 1}} {
		for _, us := range cpus {
			res.add(res.subjects[i], c, sample{Messages: 1e6, Bytes: 64e6, Seconds: 2, ServerCPU: us, ClientCPU: 1, P50: 10, P99: 20})
		}
	}
	var b strings.Builder
	if err := res.print(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| sluice | 500000 (500000–500000) | 0.032 | 2.00 (1.00–3.00) | 0.50 | 31.250 | 100 % | 50 % | 10 | 20 |",
		"| gnet | 500000 (500000–500000) | 0.032 | 4.00 (4.00–5.00) | 1.00 |",
		"| limit | 500000 (500000–500000) | 0.032 | 1.00 (1.00–1.00) | 0.25 |",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no line %q in\n%s", line, b.String())
		}
	}
}

func TestCellsArePickedByName(t *testing.T) {
	picked, err := cellsMatching("echo/64/1000$|stream/1048576/1$")
	if want := []cell{{echo, 64, 1000}, {stream, 1 << 20, 1}}; err != nil || !slices.Equal(picked, want) {
		t.Errorf("%v, %v, want %v", picked, err, want)
	}
	for _, wrong := range []string{"nothing", "("} {
		if _, err := cellsMatching(wrong); err == nil {
			t.Errorf("%q picked cells", wrong)
		}
	}
}
