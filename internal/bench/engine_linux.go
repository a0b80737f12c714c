package bench

import (
	"context"
	"fmt"
	"os"
	"time"

	"sluice/bufreg"
	"sluice/engine"
)

// engine sends by this project's engine as an embedder would: leased buffers, or a file, one connection,
// default settings but for room. Its warm-up is longer because it learns.
func (s *sending) engine() error {
	piece := min(s.Size, bufreg.MaxBuffer)
	cfg := engine.Config{Loops: 1, CPUs: []int{s.CPU}, HighWater: max(1<<20, 2*s.Size)}
	if s.file < 0 {
		// Twice what is leased: past a half, the engine keeps what is left for peers that read.
		cfg.ArenaSize = 2 * max(s.last, bufreg.MaxBuffer)
	}
	eng, err := engine.New(cfg)
	if err != nil {
		return err
	}
	h := &engineSender{s: s, eng: eng, piece: piece, done: make(chan error, 1)}
	if s.file >= 0 {
		f, err := os.Open(s.File)
		if err != nil {
			return err
		}
		h.file = engine.NewFile(f)
	} else if err := h.lease(); err != nil {
		return err
	}
	s.start()
	err = eng.Dial(context.Background(), "tcp", s.Addr, func(c *engine.Conn) engine.Handler {
		if s.KTLS {
			h.err = encrypt(c.FD())
		}
		c.Post(h.Writable)
		return h
	})
	if err != nil {
		return err
	}
	if err := <-h.done; err != nil {
		return err
	}
	// Of the whole run: a handler cannot ask.
	sends := eng.Stats().Sends
	s.sample.ZeroCopied, s.sample.Copied = sends.NotifiedZeroCopy, sends.NotifiedCopied
	return nil
}

// engineSender keeps its connection's queue filled.
type engineSender struct {
	s     *sending
	eng   *engine.Engine
	slabs []bufreg.Buffer // of bufreg.MaxBuffer, or one that is smaller
	piece int             // bytes of a send
	file  *engine.File
	err   error
	done  chan error

	closing bool
}

// lease takes the source's memory, and fills it.
func (h *engineSender) lease() error {
	for left := h.s.last; left > 0; left -= bufreg.MaxBuffer {
		b, err := h.eng.Lease(min(left, bufreg.MaxBuffer))
		if err != nil {
			return fmt.Errorf("lease the source: %w", err)
		}
		for p := b.Bytes(); len(p) > 0; p = p[min(len(p), len(pattern)):] {
			copy(p, pattern[:])
		}
		h.slabs = append(h.slabs, b)
	}
	return nil
}

func (h *engineSender) Received(_ *engine.Conn, p []byte) int { return len(p) }

func (h *engineSender) Writable(c *engine.Conn) {
	for h.err == nil && !c.Congested() && !h.s.over {
		h.err = h.send(c)
	}
	if h.err != nil || h.s.over {
		h.close(c)
	}
}

// tlsFlush is how long kTLS has to hand its last records to TCP, whose peer reads all the time.
const tlsFlush = 100 * time.Millisecond

// close ends the connection in order. kTLS keeps records that TCP had no room for, and a shutdown does not wait for
// them: what was accepted would be lost, and the socket fail with EPIPE (seen on 6.12).
func (h *engineSender) close(c *engine.Conn) {
	switch {
	case h.err != nil || !h.s.KTLS:
		c.Close()
	case !h.closing:
		h.closing = true
		c.Report(func(engine.Report) {
			time.AfterFunc(tlsFlush, func() { c.Post((*engine.Conn).Close) })
		})
	}
}

// send queues the next bytes of the source.
func (h *engineSender) send(c *engine.Conn) error {
	off, err := h.s.advance()
	if err != nil {
		return err
	}
	if h.file != nil {
		err = c.SendFile(h.file.Retain(), int64(off), int64(h.s.Size))
	} else {
		for end := off + h.s.Size; off < end && err == nil; off += h.piece {
			slab := h.slabs[off/bufreg.MaxBuffer]
			err = c.Send(slab.View(off%bufreg.MaxBuffer, h.piece).Retain())
		}
	}
	if err == nil {
		h.s.sent(h.s.Size)
	}
	return err
}

func (h *engineSender) Closed(_ *engine.Conn, err error) {
	if h.err != nil {
		err = h.err
	}
	h.done <- err
}
