package bufreg

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/ring"
)

// onLoop runs f with a ring of its own on an OS thread of its own, as a loop has, and
// waits for it. The thread ends with it.
func onLoop(t *testing.T, f func(g *ring.Ring) error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		g, err := ring.New(ring.Config{Entries: 8})
		if err != nil {
			done <- err
			return
		}
		defer func() { done <- err }()
		defer g.Close()
		err = f(g)
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func skipWithoutRing(t *testing.T) *ring.Caps {
	t.Helper()
	caps, err := ring.Probe()
	if err != nil {
		t.Skip(err)
	}
	return caps
}

// complete submits the request that was prepared and returns its result, after the last
// event of it.
func complete(g *ring.Ring) (int32, error) {
	var res int32
	seen := false
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := g.SubmitAndWait(1, time.Second); err != nil {
			return 0, err
		}
		var cqe [1]ring.CQE
		for g.Reap(cqe[:]) == 1 {
			if !seen {
				seen, res = true, cqe[0].Res
			}
			if !cqe[0].More() {
				return res, nil
			}
		}
	}
	return 0, fmt.Errorf("no completion in %v", patience)
}

// useRegistration reads into leased memory and sends from it, by its registered index.
func useRegistration(g *ring.Ring, from leaser, zeroCopy bool) error {
	const n = 40_000
	content := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(content)
	b, err := from.Lease(n)
	if err != nil {
		return err
	}
	defer b.Release()
	if err := readFixed(g, b, content); err != nil {
		return err
	}
	if !bytes.Equal(b.Bytes(), content) {
		return fmt.Errorf("READ_FIXED brought other bytes than the file has")
	}
	if !zeroCopy {
		return nil
	}
	got, err := sendFixed(g, b.View(1000, 30_000))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, content[1000:31_000]) {
		return fmt.Errorf("SEND_ZC sent %d bytes, and other ones than the buffer has", len(got))
	}
	return nil
}

func readFixed(g *ring.Ring, b Buffer, content []byte) error {
	fd, err := unix.MemfdCreate("bufreg", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	g.SQE().PrepReadFixed(fd, b.Addr(), uint32(b.Len()), 0, b.Index())
	res, err := complete(g)
	if err != nil {
		return err
	}
	if res != int32(b.Len()) {
		return fmt.Errorf("READ_FIXED of %d bytes: %d (%w)", b.Len(), res, syscall.Errno(-min(res, 0)))
	}
	return nil
}

// sendFixed sends b over TCP and returns what the peer received.
func sendFixed(g *ring.Ring, b Buffer) ([]byte, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) // not MPTCP
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: l.Addr().(*net.TCPAddr).Port}); err != nil {
		return nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	e := g.SQE()
	e.PrepSendZC(fd, b.Addr(), uint32(b.Len()), unix.MSG_WAITALL|unix.MSG_NOSIGNAL, 0)
	e.FixedBuffer(b.Index())
	got := make([]byte, b.Len())
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(conn, got)
		read <- err
	}()
	res, err := complete(g)
	if err != nil {
		return nil, err
	}
	if res != int32(b.Len()) {
		return nil, fmt.Errorf("SEND_ZC of %d bytes: %d (%w)", b.Len(), res, syscall.Errno(-min(res, 0)))
	}
	return got, <-read
}

func TestAttachServesLoopsOnTheirOwnThreads(t *testing.T) {
	caps := skipWithoutRing(t)
	r := newRegistry(t, 4<<20)
	const loops = 3
	onLoop(t, func(g *ring.Ring) error {
		if err := r.Attach(g); err != nil {
			return err
		}
		for range loops - 1 { // while the first is alive
			onLoop(t, func(g *ring.Ring) error {
				if err := r.Attach(g); err != nil {
					return err
				}
				return useRegistration(g, r.NewCache(noWake), caps.SendZC)
			})
		}
		return useRegistration(g, r.NewCache(noWake), caps.SendZC)
	})
}

func TestAttachServesSeveralRingsOfOneThread(t *testing.T) {
	caps := skipWithoutRing(t)
	r := newRegistry(t, 4<<20)
	onLoop(t, func(first *ring.Ring) error {
		second, err := ring.New(ring.Config{Entries: 8})
		if err != nil {
			return err
		}
		defer second.Close()
		for _, g := range []*ring.Ring{first, second} {
			if err := r.Attach(g); err != nil {
				return err
			}
		}
		if caps.CloneBuffers && r.home == nil {
			t.Error("the kernel clones registrations, and the arena was registered anew")
		}
		for _, g := range []*ring.Ring{first, second} {
			if err := useRegistration(g, r, caps.SendZC); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestAttachAfterTheFirstLoopEnded(t *testing.T) {
	caps := skipWithoutRing(t)
	r := newRegistry(t, 4<<20)
	for range 3 {
		onLoop(t, func(g *ring.Ring) error {
			if err := r.Attach(g); err != nil {
				return err
			}
			return useRegistration(g, r, caps.SendZC)
		})
	}
}

func TestAttachTwiceToOneRingFails(t *testing.T) {
	skipWithoutRing(t)
	r := newRegistry(t, 1<<20)
	onLoop(t, func(g *ring.Ring) error {
		if err := r.Attach(g); err != nil {
			return err
		}
		if r.Attach(g) == nil {
			t.Error("attached the arena twice to one ring")
		}
		return nil
	})
}
