//go:build linux

package httpd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oracle serves the same directory by net/http's own server, with the same entity tags.
func oracle(tb testing.TB, dir string) (addr string) {
	tb.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(filepath.Join(dir, filepath.Clean(r.URL.Path)))
		if err != nil {
			http.Error(w, "Not Found", http.StatusNotFound)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("ETag", etagOf(info))
		http.ServeContent(w, r, info.Name(), info.ModTime(), f)
	}))
	tb.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func etagOf(info os.FileInfo) string {
	return fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size())
}

// compared are the fields that must be what net/http says. Content-Length is looked at
// beside them.
var compared = []string{"Content-Range", "Content-Type", "Etag", "Last-Modified", "Accept-Ranges", "X-Content-Type-Options"}

// sameAnswer sends one request to both servers.
func sameAnswer(t testing.TB, ours, theirs *client, method, raw string) {
	t.Helper()
	ours.send(raw)
	theirs.send(raw)
	got, want := ours.read(method), theirs.read(method)
	var wrong []string
	if got.status != want.status {
		wrong = append(wrong, fmt.Sprintf("status %d, want %d", got.status, want.status))
	}
	// net/http says no length where nothing was written to a HEAD; ours says 0.
	if got.length != want.length && (method == "GET" || want.length >= 0) {
		wrong = append(wrong, fmt.Sprintf("Content-Length %d, want %d", got.length, want.length))
	}
	for _, k := range compared {
		if g, w := got.header[k], want.header[k]; strings.Join(g, "|") != strings.Join(w, "|") {
			wrong = append(wrong, fmt.Sprintf("%s: %q, want %q", k, g, w))
		}
	}
	if !bytes.Equal(got.body, want.body) {
		wrong = append(wrong, fmt.Sprintf("body of %s, want %s", digest(got.body), digest(want.body)))
	}
	if len(wrong) > 0 {
		t.Fatalf("%q\n%s", raw, strings.Join(wrong, "\n"))
	}
}

// bothServers serves files of sizes that take different ways, last modified at the time given.
func bothServers(t testing.TB, modified time.Time) (ours, theirs *client, sizes map[string]int64, tags map[string]string) {
	s := newSite(t, options{recheck: forever})
	sizes, tags = map[string]int64{}, map[string]string{}
	for name, size := range map[string]int{"empty": 0, "one": 1, "ten.txt": 10, "small.html": 4000, "middle": 40 << 10, "large.bin": 300 << 10} {
		full := s.write(t, name, noise(size, 7))
		must(t, os.Chtimes(full, modified, modified))
		info, err := os.Stat(full)
		must(t, err)
		sizes["/"+name], tags["/"+name] = info.Size(), etagOf(info)
	}
	return s.dial(t), dial(t, oracle(t, s.dir)), sizes, tags
}

var modified = time.Date(2024, 2, 29, 12, 30, 45, 987654321, time.UTC)

func httpTime(d time.Duration) string { return modified.Add(d).Format(http.TimeFormat) }

// rangeValues are Range fields for a file of n bytes. Lists are left out: those are
// answered with the whole file here.
func rangeValues(n int64) []string {
	var all []string
	ends := []int64{0, 1, 2, n / 2, n - 2, n - 1, n, n + 1, 1 << 40}
	for _, a := range ends {
		all = append(all, fmt.Sprintf("bytes=%d-", a), fmt.Sprintf("bytes=-%d", a))
		for _, b := range ends {
			all = append(all, fmt.Sprintf("bytes=%d-%d", a, b))
		}
	}
	return append(all, "", "bytes", "bytes=", "bytes=-", "bytes=--1", "bytes=-1-", "bytes=a-b", "bytes=1-b", "bytes=0x1-2", "bytes=1", "bytes=1-2-3",
		"lines=1-2", "Bytes=0-1", "bytes = 0-1", "bytes= 0-1", "bytes=0 -1", "bytes=0- 1", "bytes=+1-2", "bytes=99999999999999999999-", "bytes=0-99999999999999999999",
		"bytes=-99999999999999999999", "none", "bytes=0-1;x", "bytes=00-01")
}

func TestRangesAreAnsweredLikeNetHTTP(t *testing.T) {
	ours, theirs, sizes, _ := bothServers(t, modified)
	for path, n := range sizes {
		for _, v := range rangeValues(n) {
			for _, method := range []string{"GET", "HEAD"} {
				sameAnswer(t, ours, theirs, method, head(method, path, "Range: "+v))
			}
		}
	}
}

// conditions are values of conditional fields for a file with this entity tag.
func conditions(tag string) (tags, times []string) {
	tags = []string{tag, "W/" + tag, `"other"`, "*", "", `""`, tag[1:], strings.Trim(tag, `"`), `"other", ` + tag, tag + `, "other"`,
		`W/"other" , W/` + tag, `"unclosed`, "* , x", `"a","b"`, "w/" + tag}
	times = []string{httpTime(0), httpTime(-time.Second), httpTime(time.Second), httpTime(-time.Hour), httpTime(time.Hour), "", "yesterday",
		modified.Format(time.RFC850), modified.Format(time.ANSIC), modified.Format(time.RFC3339), "0", "Thu, 01 Jan 1970 00:00:00 GMT"}
	return tags, times
}

func TestConditionsAreAnsweredLikeNetHTTP(t *testing.T) {
	ours, theirs, _, tags := bothServers(t, modified)
	for _, path := range []string{"/empty", "/ten.txt", "/middle"} {
		byTag, byTime := conditions(tags[path])
		for _, method := range []string{"GET", "HEAD"} {
			for _, v := range byTag {
				sameAnswer(t, ours, theirs, method, head(method, path, "If-Match: "+v))
				sameAnswer(t, ours, theirs, method, head(method, path, "If-None-Match: "+v))
				sameAnswer(t, ours, theirs, method, head(method, path, "Range: bytes=2-5", "If-Range: "+v))
			}
			for _, v := range byTime {
				sameAnswer(t, ours, theirs, method, head(method, path, "If-Modified-Since: "+v))
				sameAnswer(t, ours, theirs, method, head(method, path, "If-Unmodified-Since: "+v))
				sameAnswer(t, ours, theirs, method, head(method, path, "Range: bytes=2-5", "If-Range: "+v))
			}
		}
	}
}

func TestAnyMixOfConditionsIsAnsweredLikeNetHTTP(t *testing.T) {
	const seed, requests = 1, 3000
	rnd := rand.New(rand.NewPCG(seed, 0))
	ours, theirs, sizes, tags := bothServers(t, modified)
	var paths []string
	for p := range sizes {
		paths = append(paths, p)
	}
	paths = append(paths, "/none")
	one := func(from []string) string { return from[rnd.IntN(len(from))] }
	for range requests {
		path := one(paths)
		byTag, byTime := conditions(tags[path] + `""`[len(tags[path])%2:])
		ranges := rangeValues(sizes[path])
		var lines []string
		add := func(chance float64, line func() string) {
			if rnd.Float64() < chance {
				lines = append(lines, line())
			}
		}
		add(.6, func() string { return "Range: " + one(ranges) })
		add(.05, func() string { return "Range: " + one(ranges) })
		add(.3, func() string { return "If-Range: " + one(append(byTag, byTime...)) })
		add(.3, func() string { return "If-Match: " + one(byTag) })
		add(.3, func() string { return "if-none-match: " + one(byTag) })
		add(.3, func() string { return "If-Modified-Since: " + one(byTime) })
		add(.3, func() string { return "IF-UNMODIFIED-SINCE: " + one(byTime) })
		add(.2, func() string { return "Accept-Encoding: gzip" })
		rnd.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		method := one([]string{"GET", "HEAD"})
		sameAnswer(t, ours, theirs, method, head(method, path, lines...))
	}
}

func TestAFileFromBeforeTimeBeganHasNoLastModified(t *testing.T) {
	ours, theirs, sizes, _ := bothServers(t, time.Unix(0, 0))
	for path := range sizes {
		for _, line := range []string{"X: y", "If-Modified-Since: " + httpTime(0), "If-Unmodified-Since: " + httpTime(-100000*time.Hour)} {
			sameAnswer(t, ours, theirs, "GET", head("GET", path, line))
		}
	}
}

// Several ranges could ask for more than the file has, many times over.
func TestSeveralRangesAreAnsweredWithTheWholeFile(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	data := noise(100<<10, 1)
	s.write(t, "a", data)
	c := s.dial(t)
	for _, v := range []string{"bytes=0-1,5-6", "bytes=0-,0-,0-,0-,0-", "bytes=5-6,", "bytes=a,b", "bytes=-1,-2"} {
		c.wantFile(c.get("/a", "Range: "+v), data)
		c.wantStatus(c.get("/a", "Range: "+v, "If-None-Match: *"), 304)
	}
}

func TestARangeOfALargeFileIsItsBytes(t *testing.T) {
	s := newSite(t, options{recheck: forever})
	data := noise(8<<20, 1)
	s.write(t, "a", data)
	c := s.dial(t)
	for _, r := range []struct{ from, to int }{{0, 0}, {1, 8<<20 - 1}, {4095, 4097}, {1 << 20, 5<<20 + 3}, {8<<20 - 1, 8<<20 - 1}, {123, 123 + 32<<10}} {
		a := c.get("/a", fmt.Sprintf("Range: bytes=%d-%d", r.from, r.to))
		if c.wantStatus(a, 206); !bytes.Equal(a.body, data[r.from:r.to+1]) {
			t.Fatalf("%v: %s, want %s", r, digest(a.body), digest(data[r.from:r.to+1]))
		}
		if want := fmt.Sprintf("bytes %d-%d/%d", r.from, r.to, len(data)); a.header.Get("Content-Range") != want {
			t.Errorf("Content-Range: %q, want %q", a.header.Get("Content-Range"), want)
		}
	}
}
