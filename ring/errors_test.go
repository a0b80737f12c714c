//go:build linux

package ring

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func isA(err, target error) bool { return errors.Is(err, target) }

func TestSetupErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		errno    syscall.Errno
		sentinel error
		advice   []string // each must be in the message
	}{
		{syscall.EPERM, ErrForbidden, []string{"kernel.io_uring_disabled", "seccomp"}},
		{syscall.EACCES, ErrForbidden, []string{"kernel.io_uring_disabled", "seccomp"}},
		{syscall.ENOMEM, ErrMemlock, []string{"ulimit -l", "LimitMEMLOCK", "CAP_IPC_LOCK", memlockLimit()}},
		{syscall.ENOSYS, ErrUnsupported, []string{"io_uring needs Linux 5.1", kernelRelease()}},
		{syscall.EBUSY, syscall.EBUSY, nil},
	} {
		err := setupError("register 3 buffers", c.errno)
		if !errors.Is(err, c.sentinel) {
			t.Errorf("%v does not match %v", err, c.sentinel)
		}
		for _, want := range append(c.advice, "register 3 buffers: ") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %q does not mention %q", c.errno, err, want)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %q is more than one line", c.errno, err)
		}
	}
}

func TestSetupErrorsKeepTheErrno(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENOMEM, syscall.EINVAL} {
		if err := setupError("x", errno); !errors.Is(err, errno) {
			t.Errorf("%v does not match %d", err, errno)
		}
	}
}

func TestSentinelsAreDistinct(t *testing.T) {
	for errno, sentinel := range map[syscall.Errno]error{
		syscall.EPERM: ErrForbidden, syscall.ENOMEM: ErrMemlock, syscall.ENOSYS: ErrUnsupported,
	} {
		err := setupError("x", errno)
		for _, other := range []error{ErrForbidden, ErrMemlock, ErrUnsupported, ErrSQFull} {
			if other != sentinel && errors.Is(err, other) {
				t.Errorf("%v matches %v as well as %v", err, other, sentinel)
			}
		}
	}
}

func TestSeccompFilterIsReportedAsForbidden(t *testing.T) {
	got := inChild(t, "forbidden")
	if !strings.HasPrefix(got, "true ") || !strings.Contains(got, "seccomp") {
		t.Errorf("New under a filter: %s", got)
	}
}

func TestMemlockLimitIsReportedWithItsSize(t *testing.T) {
	got := inChild(t, "memlock")
	if !strings.HasPrefix(got, "true ") || !strings.Contains(got, "limit 1024 KiB") {
		t.Errorf("register 8 MiB with a limit of 1 MiB: %s", got)
	}
}
