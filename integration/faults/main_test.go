//go:build linux

package faults

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sluice/internal/leak"
)

// patience is how long a test waits for what must happen before it calls it lost.
const patience = 30 * time.Second

// site is the directory that file servers of these tests serve, and what a client must receive.
var site struct {
	dir   string
	files map[string][]byte
}

// The files of the site: small ones, on both sides of the size up to which a file leaves with
// its header, and a large one.
const (
	smalls  = 100
	bigSize = 1 << 20
)

var noise = func() []byte {
	b := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{'f', 'a', 'u', 'l', 't', 's'}).Read(b) // never fails
	return b
}()

func TestMain(m *testing.M) {
	plan()
	if order := os.Getenv(idlersEnv); order != "" {
		beIdlers(order)
		return
	}
	flag.Parse()
	must(flag.Set("test.parallel", "4")) // parallel tests wait for deadlines, but their peers need processors
	os.Exit(run(m))
}

// plan says what the files hold.
func plan() {
	site.files = map[string][]byte{"big": noise[:bigSize]}
	for i := range smalls {
		n := i * i * 7 % (70 << 10)
		site.files[small(i)] = noise[i*1000 : i*1000+n]
	}
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "faults")
	must(err)
	defer os.RemoveAll(dir)
	site.dir = dir
	for name, data := range site.files {
		must(os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	return leak.Main(m)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
