//go:build linux

package ring

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sendKind is one way to send. Payloads lie in registered buffer 0.
type sendKind struct {
	name     string
	feature  string
	zeroCopy bool
	gathers  bool
	fixed    bool
}

var sendKinds = []sendKind{
	{name: "SEND"},
	{name: "SENDMSG", gathers: true},
	{name: "SEND_ZC", feature: "SEND_ZC", zeroCopy: true},
	{name: "SEND_ZC registered", feature: "SEND_ZC", zeroCopy: true, fixed: true},
	{name: "SENDMSG_ZC", feature: "SENDMSG_ZC", zeroCopy: true, gathers: true},
	{name: "SENDMSG_ZC registered", feature: "SENDMSG_ZC from registered buffers", zeroCopy: true, gathers: true, fixed: true},
}

func anySend(sendKind) bool          { return true }
func plainSend(k sendKind) bool      { return !k.zeroCopy }
func zeroCopySend(k sendKind) bool   { return k.zeroCopy }
func registeredSend(k sendKind) bool { return k.fixed }

// forEachKind runs test for every way to send that is wanted and that this kernel has.
func forEachKind(t *testing.T, wanted func(sendKind) bool, test func(*testing.T, sendKind)) {
	t.Helper()
	for _, k := range sendKinds {
		if !wanted(k) {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			if k.feature != "" {
				needs(t, k.feature)
			}
			test(t, k)
		})
	}
}

// prep prepares a send of mem, gathered from three vectors if k gathers.
func (k sendKind) prep(t testing.TB, fd int, mem []byte, msgFlags uint32, ioprio uint16) func(*SQE) {
	t.Helper()
	var addr uintptr
	if k.gathers {
		a, b := len(mem)/3, len(mem)/2
		addr = gather(t, mem[:a], mem[a:b], mem[b:]).Addr()
	}
	return func(e *SQE) {
		switch {
		case k.gathers && k.zeroCopy:
			e.PrepSendMsgZC(fd, addr, msgFlags, ioprio)
		case k.gathers:
			e.PrepSendMsg(fd, addr, msgFlags)
		case k.zeroCopy:
			e.PrepSendZC(fd, addressOf(mem), uint32(len(mem)), msgFlags, ioprio)
		default:
			e.PrepSend(fd, addressOf(mem), uint32(len(mem)), msgFlags)
		}
		if k.fixed {
			e.FixedBuffer(0)
		}
	}
}

// ringWith is a ring with one registered buffer of size bytes.
func ringWith(t testing.TB, size int) (*driver, []byte) {
	t.Helper()
	d, mem := newRing(t, Config{Entries: 8}), noise(t, size)
	if err := d.RegisterBuffers([][]byte{mem}); err != nil {
		t.Fatal(err)
	}
	return d, mem
}

// expectNotification awaits the second completion of a zero-copy send, and checks that it
// is the last one.
func (d *driver) expectNotification(id uint64) CQE {
	d.t.Helper()
	n := d.await(id)
	if !n.Notification() || n.More() {
		d.t.Fatalf("instead of a notification came %s", show(n))
	}
	d.expectNone(id)
	return n
}

func TestReceivedBytesEqualThoseSent(t *testing.T) {
	forEachKind(t, anySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 100_000)
		local, peer := tcpPair(t)
		part := mem[11:60_000] // nothing aligned
		c := d.do(k.prep(t, local.fd, part, unix.MSG_WAITALL, 0))
		if int(c.Res) != len(part) {
			t.Fatalf("sent %d bytes: %s", len(part), show(c))
		}
		peer.expect(part)
	})
}

func TestPlainSendCompletesOnce(t *testing.T) {
	forEachKind(t, plainSend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 1000)
		local, _ := tcpPair(t)
		id := d.start(k.prep(t, local.fd, mem, 0, 0))
		if c := d.await(id); c.Res != 1000 || c.Flags != 0 {
			t.Fatalf("completion: %s", show(c))
		}
		d.expectNone(id)
	})
}

func TestCompletionPrecedesItsNotification(t *testing.T) {
	forEachKind(t, zeroCopySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 4096)
		local, peer := tcpPair(t)
		for range 20 {
			id := d.start(k.prep(t, local.fd, mem, 0, 0))
			peer.expect(mem) // both completions may be ready now
			c := d.await(id)
			if int(c.Res) != len(mem) || c.Notification() || !c.More() {
				t.Fatalf("first completion: %s", show(c))
			}
			n := d.await(id)
			if n.Res != 0 || !n.Notification() || n.More() {
				t.Fatalf("second completion: %s", show(n))
			}
		}
	})
}

func TestNotificationReportsTheCopyOfLoopback(t *testing.T) {
	needs(t, "zero-copy usage reports")
	forEachKind(t, zeroCopySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 64<<10)
		local, peer := tcpPair(t)
		id := d.start(k.prep(t, local.fd, mem, unix.MSG_WAITALL, SendZCReportUsage))
		peer.expect(mem)
		if c := d.await(id); int(c.Res) != len(mem) || !c.More() {
			t.Fatalf("completion: %s", show(c))
		}
		if n := d.expectNotification(id); !n.Copied() {
			t.Errorf("loopback did not copy: %s", show(n))
		}
	})
}

func TestNotificationIsSilentAboutCopiesUnlessAsked(t *testing.T) {
	forEachKind(t, zeroCopySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 4096)
		local, peer := tcpPair(t)
		id := d.start(k.prep(t, local.fd, mem, 0, 0))
		peer.expect(mem)
		d.await(id)
		if n := d.expectNotification(id); n.Copied() || n.Res != 0 {
			t.Errorf("notification: %s", show(n))
		}
	})
}

func TestNotificationWaitsForThePeer(t *testing.T) {
	forEachKind(t, zeroCopySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 512<<10) // more than a peer takes unread, less than is queued
		local, peer := tcpPair(t)
		peer.setBuffer(unix.SO_RCVBUF, 64<<10)
		id := d.start(k.prep(t, local.fd, mem, unix.MSG_WAITALL, 0))
		c := d.await(id)
		if int(c.Res) != len(mem) || !c.More() {
			t.Fatalf("completion: %s", show(c))
		}
		d.expectNone(id) // most of it waits for the peer's window
		peer.expect(mem)
		d.expectNotification(id)
	})
}

func TestSendInsideRegisteredBufferIsBounded(t *testing.T) {
	forEachKind(t, registeredSend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 8192)
		if err := d.UnregisterBuffers(); err != nil {
			t.Fatal(err)
		}
		if err := d.RegisterBuffers([][]byte{mem[:4096]}); err != nil {
			t.Fatal(err)
		}
		local, _ := tcpPair(t)
		if c := d.do(k.prep(t, local.fd, mem[:4096], 0, 0)); c.Res != 4096 {
			t.Fatalf("all of the registered buffer: %s", show(c))
		}
		if c := d.do(k.prep(t, local.fd, mem[:4097], 0, 0)); errnoOf(c) != syscall.EFAULT {
			t.Errorf("a byte more: %s", show(c))
		}
	})
}

// O_NONBLOCK must not turn a full socket into EAGAIN: a request waits by itself
// (io_uring_prep_send(3): only MSG_DONTWAIT forbids it).
func TestSendOnNonblockingSocketWaits(t *testing.T) {
	// A request is polled 128 times at most, then it goes to a worker thread (APOLL_MAX_RETRY),
	// where it may end short. A poll ends when a third of the socket's buffer is free.
	const total, buffer = 4 << 20, 256 << 10
	forEachKind(t, anySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, total)
		local, peer := tcpPair(t)
		local.setNonblock()
		local.setBuffer(unix.SO_SNDBUF, buffer)
		peer.setBuffer(unix.SO_RCVBUF, buffer)
		id := d.start(k.prep(t, local.fd, mem, unix.MSG_WAITALL, 0))
		d.expectNone(id) // it neither fails nor ends short while nobody reads

		received := peer.reading(func() error { return compareStream(peer, mem) })
		c := d.await(id)
		if c.Res != total || c.More() != k.zeroCopy {
			t.Errorf("completion: %s", show(c))
		}
		if k.zeroCopy {
			d.expectNotification(id)
		}
		local.close()
		if err := <-received; err != nil {
			t.Error(err)
		}
	})
}

func TestSendToFullNonblockingSocketWaitsForRoom(t *testing.T) {
	forEachKind(t, anySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 1000)
		local, peer := tcpPair(t)
		local.setNonblock()
		local.fill()
		id := d.start(k.prep(t, local.fd, mem, 0, 0))
		d.expectNone(id)
		peer.reading(func() error {
			_, err := io.Copy(io.Discard, peer)
			return err
		})
		if c := d.await(id); c.Res != 1000 {
			t.Errorf("completion: %s", show(c))
		}
	})
}

func TestDontWaitTurnsAFullSocketIntoEAGAIN(t *testing.T) {
	forEachKind(t, anySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 1000)
		local, _ := tcpPair(t)
		local.fill()
		id := d.start(k.prep(t, local.fd, mem, unix.MSG_DONTWAIT, 0))
		c := d.await(id)
		if errnoOf(c) != syscall.EAGAIN || c.More() != k.zeroCopy {
			t.Errorf("completion: %s", show(c))
		}
		if c.More() {
			d.expectNotification(id)
		}
	})
}

// compareStream reads to the end of the stream and compares it, a little at a time.
func compareStream(r io.Reader, want []byte) error {
	buf := make([]byte, 64<<10)
	for at := 0; ; {
		n, err := r.Read(buf)
		if at+n > len(want) || !bytes.Equal(buf[:n], want[at:at+n]) {
			return errors.New("received bytes differ from those sent")
		}
		switch at += n; {
		case err == io.EOF && at == len(want):
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}
