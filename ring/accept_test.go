//go:build linux

package ring

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMultishotAcceptTakesEveryConnectionUntilCancelled(t *testing.T) {
	needs(t, "multishot accept")
	d := newRing(t, Config{Entries: 8})
	l, addr := listen(t)
	l.setNonblock() // a poll is armed all the same
	id := d.start(func(e *SQE) { e.PrepAcceptMultishot(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK) })
	d.expectNone(id)
	for i := range 10 {
		client := dial(t, addr)
		c := d.await(id)
		if c.Res < 0 || !c.More() {
			t.Fatalf("connection %d: %s", i, show(c))
		}
		accepted := newSocket(t, int(c.Res))
		client.send([]byte{byte(i)})
		accepted.expect([]byte{byte(i)})
		flags, err := unix.FcntlInt(uintptr(accepted.fd), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Fatalf("connection %d: flags %#x, error %v", i, flags, err)
		}
	}
	if c := d.do(func(e *SQE) { e.PrepCancel(id, 0) }); c.Res != 0 {
		t.Fatalf("cancel: %s", show(c))
	}
	if c := d.await(id); errnoOf(c) != syscall.ECANCELED || c.More() {
		t.Errorf("the cancelled accept: %s", show(c))
	}
	d.expectNone(id)
}

// acceptDirect starts a multishot accept into a table of n direct descriptors.
func acceptDirect(t *testing.T, d *driver, n uint32) (id uint64, addr unix.Sockaddr) {
	t.Helper()
	needs(t, "multishot accept")
	if err := d.RegisterDirect(n); err != nil {
		t.Fatal(err)
	}
	l, addr := listen(t)
	id = d.start(func(e *SQE) {
		e.PrepAcceptMultishot(l.fd, 0)
		e.IntoDirect()
	})
	return id, addr
}

func TestDirectConnectionIsUsedAndClosedBySlot(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	accept, addr := acceptDirect(t, d, 2)
	mem := noise(t, 1000)
	var clients [2]*socket
	for i := range clients {
		clients[i] = dial(t, addr)
		if c := d.await(accept); int(c.Res) != i || !c.More() {
			t.Fatalf("connection %d: %s", i, show(c))
		}
	}
	for slot, client := range clients {
		part := mem[slot*500:][:500]
		c := d.do(func(e *SQE) {
			e.PrepSend(slot, addressOf(part), 500, 0)
			e.Direct()
		})
		if c.Res != 500 {
			t.Fatalf("send on slot %d: %s", slot, show(c))
		}
		client.expect(part)
	}
	for slot, client := range clients {
		if c := d.do(func(e *SQE) { e.PrepCloseDirect(uint32(slot)) }); c.Res != 0 {
			t.Fatalf("close slot %d: %s", slot, show(c))
		}
		client.expectEnd()
	}
	if c := d.do(func(e *SQE) { e.PrepCloseDirect(0) }); errnoOf(c) != syscall.EBADF {
		t.Errorf("close an empty slot: %s", show(c))
	}
	dial(t, addr)
	if c := d.await(accept); c.Res < 0 || !c.More() {
		t.Errorf("a connection after slots became free: %s", show(c))
	}
}

func TestAcceptIntoAFullTableEnds(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	accept, addr := acceptDirect(t, d, 1)
	dial(t, addr)
	if c := d.await(accept); c.Res != 0 {
		t.Fatalf("the first connection: %s", show(c))
	}
	dial(t, addr)
	if c := d.await(accept); errnoOf(c) != syscall.ENFILE || c.More() {
		t.Errorf("a connection past the table: %s", show(c))
	}
}

func TestCloseOnExecIsRefusedForDirectDescriptors(t *testing.T) {
	needs(t, "multishot accept")
	d := newRing(t, Config{Entries: 8})
	if err := d.RegisterDirect(1); err != nil {
		t.Fatal(err)
	}
	l, _ := listen(t)
	c := d.do(func(e *SQE) {
		e.PrepAcceptMultishot(l.fd, unix.SOCK_CLOEXEC)
		e.IntoDirect()
	})
	if errnoOf(c) != syscall.EINVAL {
		t.Errorf("SOCK_CLOEXEC: %s", show(c))
	}
}
