package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// AllowedCPUs are the processors that this process may use, in order; never none.
func AllowedCPUs() (cpus []int) {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) == nil {
		for c := range len(set) * 64 {
			if set.IsSet(c) {
				cpus = append(cpus, c)
			}
		}
	}
	if cpus == nil {
		cpus = []int{0}
	}
	return cpus
}

// pinProcess keeps every thread of this process on these processors. Later threads inherit it.
func pinProcess(cpus ...int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
			return fmt.Errorf("pin to processors %v: %w", cpus, err)
		}
	}
	return nil
}

// clock is a processor-time clock in seconds (clock_gettime(2)).
func clock(id int32) float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(fmt.Sprintf("bench: clock %d: %v", id, err)) // always there
	}
	return float64(ts.Sec) + float64(ts.Nsec)/1e9
}

// processCPU is what all threads of this process have used, those of io_uring included: the
// kernel makes its pollers and workers threads of the process (5.12).
func processCPU() float64 { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

// softirqs reads the soft-interrupt work of some processors that no process is charged for.
type softirqs struct {
	cpus    []int
	daemons []string // schedstat of their ksoftirqd
	irqTime bool     // soft interrupts in other threads are not charged to them either
}

// newSoftirqs watches the given processors. Without a view of the machine's processes there are no
// daemons to be found: what spills over to them is then missing.
func newSoftirqs(cpus []int, irqTime bool) *softirqs {
	s := &softirqs{cpus: cpus, irqTime: irqTime}
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		comm, _ := os.ReadFile(name)
		for _, c := range cpus {
			if string(bytes.TrimSpace(comm)) == fmt.Sprintf("ksoftirqd/%d", c) {
				s.daemons = append(s.daemons, filepath.Join(filepath.Dir(name), "schedstat"))
			}
		}
	}
	return s
}

// seconds is the sum so far.
func (s *softirqs) seconds() (sum float64) {
	for _, name := range s.daemons {
		b, _ := os.ReadFile(name)
		first, _, _ := bytes.Cut(b, []byte(" "))
		ns, _ := strconv.ParseFloat(string(first), 64)
		sum += ns / 1e9
	}
	if s.irqTime {
		for _, c := range s.cpus {
			if ticks := statLine(fmt.Sprintf("cpu%d", c)); len(ticks) > softirqColumn {
				sum += float64(ticks[softirqColumn]) / 100
			}
		}
	}
	return sum
}

// irqTimeApart finds out whether soft interrupts that run on a thread's back are charged to it.
// Sending to a socket of the own host is such work, done before the call returns: where a busy
// thread's CPU clock keeps up with the wall for a moment, it is charged. The best of several moments is
// looked at, because others may take the processor away.
func irqTimeApart() bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// Nobody need listen: the receiving half of the stack finds that out in the soft interrupt. A
	// refusal is reported to the next send only when connected.
	to := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
	payload := make([]byte, 1024)
	const moments, moment = 20, time.Millisecond
	best := 0.0
	for range moments {
		began, used := time.Now(), clock(unix.CLOCK_THREAD_CPUTIME_ID)
		for time.Since(began) < moment {
			for range 8 {
				_ = unix.Sendto(fd, payload, 0, to)
			}
		}
		used = clock(unix.CLOCK_THREAD_CPUTIME_ID) - used
		best = max(best, used/time.Since(began).Seconds())
	}
	return best < 0.9
}
