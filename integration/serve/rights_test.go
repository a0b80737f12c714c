//go:build linux

package serve_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rights are what a process is left with. The zero rights are this process's own.
type rights struct {
	Memlock   uint64 // RLIMIT_MEMLOCK in bytes, as a user without privileges; 0: not changed
	NoFile    uint64 // RLIMIT_NOFILE; 0: not changed
	NoIOUring bool   // io_uring_setup fails with EPERM, as in a container
	UID       int    // set by command
}

const rightsEnv = "URINGSERVE_TEST_RIGHTS"

// users counts the users that were made up: locked memory is counted for each user, and is
// given back some time after a process has ended.
var users atomic.Int32

// command is the program with these rights. This test binary takes the others away from itself
// and then becomes the program.
func (r rights) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	if r == (rights{}) {
		return cmd
	}
	r.UID = 1<<20 + os.Getpid()<<8 + int(users.Add(1))
	env, err := json.Marshal(r)
	must(err)
	cmd.Path, err = os.Executable()
	must(err)
	cmd.Env = append(cmd.Env, rightsEnv+"="+string(env), rightsEnv+"_PROGRAM="+binary)
	return cmd
}

// execWithRights becomes the program.
func execWithRights(env string) {
	var r rights
	must(json.Unmarshal([]byte(env), &r))
	runtime.LockOSThread() // the filter is this thread's, and goes with its exec
	if r.Memlock != 0 {
		must(unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: r.Memlock, Max: r.Memlock}))
		if os.Geteuid() == 0 {
			must(unix.Setgroups(nil))
			must(unix.Setgid(r.UID))
			must(unix.Setuid(r.UID)) // drops CAP_IPC_LOCK, which lifts the limit
		}
	}
	if r.NoFile != 0 {
		must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: r.NoFile, Max: r.NoFile}))
	}
	if r.NoIOUring {
		const number = 0 // offset of nr in struct seccomp_data
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
	}
	program := os.Getenv(rightsEnv + "_PROGRAM")
	must(syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ()))
}

func TestAnArenaBeyondTheLockedMemoryLimitIsRefused(t *testing.T) {
	refused(t, rights{Memlock: 8 << 20}, 1, []string{"RLIMIT_MEMLOCK", "8192 KiB", "ulimit -l", "--arena 1MiB"}, "serve", "--listen", "127.0.0.1:0", "--arena", "64MiB", dir)
}

func TestTheDefaultArenaFitsTheLockedMemoryLimit(t *testing.T) {
	s := startAs(t, rights{Memlock: 8 << 20}, "--zc-threshold", "1")
	line := s.line("arena: ")
	mib := numbers.FindAllString(line[strings.Index(line, "arena: "):], 1)[0]
	if mib != "1" && mib != "2" && mib != "4" {
		t.Errorf("%q with a limit of 8 MiB", line)
	}
	newClient(t, s).want("mid")
	if got := s.stop(); got.zeroCopied.bytes < midSize {
		t.Errorf("%+v", got)
	}
}

// A zero-copy send of file pages is charged to the limit until its notification, though the arena is not
// any more: where that is too much, sendfile takes the pages.
func TestFilesGoBySendfileWhereTheirPagesMayNotBeLocked(t *testing.T) {
	s := startAs(t, rights{Memlock: 1280 << 10}, "--zc-threshold", "1", "--arena", "1MiB", "--loops", "1")
	c := newClient(t, s)
	c.want("big", "mid", "one")
	c.close()
	got := s.stop()
	if got.sendfile.bytes < bigSize/2 || got.failed != 0 || got.undelivered != 0 {
		t.Errorf("%+v", got)
	}
	accounted(t, got, c.received.Load(), 1)
}

func TestForbiddenIOUringIsNamedWithTheWayOut(t *testing.T) {
	refused(t, rights{NoIOUring: true}, 1, []string{"io_uring is forbidden", "kernel.io_uring_disabled", "seccomp"}, "serve", "--listen", "127.0.0.1:0", dir)
}

// Which names the limit and the way out, because there is no smaller arena.
func TestALockedMemoryLimitBelowTheSmallestArenaIsRefused(t *testing.T) {
	refused(t, rights{Memlock: 512 << 10}, 1, []string{"RLIMIT_MEMLOCK", "512 KiB", "ulimit -l"}, "serve", "--listen", "127.0.0.1:0", dir)
}

// At the limit newcomers wait, or hear that it cannot be served now, until others leave.
func TestTheDescriptorLimitIsSurvived(t *testing.T) {
	const clients, loops = 60, 2
	s := startAs(t, rights{NoFile: 40}, "--loops", fmt.Sprint(loops))
	statuses, errs := make(chan int, clients), make(chan error, clients)
	var all []rawConn
	for range clients {
		c := dialRaw(t, s, 0)
		c.send(request("s1"))
		all = append(all, c)
	}
	for _, c := range all { // each that is answered makes room for another
		go func() {
			defer c.Close()
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err == nil {
				_, err = io.Copy(io.Discard, r.Body)
			}
			if err != nil {
				errs <- err
				return
			}
			statuses <- r.StatusCode
		}()
	}
	got := map[int]int{}
	for range clients {
		select {
		case st := <-statuses:
			got[st]++
		case err := <-errs:
			t.Fatal(err)
		}
	}
	if got[200] == 0 || got[200]+got[503] != clients {
		t.Errorf("%d answers by status", got)
	}
	eventually(t, "every connection ends", func() bool { return s.sockets() == loops })
	newClient(t, s).want("big", "one")
	if got := s.stop(); got.accepted != clients+1 {
		t.Errorf("%+v", got)
	}
}

// While newcomers use up the descriptors, a download that had begun goes on and a connection that
// was there is answered. Accepting rests after each error; it does not spin.
func TestTheDescriptorLimitIsTheNewcomersAlone(t *testing.T) {
	const clients, limit = 60, 40
	s := startAs(t, rights{NoFile: limit}, "--loops", "1")
	download, there := dialRaw(t, s, 64<<10), dialRaw(t, s, 0)
	there.send(request("one"))
	answers := bufio.NewReader(there)
	there.wantBody(answers, "one")
	download.send(request("big"))
	download.stall()
	var newcomers []rawConn
	began := time.Now()
	for range clients {
		newcomers = append(newcomers, dialRaw(t, s, 0))
	}
	eventually(t, "no descriptor is left", func() bool { return s.descriptors() >= limit })
	for range 100 {
		there.send(request("one"))
		there.wantBody(answers, "one")
	}
	download.wantBody(bufio.NewReaderSize(download, 1<<20), "big")
	if n := s.descriptors(); n < limit {
		t.Errorf("%d descriptors are open: nothing was scarce", n)
	}
	for _, c := range newcomers {
		c.Close()
	}
	eventually(t, "only the connections from before are left", func() bool { return s.sockets() == 1+2 })
	newClient(t, s).want("mid", "s1")
	there.Close()
	download.Close()
	rests := int64(time.Since(began)/(100*time.Millisecond)) + 1
	got := s.stop()
	if got.accepted != clients+3 || got.acceptErrors == 0 || got.acceptErrors > rests {
		t.Errorf("%+v, want %d accepted and at most %d accept errors", got, clients+3, rests)
	}
}
