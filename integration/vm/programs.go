//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// module is the Go module that the programs are built from.
const goModule = "sluice"

// initName is the guest's init among the built files.
const initName = "init"

// build builds the guest's init and the test binaries into dir. They are static: the guest
// has no libraries.
func build(dir string, chosen []program) error {
	progress(os.Stderr, "building %d test binaries", len(chosen))
	if err := goStatic("build", filepath.Join(dir, initName), goModule+"/integration/vm/guest"); err != nil {
		return err
	}
	for _, p := range chosen {
		if err := goStatic("test", filepath.Join(dir, p.file()), goModule+"/"+p.pkg, "-c"); err != nil {
			return err
		}
		if p.cmd == "" {
			continue
		}
		if err := goStatic("build", filepath.Join(dir, path.Base(p.cmd)), goModule+"/"+p.cmd); err != nil {
			return err
		}
	}
	return nil
}

func goStatic(verb, file, pkg string, flags ...string) error {
	args := append([]string{verb}, flags...)
	cmd := exec.Command("go", append(args, "-ldflags=-s -w", "-o", file, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
