package engine

import (
	"testing"

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
