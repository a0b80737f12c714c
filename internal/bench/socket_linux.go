package bench

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/ring"
)

// Mechanisms that copy from user memory.

const (
	// gatherMost is how many buffers a gathered send takes, and gatherBytes how many bytes: an skb has 17
	// slots, and a send of more than 1 MiB gains nothing. The engine keeps the same limits.
	gatherMost  = 16
	gatherBytes = 1 << 20
)

// gathered is how many buffers leave in one gathered send.
func (j *job) gathered() int {
	most := gatherBytes
	if j.UDP {
		most = maxDatagram
	}
	return max(1, min(gatherMost, most/j.Size))
}

// writeAll writes n bytes at p.
func writeAll(fd int, p uintptr, n int) error {
	for n > 0 {
		k, err := call(unix.SYS_WRITE, uintptr(fd), p, uintptr(n), 0, 0, 0)
		if err != nil {
			return err
		}
		p, n = p+uintptr(k), n-k
	}
	return nil
}

func (s *sending) write() error {
	fd, err := s.connect()
	if err != nil {
		return err
	}
	return s.loop("write", func() (int, error) { return s.Size, writeAll(fd, s.next(), s.Size) })
}

func (s *sending) writev() error {
	fd, err := s.connect()
	if err != nil {
		return err
	}
	var vectors [gatherMost]ring.Iovec
	v := vectors[:s.gathered()]
	return s.loop("writev", func() (int, error) {
		for i := range v {
			v[i] = ring.Iovec{Base: s.next(), Len: uint64(s.Size)}
		}
		// A blocking socket takes all, unless a signal comes between: then what was written counts.
		return call(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)), 0, 0, 0)
	})
}

func (s *sending) readWrite() error {
	fd, err := s.connect()
	if err != nil {
		return err
	}
	mem, err := mapPages(s.Size)
	if err != nil {
		return err
	}
	buf := uintptr(unsafe.Pointer(&mem[0]))
	return s.loop("read and write", func() (int, error) {
		off, err := s.advance()
		if err != nil {
			return 0, err
		}
		n, err := call(unix.SYS_PREAD64, uintptr(s.file), buf, uintptr(s.Size), uintptr(off), 0, 0)
		if err != nil {
			return 0, err
		}
		return n, writeAll(fd, buf, n)
	})
}

func (s *sending) mmapWrite() error {
	fd, err := s.connect()
	if err != nil {
		return err
	}
	flags := unix.MAP_SHARED
	if s.Source == File {
		flags |= unix.MAP_POPULATE // a server keeps its mappings: their faults are no part of a send
	}
	if s.mem, err = unix.Mmap(s.file, 0, s.last, unix.PROT_READ, flags); err != nil {
		return err
	}
	return s.loop("write from a mapping", func() (int, error) {
		off, err := s.advance()
		if err != nil {
			return 0, err
		}
		return s.Size, writeAll(fd, uintptr(unsafe.Pointer(&s.mem[off])), s.Size)
	})
}
