//go:build linux

package ring

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const childEnv = "RING_TEST_CHILD"

// childRuns are run by TestMain in a process of their own, because they take rights away
// from it that cannot be given back. Each prints its verdict.
var childRuns = map[string]func(){
	"forbidden": reportForbidden,
	"memlock":   reportMemlock,
}

// inChild runs one of childRuns and returns what it printed.
func inChild(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+name, "GORACE=atexit_sleep_ms=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child %q: %v\n%s", name, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// reportForbidden does what a container's default seccomp profile does to io_uring.
func reportForbidden() {
	runtime.LockOSThread() // the filter is this thread's
	const number = 0       // offset of nr in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_IO_URING_SETUP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	must(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	must(unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0))
	runtime.KeepAlive(&prog)
	_, err := New(Config{})
	report(err, ErrForbidden)
}

// reportMemlock registers 8 MiB as a user who may lock 1 MiB.
func reportMemlock() {
	runtime.LockOSThread()
	must(unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}))
	if os.Geteuid() == 0 {
		const nobody = 65534
		must(unix.Setgid(nobody))
		must(unix.Setuid(nobody)) // drops CAP_IPC_LOCK, which lifts the limit
	}
	r, err := New(Config{Entries: 8})
	must(err)
	mem, err := mapAnonymous(8 << 20)
	must(err)
	report(r.RegisterBuffers([][]byte{mem}), ErrMemlock)
}

// report prints err, preceded by whether it matches want, for the parent to judge.
func report(err, want error) {
	fmt.Printf("%v %v\n", isA(err, want), err)
}
