//go:build linux

package ring

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The contract of a zero-copy send that fails: its completion carries F_MORE if and only
// if one notification follows, and the errno says nothing about which (io_uring_enter(2),
// IORING_OP_SEND_ZC). Which failures promise one is as observed on 6.1 to 7.2.

func TestFailedSendPromisesANotificationIffOneFollows(t *testing.T) {
	reset := func(t *testing.T) *socket {
		local, peer := tcpPair(t)
		peer.reset()
		local.awaitReset()
		return local
	}
	connected := func(t *testing.T) *socket {
		local, _ := tcpPair(t)
		return local
	}
	unreadable := func(t *testing.T) []byte {
		m := mapped(t, 8192)
		if err := unix.Mprotect(m, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		name   string
		want   syscall.Errno
		more   bool // of a zero-copy send's completion; others never have it
		either bool // more or not: kernels differ
		socket func(*testing.T) *socket
		mem    func(*testing.T) []byte // nil: the registered buffer
		spoil  func(*SQE)
		only   func(sendKind) bool // nil: any
	}{
		{
			name: "closed for writing", want: syscall.EPIPE, more: true,
			socket: func(t *testing.T) *socket {
				local, _ := tcpPair(t)
				local.shutdown(unix.SHUT_WR)
				return local
			},
		},
		{name: "reset by the peer", want: syscall.ECONNRESET, more: true, socket: reset},
		{
			name: "reset before", want: syscall.EPIPE, more: true,
			socket: func(t *testing.T) *socket {
				local := reset(t)
				if _, err := local.Write([]byte{0}); err != unix.ECONNRESET {
					t.Fatalf("write: %v", err)
				}
				return local
			},
		},
		{
			name: "no descriptor", want: syscall.EBADF, more: true,
			socket: func(t *testing.T) *socket { return &socket{t, -1} },
		},
		{
			name: "no socket", want: syscall.ENOTSOCK, more: true,
			socket: func(t *testing.T) *socket { return &socket{t, newEventFD(t)} },
		},
		{name: "unreadable memory", want: syscall.EFAULT, more: true, socket: connected, mem: unreadable},
		{
			name: "no such registered buffer", want: syscall.EFAULT, more: true, socket: connected,
			spoil: func(e *SQE) { e.FixedBuffer(9) },
			only:  registeredSend,
		},
		{
			name: "unix socket", want: syscall.EOPNOTSUPP, more: true,
			socket: func(t *testing.T) *socket {
				local, _ := unixPair(t)
				return local
			},
			only: zeroCopySend,
		},
		{
			name: "unknown flag", want: syscall.EINVAL, either: true, socket: connected,
			spoil: func(e *SQE) { e.IoPrio |= 1 << 12 },
		},
		{
			name: "stale field", want: syscall.EINVAL, either: true, socket: connected,
			spoil: leaveStale,
			only:  zeroCopySend,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			only := c.only
			if only == nil {
				only = anySend
			}
			forEachKind(t, only, func(t *testing.T, k sendKind) {
				d, mem := ringWith(t, 8192)
				if c.mem != nil {
					mem = c.mem(t)
				}
				prep := k.prep(t, c.socket(t).fd, mem, 0, 0)
				id := d.start(func(e *SQE) {
					prep(e)
					if c.spoil != nil {
						c.spoil(e)
					}
				})
				got := d.await(id)
				more := k.zeroCopy && (c.more || c.either && got.More())
				if errnoOf(got) != c.want || got.More() != more || got.Notification() {
					t.Errorf("completion: %s, want %v, more %v", show(got), c.want, more)
				}
				if got.More() {
					d.expectNotification(id)
				} else {
					d.expectNone(id)
				}
			})
		})
	}
}

func TestCancelledSendReturnsItsProgress(t *testing.T) {
	needsRelease(t, "5.19", "MSG_WAITALL by io_uring itself")
	forEachKind(t, anySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 32<<20)
		local, peer := tcpPair(t)
		id := d.start(k.prep(t, local.fd, mem, unix.MSG_WAITALL, 0))
		d.expectNone(id)
		if c := d.do(func(e *SQE) { e.PrepCancel(id, 0) }); c.Res != 0 {
			t.Fatalf("cancel: %s", show(c))
		}
		c := d.await(id)
		if c.Res <= 0 || int(c.Res) >= len(mem) || c.More() != k.zeroCopy {
			t.Fatalf("the cancelled send: %s", show(c))
		}
		peer.expect(mem[:c.Res]) // exactly what was reported is on its way
		if k.zeroCopy {
			d.expectNotification(id)
		}
		local.shutdown(unix.SHUT_WR)
		peer.expectEnd()
	})
}

func TestCancelledSendWithoutProgressIsECANCELED(t *testing.T) {
	needsRelease(t, "5.19", "cancellation by descriptor")
	forEachKind(t, anySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 1000)
		local, _ := tcpPair(t)
		local.fill()
		id := d.start(k.prep(t, local.fd, mem, 0, 0))
		d.expectNone(id)
		if c := d.do(func(e *SQE) { e.PrepCancelFD(local.fd) }); c.Res != 1 {
			t.Fatalf("cancel: %s", show(c))
		}
		c := d.await(id)
		if errnoOf(c) != syscall.ECANCELED || c.More() != k.zeroCopy {
			t.Fatalf("the cancelled send: %s", show(c))
		}
		if k.zeroCopy {
			d.expectNotification(id)
		}
	})
}

func TestResetEndsABlockedSend(t *testing.T) {
	forEachKind(t, anySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 1000)
		local, peer := tcpPair(t)
		local.fill()
		id := d.start(k.prep(t, local.fd, mem, 0, 0))
		d.expectNone(id)
		peer.reset()
		c := d.await(id)
		if errnoOf(c) != syscall.ECONNRESET || c.More() != k.zeroCopy {
			t.Fatalf("the blocked send: %s", show(c))
		}
		if k.zeroCopy {
			d.expectNotification(id)
		}
	})
}

func TestCompletedSendCannotBeCancelled(t *testing.T) {
	forEachKind(t, zeroCopySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 512<<10) // more than a peer takes unread, less than is queued
		local, peer := tcpPair(t)
		peer.setBuffer(unix.SO_RCVBUF, 64<<10)
		id := d.start(k.prep(t, local.fd, mem, unix.MSG_WAITALL, 0))
		if c := d.await(id); int(c.Res) != len(mem) || !c.More() {
			t.Fatalf("completion: %s", show(c))
		}
		if c := d.do(func(e *SQE) { e.PrepCancel(id, 0) }); errnoOf(c) != syscall.ENOENT {
			t.Errorf("cancel of the notification: %s", show(c))
		}
		local.reset()
		d.expectNotification(id)
	})
}

// The one known breach of the contract, and the reason not to link zero-copy sends: one
// that a failed link cancels says that nothing follows, and then its notification does.
func TestLinkedSendIsCancelledWithAnUnannouncedNotification(t *testing.T) {
	forEachKind(t, zeroCopySend, func(t *testing.T, k sendKind) {
		d, mem := ringWith(t, 1000)
		local, _ := tcpPair(t)
		prep := k.prep(t, local.fd, mem, 0, 0)
		d.prep(func(e *SQE) {
			e.PrepSend(-1, addressOf(mem), 1, 0)
			e.Flags |= SQEIOLink
		})
		id := d.start(prep)
		c := d.await(id)
		if errnoOf(c) != syscall.ECANCELED {
			t.Fatalf("the linked send: %s", show(c))
		}
		if c.More() {
			t.Skip("this kernel keeps the contract for links")
		}
		if n := d.await(id); !n.Notification() {
			t.Errorf("after the completion came %s", show(n))
		}
	})
}
