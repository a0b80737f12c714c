//go:build linux

package engine

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/internal/kernel"
)

// askedCache is a page cache that holds the first bytes of any file, and counts how often it is asked.
type askedCache struct {
	kernel.System
	held  int64
	asked int
}

func (a *askedCache) Residency(_ int, off int64, n int) kernel.Residency {
	a.asked++
	if off+int64(n) > a.held {
		return kernel.NotResident
	}
	return kernel.Resident
}

func TestThePageCacheIsAskedOnceForAWhile(t *testing.T) {
	const size = 3*fileChunk + 100
	f, other := &File{fd: 7, size: size}, &File{fd: 7, size: size}
	sys := &askedCache{held: size}
	l := &loop{sys: sys}
	for _, step := range []struct {
		what  string
		f     *File
		off   int64
		n     int
		after int64 // since the step before it
		want  kernel.Residency
		asked int
	}{
		{"the first piece of a file", f, 5000, 1000, 0, kernel.Resident, 1},
		{"the rest of that chunk", f, 6000, fileChunk - 6000, 1, kernel.Resident, 0},
		{"before it", f, 0, 5000, 1, kernel.Resident, 0},
		{"the chunks behind it", f, 0, size, 1, kernel.Resident, 1},
		{"all of them again", f, 0, size, 1, kernel.Resident, 0},
		{"the last bytes", f, size - 1, 1, 1, kernel.Resident, 0},
		{"another file with the same descriptor", other, 0, 1000, 1, kernel.Resident, 1},
		{"which took the place of the first one's", f, 0, 1000, 1, kernel.Resident, 1},
		{"a piece that is used, and so stays", f, fileChunk, 1, int64(residentFor) / 2, kernel.Resident, 0},
		{"for as long again", f, fileChunk, 1, int64(residentFor) - 1, kernel.Resident, 0},
		{"but not longer", f, fileChunk, 1, int64(residentFor), kernel.Resident, 1},
		{"beyond the end: the chunk, and then the piece", f, size - 1, 2, int64(residentFor), kernel.NotResident, 2},
		{"which is not remembered", f, size - 1, 2, 1, kernel.NotResident, 2},
	} {
		l.now += step.after
		sys.asked = 0
		if r := l.residency(step.f, step.off, step.n); r != step.want || sys.asked != step.asked {
			t.Errorf("%s: %v after %d questions, want %v after %d", step.what, r, sys.asked, step.want, step.asked)
		}
	}
	sys.held, sys.asked = size-fileChunk, 0 // a part of a chunk
	g := &File{fd: 8, size: size}
	for _, n := range []int{50, 100, 100} {
		if l.residency(g, 2*fileChunk, n) != kernel.Resident {
			t.Errorf("%d bytes that are there are not resident", n)
		}
	}
	if sys.asked != 4 { // twice for the first, whose chunk is not all there, and for the second
		t.Errorf("%d questions for a part of a chunk, want 4", sys.asked)
	}
	if l.residency(g, 2*fileChunk, 101) == kernel.Resident {
		t.Error("what is not there is resident")
	}
}

// mapper is a kernel that maps files of one size, and counts what is mapped.
type mapper struct {
	kernel.System
	size, mapped int64
}

func (m *mapper) MapFile(_ int, most int64) ([]byte, error) {
	if m.size > most {
		return nil, syscall.EFBIG
	}
	m.mapped += m.size
	return unix.Mmap(-1, 0, int(m.size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
}

func (m *mapper) UnmapFile(mem []byte) {
	m.mapped -= int64(len(mem))
	_ = unix.Munmap(mem)
}

func TestWhatIsMappedIsBounded(t *testing.T) {
	before := mappedBytes.Load()
	sys := &mapper{size: mapLimit/3 - before - 4096}
	var files []*File
	for i := range 5 {
		f := newFile(i, "", func() error { return nil })
		if got, want := len(f.pages(sys)) > 0, i < 3; got != want {
			t.Errorf("file %d is mapped: %v, want %v; %d bytes are", i, got, want, sys.mapped)
		}
		files = append(files, f)
	}
	if f := newFile(9, "", func() error { return nil }); f.pages(&mapper{size: 4096}) == nil {
		t.Error("a small file does not fit what is left")
	} else {
		f.close(f.mapped.Load())
	}
	for _, f := range files {
		f.close(f.mapped.Load())
	}
	if sys.mapped != 0 || mappedBytes.Load() > before {
		t.Errorf("%d bytes stay mapped, %d counted", sys.mapped, mappedBytes.Load()-before)
	}
}
