//go:build linux

package main

import (
	"fmt"
	"io"
	"path"
)

// cpio writes an archive in the format of an initramfs, "newc"
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	w    io.Writer
	err  error // the first
	inos int
	dirs map[string]bool
}

func newCPIO(w io.Writer) *cpio { return &cpio{w: w, dirs: map[string]bool{".": true, "/": true}} }

// Types of files, as in inode(7).
const (
	modeDir    = 0o040000
	modeFile   = 0o100000
	modeDevice = 0o020000 // character device
)

// dir adds a directory and those above it, once.
func (c *cpio) dir(name string) {
	if c.dirs[name] {
		return
	}
	c.dirs[name] = true
	c.dir(path.Dir(name))
	c.entry(name, modeDir|0o755, 0, 0, nil)
}

func (c *cpio) file(name string, perm uint32, data []byte) {
	c.dir(path.Dir(name))
	c.entry(name, modeFile|perm, 0, 0, data)
}

func (c *cpio) device(name string, major, minor uint32) {
	c.dir(path.Dir(name))
	c.entry(name, modeDevice|0o600, major, minor, nil)
}

// close ends the archive.
func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	return c.err
}

// entry writes a header of 110 bytes, the name with a zero byte, and the data, each of the
// last two filled up to a multiple of four. Fields are inode, mode, uid, gid, links, time,
// size, device (2), device that it is (2), length of the name, checksum (unused).
func (c *cpio) entry(name string, mode, major, minor uint32, data []byte) {
	c.inos++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inos, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	c.put([]byte(header))
	c.put(data)
}

func (c *cpio) put(b []byte) {
	for _, part := range [][]byte{b, make([]byte, -len(b)&3)} {
		if c.err == nil {
			_, c.err = c.w.Write(part)
		}
	}
}
