package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// briefly measures a mechanism once over loopback, in a child as ever.
func briefly(t *testing.T, place *Place, mechanism, source string, ktls bool) (Sample, error) {
	t.Helper()
	const size, cold = 64 << 10, MaxSize
	file := ""
	if source == File || source == Disk {
		file = filepath.Join(t.TempDir(), "source")
		if err := fillFile(file, cold); err != nil {
			t.Fatal(err)
		}
	}
	cpu, _ := Processors()
	zc := slices.ContainsFunc(Mechanisms, func(m Mechanism) bool { return m.Name == mechanism && m.Family == familyZeroCopy })
	for window := 10 * time.Millisecond; ; window *= 4 {
		s, err := place.sample(t.Context(), job{
			Mechanism: mechanism, Source: source, KTLS: ktls, Size: size, Warm: time.Millisecond, Window: window, CPU: cpu, Cold: cold, File: file,
		})
		// On a busy machine the receiver may not have had its turn.
		if err != nil || window > 500*time.Millisecond || s.Bytes > 0 && (!zc || s.ZeroCopied+s.Copied > 0) {
			return s, err
		}
	}
}

func TestEveryMechanismMovesBytesFromEverySource(t *testing.T) {
	_, peer := Processors()
	place, err := Loopback(context.Background(), peer)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range Mechanisms {
		for _, source := range m.Sources {
			for _, ktls := range []bool{false, true} {
				if ktls && !m.KTLS {
					continue
				}
				name := m.Name + " " + source
				if ktls {
					name += " kTLS"
				}
				t.Run(name, func(t *testing.T) {
					s, err := briefly(t, place, m.Name, source, ktls)
					var refusal *Refusal
					if errors.As(err, &refusal) {
						t.Skip(refusal)
					}
					if err != nil {
						t.Fatal(err)
					}
					check(t, m, s)
				})
			}
		}
	}
	if err := place.Close(); err != nil {
		t.Errorf("the receiver ended with %v", err)
	}
}

// check doubts a sample.
func check(t *testing.T, m Mechanism, s Sample) {
	t.Helper()
	if s.Bytes == 0 || s.Ops == 0 { // no multiple of anything: a signal cuts a call
		t.Errorf("%d bytes by %d calls", s.Bytes, s.Ops)
	}
	// A process on one processor cannot use more than that; a poller is on a second one.
	processors := 1.0
	if m.poller {
		processors = 2
	}
	if s.Seconds < 0.005 || s.CPU <= 0 || s.CPU-s.Softirq > processors*s.Seconds*1.1 {
		t.Errorf("%.6f CPU seconds in %.6f", s.CPU, s.Seconds)
	}
	if m.Family == familyZeroCopy && s.ZeroCopied+s.Copied == 0 {
		t.Error("no notification of a zero-copy send arrived")
	}
	if m.Family != familyZeroCopy && m.Family != familyEngine && s.ZeroCopied+s.Copied > 0 {
		t.Errorf("%d notifications, of sends that were none of zero-copy", s.ZeroCopied+s.Copied)
	}
	if m.Family != familyEngine && s.Allocs > 20 { // the clocks' own, at the ends
		t.Errorf("%d allocations in the window", s.Allocs)
	}
}

// Loopback copies zero-copy sends: a figure that pretends otherwise is of something else.
func TestLoopbackSaysThatZeroCopyIsCopied(t *testing.T) {
	_, peer := Processors()
	place, err := Loopback(context.Background(), peer)
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	for _, name := range []string{"MSG_ZEROCOPY", "SEND_ZC-registered"} {
		s, err := briefly(t, place, name, Hot, false)
		var refusal *Refusal
		if errors.As(err, &refusal) {
			t.Skip(refusal)
		}
		if err != nil || s.Copied == 0 || s.ZeroCopied > s.Copied/10 {
			t.Errorf("%s: %d sends copied, %d not, %v", name, s.Copied, s.ZeroCopied, err)
		}
	}
}

// The black hole is for seeing zero-copy: one that is copied is of something else.
func TestTheBlackHoleTakesDatagramsAndDoesNotCopyZeroCopySends(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	place, err := BlackHole()
	if errors.Is(err, unix.EPERM) || errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := place.Close(); err != nil {
			t.Error(err)
		}
	}()
	cpu, _ := Processors()
	for _, m := range Mechanisms {
		if !m.UDP {
			continue
		}
		for _, size := range []int{4096, maxDatagram} {
			t.Run(m.Name+" "+FormatSize(size), func(t *testing.T) {
				s, err := place.sample(t.Context(), job{Mechanism: m.Name, Source: Hot, Size: size, Warm: time.Millisecond, Window: 10 * time.Millisecond, CPU: cpu, Cold: MaxSize})
				var refusal *Refusal
				if errors.As(err, &refusal) {
					t.Skip(refusal)
				}
				if err != nil {
					t.Fatal(err)
				}
				check(t, m, s)
				if s.Copied > 0 {
					t.Errorf("%d sends were copied, %d not", s.Copied, s.ZeroCopied)
				}
			})
		}
	}
}

func TestAFailedChildSaysWhat(t *testing.T) {
	_, peer := Processors()
	place, err := Loopback(context.Background(), peer)
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	place.Addr = "127.0.0.1:1" // nobody listens
	if _, err := briefly(t, place, "write", Hot, false); err == nil || errors.As(err, new(*Refusal)) {
		t.Errorf("a refused connection is %v", err)
	}
	if _, err := briefly(t, place, "telepathy", Hot, false); err == nil || errors.As(err, new(*Refusal)) {
		t.Errorf("an unknown mechanism is %v", err)
	}
}

func TestAFileInMemoryIsRefusedAsNotOnDisk(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip(err)
	}
	name := filepath.Join("/dev/shm", filepath.Base(t.TempDir())+"-bench")
	defer os.Remove(name)
	if err := fillFile(name, MaxSize); err != nil {
		t.Skip(err)
	}
	cpu, peer := Processors()
	place, err := Loopback(context.Background(), peer)
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	j := job{Mechanism: "sendfile", Source: Disk, Size: 4096, CPU: cpu, Cold: MaxSize, File: name}
	if _, err := place.sample(t.Context(), j); !errors.As(err, new(*Refusal)) {
		t.Errorf("tmpfs as a disk: %v", err)
	}
}

// What somebody maps stays in the page cache, however often it is dropped.
func TestAFileThatStaysInThePageCacheIsRefusedAsNotOnDisk(t *testing.T) {
	name := filepath.Join(t.TempDir(), "source")
	if err := fillFile(name, MaxSize); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := unix.Mmap(int(f.Fd()), 0, MaxSize, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	s := &sending{job: job{File: name}, file: int(f.Fd()), last: MaxSize}
	if err := s.dropCache(); !errors.As(err, new(*Refusal)) {
		t.Errorf("dropped: %v", err)
	}
}

func TestAFileOfThePageCacheIsThereWhenItsSampleBegins(t *testing.T) {
	name := filepath.Join(t.TempDir(), "source")
	if err := fillFile(name, MaxSize); err != nil {
		t.Fatal(err)
	}
	s := &sending{job: job{Source: Disk, Size: 4096, Cold: MaxSize, File: name}}
	if err := s.open(Mechanism{}); err != nil { // drops it
		t.Skip(err)
	}
	unix.Close(s.file)
	s = &sending{job: job{Source: File, Size: 4096, Cold: MaxSize, File: name}}
	if err := s.open(Mechanism{}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s.file)
	for off := int64(0); off < MaxSize; off += 4096 {
		if _, err := unix.Preadv2(s.file, [][]byte{make([]byte, 1)}, off, unix.RWF_NOWAIT); err != nil {
			t.Fatalf("at %d: %v", off, err)
		}
	}
}

func TestEveryMechanismHasItsSender(t *testing.T) {
	for _, m := range Mechanisms {
		if senders[m.Name] == nil {
			t.Errorf("%s cannot be measured", m.Name)
		}
		if found, ok := MechanismNamed(m.Name); !ok || found.Name != m.Name || m.How == "" || m.Reference == "" || m.Copies == "" || len(m.Sources) == 0 {
			t.Errorf("%s is not told of: %+v", m.Name, m)
		}
	}
	if len(senders) != len(Mechanisms) {
		t.Errorf("%d senders of %d mechanisms", len(senders), len(Mechanisms))
	}
}
