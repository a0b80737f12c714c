//go:build linux

package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
	"sluice/zc"
)

// cacheSystem is the running kernel with a page cache of the test's choice. A sendfile that
// might have the loop wait for the disk fails the test: of bytes that Residency did not call
// resident, or where reads are expected to have brought them, that are not.
type cacheSystem struct {
	kernel.System
	tb       testing.TB
	holds    func(fd int, off int64, n int) kernel.Residency
	warmed   bool
	resident map[int64]bool // pages that Residency told of
}

func (s *cacheSystem) Residency(fd int, off int64, n int) kernel.Residency {
	r := s.holds(fd, off, n)
	if r == kernel.Resident {
		if s.resident == nil {
			s.resident = make(map[int64]bool)
		}
		for at := off / pageSize; at*pageSize < off+int64(n); at++ {
			s.resident[at] = true
		}
	}
	return r
}

func (s *cacheSystem) Sendfile(out, in int, off int64, n int) (int, syscall.Errno) {
	waits := false
	for at := off / pageSize; at*pageSize < off+int64(n); at++ {
		waits = waits || !s.resident[at]
	}
	if s.warmed {
		waits = kernel.Running{}.Residency(in, off, n) == kernel.NotResident
	}
	if waits {
		s.tb.Errorf("sendfile of %d bytes at %d, which are not resident", n, off)
	}
	return s.System.Sendfile(out, in, off, n)
}

// realCache is the running kernel, watched.
func realCache(tb testing.TB) *cacheSystem {
	return &cacheSystem{System: testSystem(), tb: tb, holds: kernel.Running{}.Residency}
}

// answers is a page cache that gives one answer.
func answers(tb testing.TB, r kernel.Residency) *cacheSystem {
	return &cacheSystem{System: testSystem(), tb: tb, holds: func(int, int64, int) kernel.Residency { return r }}
}

// cachestat reports whether the kernel tells what the page cache holds (6.5).
var cachestat = sync.OnceValue(func() bool {
	fd, err := unix.MemfdCreate("known", unix.MFD_CLOEXEC)
	must(err)
	defer unix.Close(fd)
	return kernel.Running{}.Residency(fd, 0, 1) != kernel.ResidencyUnknown
})

// needsCachestat skips a test on a kernel that does not tell.
func needsCachestat(tb testing.TB) {
	tb.Helper()
	if !cachestat() {
		tb.Skip(&ring.UnsupportedError{Feature: "cachestat", Since: "6.5"})
	}
}

// diskFile is a file of n bytes of the pool on a disk. It skips the test where there is none.
func diskFile(tb testing.TB, n int64) *os.File {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "file"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	writePool(tb, f, n)
	chill(tb, f)
	return f
}

// chill has the page cache forget f.
func chill(tb testing.TB, f *os.File) {
	tb.Helper()
	if err := f.Sync(); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		tb.Fatal(err)
	}
	if r := (kernel.Running{}).Residency(int(f.Fd()), 0, fileChunk); r == kernel.Resident {
		tb.Skipf("files in %s do not leave the page cache", os.TempDir())
	}
}

// TestAColdFileArrives reads a file that is not in the page cache, and that comes there by
// readahead while it is sent: no sendfile waits for the disk.
func TestAColdFileArrives(t *testing.T) {
	const n = 16<<20 + 321
	for _, policy := range []zc.Policy{everything, copying} {
		t.Run(fmt.Sprintf("policy %v", policy.Mode), func(t *testing.T) {
			needsCachestat(t)
			sys := realCache(t)
			e := newEngineOn(t, sys, Config{Policy: policy, ArenaSize: 32 << 20})
			check := neighbour(t, e)
			k := connect(t, e, &handler{}, 0)
			heard := k.peer.startHearing()
			k.sendFile(diskFile(t, n), 0, 0, n)
			check()
			got := await(t, heard, "the file")
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, n)
			if policy == copying {
				wantWays(t, settled(t, e), n+int64(len("still there?")), ways{
					must: []way{{zc.Copy, zc.NotResident}},
					may:  []way{{zc.Sendfile, zc.PolicyOff}, {zc.Copy, zc.PolicyOff}}, // what readahead brought; the neighbour
				})
			}
		})
	}
}

// TestASlowDiskDoesNotHoldUpTheLoop has a pipe for a file on a disk that takes as long as the
// test likes.
func TestASlowDiskDoesNotHoldUpTheLoop(t *testing.T) {
	const n = 2 * fileChunk
	e := newEngineOn(t, answers(t, kernel.NotResident), Config{Policy: copying})
	check := neighbour(t, e)
	k := connect(t, e, &handler{}, 0)
	f, w := pipeFile(t)
	k.sendFile(f, 0, 0, n)
	heard := k.peer.startHearing()
	for off := 0; off < n; off += 32 << 10 {
		eventually(t, "a read in flight", func() (reading bool) {
			k.do(func(c *Conn) { reading = c.reading })
			return reading
		})
		for range 5 {
			check()
		}
		if _, err := w.Write(pool()[off : off+32<<10]); err != nil {
			t.Fatal(err)
		}
	}
	got := await(t, heard, "the file")
	k.peer.Close()
	k.wantEnd(nil)
	wantDigest(t, got, 0, n)
}

func TestAbortEndsTheReadOfASlowDisk(t *testing.T) {
	e := newEngineOn(t, answers(t, kernel.NotResident), Config{Policy: copying})
	k := connect(t, e, &handler{}, 0)
	f, _ := pipeFile(t)
	k.sendFile(f, 0, 0, fileChunk)
	k.do(func(c *Conn) {
		if !c.reading {
			t.Error("no read is in flight")
		}
	})
	k.do((*Conn).Abort)
	k.wantEnd(ErrAborted)
}

// TestTheRouteOfAFileIsDecidedForEachStretch has every third stretch be resident.
func TestTheRouteOfAFileIsDecidedForEachStretch(t *testing.T) {
	const header, stretches = 300, 12
	const n = stretches*fileChunk + 17
	sys := answers(t, 0)
	sys.holds = func(_ int, off int64, _ int) kernel.Residency {
		if off/fileChunk%3 == 2 {
			return kernel.Resident
		}
		return kernel.NotResident
	}
	e := newEngineOn(t, sys, Config{Policy: copying})
	k := connect(t, e, &handler{}, 0)
	k.sendFile(poolFile(t, header+n), header, header, n)
	got := k.peer.hearAll()
	k.peer.Close()
	k.wantEnd(nil)
	wantDigest(t, got, 0, header+n)
	wantWays(t, e.Stats(), header+n, ways{must: []way{{zc.Copy, zc.PolicyOff}, {zc.Copy, zc.NotResident}, {zc.Sendfile, zc.PolicyOff}}})
}

// TestPagesBehindThoseThatAreMissingLeaveAsTheyAre has a hole in what the page cache holds, and no arena: where
// pages do not leave by themselves they leave by sendfile.
func TestPagesBehindThoseThatAreMissingLeaveAsTheyAre(t *testing.T) {
	needsCachestat(t)
	const size, hole, holeEnd = 12 << 20, 3 << 20, 3<<20 + 4096
	sys := answers(t, 0)
	sys.warmed = true
	sys.holds = func(_ int, off int64, n int) kernel.Residency {
		if off < holeEnd && off+int64(n) > hole {
			return kernel.NotResident
		}
		return kernel.Resident
	}
	e := newEngineOn(t, sys, Config{Policy: everything, ArenaSize: 4 * bufreg.MaxBuffer})
	k := connect(t, e, &handler{}, 0)
	k.sendFileWithoutArena(e, poolFile(t, size), 0, size)
	by := e.Stats().Sends.By
	if n := by[zc.Sendfile][zc.NoBuffers].Bytes; n == 0 || n > 2*maxSendBytes {
		t.Errorf("%d bytes around the hole were read and left by sendfile", n)
	}
}

func TestAFileOfUnknownResidencyIsRead(t *testing.T) {
	const n = 1 << 20
	e := newEngineOn(t, answers(t, kernel.ResidencyUnknown), Config{Policy: copying})
	k := connect(t, e, &handler{}, 0)
	k.sendFile(poolFile(t, n), 0, 0, n)
	got := k.peer.hearAll()
	k.peer.Close()
	k.wantEnd(nil)
	wantDigest(t, got, 0, n)
	wantWays(t, e.Stats(), n, ways{must: []way{{zc.Copy, zc.CacheUnknown}}})
}

// TestAColdFileArrivesWhenTheArenaIsUsedUp has handlers hold the whole arena: nothing comes back
// that could be waited for. The page cache is made to read what sendfile then takes.
func TestAColdFileArrivesWhenTheArenaIsUsedUp(t *testing.T) {
	const n = 4<<20 + 321
	for _, policy := range []zc.Policy{everything, copying} {
		for _, r := range []kernel.Residency{kernel.NotResident, kernel.ResidencyUnknown} {
			t.Run(fmt.Sprintf("policy %v, residency %d", policy.Mode, r), func(t *testing.T) {
				sys := answers(t, r)
				sys.warmed = true
				f := diskFile(t, n)
				e := newEngineOn(t, sys, Config{Policy: policy, ArenaSize: bufreg.MaxBuffer})
				k := connect(t, e, &handler{}, 0)
				k.sendFileWithoutArena(e, f, 0, n)
				wantWays(t, e.Stats(), n, ways{must: []way{{zc.Sendfile, zc.NoBuffers}}})
			})
		}
	}
}

func TestATruncatedColdFileResetsTheConnection(t *testing.T) {
	for _, used := range []bool{false, true} {
		t.Run(fmt.Sprintf("arena used up: %v", used), func(t *testing.T) {
			e := newEngineOn(t, answers(t, kernel.NotResident), Config{Policy: copying, ArenaSize: bufreg.MaxBuffer})
			if used {
				for _, b := range leaseAll(t, e, bufreg.MaxBuffer) {
					defer b.Release()
				}
				e.loops[0].sys.(*cacheSystem).warmed = true
			}
			k := connect(t, e, &handler{}, 0)
			k.sendFile(poolFile(t, 2*fileChunk+100), 0, 0, 3*fileChunk)
			if got := k.peer.hearAll(); got.err == nil {
				t.Errorf("the peer sees an orderly end after %d bytes", got.n)
			}
			k.wantEnd(ErrFileTruncated)
		})
	}
}

// withDirect makes a File of f that is read around the page cache, however small it is.
func withDirect(tb testing.TB, f *os.File) *File {
	tb.Helper()
	file := NewFile(f)
	fd, align := sysOpenDirect(file.fd)
	if fd < 0 {
		tb.Skip("the file system takes no O_DIRECT")
	}
	file.direct.Store(int32(fd))
	file.align = align
	file.end = func() error { return errors.Join(f.Close(), sysClose(fd)) }
	return file
}

// sendOnce sends n bytes of f from off, behind a header, and returns what came of it.
func (k *link) sendOnce(f *File, header int, off, n int64) digest {
	k.tb.Helper()
	heard := k.peer.startHearing()
	k.do(func(c *Conn) {
		if _, err := c.Write(poolBytes(int(off)-header, header)); err != nil {
			k.tb.Error(err)
		}
		if err := c.SendFile(f, off, n); err != nil {
			k.tb.Error(err)
		}
		c.Close()
	})
	got := await(k.tb, heard, "the file")
	k.peer.Close()
	return got
}

func TestReadsAroundThePageCacheBringTheRightBytes(t *testing.T) {
	const size = 3<<20 + 1000
	places := []struct {
		name string
		make func(tb testing.TB) *os.File
	}{
		{"disk", func(tb testing.TB) *os.File { return diskFile(tb, size) }},
		{"tmpfs", func(tb testing.TB) *os.File { return poolFile(tb, size) }},
	}
	for _, p := range places {
		for _, policy := range []zc.Policy{everything, copying} {
			for _, at := range [][2]int64{ // offset and length
				{4096, fileChunk}, {4096, 4 * fileChunk}, {512, 2 * fileChunk}, {4095, 2 * fileChunk}, {4097, 3*fileChunk + 5},
				{4096, 1}, {4096, 512}, {5000, 511}, {4096, fileChunk - 1}, {4096, fileChunk + 1}, {fileChunk + 7, 2*fileChunk - 7}, {4096, size - 4096},
			} {
				for _, header := range []int{0, 301} {
					t.Run(fmt.Sprintf("%s, policy %v, %d bytes from %d, header of %d", p.name, policy.Mode, at[1], at[0], header), func(t *testing.T) {
						f := withDirect(t, p.make(t))
						e := newEngineOn(t, answers(t, kernel.NotResident), Config{Policy: policy})
						k := connect(t, e, &handler{}, 0)
						got := k.sendOnce(f, header, at[0], at[1])
						k.wantEnd(nil)
						wantDigest(t, got, at[0]-int64(header), at[1]+int64(header))
						if f.direct.Load() < 0 {
							t.Error("a read was refused: it was not aligned")
						}
						st := e.Stats()
						// The first stretch ends, and the last begins, at a multiple of align; between
						// them everything is read around the page cache.
						if least := at[1] - 2*fileChunk; int64(st.DirectBytes) < least || int64(st.DirectBytes) > at[1] {
							t.Errorf("%d of %d bytes were read around the page cache, want %d or more", st.DirectBytes, at[1], least)
						}
						if at[0]%4096 == 0 && at[1]%4096 == 0 && int64(st.DirectBytes) != at[1] {
							t.Errorf("%d of %d bytes were read around the page cache, want all", st.DirectBytes, at[1])
						}
					})
				}
			}
		}
	}
}

// What is in the page cache already is taken from there.
func TestOnlyAColdFileIsReadAroundThePageCache(t *testing.T) {
	const n = 1 << 20
	for _, policy := range []zc.Policy{everything, copying} {
		e := newEngineOn(t, realCache(t), Config{Policy: policy})
		f := diskFile(t, n)
		if _, err := f.ReadAt(make([]byte, n), 0); err != nil {
			t.Fatal(err)
		}
		k := connect(t, e, &handler{}, 0)
		got := k.sendOnce(withDirect(t, f), 0, 0, n)
		k.wantEnd(nil)
		wantDigest(t, got, 0, n)
		if st := e.Stats(); st.DirectBytes != 0 {
			t.Errorf("policy %v: %d bytes were read around the page cache", policy.Mode, st.DirectBytes)
		}
	}
}

func TestReadsAroundThePageCacheLeaveItAlone(t *testing.T) {
	const n = 2 << 20
	e := newEngineOn(t, realCache(t), Config{Policy: copying})
	f := diskFile(t, n)
	again, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	chill(t, f)
	k := connect(t, e, &handler{}, 0)
	got := k.sendOnce(withDirect(t, f), 0, 0, n)
	k.wantEnd(nil)
	wantDigest(t, got, 0, n)
	if st := e.Stats(); st.DirectBytes < n/2 {
		t.Errorf("%d of %d bytes were read around the page cache", st.DirectBytes, n)
	}
}

func TestAFileSystemThatRefusesDirectReadsIsReadOtherwise(t *testing.T) {
	const n = 2<<20 + 17
	f := withDirect(t, diskFile(t, n))
	f.align = 1 // which the file system does not permit
	e := newEngineOn(t, answers(t, kernel.NotResident), Config{Policy: copying})
	k := connect(t, e, &handler{}, 0)
	got := k.sendOnce(f, 0, 1, n-1)
	k.wantEnd(nil)
	wantDigest(t, got, 1, n-1)
	if f.direct.Load() != -1 {
		t.Error("the refusal is not remembered")
	}
	if st := e.Stats(); st.DirectBytes != 0 {
		t.Errorf("%d bytes were read around the page cache", st.DirectBytes)
	}
}

func TestATruncatedFileIsNoticedAroundThePageCache(t *testing.T) {
	for _, shorter := range []int64{1, 511, 4096, fileChunk, fileChunk + 1, 2 * fileChunk} {
		f := withDirect(t, diskFile(t, 4*fileChunk-shorter))
		e := newEngineOn(t, answers(t, kernel.NotResident), Config{Policy: copying})
		k := connect(t, e, &handler{}, 0)
		if got := k.sendOnce(f, 0, 0, 4*fileChunk); got.err == nil || got.n > 4*fileChunk-shorter {
			t.Errorf("%d bytes shorter than announced: the peer received %d bytes, and %v", shorter, got.n, got.err)
		}
		k.wantEnd(ErrFileTruncated)
	}
}

func TestAGrowingFileIsReadToTheAnnouncedByteAroundThePageCache(t *testing.T) {
	const n = 2*fileChunk + 100
	g := diskFile(t, n)
	f := withDirect(t, g)
	e := newEngineOn(t, answers(t, kernel.NotResident), Config{Policy: copying})
	k := connect(t, e, &handler{}, 0)
	k.do(func(*Conn) {
		k.conn.Post(func(*Conn) { writePool(t, g, 100_000) })
	})
	got := k.sendOnce(f, 0, 0, n)
	k.wantEnd(nil)
	wantDigest(t, got, 0, n)
}

// TestALargeFileHasASecondDescriptor, which the last Release closes.
func TestALargeFileHasASecondDescriptor(t *testing.T) {
	for _, size := range []int64{directSize - 1, directSize} {
		g := diskFile(t, fileChunk)
		fd, err := unix.Open(g.Name(), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err == unix.EINVAL { // tmpfs before 6.6
			t.Skipf("files in %s are not read around the page cache", os.TempDir())
		}
		must(errors.Join(err, unix.Close(fd)))
		if err := g.Truncate(size); err != nil { // the rest is a hole
			t.Fatal(err)
		}
		f := NewFile(g)
		direct := int(f.direct.Load())
		if (direct >= 0) != (size == directSize) {
			t.Errorf("a file of %d bytes has the second descriptor %d", size, direct)
		}
		f.Release()
		if direct >= 0 {
			if _, err := unix.FcntlInt(uintptr(direct), unix.F_GETFD, 0); err != unix.EBADF {
				t.Errorf("the second descriptor after Release: %v, want that it is closed", err)
			}
		}
	}
}

func TestALargeColdFileArrives(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes 64 MiB to a disk")
	}
	const n = directSize + 4321
	for _, policy := range []zc.Policy{everything, copying} {
		e := newEngineOn(t, realCache(t), Config{Policy: policy, ArenaSize: 32 << 20})
		k := connect(t, e, &handler{}, 0)
		f := NewFile(diskFile(t, n))
		began := time.Now()
		got := k.sendOnce(f, 0, 0, n)
		k.wantEnd(nil)
		wantDigest(t, got, 0, n)
		st := e.Stats()
		t.Logf("policy %v: %v, %d bytes around the page cache", policy.Mode, time.Since(began), st.DirectBytes)
		if f.align > 0 && st.DirectBytes < n*9/10 {
			t.Errorf("policy %v: %d of %d bytes were read around the page cache", policy.Mode, st.DirectBytes, n)
		}
	}
}
