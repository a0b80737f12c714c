package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"sluice/internal/leak"
)

// traces is what a rig could leave in the system: names of namespaces, pinned objects, interfaces.
func traces() string {
	var all []string
	for _, pattern := range []string{"/var/run/netns/*", "/run/netns/*", "/sys/fs/bpf/*", "/sys/class/net/*"} {
		names, _ := filepath.Glob(pattern)
		all = append(all, names...)
	}
	return strings.Join(all, " ")
}

// loaded reports whether the kernel still has a program.
func loaded(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err == nil {
		p.Close()
	}
	return !errors.Is(err, os.ErrNotExist)
}

// used reports whether a process or thread is in a network namespace.
func used(namespace string) bool {
	names, _ := filepath.Glob("/proc/[0-9]*/task/*/ns/net")
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil && target == namespace {
			return true
		}
	}
	return false
}

func gone(t *testing.T, what string, still func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); still(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s is still there", what)
			return
		}
	}
}

func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestCloseLeavesNothing(t *testing.T) {
	before, held := traces(), leak.Now()
	r := newRig(t, Options{InFlight: 1 << 20})
	cmd := r.Command(context.Background(), "sleep", "1000")
	if err := r.StartCommand(cmd); err != nil {
		t.Fatal(err)
	}
	ns := namespaceOf(t, cmd.Process.Pid)
	if ns == namespaceOf(t, os.Getpid()) {
		t.Error("the command is in this process's namespace")
	}
	info, err := r.program.objects.PeerIn.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Totals(); !errors.Is(err, errClosed) {
		t.Errorf("after Close, Totals fails with %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the command has ended as if nobody had killed it")
	}
	gone(t, "the program", func() bool { return loaded(id) })
	gone(t, "the namespace", func() bool { return used(ns) })
	if now := traces(); now != before {
		t.Errorf("before: %s; after: %s", before, now)
	}
	if left := leak.Since(held); len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

func TestKilledLeavesNothing(t *testing.T) {
	newRig(t, Options{}) // or skip
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSEGV} {
		t.Run(signal.String(), func(t *testing.T) {
			before := traces()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), asHelper+"=1")
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			var id ebpf.ProgramID
			var pid int
			if _, err := fmt.Fscan(out, &id, &pid); err != nil {
				t.Fatal(err)
			}
			ns := namespaceOf(t, pid)
			if !loaded(id) || !used(ns) {
				t.Error("what is looked for is not even there before")
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the process was not killed")
			}
			gone(t, "the program", func() bool { return loaded(id) })
			gone(t, "the namespace", func() bool { return used(ns) })
			if now := traces(); now != before {
				t.Errorf("before: %s; after: %s", before, now)
			}
		})
	}
}

func TestCommandThatDoesNotExist(t *testing.T) {
	r := newRig(t, Options{})
	err := r.StartCommand(r.Command(context.Background(), "/nothing/here"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nothing/here") {
		t.Errorf("the error is %v", err)
	}
}

// TestTwoRigs has them beside one another, each with its own count.
func TestTwoRigs(t *testing.T) {
	a, b := newRig(t, Options{}), newRig(t, Options{})
	write(t, dial(t, a, a.Sink()), 1000, 1000)
	totals(t, a, func(t Totals) bool { return t.Bytes == 1000 })
	if got := totals(t, b, func(Totals) bool { return true }); got != (Totals{}) {
		t.Errorf("the second rig has seen %+v", got)
	}
}
