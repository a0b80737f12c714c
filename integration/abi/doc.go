// Package abi checks the constants and layouts of package ring against a second opinion,
// github.com/pawelgaczynski/giouring, which took its own from liburing. Nothing of giouring
// is called.
//
// It is a module of its own because giouring links to internals of package syscall, which
// the linker refuses unless told otherwise. In this directory:
//
//	go test -ldflags=-checklinkname=0 ./...
package abi
