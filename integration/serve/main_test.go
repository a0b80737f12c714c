//go:build linux

// Package serve_test drives the program uringserve as its users do: as a process, with
// signals, and with curl and net/http as clients.
package serve_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen before it calls it lost.
const patience = 20 * time.Second

var (
	binary string // uringserve, built for these tests
	dir    string // what it serves
	files  = map[string]file{}
)

// file is what a client must receive.
type file struct {
	data []byte
	sum  [sha256.Size]byte
}

const (
	bigSize  = 64 << 20
	midSize  = 300 << 10
	smalls   = 200      // files named s0, s1, …
	inMemory = 32 << 10 // up to this size a file goes with its head, by copy, where zero-copy is not for it
)

func TestMain(m *testing.M) {
	if rights := os.Getenv(rightsEnv); rights != "" {
		execWithRights(rights)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	top, err := os.MkdirTemp("", "uringserve-test")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(top)
	must(os.Chmod(top, 0o755)) // for the tests that run it as somebody else
	binary, dir = filepath.Join(top, "uringserve"), filepath.Join(top, "files")
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	if invariants {
		args = append(args, "-tags", "invariants")
	}
	build := exec.Command("go", append(args, "sluice/cmd/uringserve")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	must(build.Run())
	must(os.Mkdir(dir, 0o755))
	sizes := map[string]int{"big": bigSize, "mid": midSize, "one": 1, "zero": 0}
	for i := range smalls {
		sizes[fmt.Sprint("s", i)] = i * i * 7 % (70 << 10) // on both sides of inMemory
	}
	for name, n := range sizes {
		data := make([]byte, n)
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(data)
		files[name] = file{data, sha256.Sum256(data)}
		must(os.WriteFile(filepath.Join(dir, name), data, 0o644))
		keepInMemory(filepath.Join(dir, name))
	}
	return m.Run()
}

// keepInMemory locks a file's pages in the page cache for as long as the tests run: the way of a file that the
// kernel has dropped is another one. Without the right to, a test under memory pressure may see that way.
func keepInMemory(name string) {
	f, err := os.Open(name)
	must(err)
	defer f.Close()
	st, err := f.Stat()
	must(err)
	if st.Size() == 0 {
		return
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED|syscall.MAP_POPULATE)
	must(err)
	_ = syscall.Mlock(m)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
