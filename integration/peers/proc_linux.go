package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// processors picks one for the servers and one for the client, of those that this process may
// use. They are the same where there is only one.
func processors() (server, client int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0, fmt.Errorf("ask which processors may be used: %w", err)
	}
	var cpus []int
	for i := 0; len(cpus) < 2 && len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus[0], cpus[len(cpus)-1], nil
}

// startPinned starts cmd on one processor: a child has the affinity of the thread that forks it,
// and its own threads and runtime.NumCPU have it from there.
func startPinned(cmd *exec.Cmd, cpu int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("ask for the thread's processors: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to processor %d: %w", cpu, err)
	}
	err := cmd.Start()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

// cpuTime is what all threads of a process have used, those that have ended too, in user and kernel
// mode. The clock of a process is ^pid<<3 | CPUCLOCK_SCHED (clock_getcpuclockid(3)), in nanoseconds.
// Pid 0 is the caller.
func cpuTime(pid int) (time.Duration, error) {
	clock := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		clock = int32(^pid<<3 | 2)
	}
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// softirqThread is the process that carries out what a processor's interrupts left behind, when that
// is much: packets that the server sends over loopback are received on its processor, by its own
// thread, or by this one. 0: it cannot be seen, as in a container.
func softirqThread(cpu int) (int, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	name := fmt.Sprintf("ksoftirqd/%d", cpu)
	for _, p := range all {
		if comm, err := p.Comm(); err == nil && comm == name { // an error: it has ended meanwhile
			return p.PID, nil
		}
	}
	return 0, nil
}

// busyShare is how much of the machine others use, from 0 to 1: measured for d while nothing of
// ours runs. Stolen time counts as used.
func busyShare(ctx context.Context, d time.Duration) (float64, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, err
	}
	read := func() (idle, all float64, err error) {
		s, err := fs.Stat()
		if err != nil {
			return 0, 0, fmt.Errorf("read what the machine does: %w", err)
		}
		c := s.CPUTotal
		idle = c.Idle + c.Iowait
		return idle, idle + c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ + c.Steal, nil
	}
	idle0, all0, err := read()
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	idle1, all1, err := read()
	if err != nil {
		return 0, err
	}
	return 1 - (idle1-idle0)/max(all1-all0, 0.01), nil
}

// setting is a value under /proc/sys.
func setting(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return "unknown " + name
	}
	return strings.TrimSpace(string(b))
}
