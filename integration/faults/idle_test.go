//go:build linux

package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
)

// idlersEnv has this test binary be idle clients instead: in a process of their own, because
// memory and descriptors are to be the server's alone. Its value is an address and a number.
const idlersEnv = "FAULTS_TEST_IDLERS"

// beIdlers makes connections, of which each asks once and then waits for its end. It says when all
// have been answered and when all have ended.
func beIdlers(order string) {
	var addr string
	var n int
	if _, err := fmt.Sscan(order, &addr, &n); err != nil {
		panic(err)
	}
	idlers := make([]*client, n)
	for i := range idlers {
		c, err := dial(addr, fmt.Sprint("127.0.0.", 2+i%8), 0) // each address has only so many ports
		must(err)
		must(c.fetch(small(1)))
		must(c.SetDeadline(time.Time{}))
		idlers[i] = c
	}
	fmt.Println("answered")
	for _, c := range idlers {
		if _, err := c.in.ReadByte(); err != io.EOF {
			panic(fmt.Sprintf("%v instead of the end", err))
		}
		c.Close()
	}
	fmt.Println("ended")
}

// startIdlers has n clients connect. said waits until they say the word.
func startIdlers(tb testing.TB, addr string, n int) (said func(word string)) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", idlersEnv, addr, n))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	late := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	tb.Cleanup(func() {
		if late.Stop() {
			_ = cmd.Process.Kill() // if it has not ended
		}
		_ = cmd.Wait()
	})
	in := bufio.NewScanner(stdout)
	return func(word string) {
		tb.Helper()
		if !in.Scan() || in.Text() != word {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			tb.Fatalf("the clients did not say %q; they said %q and %q", word, in.Text(), stderr.String())
		}
	}
}

// TestTenThousandIdleConnections has a few active ones among them.
func TestTenThousandIdleConnections(t *testing.T) {
	conns := 10_000
	if race {
		conns = 1_000 // what is measured is memory, and the detector's shadow is a multiple of it
	}
	// An idle connection is a Conn with its handler, a place in the table of connections and one
	// among the deadlines: below a KiB together. Buffers are the loop's and not a connection's,
	// and the smallest has 4 KiB: with one of its own a connection would exceed the limit.
	const limit = 2 << 10
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if need := uint64(conns + 1000); files.Cur < need {
		t.Skipf("RLIMIT_NOFILE is %d, %d are needed", files.Cur, need)
	}
	s := serveFiles(t, engine.Config{Loops: 2, IdleTimeout: -1})
	active := make([]*client, 4)
	for i := range active {
		active[i] = s.dial(t, 0)
	}
	fetchAll := func() {
		t.Helper()
		all := group{tb: t}
		for i, c := range active {
			all.run(func() error {
				err := c.SetDeadline(time.Now().Add(patience))
				for j := range smalls {
					err = errors.Join(err, c.fetch(small(i+j)))
				}
				return errors.Join(err, c.fetch("big"))
			})
		}
		all.wait.Wait()
	}
	fetchAll()
	s.buffersBack()
	before := memory()
	said := startIdlers(t, s.addr, conns)
	said("answered")
	fetchAll()
	st := s.buffersBack()
	if want := conns + len(active); st.Conns != want || st.Accepted != uint64(want) {
		t.Errorf("%d connections are open and %d were accepted, want %d", st.Conns, st.Accepted, want)
	}
	now := memory()
	heap, resident := (now.heap-before.heap)/int64(conns), (now.resident-before.resident)/int64(conns)
	t.Logf("%d connections: %d bytes of heap each, %d bytes resident", conns, heap, resident)
	if !race && (heap > limit || resident > 2*limit) { // the heap may have room for as much again
		t.Errorf("an idle connection takes %d bytes of heap and %d resident, want at most %d and %d", heap, resident, limit, 2*limit)
	}

	ended := make(chan engine.Stats)
	go func() { ended <- s.stop() }()
	for _, c := range active {
		if b, err := c.in.ReadByte(); err != io.EOF {
			t.Errorf("%d and %v instead of the end", b, err)
		}
		c.Close()
	}
	said("ended")
	if st := <-ended; st.ClosedInOrder != st.Accepted || st.Aborted != 0 {
		t.Errorf("%d of %d connections closed in order, %d were reset", st.ClosedInOrder, st.Accepted, st.Aborted)
	}
}
