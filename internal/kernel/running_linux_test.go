package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	fileSize = 4 << 20
	stretch  = 256 << 10
)

// coldFile is a file of which the page cache holds nothing.
func coldFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(make([]byte, fileSize)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	evict(t, f)
	if _, err := unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 1)}, 0, unix.RWF_NOWAIT); err != unix.EAGAIN {
		t.Skipf("no file of %s can be made to leave the page cache: %v", t.TempDir(), err)
	}
	evict(t, f)
	return f
}

// evict empties the page cache of f. What is on its way there, as after a look that found nothing,
// stays: so all of it is read first.
func evict(t *testing.T, f *os.File) {
	t.Helper()
	read(t, f, 0, fileSize)
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, f *os.File, off int64, n int) {
	t.Helper()
	// Without readahead, which would bring more than was asked for.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(make([]byte, n), off); err != nil {
		t.Fatal(err)
	}
}

// asNobody runs fn on a thread that may not write to the files of others: cachestat refuses it.
func asNobody(t *testing.T, f *os.File, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with the goroutine
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			done <- errno
			return
		}
		if _, errno := missingPages(int(f.Fd()), 0, 1); errno == 0 {
			done <- errors.New("cachestat answers everybody")
			return
		}
		fn()
	}()
	if err := <-done; err != nil {
		t.Skip(err)
	}
}

// readOnly is f without the right to write, which would permit cachestat.
func readOnly(t *testing.T, f *os.File) *os.File {
	t.Helper()
	r, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestResidencyIsThatOfThePageCache(t *testing.T) {
	for _, p := range []struct {
		name string
		as   func(t *testing.T, f *os.File, fn func())
	}{
		{"by cachestat", func(t *testing.T, f *os.File, fn func()) {
			if _, errno := missingPages(int(f.Fd()), 0, 1); errno != 0 {
				t.Skip(errno)
			}
			fn()
		}},
		{"without cachestat", asNobody},
	} {
		t.Run(p.name, func(t *testing.T) {
			f := coldFile(t)
			r := readOnly(t, f)
			exact := p.name == "by cachestat"
			want := func(what string, off int64, n int, want Residency) {
				t.Helper()
				p.as(t, r, func() {
					if got := (Running{}).Residency(int(r.Fd()), off, n); got != want {
						t.Errorf("%s: residency %d, want %d", what, got, want)
					}
				})
			}
			want("cold", 0, stretch, NotResident)
			evict(t, f)
			read(t, f, 0, stretch)
			want("read", 0, stretch, Resident)
			want("part of what was read", 5000, stretch-6000, Resident)
			want("one page more than was read", 0, stretch+1, NotResident)
			evict(t, f)
			read(t, f, 0, 4096)
			read(t, f, stretch-4096, 4096)
			want("only its ends were read", 0, stretch, NotResident)
			if exact {
				evict(t, f)
				read(t, f, 0, stretch/2)
				read(t, f, stretch/2+4096, stretch/2-4096)
				want("one page in the middle was not read", 0, stretch, NotResident)
			}
			read(t, f, 0, fileSize)
			want("all was read", fileSize-stretch-77, stretch+77, Resident)
			evict(t, f)
			want("evicted", fileSize-stretch-77, stretch+77, NotResident)
		})
	}
}

// Pages that a readahead has begun to fill are in the page cache, and who wants them waits.
func TestWhatIsOnItsWayFromTheDiskIsNotResident(t *testing.T) {
	f := coldFile(t)
	for range 50 {
		evict(t, f)
		for off := int64(0); off < fileSize; off += stretch {
			if err := unix.Fadvise(int(f.Fd()), off, stretch, unix.FADV_WILLNEED); err != nil {
				t.Fatal(err)
			}
			got := Running{}.Residency(int(f.Fd()), off, stretch)
			missing, errno := missingPages(int(f.Fd()), off, stretch)
			if errno != 0 {
				t.Skip(errno)
			}
			if !missing && got == NotResident {
				return // as it should be
			}
		}
	}
	t.Error("a readahead that has begun always counts as ended")
}

func TestResidencyOfMemory(t *testing.T) {
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	defer f.Close()
	if _, err := f.Write(make([]byte, stretch)); err != nil {
		t.Fatal(err)
	}
	want := Resident
	if _, errno := missingPages(fd, 0, 1); errno != 0 {
		want = ResidencyUnknown
	}
	if got := (Running{}).Residency(fd, 0, stretch); got != want {
		t.Errorf("residency %d of a file in memory, want %d", got, want)
	}
}

func TestResidencyOfNoFileIsUnknown(t *testing.T) {
	if got := (Running{}).Residency(-1, 0, stretch); got != ResidencyUnknown {
		t.Errorf("residency %d of no file", got)
	}
}

func TestResidencyAllocatesNothing(t *testing.T) {
	f := coldFile(t)
	read(t, f, 0, stretch)
	if n := testing.AllocsPerRun(100, func() { Running{}.Residency(int(f.Fd()), 0, stretch) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestCorkIsNotForSocketsThatPace(t *testing.T) {
	for name, want := range map[string]int{"reno": 1, "bbr": 0} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err != nil {
			t.Logf("%s: %v", name, err) // every kernel has reno
			continue
		}
		for _, step := range []struct {
			on   bool
			want int
		}{{true, want}, {false, 0}} {
			Running{}.Cork(fd, step.on)
			if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_CORK); err != nil || got != step.want {
				t.Errorf("%s: TCP_CORK is %d after Cork(%v), want %d: %v", name, got, step.on, step.want, err)
			}
		}
	}
}

func TestProgressIsAskedForWithoutAllocating(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n := testing.AllocsPerRun(100, func() { Running{}.BytesAcked(fd) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
