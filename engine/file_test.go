//go:build linux

package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/zc"
)

var copying = zc.Policy{Mode: zc.Off}

// fileRoutes are the three ways of a file, with a policy that leads there.
var fileRoutes = []struct {
	name   string
	policy zc.Policy
	size   int64 // of a file that goes this way
	way    way
}{
	{"zero-copy", everything, 200_000, way{zc.ZeroCopy, zc.FixedPolicy}},
	{"copy of a small file", copying, smallFile, way{zc.Copy, zc.FileTooSmall}},
	{"sendfile", copying, smallFile + 1, way{zc.Sendfile, zc.PolicyOff}},
}

// sendFile sends a header of the pool's first bytes and n bytes of f from off, closes the
// connection, and expects that f is released by the end.
func (k *link) sendFile(f *os.File, header int, off, n int64) {
	k.tb.Helper()
	file := NewFile(f)
	k.do(func(c *Conn) {
		if _, err := c.Write(pool()[:header]); err != nil {
			k.tb.Errorf("write: %v", err)
		}
		if err := c.SendFile(file, off, n); err != nil {
			k.tb.Errorf("send a file: %v", err)
		}
		c.Close()
	})
	k.tb.Cleanup(func() {
		if refs := file.refs.Load(); refs != 0 {
			k.tb.Errorf("%d references to the file are left", refs)
		}
		eventually(k.tb, "the file's end", func() bool { // a large one is unmapped by a goroutine
			_, err := f.Stat()
			return errors.Is(err, os.ErrClosed)
		})
	})
}

func TestFilesOfEverySizeArrive(t *testing.T) {
	for _, r := range fileRoutes[:2] {
		for _, n := range []int64{0, 1, 4095, smallFile, smallFile + 1, fileChunk, fileChunk + 1, 3*fileChunk + 17} {
			t.Run(fmt.Sprintf("%v, %d bytes", r.policy.Mode, n), func(t *testing.T) {
				e := newEngine(t, Config{Policy: r.policy})
				k := connect(t, e, &handler{}, 0)
				k.sendFile(poolFile(t, n), 0, 0, n)
				got := k.peer.hearAll()
				k.peer.Close()
				k.wantEnd(nil)
				wantDigest(t, got, 0, n)
			})
		}
	}
}

func TestALargeFileArrives(t *testing.T) {
	n := int64(amount(64<<20, 8<<20))
	for _, r := range []struct {
		policy zc.Policy
		way    way
	}{
		{everything, way{zc.ZeroCopy, zc.FixedPolicy}},
		{copying, way{zc.Sendfile, zc.PolicyOff}},
		{zc.Policy{}, way{zc.Sendfile, zc.PathCopies}},
	} {
		t.Run(fmt.Sprintf("%v, %v", r.way.route, r.way.why), func(t *testing.T) {
			e := newEngine(t, Config{Policy: r.policy, ArenaSize: 32 << 20})
			k := connect(t, e, &handler{}, 0)
			k.sendFile(poolFile(t, n), 0, 0, n)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, n)
			wantWays(t, e.Stats(), n, ways{must: []way{r.way}})
		})
	}
}

func TestAFileOnDiskArrives(t *testing.T) {
	const n = 5 << 20
	for _, policy := range []zc.Policy{everything, copying} {
		t.Run(fmt.Sprintf("policy %v", policy.Mode), func(t *testing.T) {
			e := newEngine(t, Config{Policy: policy})
			k := connect(t, e, &handler{}, 0)
			f, err := os.Create(filepath.Join(t.TempDir(), "file"))
			if err != nil {
				t.Fatal(err)
			}
			writePool(t, f, n)
			k.sendFile(f, 0, 0, n)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, n)
		})
	}
}

func TestFileMemoryStaysBoundedHoweverLargeTheFile(t *testing.T) {
	const n = 32 << 20
	e := newEngine(t, Config{Policy: everything, ArenaSize: 32 << 20})
	k := connect(t, e, &handler{}, 0)
	k.sendFile(poolFile(t, n), 0, 0, n)
	got := k.peer.hearAll()
	k.do(func(c *Conn) {
		if items := cap(c.queue.items); items > 16 {
			t.Errorf("the queue grew to %d items for one file: it must not grow with the file", items)
		}
	})
	k.peer.Close()
	k.wantEnd(nil)
	wantDigest(t, got, 0, n)
}

func TestAStretchOfAFileArrives(t *testing.T) {
	const off = 1<<20 + 123
	for _, r := range fileRoutes {
		t.Run(r.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: r.policy})
			k := connect(t, e, &handler{}, 0)
			k.sendFile(poolFile(t, 2<<20), 0, off, r.size)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, off, r.size)
			wantWays(t, e.Stats(), r.size, ways{must: []way{r.way}})
		})
	}
}

func TestHeaderAndFileLeaveTogether(t *testing.T) {
	const header = 300
	for _, r := range []struct {
		name     string
		policy   zc.Policy
		size     int64
		sends    []way  // exactly these, one of each
		segments uint32 // TCP keeps a segment below half of the first window of 64 KiB
	}{
		{"zero-copy of a small file", everything, 3000, []way{{zc.ZeroCopy, zc.FixedPolicy}}, 1},
		{"zero-copy of more than the header's buffer has room for", everything, 20_000, []way{{zc.ZeroCopy, zc.FixedPolicy}}, 1},
		{"copy of a small file", copying, 3000, []way{{zc.Copy, zc.FileTooSmall}}, 1},
		{"copy of more than the header's buffer has room for", copying, 20_000, []way{{zc.Copy, zc.FileTooSmall}}, 1},
		{"copy of the largest small file", copying, smallFile, []way{{zc.Copy, zc.FileTooSmall}}, 2},
		{"zero-copy of pages", zc.Policy{Mode: zc.Fixed, Threshold: 16 << 10}, smallFile + 1, []way{{zc.ZeroCopy, zc.FixedPolicy}}, 2},
		{"sendfile", copying, smallFile + 1, []way{{zc.Copy, zc.PolicyOff}, {zc.Sendfile, zc.PolicyOff}}, 2},
	} {
		t.Run(r.name, func(t *testing.T) {
			if r.size > smallFile {
				needsCachestat(t)
			}
			e := newEngine(t, Config{Policy: r.policy})
			k := connect(t, e, &handler{}, 0)
			f := NewFile(poolFile(t, 1<<20))
			k.do(func(c *Conn) {
				if _, err := c.Write(pool()[header : 2*header]); err != nil {
					t.Error(err)
				}
				if err := c.SendFile(f, 2*header, r.size); err != nil {
					t.Error(err)
				}
			})
			k.peer.hear(poolBytes(header, header+int(r.size)))
			st := settled(t, e)
			wantWays(t, st, header+r.size, ways{must: r.sends})
			for _, w := range r.sends {
				if n := st.Sends.By[w.route][w.why].Sends; n != 1 {
					t.Errorf("%d sends by %v, want 1", n, w.route)
				}
			}
			if got := k.segmentsSent(); got != r.segments {
				t.Errorf("header and file left in %d segments, want %d", got, r.segments)
			}
		})
	}
}

// TestFilesBehindEachOtherArrive has each of several small files follow a header, as
// pipelined responses do.
func TestFilesBehindEachOtherArrive(t *testing.T) {
	for _, r := range fileRoutes {
		t.Run(r.name, func(t *testing.T) {
			const responses, header = 100, 200
			e := newEngine(t, Config{Policy: r.policy, HighWater: 64 << 20, MaxQueued: 64 << 20})
			k := connect(t, e, &handler{}, 0)
			heard := k.peer.startHearing()
			f := NewFile(poolFile(t, int64(len(pool()))))
			k.do(func(c *Conn) {
				off := 0
				for range responses {
					if _, err := c.Write(poolBytes(off, header)); err != nil {
						t.Error(err)
					}
					off += header
					size := int(r.size)
					if off%len(pool())+size > len(pool()) {
						size = len(pool()) - off%len(pool())
					}
					if err := c.SendFile(f.Retain(), int64(off%len(pool())), int64(size)); err != nil {
						t.Error(err)
					}
					off += size
				}
				f.Release()
				c.Close()
			})
			got := await(t, heard, "all responses")
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, got.n)
			if got.n < responses*(header+r.size/2) {
				t.Errorf("only %d bytes for %d responses", got.n, responses)
			}
			if f.refs.Load() != 0 {
				t.Errorf("%d references to the file are left", f.refs.Load())
			}
		})
	}
}

func TestATruncatedFileResetsTheConnection(t *testing.T) {
	const size = 32 << 20
	for _, r := range []struct {
		name   string
		policy zc.Policy
	}{{"zero-copy", everything}, {"sendfile", copying}} {
		t.Run(r.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: r.policy})
			k := connect(t, e, &handler{}, 64<<10)
			f := poolFile(t, size)
			k.sendFile(f, 0, 0, size)
			k.untilStuck()
			if err := f.Truncate(size / 2); err != nil {
				t.Fatal(err)
			}
			got := k.peer.hearAll()
			if !errors.Is(got.err, syscall.ECONNRESET) {
				t.Errorf("after %d bytes the peer sees %v, want a reset", got.n, got.err)
			}
			if got.n > size/2 {
				t.Errorf("the peer received %d bytes of a file of %d", got.n, size/2)
			}
			k.wantEnd(ErrFileTruncated)
		})
	}
}

func TestASmallFileThatIsShorterThanAnnouncedResetsTheConnection(t *testing.T) {
	for _, r := range fileRoutes {
		t.Run(r.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: r.policy})
			k := connect(t, e, &handler{}, 0)
			k.sendFile(poolFile(t, r.size-1), 100, 0, r.size)
			if got := k.peer.hearAll(); got.err == nil {
				t.Errorf("the peer sees an orderly end after %d bytes", got.n)
			}
			k.wantEnd(ErrFileTruncated)
		})
	}
}

func TestAGrowingFileIsSentToTheAnnouncedByte(t *testing.T) {
	for _, r := range fileRoutes {
		t.Run(r.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: r.policy})
			k := connect(t, e, &handler{}, 0)
			f := poolFile(t, r.size)
			k.do(func(*Conn) { // in the turn in which it is announced
				k.conn.Post(func(*Conn) { writePool(t, f, 5000) })
			})
			k.sendFile(f, 0, 0, r.size)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, r.size)
		})
	}
}

func TestWhatIsNotAReadableFileAbortsTheConnection(t *testing.T) {
	directory := func(tb testing.TB) *os.File {
		f, err := os.Open(tb.TempDir())
		if err != nil {
			tb.Fatal(err)
		}
		return f
	}
	writeOnly := func(tb testing.TB) *os.File {
		w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", poolFile(tb, 1<<20).Fd()), os.O_WRONLY, 0)
		if err != nil {
			tb.Fatal(err)
		}
		return w
	}
	for _, r := range fileRoutes {
		for _, bad := range []struct {
			name  string
			open  func(testing.TB) *os.File
			wants []error
		}{
			{"directory", directory, []error{syscall.EISDIR, syscall.EINVAL}}, // the latter from sendfile
			{"write-only file", writeOnly, []error{syscall.EBADF}},
		} {
			t.Run(r.name+" of a "+bad.name, func(t *testing.T) {
				e := newEngine(t, Config{Policy: r.policy})
				k := connect(t, e, &handler{}, 0)
				k.sendFile(bad.open(t), 0, 0, r.size)
				err, known := k.end(), false
				for _, want := range bad.wants {
					known = known || errors.Is(err, want)
				}
				if !known {
					t.Errorf("the connection ended with %v, want one of %v", err, bad.wants)
				}
			})
		}
	}
}

func TestSendFileRefusesNegativeRanges(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 0)
	for _, r := range [][2]int64{{-1, 1}, {0, -1}} {
		f := NewFile(poolFile(t, 1))
		k.do(func(c *Conn) {
			if err := c.SendFile(f, r[0], r[1]); err == nil {
				t.Errorf("%d bytes from %d are accepted", r[1], r[0])
			}
			if c.Queued() != 0 {
				t.Errorf("%d bytes are queued", c.Queued())
			}
		})
		if f.refs.Load() != 0 {
			t.Error("the reference was not taken over")
		}
	}
}

// Of a file that the page cache holds nothing is read into the arena: its pages leave as they are.
func TestPagesLeaveByZeroCopyWithoutTheArena(t *testing.T) {
	needsCachestat(t)
	const size = 20<<20 + 17
	e := newEngine(t, Config{Policy: everything, ArenaSize: 4 * bufreg.MaxBuffer})
	k := connect(t, e, &handler{}, 0)
	k.sendFileWithoutArena(e, poolFile(t, size), 17, size-17)
	st := e.Stats()
	if n := st.Sends.By[zc.ZeroCopy][zc.FixedPolicy]; n.Bytes < size/2 {
		t.Errorf("%d bytes left by zero-copy: %+v", n.Bytes, st.Sends.By[zc.Sendfile])
	}
	wantWays(t, st, size-17, ways{may: []way{{zc.ZeroCopy, zc.FixedPolicy}, {zc.Sendfile, zc.OverBudget}}})
}

func TestAFileGoesBySendfileWhenTheArenaIsUsedUp(t *testing.T) {
	for _, size := range []int64{1000, 1 << 20} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			e := newEngine(t, Config{Policy: everything, ArenaSize: bufreg.MaxBuffer})
			k := connect(t, e, &handler{}, 0)
			k.sendFileWithoutArena(e, poolFile(t, size), 0, size)
			if size <= smallFile || !cachestat() {
				wantWays(t, e.Stats(), size, ways{must: []way{{zc.Sendfile, zc.NoBuffers}}})
			} else { // its pages need none
				wantWays(t, e.Stats(), size, ways{may: []way{{zc.ZeroCopy, zc.FixedPolicy}, {zc.Sendfile, zc.OverBudget}}})
			}
		})
	}
}

// A small file that is asked for again is not read any more: the page cache has it.
func TestASmallFileIsReadOnce(t *testing.T) {
	needsCachestat(t)
	const size = 10_000
	e := newEngine(t, Config{Policy: copying, ArenaSize: 2 * bufreg.MaxBuffer})
	f := NewFile(poolFile(t, size))
	defer f.Release()
	for i, why := range []zc.Reason{zc.NoBuffers, zc.FileTooSmall} {
		route := []zc.Route{zc.Sendfile, zc.Copy}[i]
		k := connect(t, e, &handler{}, 0)
		held := leaseAll(t, e, bufreg.MaxBuffer)
		before := e.Stats().Sends.By[route][why].Bytes
		k.do(func(c *Conn) {
			if err := c.SendFile(f.Retain(), 0, size); err != nil {
				t.Error(err)
			}
			c.Close()
		})
		got := k.peer.hearAll()
		k.peer.Close()
		k.wantEnd(nil)
		for _, b := range held {
			b.Release()
		}
		wantDigest(t, got, 0, size)
		if n := e.Stats().Sends.By[route][why].Bytes - before; n != size {
			t.Errorf("request %d: %d bytes by %v because of %v, want %d", i+1, n, route, why, size)
		}
	}
}

// sendFileWithoutArena sends n bytes of f from off, and expects them, while all of the arena is leased.
func (k *link) sendFileWithoutArena(e *Engine, f *os.File, off, n int64) {
	k.tb.Helper()
	held := leaseAll(k.tb, e, bufreg.MaxBuffer)
	k.sendFile(f, 0, off, n)
	got := k.peer.hearAll()
	k.peer.Close()
	k.wantEnd(nil)
	for _, b := range held {
		b.Release()
	}
	wantDigest(k.tb, got, off, n)
}

// leaseAll leases n bytes at a time until nothing is left.
func leaseAll(tb testing.TB, e *Engine, n int) (all []bufreg.Buffer) {
	tb.Helper()
	for {
		b, err := e.Lease(n)
		if errors.Is(err, ErrNoBuffers) {
			return all
		}
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, b)
	}
}

func TestAbortReleasesQueuedFiles(t *testing.T) {
	for _, r := range fileRoutes {
		t.Run(r.name, func(t *testing.T) {
			e := newEngine(t, Config{Policy: r.policy, HighWater: 64 << 20, MaxQueued: 64 << 20})
			k := connect(t, e, &handler{}, 4096)
			f := NewFile(poolFile(t, 1<<20))
			k.do(func(c *Conn) {
				limitSendBuffer(t, c)
				for range 200 {
					if err := c.SendFile(f.Retain(), 0, r.size); err != nil {
						t.Error(err)
					}
				}
			})
			f.Release()
			k.untilStuck()
			k.do((*Conn).Abort)
			k.wantEnd(ErrAborted)
			if n := f.refs.Load(); n != 0 {
				t.Errorf("%d references to the file are left", n)
			}
		})
	}
}

func TestAnUnfinishedFileReadKeepsTheOrder(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	k := connect(t, e, &handler{}, 0)
	f := NewFile(poolFile(t, 1<<20))
	k.do(func(c *Conn) {
		if err := c.SendFile(f, 0, 100_000); err != nil {
			t.Error(err)
		}
		// Behind the file, in the turn in which it is not read yet.
		if _, err := c.Write(poolBytes(100_000, 50_000)); err != nil {
			t.Error(err)
		}
		c.Close()
	})
	got := k.peer.hearAll()
	k.peer.Close()
	k.wantEnd(nil)
	wantDigest(t, got, 0, 150_000)
}

func TestAFileSharedByConnectionsClosesWithTheLast(t *testing.T) {
	const conns, size = 10, 300_000
	e := newEngine(t, Config{Policy: everything})
	f := NewFile(poolFile(t, size))
	var links []*link
	for range conns {
		k := connect(t, e, &handler{}, 0)
		links = append(links, k)
		k.do(func(c *Conn) {
			if err := c.SendFile(f.Retain(), 0, size); err != nil {
				t.Error(err)
			}
			c.Close()
		})
	}
	for _, k := range links {
		wantDigest(t, k.peer.hearAll(), 0, size)
		k.peer.Close()
		k.wantEnd(nil)
	}
	if _, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFD, 0); err != nil {
		t.Errorf("the file is closed while there is a reference: %v", err)
	}
	f.Release()
	if _, err := f.File().Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
		t.Errorf("reading after the last Release: %v, want that the file is closed", err)
	}
}

// pipeFile is a File whose reads wait, and are short, as the test writes to the other end.
func pipeFile(tb testing.TB) (f *os.File, w *os.File) {
	tb.Helper()
	f, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { w.Close() })
	return f, w
}

func TestShortReadsOfAFileAreContinued(t *testing.T) {
	const header, size, step = 100, 3000, 700
	e := newEngine(t, Config{Policy: everything})
	k := connect(t, e, &handler{}, 0)
	f, w := pipeFile(t)
	k.sendFile(f, header, 0, size)
	for off := header; off < header+size; off += step {
		eventually(t, "the end of a short read", func() (read bool) {
			k.do(func(c *Conn) { read = c.reading && c.queue.at(0).buf.Len() == off })
			return read
		})
		if _, err := w.Write(pool()[off:min(off+step, header+size)]); err != nil {
			t.Fatal(err)
		}
	}
	got := k.peer.hearAll()
	k.peer.Close()
	k.wantEnd(nil)
	wantDigest(t, got, 0, header+size)
}

func TestAbortCancelsTheReadThatIsInFlight(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	k := connect(t, e, &handler{}, 0)
	f, _ := pipeFile(t)
	k.sendFile(f, 0, 0, 3000)
	k.do((*Conn).Abort)
	k.wantEnd(ErrAborted)
}

// Stretches that continue one another, each a small file by itself, and the first on its way when the others come.
func TestStretchesThatContinueEachOtherLeaveAsOne(t *testing.T) {
	inTime(t)
	const piece, pieces = 16 << 10, 64
	for _, policy := range []zc.Policy{everything, copying} {
		t.Run(fmt.Sprintf("policy %v", policy.Mode), func(t *testing.T) {
			e := newEngine(t, Config{Policy: policy})
			k := connect(t, e, &handler{}, 0)
			file := NewFile(poolFile(t, pieces*piece))
			for _, stretch := range [][2]int64{{0, 1}, {1, pieces - 1}} {
				k.do(func(c *Conn) {
					for i := range stretch[1] {
						if err := c.SendFile(file.Retain(), (stretch[0]+i)*piece, piece); err != nil {
							t.Errorf("send piece %d: %v", i, err)
						}
					}
					if want := stretch[1] * piece; c.Queued() < want {
						t.Errorf("%d bytes are queued, want %d", c.Queued(), want)
					}
				})
			}
			k.do((*Conn).Close)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, pieces*piece)
			var sends uint64
			for _, reasons := range e.Stats().Sends.By {
				for _, n := range reasons {
					sends += n.Sends
				}
			}
			if sends > pieces/4 {
				t.Errorf("%d pieces left by %d sends", pieces, sends)
			}
			if refs := file.refs.Load(); refs != 1 {
				t.Errorf("%d references to the file are left, want the test's", refs)
			}
			file.Release()
		})
	}
}
