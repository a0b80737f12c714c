package ring

import (
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Every system call of the package is in this file.

func setup(entries uint32, p *params) (int, syscall.Errno) {
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if errno == 0 {
		unix.CloseOnExec(int(fd))
	}
	return int(fd), errno
}

// enter may block, and may run minutes of sends inline: the Go scheduler is told, so that
// garbage collection elsewhere never waits for this thread.
func enter(fd int, submit, min, flags uint32, arg unsafe.Pointer, size uintptr) syscall.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(min), uintptr(flags), uintptr(arg), size)
	return errno
}

// enterRaw does not wait for anything, and the scheduler is not told.
func enterRaw(fd int, submit, flags uint32) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), 0, uintptr(flags), 0, 0)
	return errno
}

// pollReadable waits until fd is readable or the time is over.
func pollReadable(fd int, timeout time.Duration) syscall.Errno {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	ts := unix.NsecToTimespec(int64(timeout))
	_, err := unix.Ppoll(fds, &ts, nil)
	errno, _ := err.(syscall.Errno)
	return errno
}

func register(fd int, op uint32, arg unsafe.Pointer, n uint32) (int, syscall.Errno) {
	res, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), uintptr(op), uintptr(arg), uintptr(n), 0, 0)
	return int(res), errno
}

// registerPinned is register for an argument that holds the address of inner as a number.
func registerPinned(fd int, op uint32, arg unsafe.Pointer, n uint32, inner unsafe.Pointer) (int, syscall.Errno) {
	var pin runtime.Pinner
	pin.Pin(inner)
	defer pin.Unpin()
	return register(fd, op, arg, n)
}

func mapShared(fd int, off int64, size int) ([]byte, error) {
	return unix.Mmap(fd, off, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
}

func mapAnonymous(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func unmap(m []byte) error { return unix.Munmap(m) }

func closeFD(fd int) error { return unix.Close(fd) }

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func memlockLimit() string {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil {
		return "unknown"
	}
	if l.Cur == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprintf("%d KiB", l.Cur>>10)
}

// socketPair is a connected pair of stream sockets that touches no network.
func socketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

func shutdownWrite(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) }
