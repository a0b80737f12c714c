//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path"
	"path/filepath"

	"sluice/integration/vm/job"
)

// writeImage writes the guest's file system: its init, its job, modules and programs, and
// the few things that Go programs look for.
func writeImage(file, built string, modules []module, programs []program, j job.Job) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	c := newCPIO(w)
	for _, d := range []string{"dev", "proc", "sys", "tmp"} {
		c.dir(d)
	}
	c.device("dev/console", 5, 1) // the kernel opens it for init, before anything is mounted
	c.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n"))
	j.Modules = nil
	for _, m := range modules {
		name := "modules/" + m.name + ".ko"
		c.file(name, 0o644, m.data)
		j.Modules = append(j.Modules, "/"+name)
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	c.file(job.Path[1:], 0o644, text)
	if err := addProgram(c, "init", filepath.Join(built, initName)); err != nil {
		return err
	}
	for _, p := range programs {
		if err := addProgram(c, p.guestPath()[1:], filepath.Join(built, p.file())); err != nil {
			return err
		}
		if p.cmd == "" {
			continue
		}
		name := path.Base(p.cmd)
		if err := addProgram(c, job.CommandPath(name)[1:], filepath.Join(built, name)); err != nil {
			return err
		}
	}
	return errors.Join(c.close(), w.Flush())
}

func addProgram(c *cpio, name, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c.file(name, 0o755, data)
	return nil
}
