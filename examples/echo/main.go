// Command echo is the smallest server on the engine: it sends back what it receives.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"

	"sluice/engine"
)

// echo is a handler. It holds no state of its own: what does not fit the send queue stays
// unconsumed and is presented again.
type echo struct{}

func (echo) Received(c *engine.Conn, p []byte) int {
	if c.Congested() {
		return 0 // the peer sends faster than it reads: stop reading too
	}
	n, _ := c.Write(p) // what was not taken is presented again, after Writable
	return n
}

func (echo) Writable(c *engine.Conn) { c.Resume() }

func (echo) Closed(*engine.Conn, error) {}

func main() {
	listen := flag.String("listen", "127.0.0.1:9000", "address to listen on")
	loops := flag.Int("loops", 1, "number of loops")
	flag.Parse()
	eng, err := engine.New(engine.Config{Loops: *loops})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := eng.Listen("tcp", *listen, func(*engine.Conn) engine.Handler { return echo{} })
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("echo on %s", ln.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := eng.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
