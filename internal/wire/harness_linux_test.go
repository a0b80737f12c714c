package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sluice/internal/leak"
)

// asHelper has the test program make a rig, say so, and wait to be killed.
const asHelper = "SLUICE_WIRE_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(asHelper) != "" {
		helper()
	}
	os.Exit(leak.Main(m))
}

// helper prints the id of the rig's program and that of a process on the wire.
func helper() {
	signal.Reset(syscall.SIGTERM, os.Interrupt)
	r, err := New(Options{InFlight: 1 << 20})
	if err != nil {
		panic(err)
	}
	cmd := r.Command(context.Background(), "sleep", "1000")
	if err := r.StartCommand(cmd); err != nil {
		panic(err)
	}
	info, err := r.program.objects.PeerIn.Info()
	if err != nil {
		panic(err)
	}
	id, _ := info.ID()
	fmt.Println(id, cmd.Process.Pid)
	select {}
}

// newRig makes one for a test, which is skipped where none can be made.
func newRig(tb testing.TB, o Options) *Rig {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("only root makes network namespaces")
	}
	r, err := New(o)
	if errors.Is(err, unix.EPERM) || errors.Is(err, ebpf.ErrNotSupported) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// dial connects from the engine's namespace.
func dial(tb testing.TB, r *Rig, addr string) *net.TCPConn {
	tb.Helper()
	var c net.Conn
	err := r.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// totals reads them until they are as wanted.
func totals(tb testing.TB, r *Rig, wanted func(Totals) bool) Totals {
	tb.Helper()
	var t Totals
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var err error
		if t, err = r.Totals(); err != nil {
			tb.Fatal(err)
		}
		if wanted(t) {
			return t
		}
		if time.Now().After(end) {
			tb.Fatalf("after 10 s the totals are still %+v", t)
		}
	}
}

// write sends n bytes in pieces and closes the connection.
func write(tb testing.TB, c net.Conn, n, piece int) {
	tb.Helper()
	p := make([]byte, piece)
	for n > 0 {
		sent, err := c.Write(p[:min(n, piece)])
		if err != nil {
			tb.Fatal(err)
		}
		n -= sent
	}
	if err := c.Close(); err != nil {
		tb.Fatal(err)
	}
}

// control calls fn with a connection's descriptor.
func control(tb testing.TB, c *net.TCPConn, fn func(fd int)) {
	tb.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { fn(int(fd)) })
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// unacknowledged is what a connection has sent, or has yet to, and knows nothing of (SIOCOUTQ, tcp(7)).
func unacknowledged(tb testing.TB, c *net.TCPConn) (n int) {
	tb.Helper()
	control(tb, c, func(fd int) {
		var err error
		if n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ); err != nil {
			tb.Error(err)
		}
	})
	return n
}
