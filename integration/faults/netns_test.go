//go:build linux

package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name: it ends with its thread and its sockets,
// however the test ends. A namespace is a thread's, so there is a goroutine that stays on one;
// sockets that it makes and programs that it starts are in the namespace.
type namespace struct {
	tb    testing.TB
	tid   int
	calls chan func()
}

func newNamespace(tb testing.TB) *namespace {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("only root makes network namespaces")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			tb.Skipf("%v: scripts/setup installs it", err)
		}
	}
	n := &namespace{tb: tb, calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.tid = unix.Gettid()
		ready <- err
		for fn := range n.calls {
			fn()
		}
	}()
	tb.Cleanup(func() { close(n.calls) })
	if err := <-ready; err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	n.ip("link set lo up")
	return n
}

// do runs fn in the namespace. It must not end the test's goroutine.
func (n *namespace) do(fn func()) {
	done := make(chan struct{})
	n.calls <- func() { defer close(done); fn() }
	<-done
}

// command runs a program in the namespace.
func (n *namespace) command(stdin, name string, args ...string) {
	n.tb.Helper()
	var out []byte
	var err error
	n.do(func() {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		n.tb.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

func (n *namespace) ip(args string) {
	n.tb.Helper()
	n.command("", "ip", strings.Fields(args)...)
}

// set writes a setting of the namespace's network (Documentation/networking/ip-sysctl.rst).
func (n *namespace) set(name, value string) {
	n.tb.Helper()
	var err error
	n.do(func() { err = os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0) })
	if err != nil {
		n.tb.Fatal(err)
	}
}

// link joins two namespaces by a pair of interfaces of this name, with the addresses
// 10.0.net.1 in n and 10.0.net.2 in the other.
func (n *namespace) link(other *namespace, name string, net int) {
	n.tb.Helper()
	n.ip("link add " + name + " type veth peer name " + name + " netns " + strconv.Itoa(other.tid))
	for i, ns := range []*namespace{n, other} {
		ns.ip("addr add 10.0." + strconv.Itoa(net) + "." + strconv.Itoa(i+1) + "/24 dev " + name)
		ns.ip("link set " + name + " up")
	}
}

// dial connects from the namespace.
func (n *namespace) dial(addr string, window int) (c *client, err error) {
	n.do(func() { c, err = dial(addr, "", window) })
	return c, err
}
