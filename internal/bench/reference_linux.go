package bench

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/ring"
)

// Mechanisms that hand references to pages to the socket.

func (s *sending) sendfile() error {
	fd, err := s.connect()
	if err != nil {
		return err
	}
	return s.loop("sendfile", func() (int, error) {
		from, err := s.advance()
		if err != nil {
			return 0, err
		}
		s.at = int64(from)
		for left := s.Size; left > 0; {
			n, err := call(unix.SYS_SENDFILE, uintptr(fd), uintptr(s.file), uintptr(unsafe.Pointer(&s.at)), uintptr(left), 0, 0)
			if err == nil && n == 0 {
				err = fmt.Errorf("%s is shorter than expected", s.File)
			}
			if err != nil {
				return 0, err
			}
			left -= n
		}
		return s.Size, nil
	})
}

// pipeSize is asked of pipes: what a process without rights may have (pipe-max-size).
const pipeSize = 1 << 20

// pipe is a pair of descriptors.
type pipe struct{ r, w int }

func newPipe() (pipe, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return pipe{}, err
	}
	// A smaller one works too, in more calls.
	_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, pipeSize)
	return pipe{p[0], p[1]}, nil
}

// fill moves at most n bytes of the source from off into the pipe, by reference: of the file, or of
// memory. Memory is not given away (SPLICE_F_GIFT): the next round sends it again.
func (s *sending) fill(p pipe, off, n int) (int, error) {
	if s.file >= 0 {
		s.at = int64(off)
		return call(unix.SYS_SPLICE, uintptr(s.file), uintptr(unsafe.Pointer(&s.at)), uintptr(p.w), 0, uintptr(n), unix.SPLICE_F_MOVE)
	}
	s.vector = ring.Iovec{Base: uintptr(unsafe.Pointer(&s.mem[off])), Len: uint64(n)}
	return call(unix.SYS_VMSPLICE, uintptr(p.w), uintptr(unsafe.Pointer(&s.vector)), 1, 0, 0, 0)
}

// drain moves n bytes from the pipe to the socket. more says that others follow at once.
func (p pipe) drain(fd, n int, more bool) error {
	flags := uintptr(unix.SPLICE_F_MOVE)
	if more {
		flags |= unix.SPLICE_F_MORE
	}
	for n > 0 {
		k, err := call(unix.SYS_SPLICE, uintptr(p.r), 0, uintptr(fd), 0, uintptr(n), flags)
		if err == nil && k == 0 {
			err = fmt.Errorf("the pipe is empty, %d bytes are missing", n)
		}
		if err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// splice sends from the file, or as vmsplice from memory.
func (s *sending) splice() error {
	fd, err := s.connect()
	if err != nil {
		return err
	}
	p, err := newPipe()
	if err != nil {
		return err
	}
	return s.loop(s.Mechanism, func() (int, error) {
		off, err := s.advance()
		if err != nil {
			return 0, err
		}
		for left := s.Size; left > 0; {
			n, err := s.fill(p, off, left)
			if err != nil {
				return 0, err
			}
			off, left = off+n, left-n
			if err := p.drain(fd, n, left > 0); err != nil {
				return 0, err
			}
		}
		return s.Size, nil
	})
}

// tee sends one stream to two sockets: what is in the first pipe is put into the second too.
func (s *sending) tee() error {
	one, err := s.connect()
	if err != nil {
		return err
	}
	two, err := s.connect()
	if err != nil {
		return err
	}
	first, err := newPipe()
	if err != nil {
		return err
	}
	second, err := newPipe()
	if err != nil {
		return err
	}
	return s.loop("tee", func() (int, error) {
		off, err := s.advance()
		if err != nil {
			return 0, err
		}
		for left := s.Size; left > 0; {
			n, err := s.fill(first, off, left)
			if err != nil {
				return 0, err
			}
			off, left = off+n, left-n
			for n > 0 { // the second pipe may be the smaller
				k, err := call(unix.SYS_TEE, uintptr(first.r), uintptr(second.w), uintptr(n), 0, 0, 0)
				if err != nil {
					return 0, err
				}
				if err := first.drain(one, k, left > 0); err != nil {
					return 0, err
				}
				if err := second.drain(two, k, left > 0); err != nil {
					return 0, err
				}
				n -= k
			}
		}
		return 2 * s.Size, nil
	})
}
