//go:build linux

package faults

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"sluice/engine"
	"sluice/internal/leak"
)

// An hour's worth is about -soak 100000000 -timeout 2h.
var soakRequests = flag.Int("soak", 200_000, "requests of TestSoak")

// footprint is what the process's memory comes to.
type footprint struct{ heap, resident int64 }

// memory measures what is in use, and not what the collector has yet to free.
func memory() (f footprint) {
	runtime.GC()
	debug.FreeOSMemory() // a second collection, for what finalizers let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f.heap = int64(m.HeapAlloc)
	status, err := os.ReadFile("/proc/self/status")
	must(err)
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			_, err := fmt.Sscan(string(rest), &f.resident)
			must(err)
			f.resident <<= 10
		}
	}
	return f
}

// TestSoak has connections of all lifetimes ask for files of all sizes, and compares what the
// process holds after a third of the requests with what it holds at the end.
func TestSoak(t *testing.T) {
	requests := *soakRequests
	if race {
		requests /= 10 // it takes about ten times as long
	}
	for _, p := range policies[1:] {
		t.Run(p.name, func(t *testing.T) {
			s := serveFiles(t, engine.Config{Policy: p.policy, Loops: 2})
			n := requests / (len(policies) - 1)
			for range 20 { // on each loop at least one, which then keeps every file open
				c := s.dial(t, 0)
				for name := range site.files {
					if err := c.fetch(name); err != nil {
						t.Fatal(err)
					}
				}
				c.Close()
			}
			soak(t, s, n/3, 1)
			first := settled(s)
			began := time.Now()
			soak(t, s, n-n/3, 2)
			last := settled(s)
			t.Logf("%d requests, the last two thirds in %v: %d KiB of heap and %d resident, then %d and %d", n, time.Since(began).Round(time.Millisecond),
				first.heap>>10, first.resident>>10, last.heap>>10, last.resident>>10)
			// The heap is exact, but for what the runtime and the clients happen to keep; what is
			// resident may lie in half-empty spans. A KiB lost with every hundredth request shows.
			heap, resident := int64(512<<10), int64(8<<20)
			if race {
				heap, resident = heap*4, resident*8 // the detector's own
			}
			if grown := last.heap - first.heap; grown > heap {
				t.Errorf("the heap grew by %d bytes", grown)
			}
			if grown := last.resident - first.resident; grown > resident {
				t.Errorf("resident memory grew by %d bytes", grown)
			}
			if len(last.Files) != len(first.Files) || last.Goroutines != first.Goroutines {
				t.Errorf("%d descriptors and %d goroutines, then %d and %d", len(first.Files), first.Goroutines, len(last.Files), last.Goroutines)
			}
		})
	}
}

// holdings is everything that a soak must not make grow.
type holdings struct {
	footprint
	leak.Holdings
}

// settled measures when no connection is left and every lookup has ended.
func settled(s *server) (h holdings) {
	s.tb.Helper()
	s.allBack()
	goroutines := 0
	eventually(s.tb, "the number of goroutines settles", func() bool {
		old := goroutines
		goroutines = runtime.NumGoroutine()
		return goroutines == old
	})
	return holdings{memory(), leak.Now()}
}

// soak makes n requests over connections that live for 1 to 1000 of them.
func soak(t *testing.T, s *server, n int, seed uint64) {
	t.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	all := group{tb: t}
	for i := range 8 {
		all.run(func() error {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for left.Load() > 0 {
				life := 1
				for range rnd.IntN(4) {
					life *= 10
				}
				if err := visit(s, rnd, min(life, int(left.Add(-int64(life)))+life)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	all.wait.Wait()
}

// visit makes n requests over one connection, one after the other or some at once, and ends it
// in one of the ways that clients have.
func visit(s *server, rnd *rand.Rand, n int) error {
	c, err := dial(s.addr, "", 0)
	if err != nil {
		return err
	}
	defer c.Close()
	for n > 0 {
		names := make([]string, min(n, 1+rnd.IntN(4)))
		for i := range names {
			if names[i] = small(rnd.IntN(smalls)); rnd.IntN(200) == 0 {
				names[i] = "big"
			}
			if err := c.ask(names[i], ""); err != nil {
				return err
			}
		}
		for _, name := range names {
			if err := c.receive(name); err != nil {
				return err
			}
		}
		n -= len(names)
	}
	switch rnd.IntN(4) {
	case 0: // the server closes
		if err := errors.Join(c.ask(small(0), "Connection: close\r\n"), c.receive(small(0))); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, c.in)
		return err
	case 1: // with a request under way
		if err := c.ask("big", ""); err != nil {
			return err
		}
		return c.reset()
	case 2: // after a range
		if err := c.ask("big", "Range: bytes=1000-1999\r\n"); err != nil {
			return err
		}
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			return err
		}
		return sameBytes(r.Body, "a range of big", site.files["big"][1000:2000])
	}
	return nil
}
