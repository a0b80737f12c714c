package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name. A thread of this process is in it for as long as
// it is open, and does what must be done there: sockets are made in the namespace of the thread that
// makes them, and a process inherits that of the thread that starts it.
type namespace struct {
	calls chan func()
	fd    int // for those who name it, as netlink does
}

func newNamespace() (*namespace, error) {
	n := &namespace{calls: make(chan func())}
	ready := make(chan error)
	go n.enter(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return n, nil
}

// enter moves a thread into a new namespace and serves it. The thread stays locked, and therefore ends with
// the goroutine. The process's first thread would not end, and what looks at /proc/self sees its
// namespace: it is held until another thread has the goroutine.
func (n *namespace) enter(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		elsewhere := make(chan error)
		go n.enter(elsewhere)
		err := <-elsewhere
		runtime.UnlockOSThread()
		ready <- err
		return
	}
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err != nil {
		err = fmt.Errorf("make a network namespace: %w", err)
	} else if n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		err = fmt.Errorf("open a network namespace: %w", err)
	}
	ready <- err
	if err != nil {
		return
	}
	for call := range n.calls {
		call()
	}
}

// do has the namespace's thread call fn.
func (n *namespace) do(fn func() error) error {
	done := make(chan error, 1)
	n.calls <- func() { done <- fn() }
	return <-done
}

// set writes settings of the namespace's network (Documentation/networking/ip-sysctl.rst).
func (n *namespace) set(settings map[string]string) error {
	return n.do(func() error {
		for name, value := range settings {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0); err != nil {
				return fmt.Errorf("set net/%s to %s: %w", name, value, err)
			}
		}
		return nil
	})
}

// close lets the namespace go: its thread ends, and with it all that is in the namespace, unless a
// process is.
func (n *namespace) close() {
	close(n.calls)
	unix.Close(n.fd)
}
