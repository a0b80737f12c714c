// Command stalled measures what connections that stop reading cost those that read: 64 clients fetch a file
// of 256 KiB from uringserve, alone, and then beside 1,000 that have asked for 64 MiB, read some of it, and read no
// more. The server has one loop on processor 0, and the clients have processor 1.
//
//	make build && go run ./integration/stalled [-rounds 3]
//
// A figure of one round is the rate beside the stalled connections, in parts of the rate before they came. It
// says nothing about the routes: over loopback the kernel copies what is sent by zero-copy.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readers  = 64
	fileSize = 256 << 10
	bigSize  = 64 << 20
)

func main() {
	rounds := flag.Int("rounds", 3, "rounds; the median is printed")
	seconds := flag.Int("seconds", 3, "length of one measurement")
	stalled := flag.Int("stalled", 1000, "connections that stop reading")
	after := flag.Int64("after", 2<<20, "bytes that each of them reads before")
	binary := flag.String("uringserve", "bin/uringserve", "the program")
	threshold := flag.String("zc-threshold", "1", "its --zc-threshold: 1 has all sends be zero-copy, and pin memory")
	client := flag.String("client", "", "be the client of this address")
	flag.Parse()
	var err error
	if *client != "" {
		err = clients(*client, *stalled, *after, time.Duration(*seconds)*time.Second)
	} else {
		err = run(*binary, *threshold, *rounds)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run has each round's clients be a process of their own, on a processor of its own.
func run(binary, threshold string, rounds int) error {
	dir, err := os.MkdirTemp("", "stalled")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, size := range map[string]int64{"file": fileSize, "big": bigSize} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, size)); err != nil {
			return err
		}
	}
	srv := exec.Command(binary, "serve", dir, "--listen", "127.0.0.1:0", "--loops", "1", "--cpus", "0", "--zc-threshold", threshold)
	out, err := srv.StderrPipe()
	if err != nil {
		return err
	}
	if err := srv.Start(); err != nil {
		return err
	}
	defer func() { srv.Process.Signal(os.Interrupt); srv.Wait() }()
	addr, err := listening(out)
	if err != nil {
		return err
	}
	var ratios []float64
	for i := range rounds {
		cmd := exec.Command("taskset", append([]string{"-c", "1", os.Args[0], "-client", addr}, os.Args[1:]...)...)
		cmd.Stderr = os.Stderr
		text, err := cmd.Output()
		if err != nil {
			return err
		}
		var alone, beside float64
		if _, err := fmt.Sscan(string(text), &alone, &beside); err != nil {
			return fmt.Errorf("the clients said %q: %w", text, err)
		}
		fmt.Printf("round %d: %.0f responses/s alone, %.0f beside: %.3f\n", i+1, alone, beside, beside/alone)
		ratios = append(ratios, beside/alone)
	}
	slices.Sort(ratios)
	fmt.Printf("median %.3f, from %.3f to %.3f\n", ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
	return nil
}

// listening finds the address in the server's start-up lines, and has the rest of them read.
func listening(out io.Reader) (string, error) {
	in := bufio.NewScanner(out)
	for in.Scan() {
		if _, addr, ok := strings.Cut(in.Text(), "http://"); ok {
			go io.Copy(io.Discard, out)
			return strings.TrimRight(strings.Fields(addr)[0], "/,"), nil
		}
	}
	return "", errors.New("the server does not say where it listens")
}

func clients(addr string, stalled int, after int64, d time.Duration) error {
	if _, err := rate(addr, d/3); err != nil { // a warm-up
		return err
	}
	alone, err := rate(addr, d)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make(chan error, stalled)
	for range stalled {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		all.Go(func() {
			_, err := io.WriteString(c, "GET /big HTTP/1.1\r\nHost: stalled\r\n\r\n")
			if err == nil {
				_, err = io.CopyN(io.Discard, c, after)
			}
			errs <- err
		})
	}
	all.Wait()
	for range stalled {
		if err := <-errs; err != nil {
			return err
		}
	}
	time.Sleep(time.Second) // the sockets fill
	beside, err := rate(addr, d)
	fmt.Println(alone, beside)
	return err
}

// rate has the readers fetch for a while, and returns their responses a second.
func rate(addr string, d time.Duration) (float64, error) {
	var n atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, readers)
	began := time.Now()
	for range readers {
		all.Go(func() { errs <- fetch(addr, began.Add(d), &n) })
	}
	all.Wait()
	for range readers {
		if err := <-errs; err != nil {
			return 0, err
		}
	}
	return float64(n.Load()) / time.Since(began).Seconds(), nil
}

func fetch(addr string, stop time.Time, n *atomic.Int64) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	in, body := bufio.NewReaderSize(c, 4096), make([]byte, fileSize)
	for time.Now().Before(stop) {
		if _, err := io.WriteString(c, "GET /file HTTP/1.1\r\nHost: stalled\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK || resp.ContentLength != fileSize {
			return fmt.Errorf("a response of %d bytes: %s", resp.ContentLength, resp.Status)
		}
		n.Add(1)
	}
	return nil
}
