package main

import (
	"context"
	"net"

	"github.com/cloudwego/netpoll"
)

// serveNetpoll has one poller. An echo's handler runs on it, which its Runner option allows and
// which spares a hand-over to a goroutine: nothing blocks there while a client has one small message
// outstanding. A stream blocks in Flush, so there a goroutine of netpoll's pool runs each connection.
func serveNetpoll(w work, addr string, size int) error {
	var source *messages
	if w == stream {
		source = newMessages(size)
	}
	cfg := netpoll.Config{PollerNum: 1}
	if w == echo {
		cfg.Runner = func(_ context.Context, f func()) { f() }
	}
	if err := netpoll.Configure(cfg); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if w == stream {
		loop, err := netpoll.NewEventLoop(nil, netpoll.WithOnConnect(func(ctx context.Context, c netpoll.Connection) context.Context {
			for {
				// From 4 KiB on WriteBinary refers to the memory and does not copy it.
				if _, err := c.Writer().WriteBinary(source.take()); err != nil {
					return ctx
				}
				if err := c.Writer().Flush(); err != nil {
					return ctx
				}
			}
		}))
		if err != nil {
			return err
		}
		return loop.Serve(ln)
	}
	loop, err := netpoll.NewEventLoop(func(_ context.Context, c netpoll.Connection) error {
		r, w := c.Reader(), c.Writer()
		p, err := r.Next(r.Len())
		if err != nil {
			return err
		}
		out, err := w.Malloc(len(p))
		if err != nil {
			return err
		}
		copy(out, p)
		if err := r.Release(); err != nil {
			return err
		}
		return w.Flush()
	})
	if err != nil {
		return err
	}
	return loop.Serve(ln)
}
