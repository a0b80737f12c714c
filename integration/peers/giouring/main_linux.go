// Command giouring is a server on github.com/pawelgaczynski/giouring: echo and stream for
// integration/peers, with the interface used as its README and the liburing manual pages that the
// README refers to say. It is a program of its own because giouring links to internals of package
// syscall, which the linker refuses unless told otherwise:
//
//	go build -ldflags=-checklinkname=0 ./giouring
//
// What is avoided of giouring, since it is wrong there: PrepareSendZC, which sends the memory at the
// slice's header, so that streams are copies; and entries that are used again, which it does not clear:
// they are cleared here. The length of the completion queue cannot be set: it is twice the submission queue's.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

const (
	entries    = 4096 // of the submission queue: completions of 1,000 connections fit twice that
	buffers    = 4096 // for receives
	bufferSize = 2048 // the largest message that is echoed is 1 KiB
	group      = 1
	sourceSize = 64 << 20 // bytes that a stream is sent from
)

// Kinds of requests, in user_data above the buffer's index and the descriptor.
const (
	kindAccept = 1 + iota
	kindRecv
	kindSend
)

type server struct {
	ring     *giouring.Ring
	listener int

	// Echo.
	provided *giouring.BufAndRing
	received []byte
	returned int // buffers to publish

	// Stream; size is 0 for echo.
	source       []byte
	size, offset int
}

func main() {
	addr := flag.String("addr", "", "host:port to listen on, IPv4")
	work := flag.String("work", "echo", "echo or stream")
	size := flag.Int("size", 64, "bytes in a message of a stream")
	flag.Parse()
	if *work != "echo" && *work != "stream" || *size < 1 || *size > sourceSize {
		fmt.Fprintf(os.Stderr, "giouring: work %q of %d bytes: it is echo or stream, of 1 to %d\n", *work, *size, sourceSize)
		os.Exit(2)
	}
	runtime.LockOSThread() // the ring has a single issuer
	s, err := newServer(*addr, *work == "stream", *size)
	if err != nil {
		log.Fatal("giouring: ", err)
	}
	log.Fatal("giouring: ", s.run())
}

func newServer(addr string, stream bool, size int) (*server, error) {
	s := &server{ring: giouring.NewRing()}
	if err := s.ring.QueueInit(entries, giouring.SetupSingleIssuer|giouring.SetupDeferTaskrun); err != nil {
		return nil, fmt.Errorf("make a ring with DEFER_TASKRUN (Linux 6.1): %w", err)
	}
	if _, err := s.ring.RegisterRingFd(); err != nil {
		return nil, fmt.Errorf("register the ring's descriptor: %w", err)
	}
	var err error
	if stream {
		s.size = size
		err = s.makeSource()
	} else {
		err = s.makeBuffers()
	}
	if err != nil {
		return nil, err
	}
	// Last: the client's time runs from its connections on.
	if s.listener, err = listen(addr); err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	return s, nil
}

// makeSource fills the memory that streams are sent from. The client knows its content.
func (s *server) makeSource() (err error) {
	s.source, err = mapped(sourceSize / s.size * s.size)
	for i := range s.source {
		k := i % s.size
		s.source[i] = byte(k*7 + k>>8*3 + k>>16)
	}
	return err
}

// makeBuffers gives the kernel memory for receives.
func (s *server) makeBuffers() (err error) {
	if s.received, err = mapped(buffers * bufferSize); err != nil {
		return err
	}
	if s.provided, err = s.ring.SetupBufRing(buffers, group, 0); err != nil {
		return fmt.Errorf("register a buffer ring: %w", err)
	}
	for i := range buffers {
		s.provide(i)
	}
	s.publish()
	return nil
}

// mapped is memory outside of the Go heap, as the kernel uses it while no call is running.
func mapped(n int) ([]byte, error) {
	p, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", n, err)
	}
	return p, nil
}

func listen(addr string) (int, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), // accepted sockets inherit it
		unix.Bind(fd, sa),
		unix.Listen(fd, 4096))
}

func (s *server) provide(id int) {
	s.provided.BufRingAdd(address(s.received[id*bufferSize:]), bufferSize, uint16(id), giouring.BufRingMask(buffers), s.returned)
	s.returned++
}

func (s *server) publish() {
	if s.returned > 0 {
		s.provided.BufRingAdvance(s.returned)
		s.returned = 0
	}
}

func address(p []byte) uintptr { return uintptr(unsafe.Pointer(&p[0])) }

// entry is a cleared submission entry.
func (s *server) entry() *giouring.SubmissionQueueEntry {
	e := s.ring.GetSQE()
	for e == nil {
		if _, err := s.ring.Submit(); err != nil && err != syscall.EINTR {
			log.Fatal("giouring: submit: ", err)
		}
		e = s.ring.GetSQE()
	}
	*e = giouring.SubmissionQueueEntry{}
	return e
}

func userData(kind, buffer, fd int) uint64 {
	return uint64(kind)<<48 | uint64(buffer)<<32 | uint64(uint32(fd))
}

func (s *server) run() error {
	s.accept()
	for {
		if _, err := s.ring.SubmitAndWait(1); err != nil && err != syscall.EINTR {
			return fmt.Errorf("submit and wait: %w", err)
		}
		// ForEachCQE steps by entries as they are laid out; the head moves once for all.
		var n uint32
		var failed error
		s.ring.ForEachCQE(func(c *giouring.CompletionQueueEvent) {
			n++
			if err := s.completed(c); err != nil {
				failed = err
			}
		})
		if failed != nil {
			return failed
		}
		s.ring.CQAdvance(n)
		s.publish()
	}
}

func (s *server) completed(c *giouring.CompletionQueueEvent) error {
	kind, buffer, fd := int(c.UserData>>48), int(c.UserData>>32&0xffff), int(uint32(c.UserData))
	more := c.Flags&giouring.CQEFMore != 0
	switch kind {
	case kindAccept:
		if c.Res < 0 {
			return fmt.Errorf("accept: %w", syscall.Errno(-c.Res))
		}
		if s.size > 0 {
			s.stream(int(c.Res))
		} else {
			s.recv(int(c.Res))
		}
		if !more {
			s.accept()
		}
	case kindRecv:
		if c.Res > 0 {
			id := int(c.Flags >> giouring.CQEBufferShift)
			s.send(s.received[id*bufferSize:][:c.Res], userData(kindSend, id, fd))
		}
		switch {
		case more:
		case c.Res > 0 || syscall.Errno(-c.Res) == syscall.ENOBUFS:
			s.recv(fd)
		default:
			return unix.Close(fd)
		}
	case kindSend:
		switch {
		case s.size == 0:
			s.provide(buffer)
		case int(c.Res) == s.size:
			s.stream(fd)
		default: // with MSG_WAITALL short only where the connection ends
			return unix.Close(fd)
		}
	}
	return nil
}

func (s *server) accept() {
	e := s.entry()
	e.PrepareMultishotAccept(s.listener, 0, 0, 0)
	e.UserData = userData(kindAccept, 0, s.listener)
}

func (s *server) recv(fd int) {
	e := s.entry()
	e.PrepareRecvMultishot(fd, 0, 0, 0)
	e.Flags |= giouring.SqeBufferSelect
	e.BufIG = group
	e.UserData = userData(kindRecv, 0, fd)
}

func (s *server) send(p []byte, data uint64) {
	e := s.entry()
	e.PrepareSend(int(uint32(data)), address(p), uint32(len(p)), unix.MSG_WAITALL|unix.MSG_NOSIGNAL)
	e.UserData = data
}

// stream sends a connection's next message.
func (s *server) stream(fd int) {
	p := s.source[s.offset:][:s.size]
	if s.offset += s.size; s.offset == len(s.source) {
		s.offset = 0
	}
	s.send(p, userData(kindSend, 0, fd))
}
