//go:build linux

package engine

import (
	"bytes"
	"testing"
)

// FuzzInput checks that a handler is shown every byte once and in order, in whatever pieces they
// arrive and however many of them it consumes at a time. An appetite is how many that is;
// with none it asks to be shown the same again, like one that waits for something else.
//
// It is over TCP, because a multishot receive from a unix socket may miss the end of the stream
// (liburing issue 1549).
func FuzzInput(f *testing.F) {
	f.Add([]byte{200, 1, 255, 3}, []byte{1, 0, 7, 255})
	f.Add([]byte{1, 1, 1, 1, 1}, []byte{0, 0, 3})
	f.Add(bytes.Repeat([]byte{255}, 100), []byte{0, 0, 0, 0, 0, 0, 0, 1, 255})
	f.Add([]byte{7}, []byte{})
	e := newEngine(f, Config{InputLimit: recvBufferSize})
	handlers, ended := make(chan Handler, 1), make(chan error, 1)
	ln := listen(f, e, func(*Conn) Handler { return <-handlers })
	f.Fuzz(func(t *testing.T, pieces, appetites []byte) {
		const scale = 100 // so that a piece may exceed a receive buffer, and several the limit
		if len(pieces) > 256 || len(appetites) > 1024 {
			return
		}
		var consumed, left []byte
		h := &eofHandler{handler: handler{ended: ended}, eof: (*Conn).Close}
		h.received = func(c *Conn, p []byte) int {
			if !bytes.HasPrefix(p, left) {
				t.Errorf("after %d bytes the unconsumed %d are not presented again", len(consumed), len(left))
			}
			n := len(p)
			if len(appetites) > 0 {
				n, appetites = min(n, int(appetites[0])*scale), appetites[1:]
			}
			consumed = append(consumed, p[:n]...)
			left = append(left[:0], p[n:]...)
			if len(left) > 0 {
				c.Resume()
			}
			return n
		}
		handlers <- h
		p := dial(t, ln.Addr(), 0)
		said := 0
		for _, n := range pieces {
			p.say(poolBytes(said, int(n)*scale))
			said += int(n) * scale
		}
		p.closeWrite()
		if err := await(t, ended, "the end"); err != nil {
			t.Errorf("the connection ended with %v", err)
		}
		p.Close()
		if all := append(consumed, left...); !bytes.Equal(all, poolBytes(0, said)) {
			t.Errorf("the handler was shown %d bytes that are not the %d that were said", len(all), said)
		}
	})
}
