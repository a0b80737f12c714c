//go:build linux

package httpd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// replace puts a new file in the place of another, in one step.
func (s *site) replace(tb testing.TB, name string, data []byte) {
	tb.Helper()
	must(tb, os.Rename(s.write(tb, name+".new", data), filepath.Join(s.dir, name)))
}

func TestWithoutARecheckTimeEveryRequestSeesTheFileOfItsName(t *testing.T) {
	s := newSite(t, options{recheck: 0})
	c := s.dial(t)
	for i := range 20 {
		data := noise(100+i, byte(i))
		s.replace(t, "a", data)
		c.wantFile(c.get("/a"), data)
		c.wantFile(c.get("/a"), data)
	}
	if n := s.openBelow(t); n != 1 {
		t.Errorf("%d descriptors", n)
	}
}

func TestAReplacedFileIsServedFromItsDescriptorUntilTheRecheck(t *testing.T) {
	k := &clock{}
	s := newSite(t, options{recheck: time.Minute, before: func(s *Server) { s.now = k.now }})
	old, replaced := noise(100, 1), noise(200, 2)
	s.write(t, "a", old)
	c := s.dial(t)
	c.wantFile(c.get("/a"), old)
	s.replace(t, "a", replaced)
	k.advance(time.Minute - 1)
	c.wantFile(c.get("/a"), old)
	k.advance(1)
	c.wantFile(c.get("/a"), replaced)
	if n := s.openBelow(t); n != 1 {
		t.Errorf("%d descriptors", n)
	}
}

func TestARecheckThatFindsTheSameFileHoldsForAnother(t *testing.T) {
	k := &clock{}
	s := newSite(t, options{recheck: time.Minute, before: func(s *Server) { s.now = k.now }})
	old := noise(100, 1)
	s.write(t, "a", old)
	c := s.dial(t)
	c.wantFile(c.get("/a"), old)
	k.advance(time.Minute)
	c.wantFile(c.get("/a"), old)
	s.replace(t, "a", noise(200, 2))
	k.advance(time.Minute - 1)
	c.wantFile(c.get("/a"), old)
}

// Same name, size and time, but another file: the inode tells.
func TestARecheckSeesAFileThatOnlyDiffersByItsInode(t *testing.T) {
	s := newSite(t, options{})
	then := time.Unix(1e9, 0)
	old, replaced := noise(100, 1), noise(100, 2)
	must(t, os.Chtimes(s.write(t, "a", old), then, then))
	c := s.dial(t)
	c.wantFile(c.get("/a"), old)
	must(t, os.Chtimes(s.write(t, "b", replaced), then, then))
	must(t, os.Rename(filepath.Join(s.dir, "b"), filepath.Join(s.dir, "a")))
	c.wantFile(c.get("/a"), replaced)
}

func TestARecheckSeesAFileThatWasWrittenInPlace(t *testing.T) {
	s := newSite(t, options{})
	c := s.dial(t)
	for _, size := range []int{100, 200, 50, 0, 100} {
		data := noise(size, byte(size))
		s.write(t, "a", data)
		r := c.get("/a")
		c.wantFile(r, data)
		if again := c.get("/a"); again.header.Get("Etag") != r.header.Get("Etag") {
			t.Errorf("Etag %q, then %q of the same file", r.header.Get("Etag"), again.header.Get("Etag"))
		}
	}
}

// The bytes are the descriptor's own in any case; the validators must follow.
func TestARecheckSeesANewTimeAndANewSizeByThemselves(t *testing.T) {
	s := newSite(t, options{})
	then := time.Unix(1e9, 0)
	name := s.write(t, "a", noise(100, 1))
	must(t, os.Chtimes(name, then, then))
	c := s.dial(t)
	tag := c.get("/a").header.Get("Etag")
	must(t, os.Chtimes(name, then, then.Add(time.Nanosecond)))
	newTime := c.get("/a").header.Get("Etag")
	if newTime == tag {
		t.Errorf("Etag %s of both times", tag)
	}
	must(t, os.Truncate(name, 50))
	must(t, os.Chtimes(name, then, then.Add(time.Nanosecond)))
	r := c.get("/a")
	c.wantFile(r, noise(100, 1)[:50])
	if r.header.Get("Etag") == newTime {
		t.Errorf("Etag %s of both sizes", newTime)
	}
}

func TestARemovedFileIsNotFoundAndLetGoOf(t *testing.T) {
	s := newSite(t, options{})
	data := noise(100, 1)
	name := s.write(t, "a", data)
	c := s.dial(t)
	c.wantFile(c.get("/a"), data)
	must(t, os.Remove(name))
	c.wantStatus(c.get("/a"), 404)
	if n := s.openBelow(t); n != 0 {
		t.Errorf("%d descriptors of a removed file", n)
	}
	s.write(t, "a", data)
	c.wantFile(c.get("/a"), data)
}

func TestAFileMayBecomeADirectoryAndTurnBack(t *testing.T) {
	s := newSite(t, options{})
	data := noise(100, 1)
	name := s.write(t, "a", data)
	c := s.dial(t)
	c.wantFile(c.get("/a"), data)
	must(t, os.Remove(name))
	must(t, os.Mkdir(name, 0o755))
	c.wantStatus(c.get("/a"), 301)
	must(t, os.Remove(name))
	s.write(t, "a", data)
	c.wantFile(c.get("/a"), data)
}

func TestADownloadGoesOnFromAReplacedFile(t *testing.T) {
	s := newSite(t, options{})
	old, replaced := noise(16<<20, 1), noise(100, 2)
	s.write(t, "a", old)
	slow, fast := s.dial(t), s.dial(t)
	slow.sendAndWait(s, head("GET", "/a"))
	if _, err := slow.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	s.replace(t, "a", replaced)
	fast.wantFile(fast.get("/a"), replaced)
	slow.wantFile(slow.read("GET"), old)
}

func TestDescriptorsStayWithinTheCache(t *testing.T) {
	const limit, files = 8, 100
	s := newSite(t, options{recheck: forever, before: func(s *Server) { s.shards[0] = newShard(s, limit) }})
	raw, want := pipeline(t, s, files, 50<<10)
	c := s.dial(t)
	for range 2 {
		c.send(raw)
		for _, data := range want {
			c.wantFile(c.read("GET"), data)
		}
		eventually(t, "what is sent is closed", func() bool { return s.openBelow(t) <= limit })
	}
	if n := s.openBelow(t); n != limit {
		t.Errorf("%d descriptors, want %d", n, limit)
	}
}

func TestNoMoreFilesAreOpenedAtATimeThanAllowed(t *testing.T) {
	s := newSite(t, options{recheck: forever, before: func(s *Server) { s.opening = make(chan struct{}, 1) }})
	s.srv.opening <- struct{}{}
	data := noise(10, 1)
	var all []*client
	for i := range 10 {
		s.write(t, fmt.Sprint(i), data)
		c := s.dial(t)
		c.sendAndWait(s, head("GET", fmt.Sprint("/", i)))
		all = append(all, c)
	}
	if n := s.openBelow(t); n != 0 {
		t.Errorf("%d files were opened", n)
	}
	<-s.srv.opening
	for _, c := range all {
		c.wantFile(c.read("GET"), data)
	}
}

func TestWhatIsNotFoundIsLookedUpAgain(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	c := s.dial(t)
	c.wantStatus(c.get("/a"), 404)
	data := noise(100, 1)
	s.write(t, "a", data)
	c.wantFile(c.get("/a"), data)
}

func TestEachLoopServesFromItsOwnFiles(t *testing.T) {
	o := options{recheck: forever}
	o.config.Loops = 2
	s := newSite(t, o)
	data := noise(100<<10, 1)
	s.write(t, "a", data)
	eventually(t, "connections of both loops are answered", func() bool {
		c := s.dial(t)
		c.wantFile(c.get("/a"), data)
		return s.openBelow(t) == 2
	})
}
