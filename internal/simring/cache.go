package simring

import (
	"sluice/internal/kernel"
)

// The page cache of a simulated file. Pages come by reads and go whenever the kernel likes; a
// sendfile of pages that never were there would have waited for the disk, which no loop may do.

const pageSize = 4096

// pageCache is what the kernel has of one file.
type pageCache struct {
	silent bool   // the kernel does not say what it has
	held   []bool // by page: it is there
	seen   []bool // it is, or was: it came by a read, or Residency told of it
}

func (w *World) newPageCache(size int64) *pageCache {
	n := int(size+pageSize-1) / pageSize
	p := &pageCache{held: make([]bool, n), seen: make([]bool, n)}
	cold := w.Intn(4)
	p.silent = cold == 3
	for i := range p.held {
		p.held[i] = cold == 0 || cold == 1 && w.Intn(4) != 3
	}
	return p
}

// span is the pages of n bytes from off.
func span(b []bool, off, n int64) []bool {
	from := min(int(off/pageSize), len(b))
	return b[from:max(from, min(int((off+n+pageSize-1)/pageSize), len(b)))]
}

func all(b []bool) bool {
	for _, x := range b {
		if !x {
			return false
		}
	}
	return true
}

func set(b []bool, x bool) {
	for i := range b {
		b[i] = x
	}
}

// Residency tells of the page cache, from which a page may go at that moment.
func (w *World) Residency(fd int, off int64, n int) kernel.Residency {
	f, ok := w.fds[fd].(*file)
	if !ok || f.direct {
		w.fail("asked for the page cache of descriptor %d, which is no open file", fd)
		return kernel.ResidencyUnknown
	}
	if f.cache.silent {
		return kernel.ResidencyUnknown
	}
	held := span(f.cache.held, off, int64(n))
	if len(held) > 0 && w.Intn(8) == 7 {
		held[w.Intn(len(held))] = false
	}
	if off+int64(n) > f.size || !all(held) {
		return kernel.NotResident
	}
	set(span(f.cache.seen, off, int64(n)), true)
	return kernel.Resident
}

// wasRead has the pages of a buffered read in the page cache.
func (p *pageCache) wasRead(off, n int64) {
	set(span(p.held, off, n), true)
	set(span(p.seen, off, n), true)
}

// OpenDirect opens a file that OpenFile opened once more, for reads around the page cache, and
// says what they are multiples of: often of less than a disk's blocks have, or few files of the
// simulation were long enough for one. Some file systems refuse such descriptors, with -1, and
// some only what is read from them.
func (w *World) OpenDirect(fd int) (direct int, align int64) {
	if w.Intn(2) == 0 {
		return -1, 0
	}
	f := *w.fds[fd].(*file)
	f.direct, f.twin = true, -1
	f.align = 1 << w.Between(0, 9)
	f.refuses = w.Intn(4) == 3
	direct = w.open(&f)
	w.fds[fd].(*file).twin = direct
	return direct, f.align
}
