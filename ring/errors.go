package ring

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrUnsupported matches, with errors.Is, every [UnsupportedError].
var ErrUnsupported = errors.New("not supported by this kernel")

// ErrForbidden says that the kernel has io_uring but this process may not use it.
var ErrForbidden = errors.New("io_uring is forbidden to this process")

// ErrMemlock says that RLIMIT_MEMLOCK has no room for the ring or its buffers.
var ErrMemlock = errors.New("RLIMIT_MEMLOCK is too small")

// ErrSQFull says that the submission queue has no free entry: submit first.
var ErrSQFull = errors.New("submission queue is full")

// UnsupportedError names a kernel feature that is missing and the first release that
// has it. It matches [ErrUnsupported].
type UnsupportedError struct {
	Feature string // "SEND_ZC"
	Since   string // "6.0"
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s needs Linux %s or later (running %s)", e.Feature, e.Since, kernelRelease())
}

// Is reports whether target is ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

// setupError turns the errno of io_uring_setup or io_uring_register into what a
// person can act on.
func setupError(what string, errno syscall.Errno) error {
	switch errno {
	case syscall.EPERM, syscall.EACCES:
		return fmt.Errorf("%s: %w (%w): set the sysctl kernel.io_uring_disabled to 0, or allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile", what, ErrForbidden, errno)
	case syscall.ENOSYS:
		return fmt.Errorf("%s: %w", what, &UnsupportedError{Feature: "io_uring", Since: "5.1"})
	case syscall.ENOMEM:
		return fmt.Errorf("%s: %w (%w, limit %s): raise it with `ulimit -l` or systemd's LimitMEMLOCK=, grant CAP_IPC_LOCK, or ask for less memory", what, ErrMemlock, errno, memlockLimit())
	}
	return fmt.Errorf("%s: %w", what, errno)
}
