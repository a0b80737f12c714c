package bench

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What leaves by kTLS is the source, encrypted with the keys of encrypt. It is decrypted here by
// Go's cipher, so that the kernel is not asked whether the kernel is right. Where it has no kTLS
// this is skipped: make test-kernels runs it where it has.
func TestWhatLeavesByKTLSIsTheSource(t *testing.T) {
	const size = 64 << 10
	file := filepath.Join(t.TempDir(), "source")
	if err := fillFile(file, MaxSize); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	place := &Place{Addr: ln.Addr().String(), Start: (*exec.Cmd).Start}
	cpu, _ := Processors()
	for _, m := range Mechanisms {
		for _, source := range m.Sources {
			if !m.KTLS || source == Disk {
				continue
			}
			t.Run(m.Name+" "+source, func(t *testing.T) {
				type end struct {
					bytes uint64
					err   error
				}
				ended := make(chan end, 1)
				go func() {
					c, err := ln.Accept()
					if err != nil {
						ended <- end{0, err}
						return
					}
					defer c.Close()
					n, err := decrypted(c)
					_, _ = io.Copy(io.Discard, c) // or the sender would wait for ever
					ended <- end{n, err}
				}()
				s, err := place.sample(t.Context(), job{
					Mechanism: m.Name, Source: source, KTLS: true, Size: size, Warm: time.Millisecond, Window: 10 * time.Millisecond, CPU: cpu, Cold: MaxSize, File: file,
				})
				got := <-ended // also of one that is refused: it has connected before
				var refusal *Refusal
				if errors.As(err, &refusal) {
					t.Skip(refusal)
				}
				if err != nil {
					t.Fatal(err)
				}
				if got.err != nil || got.bytes < s.Bytes {
					t.Errorf("%d bytes were sent in the window, and %d decrypted: %v", s.Bytes, got.bytes, got.err)
				}
			})
		}
	}
}

// decrypted reads TLS 1.2 records (RFC 5246, section 6.2; RFC 5288) until the stream ends, in the middle of one
// too since the sender's process does, and returns how many bytes of the source were in them.
func decrypted(r io.Reader) (n uint64, err error) {
	block, err := aes.NewCipher(append([]byte{2}, make([]byte, 15)...))
	if err != nil {
		return 0, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return 0, err
	}
	in := bufio.NewReader(r)
	header := make([]byte, 5)
	for seq := uint64(0); ; seq++ {
		if _, err := io.ReadFull(in, header); err != nil {
			return n, nil
		}
		length := int(binary.BigEndian.Uint16(header[3:]))
		const overhead = 8 + 16 // explicit nonce, tag
		if header[0] != 23 || binary.BigEndian.Uint16(header[1:]) != tls12 || length < overhead {
			return n, fmt.Errorf("record %d begins with %x", seq, header)
		}
		record := make([]byte, length)
		if _, err := io.ReadFull(in, record); err != nil {
			return n, nil
		}
		nonce := append([]byte{3, 0, 0, 0}, record[:8]...)
		about := append(binary.BigEndian.AppendUint64(nil, seq), header[:3]...)
		about = binary.BigEndian.AppendUint16(about, uint16(length-overhead))
		plain, err := gcm.Open(nil, nonce, record[8:], about)
		if err != nil {
			return n, fmt.Errorf("record %d of %d bytes: %w", seq, length, err)
		}
		for _, b := range plain {
			if b != byte(n*7) {
				return n, fmt.Errorf("byte %d is %#x, and of the source %#x", n, b, byte(n*7))
			}
			n++
		}
	}
}
