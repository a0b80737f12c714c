package engine

import "sluice/internal/kernel"

// pageCache is what a loop remembers of what the page cache was seen to hold, so that it need not ask for each
// send: to ask about fileChunk takes a tenth of the time of sending it, or more. A place holds one stretch,
// within a chunk of a file, until another takes its place.
type pageCache [1 << pageCacheBits]seenPages

// seenPages is a stretch of a file that was in the page cache.
type seenPages struct {
	file     *File
	from, to int64
	until    int64 // when it is to be asked about again
}

// pageCacheBits is for 4,096 places: 1 GiB of large files, or as many small ones, in 160 KiB.
const pageCacheBits = 12

// place is that of the chunk of f that off lies in.
func (p *pageCache) place(f *File, off int64) *seenPages {
	const odd = 0x9e3779b97f4a7c15 // 2⁶⁴ over the golden ratio: neighbours come to lie apart
	key := uint64(off/fileChunk)<<24 ^ uint64(f.fd)
	return &p[key*odd>>(64-pageCacheBits)]
}

// chunkEnd is the end of the chunk that off lies in.
func chunkEnd(off int64) int64 { return off - off%fileChunk + fileChunk }

// holds reports how much of a stretch was there lately: everything up to the offset that it returns. What it was
// asked about is about to be sent, and so is there for another while.
func (p *pageCache) holds(f *File, off, end, now int64) int64 {
	for off < end {
		s, to := p.place(f, off), min(chunkEnd(off), end)
		if s.file != f || off < s.from || to > s.to || now >= s.until {
			break
		}
		s.until = now + int64(residentFor)
		off = to
	}
	return off
}

// saw notes that a stretch is there.
func (p *pageCache) saw(f *File, off, end, now int64) {
	for off < end {
		to := min(chunkEnd(off), end)
		*p.place(f, off) = seenPages{f, off, to, now + int64(residentFor)}
		off = to
	}
}

// residency is that of a stretch of a file, which is about to be sent if it is resident.
func (l *loop) residency(f *File, off int64, n int) kernel.Residency {
	end := off + int64(n)
	if off = l.pageCache.holds(f, off, end, l.now); off == end {
		return kernel.Resident
	}
	// Whole chunks, if they are there: what follows a piece of a file is likely to be next.
	from, to := off-off%fileChunk, max(end, min(chunkEnd(end-1), f.size))
	if f.size == 0 || from == off && to == end || l.sys.Residency(f.fd, from, int(to-from)) != kernel.Resident {
		if r := l.sys.Residency(f.fd, off, int(end-off)); r != kernel.Resident {
			return r
		}
		from, to = off, end
	}
	l.pageCache.saw(f, from, to, l.now)
	return kernel.Resident
}
