package simring

import (
	"syscall"
	"unsafe"

	"sluice/ring"
)

// file is an open file of pseudo-random content. size is what it has, which may be less than
// somebody announced.
type file struct {
	w     *World
	seed  byte
	size  int64
	cache *pageCache

	mapped []byte // the file in memory, while the engine has it mapped
	users  int    // sends of that which have not completed

	twin    int   // the descriptor for reads around the page cache, or -1
	direct  bool  // this is it
	align   int64 // what such reads are multiples of
	refuses bool  // and they fail
}

// OpenFile makes a file of size bytes and opens it. It may turn out to be shorter.
func (w *World) OpenFile(size int64) (fd int, content func(off, n int64) []byte) {
	f := &file{w: w, seed: byte(w.Intn(256)), size: size, twin: -1}
	if size > 0 && w.odds(w.Faults.Truncated) {
		f.size = int64(w.Intn(int(size)))
	}
	f.cache = w.newPageCache(f.size)
	if n := len(w.closed); n > 0 && w.Intn(2) == 1 { // a kernel gives out the lowest that is free
		fd = w.closed[n-1]
		w.closed = w.closed[:n-1]
		w.fds[fd] = f
	} else {
		fd = w.open(f)
	}
	return fd, func(off, n int64) []byte { return f.bytes(off, int(n)) }
}

// CloseFile closes a file that OpenFile opened.
func (w *World) CloseFile(fd int) {
	f, ok := w.fds[fd].(*file)
	if !ok {
		w.fail("close of descriptor %d, which is no open file", fd)
		return
	}
	if f.mapped != nil {
		w.fail("close of descriptor %d, whose file is still mapped", fd)
	}
	delete(w.fds, f.twin)
	delete(w.fds, fd)
	w.closed = append(w.closed, fd)
}

// MapFile gives the engine a file in memory. Some cannot be mapped.
func (w *World) MapFile(fd int, most int64) ([]byte, error) {
	f, ok := w.fds[fd].(*file)
	if !ok || f.direct || f.mapped != nil {
		w.fail("mapping of descriptor %d, which is no open file, or mapped", fd)
		return nil, syscall.EBADF
	}
	if f.size == 0 || f.size > most || w.Intn(4) == 3 {
		return nil, syscall.ENODEV
	}
	f.mapped = f.bytes(0, int(f.size))
	return f.mapped, nil
}

// UnmapFile takes it away.
func (w *World) UnmapFile(mem []byte) {
	f, _ := w.mappedAt(uint64(uintptr(unsafe.Pointer(&mem[0]))))
	switch {
	case f == nil:
		w.fail("end of a mapping that is none")
		return
	case f.users > 0:
		w.fail("end of a mapping of which %d sends have not completed", f.users)
	}
	f.mapped = nil
}

// mappedAt is the file that is mapped where addr points, and the offset there.
func (w *World) mappedAt(addr uint64) (*file, int64) {
	for _, x := range w.fds {
		if f, ok := x.(*file); ok && len(f.mapped) > 0 {
			if low := uint64(uintptr(unsafe.Pointer(&f.mapped[0]))); addr >= low && addr < low+uint64(len(f.mapped)) {
				return f, int64(addr - low)
			}
		}
	}
	return nil, 0
}

// Truncated reports whether an open file has fewer bytes than size.
func (w *World) Truncated(fd int, size int64) bool {
	f, ok := w.fds[fd].(*file)
	return ok && f.size < size
}

func (f *file) bytes(off int64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		x := uint32(off) + uint32(i)
		b[i] = byte(x*2654435761>>23) ^ byte(x>>8) ^ f.seed
	}
	return b
}

// startRead reads some time later, and writes to the engine's memory only then.
func (r *Ring) startRead(q *request) {
	w, e := r.w, &q.sqe
	f, ok := w.fds[int(e.FD)].(*file)
	if !ok {
		w.fail("read of descriptor %d, which is no open file", e.FD)
		return
	}
	if f.direct && (int64(e.Off)%f.align != 0 || int64(e.Len)%f.align != 0 || e.Addr%pageSize != 0) {
		w.fail("read around the page cache of %d bytes at %d to %#x, which are no multiples of %d", e.Len, e.Off, e.Addr, f.align)
		return
	}
	var into []byte
	if e.Opcode == ring.OpReadFixed {
		into = r.registered(e.Addr, int(e.Len))
	} else {
		into = memory(e.Addr, int(e.Len))
	}
	w.after(w.delay(), func() {
		switch {
		case w.odds(w.Faults.ReadError):
			q.finish(negative(syscall.EIO))
			return
		case w.odds(w.Faults.ShortRead) && w.Intn(2) == 0:
			q.finish(negative([]syscall.Errno{syscall.EAGAIN, syscall.EINTR}[w.Intn(2)]))
			return
		case f.refuses:
			q.finish(negative(syscall.EINVAL))
			return
		}
		n := int(min(int64(e.Len), max(0, f.size-int64(e.Off))))
		if n > 1 && w.odds(w.Faults.ShortRead) {
			n = w.Between(1, n)
		}
		if !f.direct {
			f.cache.wasRead(int64(e.Off), int64(n))
		}
		data := f.bytes(int64(e.Off), n)
		if e.Opcode == ring.OpRead {
			clear(data) // whoever looks at memory that is not the arena's finds something else
		}
		copy(into, data)
		q.finish(int32(n))
	})
}
