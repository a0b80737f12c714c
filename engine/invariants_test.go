//go:build linux && invariants

package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sluice/bufreg"
	"sluice/zc"
)

func init() {
	childRuns["overwrite a zero-copy send"] = func() { overwriteInFlight(everything) }
	childRuns["overwrite a copied send"] = func() { overwriteInFlight(copying) }
}

func TestOverwritingABufferThatTheKernelHasPanics(t *testing.T) {
	for _, name := range []string{"overwrite a zero-copy send", "overwrite a copied send"} {
		t.Run(name, func(t *testing.T) {
			if said := diesInChild(t, name); !strings.Contains(said, "changed while the kernel had") {
				t.Errorf("the process died saying %q", said)
			}
		})
	}
}

// diesInChild runs one of childRuns, which must not end well, and returns what it said last.
func diesInChild(t *testing.T, name string) string {
	t.Helper()
	out, stderr, err := runChild(t, name)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		t.Fatalf("child %q ended with %v and said %q", name, err, out)
	}
	return stderr
}

// overwriteInFlight sends a buffer to a peer that does not read, writes to it, and lets the
// peer read.
func overwriteInFlight(policy zc.Policy) {
	e, err := New(Config{Loops: 1, ArenaSize: 4 << 20, Policy: policy})
	must(err)
	server, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	opened := make(chan *Conn, 1)
	must(e.Dial(context.Background(), "tcp", server.Addr().String(), func(c *Conn) Handler {
		opened <- c
		return &handler{}
	}))
	nc, err := server.Accept()
	must(err)
	c := <-opened
	sent := make(chan bufreg.Buffer, 1)
	c.Post(func(c *Conn) {
		b, err := c.Lease(bufreg.MaxBuffer)
		must(err)
		for range 16 { // far more than the socket takes
			must(c.Send(b.Retain()))
		}
		sent <- b
	})
	b := <-sent
	for start := time.Now(); e.Stats().Arena.Pinned == 0; {
		if time.Since(start) > patience {
			fmt.Println("nothing was sent")
			return
		}
	}
	c.Post(func(*Conn) { b.Bytes()[100]++ })
	must(nc.SetDeadline(time.Now().Add(patience)))
	for buf := make([]byte, 1<<20); err == nil; {
		_, err = nc.Read(buf)
	}
	fmt.Println("nobody noticed") // and ends well, which the test takes for a failure
}
