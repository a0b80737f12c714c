package bench

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reapEvery is how many sends leave between two looks at the error queue: it costs a call, and what
// waits there is charged to the socket (optmem_max).
const reapEvery = 32

// msgZeroCopy sends with MSG_ZEROCOPY (Documentation/networking/msg_zerocopy.rst).
func (s *sending) msgZeroCopy() error {
	fd, err := s.connect()
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return &Refusal{fmt.Sprintf("SO_ZEROCOPY: %v: it needs Linux 4.14", err)}
	}
	queue := newErrorQueue(fd)
	sends := 0
	return s.loop("send with MSG_ZEROCOPY", func() (int, error) {
		p, left := s.next(), s.Size
		for left > 0 {
			n, err := call(unix.SYS_SENDTO, uintptr(fd), p, uintptr(left), unix.MSG_ZEROCOPY|unix.MSG_NOSIGNAL, 0, 0)
			if err == unix.ENOBUFS { // too many notifications outstanding
				n, err = 0, queue.wait()
			}
			if err == nil {
				if sends++; n == 0 || sends%reapEvery == 0 {
					err = queue.reap(&s.meter)
				}
			}
			if err != nil {
				return 0, err
			}
			p, left = p+uintptr(n), left-n
		}
		return s.Size, nil
	})
}

// errorQueue reads the notifications of a socket.
type errorQueue struct {
	fd      int
	h       unix.Msghdr
	control [256]byte
}

func newErrorQueue(fd int) *errorQueue { return &errorQueue{fd: fd} }

// notification is struct cmsghdr and struct sock_extended_err (linux/errqueue.h): sends low to high
// are done.
type notification struct {
	hdr                unix.Cmsghdr
	errno              uint32
	origin, kind, code uint8
	_                  uint8
	low, high          uint32
}

// From linux/errqueue.h.
const (
	originZeroCopy = 5 // SO_EE_ORIGIN_ZEROCOPY
	codeCopied     = 1 // SO_EE_CODE_ZEROCOPY_COPIED
)

// reap counts what the queue holds. It does not wait.
func (q *errorQueue) reap(m *meter) error {
	for {
		q.h = unix.Msghdr{Control: &q.control[0]}
		q.h.SetControllen(len(q.control))
		_, err := call(unix.SYS_RECVMSG, uintptr(q.fd), uintptr(unsafe.Pointer(&q.h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT, 0, 0, 0)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the error queue: %w", err)
		}
		n := (*notification)(unsafe.Pointer(&q.control[0]))
		if uintptr(q.h.Controllen) < unsafe.Sizeof(*n) || n.origin != originZeroCopy {
			return fmt.Errorf("the error queue holds something else: %+v", *n)
		}
		sends := uint64(n.high - n.low + 1)
		if n.code&codeCopied != 0 {
			m.copied += sends
		} else {
			m.zeroCopied += sends
		}
	}
}

// wait returns when the queue holds something.
func (q *errorQueue) wait() error {
	fds := []unix.PollFd{{Fd: int32(q.fd)}} // POLLERR is always told
	_, err := unix.Poll(fds, 1000)
	if err == unix.EINTR {
		err = nil
	}
	return err
}
