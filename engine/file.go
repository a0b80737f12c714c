package engine

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
	"sluice/zc"
)

// File is an open file that any number of connections send from. It starts with one
// reference; the last Release closes it. Any goroutine may Retain and Release.
type File struct {
	f    *os.File // nil in a simulation
	fd   int
	name string
	size int64        // when it was opened; 0: not known
	end  func() error // closes it
	refs atomic.Int32

	// direct is a descriptor of the same file whose reads go around the page cache, or -1.
	// Their offsets and lengths are multiples of align, a power of two.
	direct atomic.Int32
	align  int64

	mapped atomic.Pointer[mapping] // nil: not tried yet
	sent   atomic.Bool             // it has been asked for before
}

// mapping is a file in the address space, for zero-copy sends to take its pages.
type mapping struct {
	sys kernel.System
	mem []byte // nil: the file cannot be mapped, or is larger than what is left of mapLimit
}

// mappedBytes is how much of mapLimit is taken.
var mappedBytes atomic.Int64

func newMapping(sys kernel.System, fd int) *mapping {
	mem, err := sys.MapFile(fd, mapLimit-mappedBytes.Load())
	if err != nil {
		return &mapping{} // it goes another way
	}
	m := &mapping{sys, mem}
	if mappedBytes.Add(int64(len(mem))) > mapLimit { // another loop has mapped one meanwhile
		m.end()
		return &mapping{}
	}
	return m
}

func (m *mapping) end() {
	if m != nil && m.mem != nil {
		m.sys.UnmapFile(m.mem)
		mappedBytes.Add(-int64(len(m.mem)))
	}
}

// pages is the file in memory, or nil. All loops that send it share one mapping, which lasts as long as the
// File: to map it for each response would cost a quarter more.
func (f *File) pages(sys kernel.System) []byte {
	m := f.mapped.Load()
	if m == nil {
		m = newMapping(sys, f.fd)
		if !f.mapped.CompareAndSwap(nil, m) {
			m.end()
			m = f.mapped.Load()
		}
	}
	return m.mem
}

// NewFile takes over f, which must be a regular file opened for reading. Of a file of 64 MiB or
// more it also opens a second descriptor, with O_DIRECT. It may wait for the file system.
func NewFile(f *os.File) *File {
	file := newFile(int(f.Fd()), f.Name(), f.Close)
	file.f = f
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return file
	}
	file.size = info.Size()
	if file.size >= directSize {
		if fd, align := sysOpenDirect(file.fd); fd >= 0 {
			file.direct.Store(int32(fd))
			file.align = align
			file.end = func() error { return errors.Join(f.Close(), sysClose(fd)) }
		}
	}
	return file
}

func newFile(fd int, name string, end func() error) *File {
	f := &File{fd: fd, name: name, end: end}
	f.refs.Store(1)
	f.direct.Store(-1)
	return f
}

// Retain adds a reference and returns f.
func (f *File) Retain() *File {
	if f.refs.Add(1) < 2 {
		panic("engine: Retain of a closed File")
	}
	return f
}

// Release gives up a reference. After the last one a large file may be open for some milliseconds more.
func (f *File) Release() {
	switch n := f.refs.Add(-1); {
	case n < 0:
		panic("engine: Release of a closed File")
	case n > 0:
		return
	}
	if m := f.mapped.Load(); m != nil && len(m.mem) > quickUnmap {
		go f.close(m) // the caller may be a loop
	} else {
		f.close(m)
	}
}

func (f *File) close(m *mapping) {
	m.end()
	_ = f.end() // it was only read from
}

// File is the open file. The caller must not close it.
func (f *File) File() *os.File { return f.f }

// fileItem is what is left to send of a file.
type fileItem struct {
	f    *File
	off  int64
	left int64

	// What is decided once: how the file goes when nothing is in the way.
	chosen bool
	route  zc.Route
	reason zc.Reason
	pages  bool  // it goes out of the page cache as it is, by zero-copy or a copy: where that holds it
	cold   int64 // up to here it does not, as far as is known

	// And of the next stretch, or the one that is being read.
	way    zc.Decision
	held   kernel.Residency // unknown also where it makes no difference
	direct bool             // it is read around the page cache
	warm   int64            // up to here the file was read into the page cache for want of a buffer
	ready  int              // bytes of pages that may go with the next send; to be used at once
}

// SendFile queues n bytes of f from off and takes over one reference to f, also when it
// fails. They leave by zero-copy, out of the page cache or from registered memory, or by sendfile(2), whichever
// suits the connection, and never pass through the Go heap; no loop waits for a disk. What was picked,
// for each stretch, Stats.Sends counts by route and reason. A file that turns out to be shorter
// ends the connection with ErrFileTruncated. What continues the stretch of the call before is sent with it, as if
// it were one.
//
// Errors: ErrClosed, ErrBacklogFull.
func (c *Conn) SendFile(f *File, off, n int64) error {
	err := c.admit(0)
	if err == nil && (off < 0 || n < 0) {
		err = fmt.Errorf("send %d bytes of a file from %d: both must be positive", n, off)
	}
	if err != nil || n == 0 {
		f.Release()
		return err
	}
	if c.queue.extendFile(f, off, n) {
		f.Release()
		c.mark()
		return nil
	}
	it := c.loop.fileItems.get()
	*it = fileItem{f: f, off: off, left: n}
	c.enqueue(item{file: it})
	return nil
}

// stretch is how much of a file goes next, of at most most bytes: to the end of a page, because all stretches
// after it begin with a whole one then.
func (f *fileItem) stretch(most int64) int {
	return int(min(f.left, most-f.off%pageSize))
}

// asPages reports whether its next stretch is to leave out of the page cache as it is.
func (f *fileItem) asPages() bool { return f.pages && f.off >= f.cold }

// chooseFile decides once how a file goes: by zero-copy where that is allowed and pays; else a
// small one by a copy, to leave with its header in one send, and a large one by
// sendfile, which copies nothing on the way to the socket.
func (l *loop) chooseFile(c *Conn, f *fileItem) {
	if f.chosen {
		return
	}
	f.chosen, f.pages = true, false
	ok, why := l.cfg.Policy.Pays(l.can, c.sock, int(f.left))
	switch {
	case ok:
		f.route, f.reason = zc.ZeroCopy, why
		f.pages = f.left > smallFile // smaller ones leave with their header, from one buffer
	case f.left <= smallFile:
		f.route, f.reason = zc.Copy, zc.FileTooSmall
		f.pages = f.f.sent.Swap(true) // to map what is asked for once costs more than to read it
	default:
		f.route, f.reason = zc.Sendfile, why
	}
}

// pumpFile takes the next step for the first file of a queue: its next stretch is read into
// the arena, or handed to the socket. The loop's thread never waits for a disk: where the page
// cache lacks a stretch, sendfile would.
func (l *loop) pumpFile(c *Conn) {
	at, ok := c.queue.firstFile()
	if !ok || c.reading || at < c.queue.inFlight {
		return // enough is in memory before it, or on the way there, or its pages are being sent
	}
	f := c.queue.at(at).file
	f.ready = 0
	l.chooseFile(c, f)
	first := at == 0 && !c.polling
	if f.route == zc.Sendfile && !first || f.asPages() && l.pumpPages(c, f) {
		return // what is before it leaves first, or with it
	}
	n := f.stretch(fileChunk)
	switch into := l.decideStretch(c, f, at, n); {
	case into != nil:
		l.readFile(c, f, into, n)
	case !first: // no buffer, and not yet sendfile's turn: looked at anew after the send before it
	case f.held == kernel.Resident:
		l.sendfile(c, f, n)
	case f.off < f.warm:
		l.sendfile(c, f, int(min(int64(n), f.warm-f.off)))
	default:
		l.warmFile(c, f, n)
	}
}

// pumpPages has the next pages of a file ready for submitSend, behind what is queued before them: nothing is read
// first, and by zero-copy nothing is copied. It reports false where the page cache does not hold them, and they
// are read into the arena, and where they cannot be mapped.
func (l *loop) pumpPages(c *Conn, f *fileItem) bool {
	if c.sending != nil || c.polling {
		return true // not yet
	}
	n := f.stretch(maxSendBytes)
	switch {
	case l.residency(f.f, f.off, n) != kernel.Resident:
		f.cold = f.off + int64(n)
		return false
	case f.off+int64(n) > int64(len(f.f.pages(l.sys))):
		if f.pages = false; f.route == zc.ZeroCopy {
			f.route, f.reason = zc.Sendfile, zc.Unmapped // to read what is there for zero-copy costs more
		}
	default:
		f.ready = n
	}
	return f.pages
}

// decideStretch is the one place where the way of a file's next n bytes is decided, of each
// stretch anew, and noted in f.way. It returns the item that they are to be read into, or nil
// when they go by sendfile.
func (l *loop) decideStretch(c *Conn, f *fileItem, at, n int) (into *item) {
	f.way, f.held = zc.Decision{Route: f.route, Reason: f.reason}, kernel.ResidencyUnknown
	if f.route == zc.Sendfile || f.f.direct.Load() >= 0 {
		f.held = l.residency(f.f, f.off, n)
	}
	if f.route == zc.Sendfile {
		switch f.held {
		case kernel.Resident:
			return nil
		case kernel.NotResident:
			f.way = zc.Decision{Route: zc.Copy, Reason: zc.NotResident}
		case kernel.ResidencyUnknown:
			f.way = zc.Decision{Route: zc.Copy, Reason: zc.CacheUnknown}
		}
	}
	into, why := l.roomForFile(c, at, n)
	if into == nil {
		f.way = zc.Decision{Route: zc.Sendfile, Reason: why}
		f.held = l.residency(f.f, f.off, n)
	}
	return into
}

// roomForFile returns an item that n bytes of the file at position at may be read into: the
// header before it when both fit one buffer, else one with a buffer of its own. It is nil when
// the arena is used up, or what is left of it is for others.
func (l *loop) roomForFile(c *Conn, at, n int) (*item, zc.Reason) {
	if h := l.headerFor(c, at, n); h != nil {
		return h, 0
	}
	if !l.mayRead(c, n) {
		return nil, zc.OverBudget
	}
	b, err := l.cache.Lease(n)
	if err != nil {
		l.stats.NoBuffers++
		return nil, zc.NoBuffers
	}
	c.queue.insert(at, item{buf: b.View(0, 0), writable: true})
	return c.queue.at(at), 0
}

// readFile submits a read of the next n bytes of f, or of somewhat fewer, into the room behind
// an item's view.
func (l *loop) readFile(c *Conn, f *fileItem, into *item, n int) {
	l.cork(c, false)
	fd := f.f.fd
	f.direct = false
	if direct := int(f.f.direct.Load()); direct >= 0 && f.held == kernel.NotResident && n > fileChunk/2 { // small ones need readahead
		// A read around the page cache begins and ends at multiples of align. One that does not
		// begin there is made to end there: so only the first and the last stretch are buffered.
		past := f.f.align - 1
		if int64(n) < f.left {
			n -= int((f.off + int64(n)) & past)
		}
		addr := into.buf.Addr() + uintptr(into.buf.Len())
		if f.direct = (f.off|int64(n))&past == 0 && addr%bufreg.MinBuffer == 0; f.direct {
			fd = direct
		}
	}
	into.filling, c.reading = true, true
	c.asked = n
	l.reading += int64(n)
	if f.way.Route == zc.Copy {
		into.fileReason = f.way.Reason
	}
	l.heavy += n
	room := into.buf.Extend(n).View(into.buf.Len(), n)
	e := l.sqe()
	e.PrepReadFixed(fd, room.Addr(), uint32(n), f.off, room.Index())
	if f.held == kernel.NotResident && !f.direct {
		e.Flags |= ring.SQEAsync // starting a readahead may wait for a disk with a full queue
	}
	e.UserData = userData(kindRead, c.id)
}

// warmFile has the page cache read the next n bytes of the file at the head of the queue, which
// sendfile then takes: what is left to do without a buffer of the arena. Waiting for one could
// be for ever, since the handlers may hold all of them, or queues behind files like this one.
func (l *loop) warmFile(c *Conn, f *fileItem, n int) {
	l.cork(c, false)
	if l.waste == nil {
		m, err := mapMemory(fileChunk)
		if err != nil {
			l.abort(c, fmt.Errorf("map %d bytes to read %s into: %w", fileChunk, f.f.name, err))
			return
		}
		l.waste = m
	}
	c.queue.at(0).filling, c.reading = true, true
	f.direct = false
	e := l.sqe()
	e.PrepRead(f.f.fd, uintptr(unsafe.Pointer(&l.waste[0])), uint32(n), f.off)
	e.Flags |= ring.SQEAsync
	e.UserData = userData(kindRead, c.id)
}

// headerFor returns the item before the file when it is the engine's own, still unsent,
// and has, or can be given, room for n bytes; else nil.
func (l *loop) headerFor(c *Conn, at, n int) *item {
	if at == 0 || at-1 < c.queue.inFlight {
		return nil
	}
	h := c.queue.at(at - 1)
	if !h.writable || h.buf.Refs() != 1 {
		return nil
	}
	if h.buf.Room() >= n {
		return h
	}
	if h.buf.Len()+n > smallFile+MaxHeader || int64(n) < c.queue.at(at).file.left {
		return nil
	}
	b, err := l.cache.Lease(h.buf.Len() + n)
	if err != nil {
		return nil
	}
	copy(b.Bytes(), h.buf.Bytes())
	old := h.buf
	h.buf = b.View(0, old.Len())
	old.Release()
	return h
}

// MaxHeader is how many bytes written before a small file are moved to the file's buffer,
// so that both leave in one send.
const MaxHeader = 4 << 10

// fileRead takes the completion of a read.
func (l *loop) fileRead(c *Conn, e *ring.CQE) {
	c.reading = false
	l.reading -= int64(c.asked)
	c.asked = 0
	l.mayRetry() // it may have brought less than was asked for
	if c.sending == nil && c.notifying == 0 && !c.full {
		c.takenAt = l.now // the peer had nothing to take meanwhile
	}
	at := 0
	for !c.queue.at(at).filling {
		at++
	}
	it := c.queue.at(at)
	it.filling = false
	f := it.file // it was to be in the page cache
	if f == nil {
		f = c.queue.at(at + 1).file
	}
	switch errno := syscall.Errno(-e.Res); {
	case e.Res > 0 && it.file != nil:
		f.warm = f.off + int64(e.Res)
	case e.Res > 0:
		if f.direct {
			l.stats.DirectBytes += uint64(e.Res)
		}
		c.queue.extend(it, int(e.Res))
		c.queue.fileRead(f, int64(e.Res))
		if f.left == 0 {
			l.fileDone(c, at+1)
		}
	case e.Res == 0:
		l.abort(c, fmt.Errorf("%s at byte %d, %d bytes missing: %w", f.f.name, f.off, f.left, ErrFileTruncated))
		return
	case errno == syscall.EAGAIN || errno == syscall.EINTR || errno == syscall.ECANCELED:
		// Nobody need have cancelled it: so ends what the kernel finds no worker for, whose start
		// signals interrupt, and the Go runtime sends those.
	case errno == syscall.EINVAL && f.direct:
		f.f.direct.Store(-1) // opened with O_DIRECT, but not read: some file systems say so only now
	default:
		l.abort(c, fmt.Errorf("read %s at byte %d: %w", f.f.name, f.off, errno))
		return
	}
	if it := c.queue.at(at); it.file == nil && it.buf.Len() == 0 {
		it.buf.Release() // nothing was read: the next try leases again
		c.queue.remove(at)
	}
	c.markStep()
}

// sendfile hands ask bytes of file pages to the socket, or as many as it takes.
func (l *loop) sendfile(c *Conn, f *fileItem, ask int) {
	if int64(ask) < f.left {
		l.cork(c, true) // or each piece would end with a packet of a few bytes: a tenth of the cost over loopback
	}
	n, errno := l.sys.Sendfile(c.fd, f.f.fd, f.off, ask)
	switch {
	case n > 0:
		c.activeAt, c.full = l.now, false
		l.stats.Sends.Add(zc.Sendfile, f.way.Reason, uint64(n))
		l.worked(nil, zc.Sendfile, n)
		c.note(zc.Sendfile, f.way.Reason, uint32(n))
		c.reportSent(n, zc.Sendfile, f.way.Reason, ByRoute)
		c.queue.fileRead(f, int64(n))
		l.relieve(c) // the file may be large, and the socket full for long
	case errno == syscall.EAGAIN:
	case errno == syscall.EINTR:
		c.markLater()
		return
	case errno == 0:
		l.abort(c, fmt.Errorf("%s at byte %d, %d bytes missing: %w", f.f.name, f.off, f.left, ErrFileTruncated))
		return
	default:
		l.stats.SendErrors++
		l.abort(c, fmt.Errorf("sendfile of %s at byte %d: %w", f.f.name, f.off, errno))
		return
	}
	switch {
	case f.left == 0:
		l.fileDone(c, 0)
		l.afterSend(c)
	case n == ask:
		c.markLater()
	default:
		c.full, c.polling = true, true
		e := l.sqe()
		e.PrepPoll(c.fd, pollOut)
		e.UserData = userData(kindPoll, c.id)
	}
}

// cork has the socket hold back what does not fill a packet, as long as more of a file follows at once.
func (l *loop) cork(c *Conn, on bool) {
	if c.corked != on {
		c.corked = on
		l.sys.Cork(c.fd, on)
	}
}

// fileDone removes a file whose last byte has left it.
func (l *loop) fileDone(c *Conn, at int) {
	l.cork(c, false)
	f := c.queue.at(at).file
	c.queue.remove(at)
	f.f.Release()
	l.fileItems.put(f)
}

// pagesFollow reports whether item i will leave as pages, by zero-copy or sendfile, so that what is
// before it is held back by MSG_MORE to share its first segment.
func (l *loop) pagesFollow(c *Conn, i int) bool {
	if i >= c.queue.len() {
		return false
	}
	f := c.queue.at(i).file
	if f == nil {
		return false
	}
	l.chooseFile(c, f)
	return f.route == zc.Sendfile || f.asPages()
}

// fileReason is why a send of the first segments of a queue was decided as d: a copy of a file's
// bytes says why they were read.
func (q *sendQueue) fileReason(d zc.Decision) zc.Reason {
	if d.Route == zc.Copy {
		for i := range d.Segments {
			if why := q.at(i).fileReason; why != 0 {
				return why
			}
		}
	}
	return d.Reason
}

// fileItemPool keeps fileItems for the next file.
type fileItemPool []*fileItem

func (p *fileItemPool) get() *fileItem {
	if n := len(*p); n > 0 {
		f := (*p)[n-1]
		*p = (*p)[:n-1]
		return f
	}
	return new(fileItem)
}

func (p *fileItemPool) put(f *fileItem) {
	*f = fileItem{}
	*p = append(*p, f)
}
