//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/integration/vm/job"
)

const (
	qemu     = "qemu-system-x86_64"
	guestMAC = "52:54:00:00:00:02"
	memory   = 1024 // MiB
	// bootLimit is how long a guest may take until its init reports; under emulation 3 s.
	bootLimit = time.Minute
	// silenceLimit is how long it may be silent then; it reports every second.
	silenceLimit = 30 * time.Second
	// consoleTail is how many of the console's last lines are shown of a guest that failed.
	consoleTail = 40
)

// machine is one guest: a kernel, and the programs to run on it.
type machine struct {
	kernel   *kernel
	built    string // directory of the built programs
	programs []program
	run      string
	count    int
	verbose  bool
	deadline time.Duration
}

var (
	// errNoBoot says that qemu ended, or was ended, before the guest reported.
	errNoBoot = errors.New("the guest did not boot")
	// errSilent says that a guest froze: a program that hangs does not keep it from reporting.
	errSilent = errors.New("the guest froze")
)

// accelerators are what guests run on. They are tried best first, and dropped when one does
// not boot a guest: /dev/kvm may be there and refuse common kernels.
type accelerators struct {
	mu   sync.Mutex
	left []string // never empty
}

func newAccelerators(asked string) *accelerators {
	if asked != "" {
		return &accelerators{left: []string{asked}}
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return &accelerators{left: []string{"tcg"}}
	}
	f.Close()
	return &accelerators{left: []string{"kvm", "tcg"}}
}

func (a *accelerators) best() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left[0]
}

// drop reports whether there is another than the one that does not work.
func (a *accelerators) drop(accel string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left[0] != accel {
		return true // another guest has dropped it
	}
	if len(a.left) == 1 {
		return false
	}
	a.left = a.left[1:]
	progress(os.Stderr, "%s does not work here, using %s", accel, a.left[0])
	return true
}

// outcome is what came of a guest.
type outcome struct {
	results []result
	err     error // the guest did not do all it was told
}

// outcome runs the guest. One that freezes is run once more: under emulation one of many does.
func (m *machine) outcome(ctx context.Context, accels *accelerators) (o outcome) {
	frozen := false
	for {
		accel := accels.best()
		o.results, o.err = m.boot(ctx, accel)
		switch {
		case ctx.Err() != nil:
			return o
		case errors.Is(o.err, errNoBoot) && accels.drop(accel):
		case errors.Is(o.err, errSilent) && !frozen:
			frozen = true
			progress(os.Stderr, "kernel %s: %v, it is run once more", m.kernel.series, errSilent)
		default:
			return o
		}
	}
}

// boot runs the guest from boot to power-off, or until stopped ends.
func (m *machine) boot(stopped context.Context, accel string) ([]result, error) {
	if stopped.Err() != nil {
		return nil, errors.New("interrupted")
	}
	work, err := os.MkdirTemp("", "vm-guest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	image, console := filepath.Join(work, "initramfs"), filepath.Join(work, "console")
	if err := m.writeImage(image); err != nil {
		return nil, err
	}
	wire, err := newNamespace()
	if err != nil {
		return nil, err
	}
	defer wire.close()

	ctx, cancel := context.WithTimeoutCause(stopped, m.deadline, fmt.Errorf("not done after %v", m.deadline))
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	silent := time.AfterFunc(bootLimit, func() { giveUp(errSilent) })
	defer silent.Stop()
	out := newReport(m.kernel.series, os.Stdout, m.verbose)
	out.heard = func() { silent.Reset(silenceLimit) }

	var complaints strings.Builder
	cmd := exec.CommandContext(ctx, qemu, m.arguments(accel, image, console)...)
	cmd.Stdout, cmd.Stderr = out, &complaints
	cmd.ExtraFiles = []*os.File{wire.tap} // tapFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := wire.do(cmd.Start); err != nil {
		return nil, err
	}
	if err = cmd.Wait(); err == nil && !out.done {
		err = errors.New("the guest ended early")
	}
	results := out.finish(m.programs)
	if stopped.Err() != nil {
		return results, errors.New("interrupted")
	}
	log, _ := os.ReadFile(console) // absent if qemu refused its arguments
	if err == nil && out.done {
		return results, complaint(log)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if out.release == "" {
		err = fmt.Errorf("%w: %w", errNoBoot, err)
	}
	return results, fmt.Errorf("%w: %s\nthe console ends with:\n%s", err, strings.TrimSpace(complaints.String()), tail(log, consoleTail))
}

// tapFD is the tap's descriptor in qemu: the first of ExtraFiles.
const tapFD = 3

// arguments are qemu's. The guest has two serial lines, one for the console and one for
// reports, and one network card.
func (m *machine) arguments(accel, image, console string) []string {
	cpu := "max"
	if accel == "tcg" {
		// Emulation carries rep movsb out byte by byte, and walks a fifth level of page tables.
		// With a thread for each processor it crashes where the kernel patches its own code.
		cpu, accel = "max,erms=off,fsrm=off,la57=off", "tcg,thread=single"
	}
	return []string{
		"-accel", accel, "-cpu", cpu, "-machine", "q35", "-smp", "2", "-m", fmt.Sprint(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel.image, "-initrd", image,
		// A panic ends the guest. Watchdogs would complain about emulation being slow.
		"-append", "console=ttyS0 quiet loglevel=5 panic=-1 nowatchdog mitigations=off random.trust_cpu=on",
		"-serial", "file:" + console,
		"-chardev", "stdio,id=report,signal=off", "-serial", "chardev:report",
		"-netdev", fmt.Sprintf("tap,id=wire,fd=%d", tapFD), "-device", "virtio-net-pci,netdev=wire,mac=" + guestMAC,
	}
}

func (m *machine) writeImage(file string) error {
	modules, err := m.kernel.modules()
	if err != nil {
		return err
	}
	return writeImage(file, m.built, modules, m.programs, m.job())
}

// job is what the guest's init is told to do.
func (m *machine) job() job.Job {
	j := job.Job{Network: job.Network{MAC: guestMAC, Address: guestAddress, Peer: peerAddress}}
	for _, p := range m.programs {
		j.Programs = append(j.Programs, job.Program{Name: p.name, Args: p.command(m.run, m.count)})
	}
	return j
}

var complaints = regexp.MustCompile(`(?m)^.*(?:BUG:|WARNING:|Oops|general protection fault|use-after-free|refcount_t|blocked for more than).*$`)

// complaint is an error if the kernel found fault with itself, which programs must not be
// able to bring about.
func complaint(log []byte) error {
	if found := complaints.Find(log); found != nil {
		return fmt.Errorf("the kernel complained: %s", bytes.TrimSpace(found))
	}
	return nil
}

// tail is the last lines of a text.
func tail(text []byte, lines int) string {
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
