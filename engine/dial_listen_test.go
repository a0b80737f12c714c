//go:build linux

package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestListenOnATakenAddressFails(t *testing.T) {
	for _, first := range []int{0, 1, 2} { // loops of the engine that has it; 0: the net package
		for _, second := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d loops after %d", second, first), func(t *testing.T) {
				var addr string
				if first == 0 {
					addr = plainListener(t).Addr().String()
				} else {
					addr = listen(t, newEngine(t, Config{Loops: first}), func(*Conn) Handler { return echo() }).Addr().String()
				}
				e := newEngine(t, Config{Loops: second})
				ln, err := e.Listen("tcp", addr, func(*Conn) Handler { return echo() })
				if err == nil {
					ln.Close()
				}
				if !errors.Is(err, syscall.EADDRINUSE) {
					t.Errorf("listen on a taken address: %v, want EADDRINUSE", err)
				}
			})
		}
	}
}

func TestListenRefusesOtherNetworks(t *testing.T) {
	e := newEngine(t, Config{})
	for _, network := range []string{"udp", "unix", "", "tcp5"} {
		if _, err := e.Listen(network, "127.0.0.1:0", nil); err == nil {
			t.Errorf("listen on %q: no error", network)
		}
	}
}

func TestListenReportsABadAddress(t *testing.T) {
	e := newEngine(t, Config{Loops: 2})
	for _, addr := range []string{"127.0.0.1", "127.0.0.1:99999", "192.0.2.1:0"} {
		if _, err := e.Listen("tcp", addr, nil); err == nil {
			t.Errorf("listen on %q: no error", addr)
		}
	}
}

func TestAllLoopsListenOnOnePort(t *testing.T) {
	const loops = 2
	e := newEngine(t, Config{Loops: loops})
	on := make(chan int, 1000)
	ln := listen(t, e, func(c *Conn) Handler {
		on <- c.Loop()
		return echo()
	})
	if ln.Addr().(*net.TCPAddr).Port == 0 {
		t.Fatalf("listening on %v, want a port", ln.Addr())
	}
	// The kernel chooses by hash: all to one loop, 64 times, does not happen.
	seen := map[int]bool{}
	for range 64 {
		p := dial(t, ln.Addr(), 0)
		p.say([]byte("hello"))
		p.hear([]byte("hello"))
		p.Close()
		seen[await(t, on, "an accepted connection")] = true
	}
	if len(seen) != loops {
		t.Errorf("connections came to %d loops, want %d", len(seen), loops)
	}
}

func TestListeningOnIPv6Works(t *testing.T) {
	e := newEngine(t, Config{Loops: 2})
	ln, err := e.Listen("tcp6", "[::1]:0", func(*Conn) Handler { return echo() })
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := dial(t, ln.Addr(), 0)
	p.say([]byte("hello"))
	p.hear([]byte("hello"))
}

func TestAWriteStallBeyondWhatTheKernelCountsIsTaken(t *testing.T) {
	e := newEngine(t, Config{WriteStall: 30 * 24 * time.Hour}) // in ms more than an int32 has
	k := connect(t, e, echo(), 0)
	k.peer.say([]byte("hello"))
	k.peer.hear([]byte("hello"))
}

func TestAcceptedSocketsAreTuned(t *testing.T) {
	e := newEngine(t, Config{WriteStall: 1234 * time.Millisecond})
	for name, k := range map[string]*link{
		"accepted": connect(t, e, &handler{}, 0),
		"dialed":   connectOut(t, e, &handler{}, 0),
	} {
		for _, want := range []struct {
			name              string
			level, opt, value int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 2 * 1234},
			{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP}, // not MPTCP
		} {
			if got, err := unix.GetsockoptInt(k.conn.fd, want.level, want.opt); err != nil || got != want.value {
				t.Errorf("%s of an %s socket is %d, %v; want %d", want.name, name, got, err, want.value)
			}
		}
		if flags, err := unix.FcntlInt(uintptr(k.conn.fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("an %s socket is inherited by children: flags %#x, %v", name, flags, err)
		}
		if !k.conn.sock.Local || k.conn.sock.NoZC {
			t.Errorf("an %s socket on loopback is seen as %+v", name, k.conn.sock)
		}
	}
}

func TestListenerCloseStopsAcceptingAndKeepsConnections(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			e := newEngine(t, Config{Loops: loops})
			ln := listen(t, e, func(*Conn) Handler { return echo() })
			p := dial(t, ln.Addr(), 0)
			p.say([]byte("before"))
			p.hear([]byte("before"))
			ln.Close()
			ln.Close() // does nothing more
			if nc, err := net.Dial("tcp", ln.Addr().String()); err == nil {
				nc.Close()
				t.Error("connected to a closed listener")
			} else if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connecting to a closed listener: %v, want ECONNREFUSED", err)
			}
			p.say([]byte("after"))
			p.hear([]byte("after"))
			// The address is free at once.
			again, err := e.Listen("tcp", ln.Addr().String(), func(*Conn) Handler { return echo() })
			if err != nil {
				t.Fatal(err)
			}
			again.Close()
		})
	}
}

func TestListenersOfOneEngineAreApart(t *testing.T) {
	e := newEngine(t, Config{})
	for _, name := range []string{"one", "two"} {
		ln := listen(t, e, func(c *Conn) Handler {
			if _, err := c.Write([]byte(name)); err != nil {
				t.Error(err)
			}
			return echo()
		})
		p := dial(t, ln.Addr(), 0)
		p.hear([]byte(name))
	}
}

func TestDialReportsARefusal(t *testing.T) {
	e := newEngine(t, Config{})
	server := plainListener(t)
	addr := server.Addr().String()
	server.Close()
	err := e.Dial(context.Background(), "tcp", addr, func(*Conn) Handler {
		t.Error("newHandler is called for a connection that was refused")
		return echo()
	})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want ECONNREFUSED", err)
	}
}

func TestDialRefusesWhatIsNotTCP(t *testing.T) {
	e := newEngine(t, Config{})
	if err := e.Dial(context.Background(), "udp", "127.0.0.1:9", nil); err == nil {
		t.Error("dialing UDP succeeds")
	}
}

func TestDialHeedsItsContext(t *testing.T) {
	e := newEngine(t, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Dial(ctx, "tcp", plainListener(t).Addr().String(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("dial with an ended context: %v", err)
	}
}

func TestDialedConnectionsStreamBothWays(t *testing.T) {
	const conns, total, size = 4, 4 << 20, 128 << 10
	server := plainListener(t)
	// Room for what the sockets of a slow peer hold and the queues besides.
	e := newEngine(t, Config{Loops: 2, Policy: everything, ArenaSize: 64 << 20})
	var servers sync.WaitGroup
	ended := make(chan error, conns)
	for range conns {
		servers.Go(func() {
			nc, err := server.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			p := newPeer(t, nc)
			if _, err := io.Copy(onlyWriter{p}, onlyReader{p}); err != nil { // an echo server
				t.Errorf("the server: %v", err)
			}
			p.closeWrite()
		})
		sent, heard := 0, 0
		play := func(c *Conn) {
			for sent < total && !c.Congested() {
				sendPieces(t, c, sent, size, 1)
				sent += size
			}
		}
		h := &handler{ended: ended, writable: play, received: func(c *Conn, p []byte) int {
			if !bytes.Equal(p, poolBytes(heard, len(p))) {
				t.Errorf("the echo of bytes from %d on is something else", heard)
			}
			if heard += len(p); heard == total {
				c.Close()
			}
			return len(p)
		}}
		err := e.Dial(context.Background(), "tcp", server.Addr().String(), func(c *Conn) Handler {
			c.Post(play)
			return h
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range conns {
		if err := await(t, ended, "a connection's end"); err != nil {
			t.Errorf("ended with %v", err)
		}
	}
	servers.Wait()
	if st := e.Stats(); st.BytesReceived != conns*total {
		t.Errorf("%d bytes came back, want %d", st.BytesReceived, conns*total)
	}
}

func TestDialTakesLoopsInTurn(t *testing.T) {
	e := newEngine(t, Config{Loops: 2})
	seen := [2]int{}
	for range 6 {
		seen[connectOut(t, e, &handler{}, 0).conn.Loop()]++
	}
	if seen != [2]int{3, 3} {
		t.Errorf("%v connections on the two loops, want 3 on each", seen)
	}
}

func init() { childRuns["out of descriptors"] = runOutOfDescriptors }

func TestAcceptingRecoversFromDescriptorShortage(t *testing.T) {
	t.Parallel()
	if out := inChild(t, "out of descriptors"); out != "recovered" {
		t.Errorf("the child says %q", out)
	}
}

// runOutOfDescriptors lets a client connect when the process may open no more files, and
// says whether it is served after some were closed. The client's socket is made before.
func runOutOfDescriptors() {
	// Before anything is accepted: a request takes the limit of the time that it is made at.
	must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}))
	e, err := New(Config{Loops: 1, ArenaSize: 1 << 20})
	must(err)
	ln, err := e.Listen("tcp", "127.0.0.1:0", func(*Conn) Handler { return echo() })
	must(err)
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	must(unix.SetsockoptTimeval(client, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	var hog []int
	for {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EMFILE {
			break
		}
		must(err)
		hog = append(hog, fd)
	}
	must(unix.Connect(client, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: ln.Addr().(*net.TCPAddr).Port}))
	_, err = unix.Write(client, []byte("hello"))
	must(err)
	for start := time.Now(); e.Stats().AcceptErrors < 2; time.Sleep(time.Millisecond) { // tries again, and not all the time
		if time.Since(start) > patience {
			fmt.Println("no accept failed")
			return
		}
	}
	if st := e.Stats(); st.Turns > 1000 {
		fmt.Printf("%d turns while nothing could be accepted\n", st.Turns)
		return
	}
	for _, fd := range hog {
		must(unix.Close(fd))
	}
	got := make([]byte, 5)
	n, err := unix.Read(client, got)
	must(err)
	if string(got[:n]) != "hello" {
		fmt.Printf("echoed %q\n", got[:n])
		return
	}
	must(unix.Close(client))
	must(e.Shutdown(context.Background()))
	fmt.Println("recovered")
}
