//go:build linux

package kernels

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/zc"
)

// A socket with kTLS refuses zero-copy sends and MSG_WAITALL with EOPNOTSUPP, after it has
// looked like any TCP socket when the engine got it. The keys are made up: the kernel does
// not ask where they are from.
func TestKTLSConnectionFallsBackToCopies(t *testing.T) {
	inGuest(t, noSendZC)
	for _, c := range []struct {
		name    string
		policy  zc.Policy
		why     zc.Reason // of the copies
		refused uint64    // zero-copy sends
	}{
		{"from zero-copy", zc.Policy{Mode: zc.Fixed, Threshold: 1}, zc.KTLS, 1},
		{"without zero-copy", zc.Policy{Mode: zc.Off}, zc.PolicyOff, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, engine.Config{Policy: c.policy})
			total := playEncrypted(t, e)
			st := e.Stats()
			copies := st.Sends.By[zc.Copy][c.why]
			if copies.Bytes != uint64(total) || st.Sends.Total(zc.ZeroCopy).Sends != 0 {
				t.Errorf("%+v by copy because of %v and %+v by zero-copy, want %d bytes by copy",
					copies, c.why, st.Sends.Total(zc.ZeroCopy), total)
			}
			if st.Sends.NotifiedUnknown != c.refused || st.SendErrors != 0 {
				t.Errorf("%d zero-copy sends were refused, %d send errors, want %d and none", st.Sends.NotifiedUnknown, st.SendErrors, c.refused)
			}
		})
	}
}

// playEncrypted sends a stream to a peer on loopback that decrypts it, and returns its bytes.
func playEncrypted(t *testing.T, e *engine.Engine) int {
	t.Helper()
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
	encrypt(t, conn.FD(), tlsTX)
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
	return len(want)
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
