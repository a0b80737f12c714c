//go:build !linux

package ring

import (
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// Other systems have no io_uring: New fails with an UnsupportedError, so nothing below
// setup is ever reached.

func setup(uint32, *params) (int, syscall.Errno) { return -1, syscall.ENOSYS }

func enter(int, uint32, uint32, uint32, unsafe.Pointer, uintptr) syscall.Errno {
	return syscall.ENOSYS
}

func enterRaw(int, uint32, uint32) syscall.Errno { return syscall.ENOSYS }

func pollReadable(int, time.Duration) syscall.Errno { return syscall.ENOSYS }

func register(int, uint32, unsafe.Pointer, uint32) (int, syscall.Errno) { return -1, syscall.ENOSYS }

func registerPinned(int, uint32, unsafe.Pointer, uint32, unsafe.Pointer) (int, syscall.Errno) {
	return -1, syscall.ENOSYS
}

func mapShared(int, int64, int) ([]byte, error) { return nil, ErrUnsupported }

func mapAnonymous(int) ([]byte, error) { return nil, ErrUnsupported }

func unmap([]byte) error { return nil }

func closeFD(int) error { return nil }

func kernelRelease() string { return runtime.GOOS }

func memlockLimit() string { return "unknown" }

func socketPair() ([2]int, error) { return [2]int{-1, -1}, ErrUnsupported }

func shutdownWrite(int) error { return ErrUnsupported }
