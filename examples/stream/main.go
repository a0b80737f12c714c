// Command stream dials an address and sends it bytes from leased buffers as fast as it
// takes them, over any number of connections, and prints what that cost.
//
//	stream -size 262144 -total 8 10.0.0.2:9
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"syscall"
	"time"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/zc"
)

// source is the memory that all connections of a run send from, in turn: large enough not
// to be hot in the cache.
type source struct {
	buffers []bufreg.Buffer
	next    int
	left    int64
	warm    int64 // of left: what is sent before measuring begins
	begin   func()
}

// streamer keeps its connection's queue above the low-water mark until the source is dry.
type streamer struct {
	src  *source
	done chan<- error
}

func (s *streamer) Received(_ *engine.Conn, p []byte) int { return len(p) }

func (s *streamer) Writable(c *engine.Conn) {
	for s.src.left > 0 && !c.Congested() {
		b := s.src.buffers[s.src.next]
		s.src.next = (s.src.next + 1) % len(s.src.buffers)
		s.src.left -= int64(b.Len())
		if s.src.warm > 0 {
			if s.src.warm -= int64(b.Len()); s.src.warm <= 0 {
				s.src.begin()
			}
		}
		if err := c.Send(b.Retain()); err != nil {
			return
		}
	}
	if s.src.left <= 0 {
		c.Close()
	}
}

func (s *streamer) Closed(_ *engine.Conn, err error) { s.done <- err }

func main() {
	size := flag.Int("size", 256<<10, "bytes in a buffer, 1 to 1048576")
	memory := flag.Int("memory", 64<<20, "bytes of source memory")
	total := flag.Float64("total", 4, "GB to send")
	warm := flag.Float64("warm", 0, "GB to send before measuring begins")
	conns := flag.Int("conns", 1, "connections")
	threshold := flag.Int("zc-threshold", -1, "zero-copy from this many bytes; -1: decided by kernel and path")
	huge := flag.Bool("huge-pages", false, "keep the source in huge pages: for devices with BIG TCP")
	flag.Parse()
	if flag.NArg() != 1 || *size < 1 || *size > bufreg.MaxBuffer || *conns < 1 {
		log.Fatal("usage: stream [flags] host:port")
	}
	cfg := engine.Config{Loops: 1, HugePages: *huge, ArenaSize: 2 * max(*memory, *size) * max(1, bufreg.MinBuffer / *size), HighWater: 2 * *size, LowWater: *size + 1, MaxQueued: 64 << 20}
	if *threshold >= 0 {
		cfg.Policy = zc.Policy{Mode: zc.Fixed, Threshold: *threshold}
	}
	if err := run(cfg, flag.Arg(0), *size, *memory, int64(*total*1e9), int64(*warm*1e9), *conns); err != nil {
		log.Fatal(err)
	}
}

func run(cfg engine.Config, addr string, size, memory int, total, warm int64, conns int) error {
	eng, err := engine.New(cfg)
	if err != nil {
		return err
	}
	src := &source{left: warm + total, warm: warm}
	for range max(1, memory/size) {
		b, err := eng.Lease(size)
		if err != nil {
			return err
		}
		for i, p := 0, b.Bytes(); i < len(p); i++ {
			p[i] = byte(i * 7)
		}
		src.buffers = append(src.buffers, b)
	}
	began, cpu := time.Now(), cpuTime()
	src.begin = func() { began, cpu = time.Now(), cpuTime() }
	done := make(chan error, conns)
	for range conns {
		err := eng.Dial(context.Background(), "tcp", addr, func(c *engine.Conn) engine.Handler {
			s := &streamer{src, done}
			c.Post(s.Writable)
			return s
		})
		if err != nil {
			return err
		}
	}
	for range conns {
		if err := <-done; err != nil {
			return err
		}
	}
	took, used := time.Since(began), cpuTime()-cpu
	for _, b := range src.buffers {
		b.Release()
	}
	if err := eng.Shutdown(context.Background()); err != nil {
		return err
	}
	s := eng.Stats()
	zero, copied := s.Sends.Total(zc.ZeroCopy), s.Sends.Total(zc.Copy)
	gb := float64(total) / 1e9
	fmt.Printf("%d bytes a buffer, %d connections: %.2f GB, %.2f GB/s, %.4f CPU s/GB; sends: %d zero-copy, %d copy; notifications: %d zero-copied, %d copied; enters %d\n",
		size, conns, gb, gb/took.Seconds(), used.Seconds()/gb, zero.Sends, copied.Sends, s.Sends.NotifiedZeroCopy, s.Sends.NotifiedCopied, s.Enters)
	for _, p := range s.Paths {
		fmt.Printf("loop %d, device %q, local %v: zero-copy from %d bytes (-1: never), copies %v; %d trials, %d switches, last challenger at %.3f of the cost\n",
			p.Loop, p.Device, p.Local, p.Threshold, p.Copies, p.Trials, p.Switches, p.Ratio)
	}
	return nil
}

// cpuTime is what the process has used, in user and kernel mode.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		log.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
