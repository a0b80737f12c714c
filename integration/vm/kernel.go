//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// kernel is an unpacked kernel in the cache.
type kernel struct {
	series string // 6.1
	dir    string
	image  string // what qemu boots
}

// openKernel finds a kernel in the cache. Without one the error is os.ErrNotExist.
func openKernel(cache, series string) (*kernel, error) {
	if series == "" || strings.Trim(series, "0123456789.") != "" {
		return nil, fmt.Errorf("%q is no kernel series: it must be like 6.1", series)
	}
	k := &kernel{series: series, dir: filepath.Join(cache, series)}
	for _, where := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"} { // before and since 6.19
		if found, _ := filepath.Glob(filepath.Join(k.dir, where)); len(found) > 0 {
			k.image = found[0]
			return k, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", k.dir, os.ErrNotExist)
}

// fetchKernel downloads the newest kernel of a series, unless the cache has it.
func fetchKernel(a *archive, cache, series string) (*kernel, error) {
	packages, err := a.find(series)
	if err != nil {
		return nil, err
	}
	const noteName = "packages"
	dir, note := filepath.Join(cache, series), []byte(strings.Join(packages, "\n")+"\n")
	if had, err := os.ReadFile(filepath.Join(dir, noteName)); err == nil && bytes.Equal(had, note) {
		return openKernel(cache, series)
	}
	// Only a complete kernel gets its name.
	fresh, err := os.MkdirTemp(cache, "unpack")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(fresh)
	if err := a.unpack(fresh, packages); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(fresh, noteName), note, 0o644); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(dir), os.Rename(fresh, dir)); err != nil {
		return nil, err
	}
	return openKernel(cache, series)
}

// guestModules are what tests need, if the kernel has it and not built in: the wire, kTLS
// with AES-GCM, and netem for loss and delay. Their dependencies come along.
var guestModules = []string{"virtio_pci", "virtio_net", "tls", "gcm", "ctr", "ghash_generic", "sch_netem"}

// module is the file of a module, uncompressed.
type module struct {
	name string
	data []byte
}

// modules returns the guest's modules, each after those it depends on.
func (k *kernel) modules() (ordered []module, err error) {
	files := map[string]string{}
	err = filepath.WalkDir(k.dir, func(path string, _ fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok {
			files[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] || files[name] == "" {
			return nil
		}
		seen[name] = true
		data, err := readModule(files[name])
		if err != nil {
			return err
		}
		needs, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		ordered = append(ordered, module{name, data})
		return nil
	}
	for _, name := range guestModules {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// moduleName is a name as the kernel has it; files may have hyphens.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

func readModule(path string) ([]byte, error) {
	if strings.HasSuffix(path, ".xz") {
		return command("xz", "-dc", path)
	}
	return os.ReadFile(path)
}

// dependencies reads which modules a module needs, from its section .modinfo. Packages
// come without modules.dep.
func dependencies(data []byte) (names []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for _, entry := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			for _, name := range strings.Split(list, ",") {
				names = append(names, moduleName(name))
			}
		}
	}
	return names, nil
}
