package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// running is a server that was started for a sample.
type running struct {
	cmd   *exec.Cmd
	addr  string
	state string // directory, which goes with it
	said  tail
	ended chan struct{} // closed when it has ended, of which err tells
	err   error
}

// on starts what start starts on one processor: a process inherits those of the thread that starts it.
func on(cpu int, start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to processor %d: %w", cpu, err)
	}
	return errors.Join(start(), unix.SchedSetaffinity(0, &before))
}

// startPatience is how long a server may take until it listens: one that reads its modules from a cold disk.
const startPatience = 10 * time.Second

// start starts a server and waits until it listens. inNet calls a function in the network where it does.
func (s *Server) start(ctx context.Context, at site, cpu int, inNet func(func() error) error) (r *running, err error) {
	cmd, err := s.command(at)
	if err != nil {
		return nil, err
	}
	r = &running{cmd: cmd, addr: at.addr(), state: at.State, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &r.said, &r.said
	if err := inNet(func() error { return on(cpu, cmd.Start) }); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	go func() {
		r.err = cmd.Wait()
		close(r.ended)
	}()
	for end := time.Now().Add(startPatience); ; {
		var c net.Conn
		err := inNet(func() (err error) {
			c, err = net.DialTimeout("tcp", r.addr, time.Second)
			return err
		})
		if err == nil {
			c.Close()
			return r, nil
		}
		select {
		case <-ctx.Done():
			r.stop()
			return nil, ctx.Err()
		case <-r.ended:
			return nil, fmt.Errorf("%s has ended before it listened: %v: %s", s.Name, r.err, r.said.text())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(end) {
			r.stop()
			return nil, fmt.Errorf("%s does not listen on %s within %v: %w: %s", s.Name, r.addr, startPatience, err, r.said.text())
		}
	}
}

// stop ends a server. It has nothing to lose.
func (r *running) stop() {
	_ = unix.Kill(-r.cmd.Process.Pid, unix.SIGKILL) // its group: see isolate
	<-r.ended
}

// died says why a server has ended; nil: it runs.
func (r *running) died() error {
	select {
	case <-r.ended:
		return fmt.Errorf("the server has ended: %v: %s", r.err, r.said.text())
	default:
		return nil
	}
}

// tail keeps the last of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 2000
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > most {
		t.b = append(t.b[:0], t.b[len(t.b)-most:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

// serverProcess is a server whose use of the machine is read.
type serverProcess struct {
	PID     int
	CPU     int // that it runs on
	IRQTime bool
}

// serverUse is what a process has used so far.
type serverUse struct {
	cpu    float64 // seconds
	memory uint64  // resident bytes
}

// use reads it. Another process's clock is named by its id (clock_getcpuclockid(3)); it includes threads that have
// ended, and those that the kernel runs for io_uring.
func (p serverProcess) use() (u serverUse, err error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.PID<<3|2), &ts); err != nil {
		return u, fmt.Errorf("read the processor time of the server: %w", err)
	}
	u.cpu = float64(ts.Sec) + float64(ts.Nsec)/1e9
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID))
	if err != nil {
		return u, fmt.Errorf("read the memory of the server: %w", err)
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return u, fmt.Errorf("read the memory of the server: statm says %q", b)
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64) // resident (proc_pid_statm(5))
	u.memory = pages * uint64(os.Getpagesize())
	return u, err
}

// raiseLimit has this process, and those that it starts, open as many files as they may: the Go runtime gives
// its children the limit that it was started with, unless told.
func raiseLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
