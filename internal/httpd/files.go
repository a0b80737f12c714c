package httpd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"sluice/engine"
)

// entry is what a path leads to: an open file, or a response without one.
type entry struct {
	file    *engine.File // nil: status says why
	info    fs.FileInfo
	header  http.Header // of a plain response: type, length, validators
	head    []byte      // the same, written out for a 200, up to but without Date
	status  int         // without a file
	target  string      // for a redirect
	checked time.Time
}

func (e *entry) retain() *entry {
	if e.file != nil {
		e.file.Retain()
	}
	return e
}

func (e *entry) release() {
	if e.file != nil {
		e.file.Release()
	}
}

// shard is what the connections of one loop share. It belongs to that loop.
type shard struct {
	srv     *Server
	files   *simplelru.LRU[string, *entry]
	waiting map[string][]*conn // by path, while it is being looked up
	parser  parser
	head    []byte // scratch for response heads
	date    dateLine
}

func newShard(s *Server, open int) *shard {
	files, err := simplelru.NewLRU(open, func(_ string, e *entry) { e.release() })
	if err != nil {
		panic(err) // only a size below 1
	}
	sh := &shard{srv: s, files: files, waiting: make(map[string][]*conn)}
	sh.parser.init()
	return sh
}

// lookup returns what a request path leads to, or nil after arranging that c is resumed
// when that is known.
func (sh *shard) lookup(c *conn, p string) *entry {
	old, ok := sh.files.Get(p)
	if ok && sh.srv.now(c.ec).Sub(old.checked) < sh.srv.recheck {
		return old
	}
	p = strings.Clone(p) // it lies in the parser's memory
	list, busy := sh.waiting[p]
	sh.waiting[p] = append(list, c)
	if busy {
		return nil
	}
	var info fs.FileInfo
	if ok {
		info = old.info
	}
	ec := c.ec
	go func() {
		sh.srv.opening <- struct{}{}
		found := sh.srv.open(p, info)
		<-sh.srv.opening
		if !ec.Post(func(*engine.Conn) { sh.found(p, found, sh.srv.now(ec)) }) && found != nil {
			found.release() // the loop has ended
		}
	}()
	return nil
}

// found takes the result of a lookup and resumes the connections that waited for it. nil
// says that the entry in the cache still holds.
func (sh *shard) found(p string, e *entry, now time.Time) {
	if e == nil {
		if e, _ = sh.files.Peek(p); e != nil {
			e.checked = now
		}
	} else {
		sh.files.Remove(p) // also when the file is gone, or its space would not be freed
		if e.file != nil {
			e.checked = now
			sh.files.Add(p, e)
		}
	}
	list := sh.waiting[p]
	delete(sh.waiting, p)
	for _, c := range list {
		c.resume(e)
	}
}

// open finds out what a request path leads to, on any goroutine. It returns nil when that
// is still the file which known describes.
func (s *Server) open(reqPath string, known fs.FileInfo) *entry {
	p, err := url.PathUnescape(reqPath)
	if err != nil || strings.IndexByte(p, 0) >= 0 || !strings.HasPrefix(p, "/") {
		return &entry{status: http.StatusBadRequest}
	}
	name := strings.TrimPrefix(path.Clean(p), "/")
	isDir := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")
	if isDir {
		name = path.Join(name, "index.html")
	}
	f, info, err := s.openFile(name)
	if err != nil {
		return &entry{status: statusOf(err)}
	}
	switch {
	case info.IsDir() && !isDir:
		closeQuietly(f)
		// Relative to the path, so that no path can make it lead to another host.
		return &entry{status: http.StatusMovedPermanently, target: (&url.URL{Path: "./" + path.Base(p) + "/"}).EscapedPath()}
	case !info.Mode().IsRegular():
		closeQuietly(f)
		return &entry{status: http.StatusNotFound}
	case known != nil && os.SameFile(known, info) && known.Size() == info.Size() && known.ModTime().Equal(info.ModTime()):
		closeQuietly(f)
		return nil
	}
	return newEntry(f, info)
}

func (s *Server) openFile(name string) (*os.File, fs.FileInfo, error) {
	// Opening a FIFO would wait for a writer.
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		closeQuietly(f)
		return nil, nil, err
	}
	return f, info, nil
}

func closeQuietly(f *os.File) { _ = f.Close() } // it was not written to

// statusOf is the answer to a failed open. What lies outside of the root is not found.
func statusOf(err error) int {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return http.StatusForbidden
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		return http.StatusServiceUnavailable
	}
	return http.StatusNotFound
}

// newEntry asks ServeContent what a plain GET of the file is answered with.
func newEntry(f *os.File, info fs.FileInfo) *entry {
	w := &recorder{header: make(http.Header)}
	w.header.Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	// As long as info says: the file may have grown since.
	http.ServeContent(w, &http.Request{Method: http.MethodGet}, info.Name(), info.ModTime(), io.NewSectionReader(f, 0, info.Size()))
	if w.status != http.StatusOK || w.bodyLen != info.Size() && info.Size() > 0 {
		closeQuietly(f)
		return &entry{status: http.StatusInternalServerError}
	}
	return &entry{
		file:   engine.NewFile(f),
		info:   info,
		header: w.header,
		head:   appendHead(nil, http.StatusOK, w.header),
	}
}

// content stands for an open file where ServeContent wants to seek and read. It is only ever
// asked where: the bytes go from the file to the socket without passing here.
type content struct {
	size, at int64
}

func (c *content) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += c.at
	case io.SeekEnd:
		off += c.size
	}
	if off < 0 {
		return 0, errors.New("seek before the file's first byte")
	}
	c.at = off
	return off, nil
}

func (c *content) Read([]byte) (int, error) {
	return 0, errors.New("file bytes are sent, not read")
}
