package main

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"sluice/engine"
	"sluice/internal/metrics"
)

const (
	// adminRead is how long a request may take to arrive, adminWrite to be answered: longer than
	// a scrape waits for a loop.
	adminRead  = 5 * time.Second
	adminWrite = 15 * time.Second
	// adminIdle keeps the connection of a Prometheus that scrapes once a minute.
	adminIdle = 2 * time.Minute
	// adminHead bounds a request's head, in bytes.
	adminHead = 8 << 10
	// adminEnd is how long a scrape may finish after the drain.
	adminEnd = time.Second
)

// admin is the server for operators, on an address of its own. The nil admin is off.
type admin struct {
	ln       net.Listener
	http     http.Server
	draining atomic.Bool
}

// listenAdmin takes the address, or none for "". Requests wait until serve.
func listenAdmin(addr string) (*admin, error) {
	if addr == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w: choose another address with --admin", err)
	}
	return &admin{ln: ln}, nil
}

// serve answers from now on.
func (a *admin) serve(log zerolog.Logger, stats func() engine.Stats) {
	if a == nil {
		return
	}
	a.http = http.Server{
		Handler: a.pages(stats), ErrorLog: stdlog.New(log, "", 0), MaxHeaderBytes: adminHead,
		ReadTimeout: adminRead, ReadHeaderTimeout: adminRead, WriteTimeout: adminWrite, IdleTimeout: adminIdle,
	}
	log.Info().Msgf("metrics on http://%s/metrics", a.ln.Addr())
	go func() { _ = a.http.Serve(a.ln) }() // until close
}

// pages is what there is to see.
func (a *admin) pages(stats func() engine.Stats) http.Handler {
	mux := http.NewServeMux()
	text := func(path string, page func(w http.ResponseWriter)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			page(w)
		})
	}
	mux.Handle("GET /metrics", metrics.Handler(stats))
	text("/healthz", func(w http.ResponseWriter) {
		if a.draining.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "draining\n")
			return
		}
		_, _ = io.WriteString(w, "serving\n")
	})
	text("/pins", func(w http.ResponseWriter) { _, _ = io.WriteString(w, pins(stats())) })
	text("/paths", func(w http.ResponseWriter) { _, _ = io.WriteString(w, paths(stats())) })
	text("/{$}", func(w http.ResponseWriter) {
		_, _ = io.WriteString(w, `uringserve
/metrics  counters and histograms, for Prometheus
/healthz  200 while serving, 503 while draining
/pins     what zero-copy sends pin, and for which peer longest
/paths    what the loops have learned of where zero-copy pays
`)
	})
	return mux
}

// pins says who pins. A peer is no label of a metric: there would be a series for each.
func pins(s engine.Stats) string {
	out := fmt.Sprintf("pinned: %d of %d bytes\n", s.Pinned, s.MaxPinned)
	if p := s.OldestPin; p.Age > 0 {
		out += fmt.Sprintf("oldest: %d bytes for %v, to %v\n", p.Bytes, p.Age, p.Peer)
	}
	return out
}

// paths says what was learned, a line for each loop and path.
func paths(s engine.Stats) string {
	if len(s.Paths) == 0 {
		return "nothing is learned: the policy is fixed, or nobody has connected\n"
	}
	var out strings.Builder
	for _, p := range s.Paths {
		to, from := "other hosts", fmt.Sprintf("from %d bytes", p.Threshold)
		if p.Local {
			to = "this host"
		}
		switch {
		case p.Copies:
			from = "never, the kernel copies anyway"
		case p.Threshold < 0:
			from = "never"
		}
		fmt.Fprintf(&out, "loop %d, to %s by %q: zero-copy %s; %d trials, %d changed it, %d probes\n", p.Loop, to, p.Device, from, p.Trials, p.Switches, p.Probes)
	}
	return out.String()
}

// drain has health checks fail, so that no more work comes.
func (a *admin) drain() {
	if a != nil {
		a.draining.Store(true)
	}
}

// close ends the server after the scrape that is being answered.
func (a *admin) close() {
	if a == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminEnd)
	defer cancel()
	if a.http.Shutdown(ctx) != nil {
		_ = a.http.Close()
	}
	_ = a.ln.Close() // where it was never served from
}
