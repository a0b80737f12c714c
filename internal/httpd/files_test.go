//go:build linux

package httpd

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tree makes a server of a directory with a secret beside it.
func tree(tb testing.TB) (s *Server, dir string) {
	tb.Helper()
	top := tb.TempDir()
	dir = filepath.Join(top, "root")
	for name, data := range map[string]string{
		"secret":                "secret",
		"root/a":                "a",
		"root/a b":              "a b",
		"root/%41":              "percent",
		"root/empty":            "",
		"root/..dots":           "dots",
		"root/back\\slash":      "backslash",
		"root/index.html":       "index",
		"root/dir/index.html":   "dir index",
		"root/dir/b":            "b",
		"root/bare/b":           "b",
		"root/index/x":          "x",
		"root/odd/index.html/x": "x",
	} {
		full := filepath.Join(top, name)
		must(tb, os.MkdirAll(filepath.Dir(full), 0o755))
		must(tb, os.WriteFile(full, []byte(data), 0o644))
	}
	for name, target := range map[string]string{
		"inside":       "a",
		"deep":         "dir/../dir/b",
		"dirlink":      "dir",
		"chain":        "inside",
		"loop":         "loop",
		"dangling":     "nothing",
		"outside":      "../secret",
		"outside-dir":  "..",
		"dir/outside":  "../../secret",
		"absolute":     filepath.Join(top, "secret"),
		"absolute-in":  filepath.Join(dir, "a"),
		"proc":         "/proc/self/environ",
		"in-and-out":   "dir/../../secret",
		"out-and-in":   "../root/a",
		"chain-to-out": "outside",
	} {
		must(tb, os.Symlink(target, filepath.Join(dir, name)))
	}
	s, err := New(dir, 1, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { must(tb, s.Close()) })
	return s, dir
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// found opens a path and returns the status of a plain GET, and the file's bytes.
func found(tb testing.TB, s *Server, path string) (int, string) {
	tb.Helper()
	e := s.open(path, nil)
	if e == nil {
		tb.Fatalf("%q: nothing, without a file to compare with", path)
	}
	defer e.release()
	if e.file == nil {
		return e.status, ""
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", e.file.File().Fd()))
	if err != nil {
		tb.Fatal(err)
	}
	return http.StatusOK, string(data)
}

func TestAPathLeadsToItsFile(t *testing.T) {
	s, _ := tree(t)
	for path, want := range map[string]string{
		"/a":                    "a",
		"/empty":                "",
		"/a%20b":                "a b",
		"/a b":                  "a b",
		"/%61":                  "a",
		"/%2561":                "", // "%61" is not decoded twice
		"/%2541":                "percent",
		"//a":                   "a",
		"/./a":                  "a",
		"/dir/../a":             "a",
		"/none/../a":            "a",
		"/../../a":              "a",
		"/%2e%2e/a":             "a",
		"/..%2fa":               "a",
		"/dir%2fb":              "b",
		"/%2Fa":                 "a",
		"/..dots":               "dots",
		"/back%5cslash":         "backslash",
		"/":                     "index",
		"//":                    "index",
		"/.":                    "index",
		"/dir/..":               "index",
		"/dir/../":              "index",
		"/..":                   "index",
		"/dir/":                 "dir index",
		"/dir/.":                "dir index",
		"/dir/index.html":       "dir index",
		"/inside":               "a",
		"/chain":                "a",
		"/deep":                 "b",
		"/dirlink/b":            "b",
		"/dirlink/":             "dir index",
		"/dirlink/../a":         "a", // lexically, as URLs are resolved
		"//evil.com/..":         "index",
		"//evil.com/../a":       "a",
		"/http://evil.com/../a": "",
	} {
		wantStatus := http.StatusOK
		if want == "" && path != "/empty" {
			wantStatus = http.StatusNotFound
		}
		if status, got := found(t, s, path); status != wantStatus || got != want {
			t.Errorf("%q: %d %q, want %d %q", path, status, got, wantStatus, want)
		}
	}
}

func TestNoPathLeavesTheRoot(t *testing.T) {
	s, dir := tree(t)
	for _, path := range []string{
		"/outside", "/outside-dir/secret", "/outside-dir/root/a", "/dir/outside", "/absolute", "/absolute-in", "/proc",
		"/in-and-out", "/out-and-in", "/chain-to-out", "/loop", "/dangling",
		"/../secret", "/%2e%2e/secret", "/..%2fsecret", "/%2e%2e%2fsecret", "/dir/../../secret", "/dir/%2e%2e/%2e%2e/secret",
		"//../secret", "/.%2e/secret", "/..%5csecret", "/..\\secret", "/%252e%252e/secret", "/..;/secret", "/%c0%ae%c0%ae/secret",
		dir + "/../secret", "/" + dir + "/a",
	} {
		if status, data := found(t, s, path); status != http.StatusNotFound {
			t.Errorf("%q: %d %q", path, status, data)
		}
	}
}

func TestAPathThatIsNoneIsABadRequest(t *testing.T) {
	s, _ := tree(t)
	for _, path := range []string{"/a%00", "/%00", "/a\x00", "/%", "/%4", "/%zz", "/a%2", "a", "", "%2fa%"} {
		if status, _ := found(t, s, path); status != http.StatusBadRequest {
			t.Errorf("%q: %d", path, status)
		}
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	s, _ := tree(t)
	for _, path := range []string{
		"/none", "/none/", "/dir/none", "/a/", "/a/b", "/bare/", "/index/", "/odd/", "/A",
		"/" + strings.Repeat("x", 256), "/" + strings.Repeat("x/", 4000),
	} {
		if status, _ := found(t, s, path); status != http.StatusNotFound {
			t.Errorf("%.80q: %d", path, status)
		}
	}
}

// Only regular files are served. Opening the others must not wait for anybody either.
func TestSpecialFilesAreNotFound(t *testing.T) {
	s, dir := tree(t)
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	ln, err := net.Listen("unix", filepath.Join(dir, "socket"))
	must(t, err)
	defer ln.Close()
	names := []string{"fifo", "socket"}
	if os.Geteuid() == 0 {
		const null = 1<<8 | 3
		must(t, unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o666, null))
		names = append(names, "device")
	}
	for _, name := range names {
		must(t, os.Symlink(name, filepath.Join(dir, "to-"+name)))
		for _, path := range []string{"/" + name, "/to-" + name} {
			status := make(chan int, 1)
			go func() {
				st, _ := found(t, s, path)
				status <- st
			}()
			select {
			case st := <-status:
				if st != http.StatusNotFound {
					t.Errorf("%s: %d", path, st)
				}
			case <-time.After(patience):
				t.Fatalf("opening %s hangs", path)
			}
		}
	}
}

func TestWhatMayNotBeReadIsForbidden(t *testing.T) {
	s, dir := tree(t)
	must(t, os.Chmod(filepath.Join(dir, "a"), 0))
	must(t, os.Chmod(filepath.Join(dir, "bare"), 0))
	// The rights of files are a thread's on Linux: this one becomes somebody else, and ends
	// with the goroutine.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		const nobody = 65534
		if _, err := unix.SetfsuidRetUid(nobody); err != nil && os.Geteuid() == 0 {
			t.Error(err)
			return
		}
		for path, want := range map[string]int{"/a": 403, "/inside": 403, "/bare/b": 403, "/bare/": 403, "/dir/b": 200} {
			if status, _ := found(t, s, path); status != want {
				t.Errorf("%s: %d, want %d", path, status, want)
			}
		}
	}()
	<-done
	must(t, os.Chmod(filepath.Join(dir, "bare"), 0o755)) // or it could not be removed
}

func TestWantOfDescriptorsIsUnavailable(t *testing.T) {
	for _, errno := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if st := statusOf(&os.PathError{Op: "openat", Path: "x", Err: errno}); st != http.StatusServiceUnavailable {
			t.Errorf("%v: %d", errno, st)
		}
	}
}

// A redirect must lead to the directory that was asked for, on the host that was asked.
func TestADirectoryWithoutASlashIsRedirectedToItself(t *testing.T) {
	s, dir := tree(t)
	for _, name := range []string{"evil.com", "a:b", "javascript:alert(1)", "http:", "q?x", "h#x", "per%cent", "sp ace", "line\r\nbreak", "ünï", "\\\\evil.com", "...", "@evil.com"} {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		must(t, os.MkdirAll(filepath.Join(dir, name, "evil.com"), 0o755))
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	asked := 0
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		name := url.PathEscape(entry.Name())
		for _, path := range []string{"/" + name, "//" + name, "///" + name, "/./" + name, "/x/../" + name, "/" + name + "/../" + name, "/" + strings.ReplaceAll(name, ".", "%2e"), "/dir/..%2f" + name} {
			e := s.open(path, nil)
			if e.status != http.StatusMovedPermanently {
				t.Errorf("%q: %d", path, e.status)
				continue
			}
			if strings.ContainsAny(e.target, "\r\n \\") {
				t.Errorf("%q: Location %q", path, e.target)
			}
			base, err := url.Parse("http://server.example" + path)
			must(t, err)
			to, err := base.Parse(e.target)
			must(t, err)
			if to.Host != "server.example" || to.Scheme != "http" || to.RawQuery != "" || to.Fragment != "" || to.User != nil {
				t.Errorf("%q: Location %q leads to %q", path, e.target, to)
			}
			if strings.Contains(path, "%2f") {
				continue // escaped slashes separate nothing in a URL
			}
			if clean := filepath.Clean(to.Path); clean != "/"+entry.Name() || !strings.HasSuffix(to.Path, "/") {
				t.Errorf("%q: Location %q leads to the path %q", path, e.target, to.Path)
			}
			asked++
		}
	}
	if asked < 100 {
		t.Errorf("only %d redirects", asked)
	}
}

func TestARedirectIsSentWithItsLocation(t *testing.T) {
	s := newSite(t, options{})
	s.write(t, "dir/index.html", []byte("index"))
	c := s.dial(t)
	r := c.get("/dir")
	if r.status != 301 || r.header.Get("Location") != "./dir/" {
		t.Fatalf("%d %q", r.status, r.header)
	}
	c.wantFile(c.get("/dir/"), []byte("index"))
}

func TestTheTypeIsToldByNameAndElseByContent(t *testing.T) {
	s := newSite(t, options{})
	c := s.dial(t)
	for name, f := range map[string]struct{ data, want string }{
		"a.html":     {"x", "text/html; charset=utf-8"},
		"a.css":      {"x", "text/css; charset=utf-8"},
		"a.js":       {"x", "text/javascript; charset=utf-8"},
		"a.json":     {"x", "application/json"},
		"a.svg":      {"x", "image/svg+xml"},
		"a.png":      {"not a picture", "image/png"},
		"a.pdf":      {"x", "application/pdf"},
		"a.wasm":     {"x", "application/wasm"},
		"A.HTML":     {"x", "text/html; charset=utf-8"},
		"text":       {"just text", "text/plain; charset=utf-8"},
		"page":       {"<!DOCTYPE html><p>", "text/html; charset=utf-8"},
		"picture":    {"\x89PNG\r\n\x1a\n", "image/png"},
		"binary":     {"\x00\x01\x02", "application/octet-stream"},
		"empty":      {"", "text/plain; charset=utf-8"},
		"no.such-ex": {"\x00", "application/octet-stream"},
	} {
		s.write(t, name, []byte(f.data))
		for _, method := range []string{"GET", "HEAD"} {
			if got := c.ask(method, "/"+name).header.Get("Content-Type"); got != f.want {
				t.Errorf("%s %s: %q, want %q", method, name, got, f.want)
			}
		}
	}
}

// What is announced is the size that was looked at first, whatever the file does next.
func TestAFileThatGrowsWhileItIsOpenedIsServedAsItWas(t *testing.T) {
	s, dir := tree(t)
	f, info, err := s.openFile("a")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("longer"), 0o644))
	e := newEntry(f, info)
	defer e.release()
	if e.file == nil || e.header.Get("Content-Length") != "1" {
		t.Errorf("status %d, %q", e.status, e.header)
	}
}

func TestNewRefusesWhatIsNoDirectory(t *testing.T) {
	_, dir := tree(t)
	for _, name := range []string{"a", "none", "dangling", "a/b"} {
		full := filepath.Join(dir, name)
		if s, err := New(full, 1, 0); err == nil {
			s.Close()
			t.Errorf("%s is served", name)
		} else if !strings.Contains(err.Error(), full) {
			t.Errorf("%v does not name %s", err, full)
		}
	}
}
