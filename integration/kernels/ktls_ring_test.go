//go:build linux

package kernels

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/ring"
)

// What the kernel takes on a kTLS socket: no zero-copy, and no MSG_WAITALL either
// (tls_sw_sendmsg); plain sends of the same registered memory arrive.
func TestKTLSSocketTakesPlainSendsOnly(t *testing.T) {
	inGuest(t, noSendZC)
	runtime.LockOSThread() // the ring is this thread's
	defer runtime.UnlockOSThread()
	fd, peer := encryptedPair(t)
	r, err := ring.New(ring.Config{Entries: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const size = 1 << 20
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = rand.NewChaCha8([32]byte{}).Read(mem) // never fails
	if err := r.RegisterBuffers([][]byte{mem}); err != nil {
		t.Fatal(err)
	}
	addr := uintptr(unsafe.Pointer(&mem[0]))

	r.SQE().PrepSendZC(fd, addr, size, unix.MSG_NOSIGNAL, 0)
	if res := complete(t, r); res != -int32(syscall.EOPNOTSUPP) {
		t.Errorf("SEND_ZC: %d, want EOPNOTSUPP", res)
	}
	r.SQE().PrepSend(fd, addr, size, unix.MSG_NOSIGNAL|unix.MSG_WAITALL)
	if res := complete(t, r); res != -int32(syscall.EOPNOTSUPP) {
		t.Errorf("SEND with MSG_WAITALL: %d, want EOPNOTSUPP", res)
	}

	got := make([]byte, size)
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(peer, got)
		read <- err
	}()
	for sent := uint32(0); sent < size; {
		r.SQE().PrepSend(fd, addr+uintptr(sent), size-sent, unix.MSG_NOSIGNAL)
		res := complete(t, r)
		if res <= 0 {
			t.Fatalf("SEND after %d bytes: %d (%v)", sent, res, syscall.Errno(-res))
		}
		sent += uint32(res)
	}
	if err := <-read; err != nil || !bytes.Equal(got, mem) {
		t.Errorf("the peer decrypted other bytes than were sent, error %v", err)
	}
}

// complete submits what was prepared and returns its result, after its last event.
func complete(t *testing.T, r *ring.Ring) int32 {
	t.Helper()
	var results []int32
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := r.SubmitAndWait(1, time.Second); err != nil {
			t.Fatal(err)
		}
		var cqe [1]ring.CQE
		for r.Reap(cqe[:]) == 1 {
			results = append(results, cqe[0].Res)
			if !cqe[0].More() {
				return results[0] // a notification has none of its own
			}
		}
	}
	t.Fatalf("no completion in %v", patience)
	return 0
}

// encryptedPair is a connection over loopback: a descriptor that encrypts what it sends, and
// the peer that decrypts it.
func encryptedPair(t *testing.T) (fd int, peer net.Conn) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // which takes no kTLS
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // fd is another descriptor of it
	if peer, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if err := peer.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	control(t, conn, func(own int) {
		if fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	encrypt(t, fd, tlsTX)
	control(t, peer, func(own int) { encrypt(t, own, tlsRX) })
	return fd, peer
}

// control runs fn with a connection's descriptor.
func control(t *testing.T, c net.Conn, fn func(fd int)) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { fn(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}
