package wire

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bothFamilies runs a test over IPv4 and over IPv6.
func bothFamilies(t *testing.T, test func(t *testing.T, ipv6 bool)) {
	t.Run("IPv4", func(t *testing.T) { test(t, false) })
	t.Run("IPv6", func(t *testing.T) { test(t, true) })
}

func TestSinkTakesWhatWasWritten(t *testing.T) {
	bothFamilies(t, func(t *testing.T, ipv6 bool) {
		const n = 37<<20 + 1
		r := newRig(t, Options{IPv6: ipv6})
		write(t, dial(t, r, r.Sink()), n, 100_000)
		got := totals(t, r, func(t Totals) bool { return t.Finished == 1 })
		if got.Bytes != n || got.Opened != 1 || got.Repeated != 0 || got.Trouble() != "" {
			t.Errorf("of %d bytes in one connection the sink has seen %+v", n, got)
		}
		if got.ACKs != got.Packets {
			t.Errorf("%d packets were acknowledged %d times, want one each", got.Packets, got.ACKs)
		}
		if got.Largest > usualGSO {
			t.Errorf("a packet of %d bytes without BIG TCP", got.Largest)
		}
	})
}

func TestConnectionsEndAndAreForgotten(t *testing.T) {
	r := newRig(t, Options{})
	const rounds = 50
	for range rounds {
		write(t, dial(t, r, "10.77.200.3:1234"), 10_000, 10_000)
	}
	totals(t, r, func(t Totals) bool { return t.Finished == rounds })
	var key peerKey
	var flow peerFlow
	for end := time.Now().Add(5 * time.Second); r.program.objects.Flows.Iterate().Next(&key, &flow); {
		if time.Now().After(end) {
			t.Fatalf("the rig still keeps a connection that has ended: %+v", key)
		}
	}
	c := dial(t, r, r.Sink())
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := totals(t, r, func(t Totals) bool { return t.Reset == 1 }); !strings.Contains(got.Trouble(), "reset") {
		t.Errorf("a reset is no trouble: %q", got.Trouble())
	}
}

// TestZeroCopyIsNotCopied compares the wire with loopback, where the kernel copies.
func TestZeroCopyIsNotCopied(t *testing.T) {
	bothFamilies(t, func(t *testing.T, ipv6 bool) {
		r := newRig(t, Options{IPv6: ipv6})
		if copied := zeroCopySend(t, dial(t, r, r.Sink())); copied {
			t.Error("a zero-copy send over the wire was copied")
		}
		var l net.Listener
		err := r.Do(func() (err error) {
			l, err = net.Listen("tcp", "127.0.0.1:0")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			for p := make([]byte, 1<<20); err == nil; {
				_, err = c.Read(p)
			}
		}()
		if copied := zeroCopySend(t, dial(t, r, l.Addr().String())); !copied {
			t.Error("a zero-copy send over loopback was not copied: what this test looks at says nothing")
		}
	})
}

// zeroCopySend reports whether the kernel copied what was to be sent by MSG_ZEROCOPY
// (Documentation/networking/msg_zerocopy.rst).
func zeroCopySend(t *testing.T, c *net.TCPConn) (copied bool) {
	t.Helper()
	control(t, c, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
			t.Error(err)
		}
		if n, err := unix.SendmsgN(fd, make([]byte, 32<<10), nil, nil, unix.MSG_ZEROCOPY); err != nil || n == 0 {
			t.Errorf("sent %d bytes: %v", n, err)
		}
		oob := make([]byte, 256)
		for end := time.Now().Add(5 * time.Second); ; {
			_, n, _, _, err := unix.Recvmsg(fd, nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err == unix.EAGAIN && time.Now().Before(end) {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Errorf("wait for the notification: %v", err)
				return
			}
			messages, err := unix.ParseSocketControlMessage(oob[:n])
			if err != nil || len(messages) != 1 {
				t.Errorf("the notification is %v: %v", messages, err)
				return
			}
			// struct sock_extended_err: errno, origin, type, code
			data := messages[0].Data
			if binary.NativeEndian.Uint32(data) != 0 || data[4] != unix.SO_EE_ORIGIN_ZEROCOPY {
				t.Errorf("the notification is % x", data)
			}
			copied = data[6]&unix.SO_EE_CODE_ZEROCOPY_COPIED != 0
			return
		}
	})
	return copied
}

func TestWhatIsLostIsSentAgain(t *testing.T) {
	bothFamilies(t, func(t *testing.T, ipv6 bool) {
		const n = 32 << 20
		r := newRig(t, Options{Loss: 40, IPv6: ipv6})
		write(t, dial(t, r, r.Sink()), n, 1<<20)
		got := totals(t, r, func(t Totals) bool { return t.Finished == 1 })
		if got.Bytes != n {
			t.Errorf("%d bytes have arrived, want %d", got.Bytes, n)
		}
		if got.Lost == 0 || got.Repeated < got.Lost {
			t.Errorf("%d segments were lost and %d packets repeated", got.Lost, got.Repeated)
		}
	})
}

func TestBytesStayInFlight(t *testing.T) {
	bothFamilies(t, func(t *testing.T, ipv6 bool) {
		const inFlight = 512 << 10
		for _, bytes := range []int{0, inFlight} {
			r := newRig(t, Options{InFlight: bytes, IPv6: ipv6})
			c := dial(t, r, r.Sink())
			most := 0
			for range 512 {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					t.Fatal(err)
				}
				most = max(most, unacknowledged(t, c))
			}
			if bytes == 0 && most >= inFlight {
				t.Errorf("%d bytes were unacknowledged, where none are to stay so", most)
			}
			if bytes > 0 && most < inFlight {
				t.Errorf("at most %d bytes were unacknowledged, want %d", most, inFlight)
			}
			for end := time.Now().Add(time.Second); unacknowledged(t, c) > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d bytes are unacknowledged a second after the last", unacknowledged(t, c))
				}
			}
			// On a busy machine the acknowledgement of a pause's last bytes may come after TCP's probe for them.
			if got := totals(t, r, func(Totals) bool { return true }); got.Bytes != 512*64<<10 || got.Repeated > got.Packets/100 {
				t.Errorf("of %d bytes the sink has seen %+v", 512*64<<10, got)
			}
		}
	})
}

func TestManyConnectionsInFlightDrain(t *testing.T) {
	r := newRig(t, Options{InFlight: 1 << 20})
	var conns []*net.TCPConn
	for range 200 {
		c := dial(t, r, r.Sink())
		if _, err := c.Write(make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		for end := time.Now().Add(time.Second); unacknowledged(t, c) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a connection's last bytes were never acknowledged")
			}
		}
	}
}

func TestBigTCP(t *testing.T) {
	bothFamilies(t, func(t *testing.T, ipv6 bool) {
		const n, gso = 64 << 20, 256 << 10
		r := newRig(t, Options{GSO: gso, IPv6: ipv6})
		write(t, dial(t, r, r.Sink()), n, 4<<20)
		got := totals(t, r, func(t Totals) bool { return t.Finished == 1 })
		if got.Largest <= 64<<10 || got.Largest > gso {
			t.Errorf("the largest packet has %d bytes, want between %d and %d", got.Largest, 64<<10, gso)
		}
		if got.Bytes != n || got.ACKs != got.Packets {
			t.Errorf("of %d bytes the sink has seen %+v", n, got)
		}
	})
}

func TestMTUSetsTheSegment(t *testing.T) {
	r := newRig(t, Options{MTU: 9000})
	c := dial(t, r, r.Sink())
	control(t, c, func(fd int) {
		if mss, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG); err != nil || mss != 9000-40 {
			t.Errorf("segments of %d bytes (%v), want %d", mss, err, 9000-40)
		}
	})
}

// TestKeepAliveIsAnswered has a connection ask for a sign of life, once a second (tcp(7)).
func TestKeepAliveIsAnswered(t *testing.T) {
	r := newRig(t, Options{})
	c := dial(t, r, r.Sink())
	if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3500 * time.Millisecond)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("the connection did not live: %v", err)
	}
}
