package main

import (
	"sync"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
)

// serveGnet has one event loop, which also accepts (ReusePort).
func serveGnet(w work, addr string, size int) error {
	h := &gnetHandler{}
	if w == stream {
		h.source = newMessages(size)
	}
	return gnet.Run(h, "tcp://"+addr, gnet.WithOptions(gnet.Options{
		NumEventLoop:  1,
		ReusePort:     true,
		LockOSThread:  true,
		ReadBufferCap: 64 << 10,
		TCPNoDelay:    gnet.TCPNoDelay,
		Ticker:        w == stream,
		LogLevel:      logging.ErrorLevel,
	}))
}

const (
	// gnetTurn is how many bytes a connection writes before the others have their turn.
	gnetTurn = 1 << 20
	// gnetTick is how often connections with full sockets are looked at.
	gnetTick = 200 * time.Microsecond
)

// gnetHandler echoes, or streams. gnet does not tell when a full socket has room again, and Write
// then keeps what it is given without a limit. So a stream writes until gnet keeps something, and
// goes on when OnTick finds that gone: the socket has enough to bridge the time.
type gnetHandler struct {
	gnet.BuiltinEventEngine
	source *messages

	mu   sync.Mutex
	full []gnet.Conn // sockets that were full
}

func (h *gnetHandler) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	if h.source != nil {
		return nil, h.push(c)
	}
	return nil, gnet.None
}

func (h *gnetHandler) OnTraffic(c gnet.Conn) gnet.Action {
	if h.source != nil {
		return h.push(c) // a Wake, of an open connection: clients of a stream send nothing
	}
	p, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	if _, err := c.Write(p); err != nil {
		return gnet.Close
	}
	return gnet.None
}

// push writes until the socket is full, or the turn is over. Messages are written whole: in pieces of
// 64 KiB, of which gnet would have to copy less, messages of 1 MiB cost 1.6 times as much.
func (h *gnetHandler) push(c gnet.Conn) gnet.Action {
	for n := 0; n < gnetTurn && c.OutboundBuffered() == 0; {
		k, err := c.Write(h.source.take())
		if err != nil {
			return gnet.Close
		}
		n += k
	}
	if c.OutboundBuffered() > 0 {
		h.mu.Lock()
		h.full = append(h.full, c)
		h.mu.Unlock()
	} else if err := c.Wake(nil); err != nil {
		return gnet.Close
	}
	return gnet.None
}

func (h *gnetHandler) OnTick() (time.Duration, gnet.Action) {
	h.mu.Lock()
	full := h.full
	h.full = nil
	h.mu.Unlock()
	for _, c := range full {
		_ = c.Wake(nil) // of a connection that has closed: nothing happens
	}
	return gnetTick, gnet.None
}
