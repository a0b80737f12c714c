//go:build linux

package ring

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// noiseFile is a file of size bytes, and its contents.
func noiseFile(t *testing.T, size int) (*os.File, []byte) {
	t.Helper()
	want := noise(t, size)
	name := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(name, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, want
}

// expectReadFixed reads the middle of a file into the middle of a registered buffer, and
// checks every byte of the buffer.
func expectReadFixed(t *testing.T, d *driver, mem []byte, index uint16) {
	t.Helper()
	const at, off, n = 4097, 12345, 50_001 // nothing aligned
	f, content := noiseFile(t, 100_000)
	clear(mem)
	c := d.do(func(e *SQE) { e.PrepReadFixed(int(f.Fd()), addressOf(mem[at:]), n, off, index) })
	if c.Res != n {
		t.Fatalf("READ_FIXED: %s", show(c))
	}
	want := make([]byte, len(mem))
	copy(want[at:], content[off:off+n])
	if !bytes.Equal(mem, want) {
		t.Fatal("the buffer differs from the file")
	}
}

func TestReadFixedFillsExactlyTheNamedBytes(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	mem := [][]byte{mapped(t, 4096), mapped(t, 64<<10)}
	if err := d.RegisterBuffers(mem); err != nil {
		t.Fatal(err)
	}
	expectReadFixed(t, d, mem[1], 1)
}

func TestRegisteredBufferEndsWhereItEnds(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	mem := mapped(t, 8192)
	if err := d.RegisterBuffers([][]byte{mem[:4096]}); err != nil {
		t.Fatal(err)
	}
	f, _ := noiseFile(t, 8192)
	c := d.do(func(e *SQE) { e.PrepReadFixed(int(f.Fd()), addressOf(mem), 4097, 0, 0) })
	if errnoOf(c) != syscall.EFAULT {
		t.Errorf("a read past the registered buffer: %s", show(c))
	}
}

func TestUnregisteredBufferIsRefused(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	mem := mapped(t, 64<<10)
	if err := d.RegisterBuffers([][]byte{mem}); err != nil {
		t.Fatal(err)
	}
	expectReadFixed(t, d, mem, 0)
	if err := d.UnregisterBuffers(); err != nil {
		t.Fatal(err)
	}
	f, _ := noiseFile(t, 8192)
	c := d.do(func(e *SQE) { e.PrepReadFixed(int(f.Fd()), addressOf(mem), 10, 0, 0) })
	if errnoOf(c) != syscall.EFAULT {
		t.Errorf("a read into an unregistered buffer: %s", show(c))
	}
	if err := d.RegisterBuffers([][]byte{mem}); err != nil {
		t.Errorf("register once more: %v", err)
	}
}

func TestBuffersAreRegisteredOnce(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	mem := mapped(t, 4096)
	if err := d.RegisterBuffers([][]byte{mem}); err != nil {
		t.Fatal(err)
	}
	if err := d.RegisterBuffers([][]byte{mem}); !isA(err, syscall.EBUSY) {
		t.Errorf("a second registration: %v", err)
	}
}

func TestRegisterRefusesWhatTheKernelCannotTake(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	page := mapped(t, 4096)
	for name, mem := range map[string][][]byte{
		"no buffer":        {},
		"too many buffers": make([][]byte, maxRegisteredBufCount+1),
		"empty buffer":     {page, page[:0]},
		"huge buffer":      {mapped(t, maxRegisteredBuffer+1)},
	} {
		if d.RegisterBuffers(mem) == nil {
			t.Errorf("%s: registered", name)
		}
	}
	if err := d.RegisterBuffers([][]byte{page}); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

func TestUnregisterWithoutRegistrationFails(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	if err := d.UnregisterBuffers(); !isA(err, syscall.ENXIO) {
		t.Errorf("buffers: %v", err)
	}
	if err := d.UnregisterDirect(); !isA(err, syscall.ENXIO) {
		t.Errorf("direct descriptors: %v", err)
	}
}

func TestClonedBuffersServeARingOnAnotherThread(t *testing.T) {
	needs(t, "cloned buffer registration")
	source := newRing(t, Config{Entries: 8, Shared: true})
	mem := [][]byte{mapped(t, 4096), mapped(t, 64<<10)}
	if err := source.RegisterBuffers(mem); err != nil {
		t.Fatal(err)
	}
	// The subtest's goroutine runs on another thread: this one is locked to its own.
	t.Run("other thread", func(t *testing.T) {
		d := newRing(t, Config{Entries: 8})
		if err := d.CloneBuffers(source.Ring); err != nil {
			t.Fatal(err)
		}
		expectReadFixed(t, d, mem[1], 1)
	})
	expectReadFixed(t, source, mem[1], 1)
}

func TestCloneFromAnotherThreadsOwnRingSaysWhatToDo(t *testing.T) {
	needs(t, "cloned buffer registration", "deferred task work")
	source := newRing(t, Config{Entries: 8})
	if err := source.RegisterBuffers([][]byte{mapped(t, 4096)}); err != nil {
		t.Fatal(err)
	}
	t.Run("other thread", func(t *testing.T) {
		d := newRing(t, Config{Entries: 8})
		switch err := d.CloneBuffers(source.Ring); {
		case err == nil:
			t.Skip("this kernel allows it")
		case !isA(err, syscall.EEXIST) || !strings.Contains(err.Error(), "Config.Shared"):
			t.Errorf("clone: %v", err)
		}
	})
}

func TestClonedBuffersOutliveTheirSource(t *testing.T) {
	needs(t, "cloned buffer registration")
	source := newRing(t, Config{Entries: 8})
	mem := mapped(t, 64<<10)
	if err := source.RegisterBuffers([][]byte{mem}); err != nil {
		t.Fatal(err)
	}
	d := newRing(t, Config{Entries: 8})
	if err := d.CloneBuffers(source.Ring); err != nil {
		t.Fatal(err)
	}
	source.close()
	expectReadFixed(t, d, mem, 0)
}

func TestCloneOfNothingIsNotAMissingFeature(t *testing.T) {
	needs(t, "cloned buffer registration")
	source, d := newRing(t, Config{Entries: 8}), newRing(t, Config{Entries: 8})
	if err := d.CloneBuffers(source.Ring); err == nil || isA(err, ErrUnsupported) {
		t.Errorf("cloning from a ring without buffers: %v", err)
	}
}

// emptyTables is what RegisterDirect asks for.
const emptyTables = "tables of direct descriptors that are empty at first"

func TestDirectDescriptorIsSentOn(t *testing.T) {
	needsRelease(t, "5.19", emptyTables)
	d := newRing(t, Config{Entries: 8})
	if err := d.RegisterDirect(4); err != nil {
		t.Fatal(err)
	}
	local, peer := unixPair(t)
	if err := d.SetDirect(2, local.fd); err != nil {
		t.Fatal(err)
	}
	local.close() // the table keeps the file open
	mem := noise(t, 100)
	send := func(e *SQE) { e.PrepSend(2, addressOf(mem), 100, 0); e.Direct() }
	if c := d.do(send); c.Res != 100 {
		t.Fatalf("send on a direct descriptor: %s", show(c))
	}
	peer.expect(mem)
	if err := d.SetDirect(2, -1); err != nil {
		t.Fatal(err)
	}
	peer.expectEnd()
	if c := d.do(send); errnoOf(c) != syscall.EBADF {
		t.Errorf("send on an emptied slot: %s", show(c))
	}
}

func TestUnregisterDirectClosesTheFiles(t *testing.T) {
	needsRelease(t, "5.19", emptyTables)
	d := newRing(t, Config{Entries: 8})
	if err := d.RegisterDirect(1); err != nil {
		t.Fatal(err)
	}
	local, peer := unixPair(t)
	if err := d.SetDirect(0, local.fd); err != nil {
		t.Fatal(err)
	}
	local.close()
	if err := d.UnregisterDirect(); err != nil {
		t.Fatal(err)
	}
	peer.expectEnd()
}

func TestSetDirectReportsABadDescriptor(t *testing.T) {
	needsRelease(t, "5.19", emptyTables)
	d := newRing(t, Config{Entries: 8})
	if err := d.RegisterDirect(1); err != nil {
		t.Fatal(err)
	}
	if err := d.SetDirect(0, 1<<20); !isA(err, syscall.EBADF) {
		t.Errorf("a descriptor that is not open: %v", err)
	}
	if err := d.SetDirect(1, unix.Stdin); !isA(err, syscall.EINVAL) {
		t.Errorf("a slot past the table: %v", err)
	}
}
