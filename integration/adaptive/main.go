//go:build linux

// Command adaptive measures what the adaptive policy costs beside the two fixed ones, always to copy and always to send
// by zero-copy: CPU seconds per GB of one connection from leased buffers, hot and out of the processor's cache.
// Three engines in one process take turns, a tenth of a second or so each, so that what else the machine does
// meets all of them. It begins when the adaptive one has settled.
//
//	go build -o bin/ ./integration/adaptive
//	sudo bin/uringserve bench wire -- bin/adaptive 10.77.0.2:9      # zero-copy is real, the sender alone is measured
//	bin/adaptive loopback                                           # the kernel copies what is sent by zero-copy
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/internal/bench"
	"sluice/zc"
)

const (
	coldMemory = 64 << 20 // more than the last-level cache, with what else is in it
	hotMemory  = 256 << 10
)

// policies in the order of the table's columns.
var policies = []zc.Policy{{Mode: zc.Off}, {Mode: zc.Fixed, Threshold: 1}, {}}

func main() {
	rounds := flag.Int("rounds", 40, "turns of each policy that are measured")
	turn := flag.Duration("turn", 100*time.Millisecond, "about how long a turn is")
	settle := flag.Duration("settle", 4*time.Second, "how long the adaptive policy has to settle before")
	sizes := flag.String("sizes", "1024,4096,16384,65536,262144,1048576", "bytes of a buffer, with commas")
	alone := flag.Bool("alone", false, "send buffers one by one, the next when the socket has the last: by default up to three leave together")
	if n := len(bench.ChildArgs); len(os.Args) > n && slices.Equal(os.Args[1:n+1], bench.ChildArgs) { // Loopback's receiver
		if err := bench.Child(os.Args[n+1:], os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	flag.Parse()
	if flag.NArg() != 1 || *rounds < 1 {
		log.Fatal("usage: adaptive [flags] ADDR|loopback")
	}
	addr := flag.Arg(0)
	if addr == "loopback" {
		_, peer := bench.Processors()
		place, err := bench.Loopback(context.Background(), peer)
		if err != nil {
			log.Fatal(err)
		}
		defer place.Close() // which a fatal end does as well: it is the end of the receiver's standard input
		addr = place.Addr
	}
	fmt.Println("| bytes a buffer | source | copy | zero-copy | adaptive | of the better |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, text := range strings.Split(*sizes, ",") {
		size, err := strconv.Atoi(text)
		if err != nil || size < 1 || size > bufreg.MaxBuffer {
			log.Fatalf("-sizes %s: use numbers from 1 to %d", text, bufreg.MaxBuffer)
		}
		for _, memory := range []int{coldMemory, hotMemory} {
			if err := measure(addr, size, max(memory, size), *alone, *rounds, *turn, *settle); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// measure prints a row of the table.
func measure(addr string, size, memory int, alone bool, rounds int, turn, settle time.Duration) error {
	var senders []*sender
	for _, p := range policies {
		s, err := newSender(addr, p, size, memory, alone)
		if err != nil {
			return err
		}
		senders = append(senders, s)
	}
	adaptive := senders[2]
	// The rate at which it settles says how much is a turn.
	began, sent := time.Now(), int64(0)
	for step := int64(1 << 20); time.Since(began) < settle; sent += step {
		if step < 64<<20 && sent > 4*step {
			step *= 2
		}
		if _, err := adaptive.send(step); err != nil {
			return err
		}
	}
	amount := int64(size) + int64(float64(sent)*turn.Seconds()/time.Since(began).Seconds())
	samples := make([][]float64, len(senders))
	for round := range rounds + 1 {
		for i := range senders {
			at := (i + round) % len(senders)
			cost, err := senders[at].send(amount)
			if err != nil {
				return err
			}
			if round > 0 { // the first is a warm-up
				samples[at] = append(samples[at], cost)
			}
		}
	}
	for _, s := range senders {
		if err := s.end(); err != nil {
			return err
		}
	}
	better := samples[0]
	if median(samples[1]) < median(samples[0]) {
		better = samples[1]
	}
	var ratios []float64
	for i, cost := range samples[2] {
		ratios = append(ratios, cost/better[i])
	}
	source := "hot"
	if memory == coldMemory {
		source = "cold"
	}
	fmt.Printf("| %d | %s | %s | %s | %s | %.3f |\n", size, source, spread(samples[0]), spread(samples[1]), spread(samples[2]), median(ratios))
	return nil
}

func median(v []float64) float64 { return bench.SpreadOf(v).Median }

// spread is the median and the quartiles.
func spread(v []float64) string {
	v = slices.Sorted(slices.Values(v))
	return fmt.Sprintf("%.4f (%.4f–%.4f)", v[len(v)/2], v[len(v)/4], v[len(v)*3/4])
}

// sender is an engine with one connection, which sends when it is told to.
type sender struct {
	eng     *engine.Engine
	conn    *engine.Conn
	buffers []bufreg.Buffer
	next    int
	left    int64
	told    bool
	done    chan error
}

func newSender(addr string, p zc.Policy, size, memory int, alone bool) (*sender, error) {
	cpu, _ := bench.Processors()
	cfg := engine.Config{
		Loops: 1, CPUs: []int{cpu}, Policy: p, ArenaSize: 2 * memory * max(1, bufreg.MinBuffer/size),
		HighWater: 2 * size, LowWater: size + 1, MaxQueued: 64 << 20, IdleTimeout: -1,
	}
	if alone {
		cfg.HighWater, cfg.LowWater = max(1, size-1), 1
	}
	eng, err := engine.New(cfg)
	if err != nil {
		return nil, err
	}
	s := &sender{eng: eng, done: make(chan error, 1)}
	for range max(1, memory/size) {
		b, err := eng.Lease(size)
		if err != nil {
			return nil, err
		}
		for i, p := 0, b.Bytes(); i < len(p); i++ {
			p[i] = byte(i * 7)
		}
		s.buffers = append(s.buffers, b)
	}
	err = eng.Dial(context.Background(), "tcp", addr, func(c *engine.Conn) engine.Handler {
		s.conn = c
		c.Post(func(*engine.Conn) { s.done <- nil })
		return s
	})
	if err != nil {
		return nil, err
	}
	return s, <-s.done
}

// send sends so many bytes, waits until they have left, and returns CPU seconds per GB.
func (s *sender) send(bytes int64) (cost float64, err error) {
	before := cpuTime()
	size := int64(s.buffers[0].Len())
	bytes = (bytes + size - 1) / size * size
	s.conn.Post(func(c *engine.Conn) {
		s.left, s.told = bytes, false
		s.Writable(c)
	})
	err = <-s.done
	return (cpuTime() - before).Seconds() / (float64(bytes) / 1e9), err
}

// end closes the connection and the engine.
func (s *sender) end() error {
	for _, b := range s.buffers {
		b.Release()
	}
	return s.eng.Shutdown(context.Background())
}

func (s *sender) Received(_ *engine.Conn, p []byte) int { return len(p) }

func (s *sender) Writable(c *engine.Conn) {
	for s.left > 0 && !c.Congested() {
		b := s.buffers[s.next]
		s.next = (s.next + 1) % len(s.buffers)
		s.left -= int64(b.Len())
		if err := c.Send(b.Retain()); err != nil {
			return // Closed says why
		}
	}
	if s.left <= 0 && !s.told {
		s.told = true
		c.Report(func(r engine.Report) { s.done <- r.Err }) // when what is queued last has left
	}
}

func (s *sender) Closed(_ *engine.Conn, err error) {
	select {
	case s.done <- cmp.Or(err, io.EOF):
	default:
	}
}

// cpuTime is what the process has used, in user and kernel mode.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		log.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
