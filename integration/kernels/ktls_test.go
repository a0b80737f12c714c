//go:build linux

package kernels

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/zc"
)

// A socket with kTLS refuses zero-copy sends with EOPNOTSUPP, after it has looked like any
// TCP socket when the engine got it. The keys are made up: the kernel does not ask where
// they are from.
func TestKTLSConnectionFallsBackToCopies(t *testing.T) {
	inGuest(t, noSendZC)
	e := newEngine(t, engine.Config{Policy: zc.Policy{Mode: zc.Fixed, Threshold: 1}})
	opened := make(chan *engine.Conn, 1)
	sizes := largeSizes(0, 3<<20)
	s := newStream(t, 0, sizes)
	ln, err := e.Listen("tcp", "127.0.0.1:0", func(c *engine.Conn) engine.Handler {
		opened <- c
		return s
	})
	if err != nil {
		t.Fatal(err)
	}
	local, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	conn := <-opened
	encrypt(t, socketBetween(t, ln.Addr(), local.LocalAddr()), tlsTX)
	control(t, local, func(fd int) { encrypt(t, fd, tlsRX) })
	conn.Post(s.Writable)

	want := make([]byte, sum(sizes))
	fillNoise(want, 0, sizes)
	got := make([]byte, len(want))
	if err := local.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(local, got); err != nil {
		t.Fatalf("after %d of %d bytes: %v; the connection ended with %v", n, len(got), err, s.end())
	}
	if !bytes.Equal(got, want) {
		t.Error("the peer decrypted other bytes than were sent")
	}
	local.Close()
	if err := s.end(); err != nil {
		t.Errorf("the connection ended with %v", err)
	}
	n := e.Stats().Sends
	copies := n.By[zc.Copy][zc.KTLS]
	if copies.Bytes != uint64(len(want)) || n.Total(zc.ZeroCopy).Sends != 0 {
		t.Errorf("%+v by copy because of the socket and %+v by zero-copy, want %d bytes by copy", copies, n.Total(zc.ZeroCopy), len(want))
	}
	if n.NotifiedUnknown != 1 {
		t.Errorf("%d zero-copy sends were refused, want one to be tried", n.NotifiedUnknown)
	}
}

// fillNoise writes what newStream(t, seed, sizes) sends.
func fillNoise(b []byte, seed byte, sizes []int) {
	noise := rand.NewChaCha8([32]byte{seed})
	for _, n := range sizes {
		_, _ = noise.Read(b[:n])
		b = b[n:]
	}
}

// From linux/tls.h.
const (
	tlsTX        = 1
	tlsRX        = 2
	tls12        = 0x0303
	tlsAESGCM128 = 51
)

// encrypt gives one direction of a socket to kTLS (Documentation/networking/tls.rst), with
// AES-GCM and the same key for every connection.
func encrypt(t *testing.T, fd, direction int) {
	t.Helper()
	// struct tls12_crypto_info_aes_gcm_128: version, cipher, iv, key, salt, sequence number.
	info := struct {
		version, cipher uint16
		iv              [8]byte
		key             [16]byte
		salt            [4]byte
		seq             [8]byte
	}{tls12, tlsAESGCM128, [8]byte{1}, [16]byte{2}, [4]byte{3}, [8]byte{}}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
		t.Fatalf("kTLS: %v", err)
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))
	if err := unix.SetsockoptString(fd, unix.SOL_TLS, direction, string(b)); err != nil {
		t.Fatalf("kTLS keys: %v", err)
	}
}

// socketBetween finds this process's socket with the two addresses: the engine does not
// hand out its descriptors.
func socketBetween(t *testing.T, local, remote net.Addr) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		fd, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			t.Fatal(err)
		}
		own, ownErr := unix.Getsockname(fd)
		other, otherErr := unix.Getpeername(fd)
		if ownErr == nil && otherErr == nil && show(own) == local.String() && show(other) == remote.String() {
			return fd
		}
	}
	t.Fatalf("no socket between %v and %v", local, remote)
	return -1
}

func show(a unix.Sockaddr) string {
	if a, ok := a.(*unix.SockaddrInet4); ok {
		return fmt.Sprintf("%s:%d", net.IP(a.Addr[:]), a.Port)
	}
	return ""
}
