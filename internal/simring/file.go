package simring

import (
	"syscall"

	"sluice/ring"
)

// file is an open file of pseudo-random content. size is what it has, which may be less than
// somebody announced.
type file struct {
	w     *World
	seed  byte
	size  int64
	cache *pageCache

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
	return w.open(f), func(off, n int64) []byte { return f.bytes(off, int(n)) }
}

// CloseFile closes a file that OpenFile opened.
func (w *World) CloseFile(fd int) {
	f, ok := w.fds[fd].(*file)
	if !ok {
		w.fail("close of descriptor %d, which is no open file", fd)
		return
	}
	delete(w.fds, f.twin)
	delete(w.fds, fd)
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
