package main

import (
	"flag"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
)

// sourceSize is how many bytes a stream is sent from, in turn: larger than the caches. limit.c
// and giouring have the same.
const sourceSize = 64 << 20

// messages is the memory that streams are sent from. All messages have the same content, which the
// client knows.
type messages struct {
	memory []byte
	size   int
	next   atomic.Uint64 // goroutines of several connections share it
}

func newMessages(size int) *messages {
	m := &messages{memory: make([]byte, sourceSize/size*size), size: size}
	for at := 0; at < len(m.memory); at += size {
		fill(m.memory[at : at+size])
	}
	return m
}

// fill writes the content of a stream's message.
func fill(p []byte) {
	for i := range p {
		p[i] = byte(i*7 + i>>8*3 + i>>16)
	}
}

// take returns the next message.
func (m *messages) take() []byte {
	at := int((m.next.Add(1) - 1) % uint64(len(m.memory)/m.size) * uint64(m.size))
	return m.memory[at : at+m.size]
}

// servers are the subjects that are linked into this program, by name. Each serves until the
// process is killed; size is the size of a stream's message. Each listens when it is ready, and not
// before: the client's time runs from its connections on.
var servers = map[string]func(w work, addr string, size int) error{
	"sluice":  serveSluice,
	"gnet":    serveGnet,
	"netpoll": serveNetpoll,
	"net":     serveNet,
}

// serve is `peers serve`.
func serve(args []string) error {
	f := flag.NewFlagSet("serve", flag.ExitOnError)
	name := f.String("subject", "", "the library: sluice, gnet, netpoll or net")
	kind := f.String("work", "echo", "echo or stream")
	addr := f.String("addr", "", "host:port to listen on")
	size := f.Int("size", 64, "bytes in a message of a stream")
	procs := f.Int("procs", 0, "GOMAXPROCS; 0: as the environment says")
	_ = f.Parse(args) // ends the program on error
	server, ok := servers[*name]
	switch {
	case !ok:
		return fmt.Errorf("no subject %q is linked in: there are sluice, gnet, netpoll and net", *name)
	case *kind != string(echo) && *kind != string(stream):
		return fmt.Errorf("work %q: it is %s or %s", *kind, echo, stream)
	case *size < 1 || *size > sourceSize:
		return fmt.Errorf("messages of %d bytes: they may have 1 to %d", *size, sourceSize)
	}
	if *procs > 0 {
		runtime.GOMAXPROCS(*procs)
	}
	return server(work(*kind), *addr, *size)
}

// serveNet is the standard library: a goroutine for each connection, which blocks.
func serveNet(w work, addr string, size int) error {
	var source *messages
	if w == stream {
		source = newMessages(size)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if w == stream {
				for {
					if _, err := c.Write(source.take()); err != nil {
						return
					}
				}
			}
			buf := make([]byte, 4096)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}
