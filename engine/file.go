package engine

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"sluice/ring"
	"sluice/zc"
)

// File is an open file that any number of connections send from. It starts with one
// reference; the last Release closes it. Any goroutine may Retain and Release.
type File struct {
	f    *os.File // nil in a simulation
	fd   int
	name string
	end  func() error // closes it
	refs atomic.Int32
}

// NewFile takes over f, which must be a regular file opened for reading.
func NewFile(f *os.File) *File {
	file := &File{f: f, fd: int(f.Fd()), name: f.Name(), end: f.Close}
	file.refs.Store(1)
	return file
}

// Retain adds a reference and returns f.
func (f *File) Retain() *File {
	if f.refs.Add(1) < 2 {
		panic("engine: Retain of a closed File")
	}
	return f
}

// Release gives up a reference.
func (f *File) Release() {
	switch n := f.refs.Add(-1); {
	case n == 0:
		_ = f.end() // it was only read from
	case n < 0:
		panic("engine: Release of a closed File")
	}
}

// File is the open file. The caller must not close it.
func (f *File) File() *os.File { return f.f }

// fileItem is what is left to send of a file.
type fileItem struct {
	f      *File
	off    int64
	left   int64
	route  zc.Route
	reason zc.Reason
	chosen bool
}

// SendFile queues n bytes of f from off and takes over one reference to f, also when it
// fails. They leave by zero-copy from registered memory or by sendfile(2), whichever suits
// the connection, and never pass through the Go heap. A file that turns out to be shorter
// ends the connection with ErrFileTruncated.
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
	it := c.loop.fileItems.get()
	*it = fileItem{f: f, off: off, left: n}
	c.enqueue(item{file: it})
	return nil
}

// chooseFile decides how a file goes: by zero-copy where that is allowed and pays; else a
// small one through the arena, to leave with its header in one send, and a large one by
// sendfile, which copies nothing on the way to the socket.
func (l *loop) chooseFile(c *Conn, f *fileItem) {
	f.chosen = true
	ok, why := l.cfg.Policy.Pays(l.can, c.sock, int(f.left))
	switch {
	case ok:
		f.route, f.reason = zc.ZeroCopy, why
	case f.left <= smallFile:
		f.route, f.reason = zc.Copy, zc.FileTooSmall
	default:
		f.route, f.reason = zc.Sendfile, why
	}
}

// pumpFile takes the next step for the first file of a queue.
func (l *loop) pumpFile(c *Conn) {
	at, before, ok := c.queue.firstFile()
	if !ok {
		return // enough is in memory before it
	}
	f := c.queue.at(at).file
	if !f.chosen {
		l.chooseFile(c, f)
	}
	if f.route == zc.Sendfile {
		if at == 0 && c.sending == nil && !c.polling {
			l.sendfile(c, f)
		}
		return
	}
	if !c.reading && before < readAhead {
		l.readFile(c, f, at)
	}
}

// readFile submits a read of the next bytes of f into registered memory: into the room
// behind the header before it when both fit one buffer, else into a buffer of its own.
func (l *loop) readFile(c *Conn, f *fileItem, at int) {
	n := int(min(f.left, fileChunk))
	into := l.headerFor(c, at, n)
	if into == nil {
		b, err := l.cache.Lease(n)
		if err != nil {
			l.readShort(c, f)
			return
		}
		c.queue.insert(at, item{buf: b.View(0, 0), writable: true})
		into = c.queue.at(at)
	}
	into.filling, c.reading = true, true
	l.heavy += n
	room := into.buf.Extend(n).View(into.buf.Len(), n)
	e := l.sqe()
	e.PrepReadFixed(f.f.fd, room.Addr(), uint32(n), f.off, room.Index())
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

// readShort goes on without a buffer: by sendfile, which needs none.
func (l *loop) readShort(c *Conn, f *fileItem) {
	l.stats.NoBuffers++
	f.route, f.reason = zc.Sendfile, zc.NoBuffers
	c.markStep()
}

// fileRead takes the completion of a read.
func (l *loop) fileRead(c *Conn, e *ring.CQE) {
	c.reading, c.takenAt = false, l.now // the peer may have had nothing to take meanwhile
	at := 0
	for !c.queue.at(at).filling {
		at++
	}
	it := c.queue.at(at)
	it.filling = false
	f := c.queue.at(at + 1).file
	switch errno := syscall.Errno(-e.Res); {
	case e.Res > 0:
		c.queue.extend(it, int(e.Res))
		c.queue.fileRead(f, int64(e.Res))
		if f.left == 0 {
			l.fileDone(c, at+1)
		}
	case e.Res == 0:
		l.abort(c, fmt.Errorf("%s at byte %d, %d bytes missing: %w", f.f.name, f.off, f.left, ErrFileTruncated))
		return
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
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

// sendfile hands file pages to the socket until it is full or the turn is long enough.
func (l *loop) sendfile(c *Conn, f *fileItem) {
	ask := min(f.left, sendfileTurn)
	n, errno := l.sys.Sendfile(c.fd, f.f.fd, f.off, int(ask))
	switch {
	case n > 0:
		c.activeAt = l.now
		l.stats.Sends.Add(zc.Sendfile, f.reason, uint64(n))
		c.note(zc.Sendfile, f.reason, uint32(n))
		c.reportSent(n, zc.Sendfile, f.reason, ByRoute)
		c.queue.fileRead(f, int64(n))
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
	case int64(n) == ask:
		c.markLater()
	default: // the socket is full
		c.polling = true
		e := l.sqe()
		e.PrepPoll(c.fd, pollOut)
		e.UserData = userData(kindPoll, c.id)
	}
}

// fileDone removes a file whose last byte has left it.
func (l *loop) fileDone(c *Conn, at int) {
	f := c.queue.at(at).file
	c.queue.remove(at)
	f.f.Release()
	l.fileItems.put(f)
}

// sendfileFollows reports whether item i will leave by sendfile, so that what is before it
// is held back by MSG_MORE to share its first segment.
func (l *loop) sendfileFollows(c *Conn, i int) bool {
	if i >= c.queue.len() {
		return false
	}
	f := c.queue.at(i).file
	if f == nil {
		return false
	}
	if !f.chosen {
		l.chooseFile(c, f)
	}
	return f.route == zc.Sendfile
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
