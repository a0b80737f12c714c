package main

import (
	"sluice/bufreg"
	"sluice/engine"
)

// serveSluice is the engine, used as examples/echo and examples/stream do.
func serveSluice(w work, addr string, size int) error {
	cfg := engine.Config{Loops: 1, IdleTimeout: -1}
	var newHandler func(*engine.Conn) engine.Handler
	source := &leased{}
	if w == echo {
		newHandler = func(*engine.Conn) engine.Handler { return echoHandler{} }
	} else {
		cfg.ArenaSize = sourceSize + 2*bufreg.MaxBuffer
		cfg.HighWater = max(1<<20, 2*size)
		cfg.LowWater = cfg.HighWater / 2
		newHandler = func(c *engine.Conn) engine.Handler {
			s := &streamer{source}
			c.Post(s.Writable)
			return s
		}
	}
	eng, err := engine.New(cfg)
	if err != nil {
		return err
	}
	if w == stream {
		for range sourceSize / max(size, bufreg.MinBuffer) {
			b, err := eng.Lease(size)
			if err != nil {
				return err
			}
			fill(b.Bytes())
			source.buffers = append(source.buffers, b)
		}
	}
	if _, err := eng.Listen("tcp", addr, newHandler); err != nil {
		return err
	}
	select {}
}

// echoHandler sends back what it receives; what the queue does not take stays unconsumed.
type echoHandler struct{}

func (echoHandler) Received(c *engine.Conn, p []byte) int {
	if c.Congested() {
		return 0
	}
	n, _ := c.Write(p) // what was not taken is presented again
	return n
}

func (echoHandler) Writable(c *engine.Conn) { c.Resume() }

func (echoHandler) Closed(*engine.Conn, error) {}

// leased is registered memory that all connections send from, in turn.
type leased struct {
	buffers []bufreg.Buffer
	next    int
}

// streamer keeps its connection's queue above the low-water mark.
type streamer struct{ source *leased }

func (s *streamer) Received(_ *engine.Conn, p []byte) int { return len(p) }

func (s *streamer) Writable(c *engine.Conn) {
	for !c.Congested() {
		b := s.source.buffers[s.source.next]
		if s.source.next++; s.source.next == len(s.source.buffers) {
			s.source.next = 0
		}
		if c.Send(b.Retain()) != nil {
			return // closed
		}
	}
}

func (s *streamer) Closed(*engine.Conn, error) {}
