//go:build linux

// Command vm runs the tests on the kernels of the fleet. It boots each kernel in qemu, with
// the test binaries as the only programs of the guest, and a wire to a peer on the host over
// which the kernel really sends without copying.
//
//	make test-kernels
//	go run ./integration/vm -kernels 6.1,7.2 -programs kernels -run Streams -v
//
// # Rooms
//
//	fleet.go      which kernels, and which programs run on them
//	archive.go    Debian's archive, by this machine's own apt
//	kernel.go     a kernel in the cache, and the modules that a guest needs
//	programs.go   building the guest's programs
//	image.go      the guest's file system; cpio.go its format
//	namespace.go  the host's end of the wire
//	machine.go    a run of one guest
//	report.go     what the guest prints; summary.go the table at the end
//
//	guest         the guest's init
//	job           what host and guest tell each other
//	peer          what tests in the guest can ask of the host
//
// # Exit status
//
// 0 if every test passed, 1 if one failed, 2 if tests could not be run, which includes a
// guest that hung or crashed.
//
// Times in a guest are no evidence of anything: without KVM every instruction is emulated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// options is the command line.
type options struct {
	kernels  string
	programs string
	run      string
	count    int
	jobs     int
	cache    string
	accel    string
	deadline time.Duration
	update   bool
	verbose  bool
}

func main() {
	var o options
	flag.StringVar(&o.kernels, "kernels", strings.Join(fleet, ","), "kernel `series`, comma-separated")
	flag.StringVar(&o.programs, "programs", "", "only these `programs`, comma-separated (default: all)")
	flag.StringVar(&o.run, "run", "", "only tests that match this `pattern`, as for go test")
	flag.IntVar(&o.count, "count", 1, "run each test this many times, as for go test")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "guests at the same time; one keeps a processor busy and has a GiB of memory")
	flag.StringVar(&o.cache, "cache", "", "`directory` of downloaded kernels (default: below the user's cache directory)")
	flag.StringVar(&o.accel, "accel", "", "qemu's `accelerator`: kvm or tcg (default: kvm where it works)")
	flag.DurationVar(&o.deadline, "deadline", 20*time.Minute, "limit for one guest, from boot to power-off")
	flag.BoolVar(&o.update, "update", false, "look for newer packages of the kernels that are in the cache")
	flag.BoolVar(&o.verbose, "v", false, "show everything that the tests print, of one guest after the other")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := run(ctx, o)
	s.print(os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "vm: %s\n", oneLine(err))
		os.Exit(2)
	}
	os.Exit(s.exitStatus())
}

// run runs the chosen programs on the chosen kernels. The summary is of what was done until
// an error.
func run(ctx context.Context, o options) (s summary, err error) {
	if err := checkHost(); err != nil {
		return s, err
	}
	chosen, err := choosePrograms(o.programs)
	if err != nil {
		return s, err
	}
	if o.cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return s, err
		}
		o.cache = filepath.Join(user, "sluice-kernels")
	}
	kernels, err := readyKernels(o)
	if err != nil {
		return s, err
	}
	work, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(work)
	if err := build(work, chosen); err != nil {
		return s, err
	}
	s.programs = chosen
	if o.verbose {
		o.jobs = 1
	}
	accel := newAccelerators(o.accel)
	outcomes := make([]outcome, len(kernels))
	free := make(chan struct{}, max(o.jobs, 1))
	var running sync.WaitGroup
	for i, k := range kernels {
		s.kernels = append(s.kernels, k.series)
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			m := &machine{kernel: k, built: work, programs: programsOn(k.series, chosen), run: o.run, count: o.count, verbose: o.verbose, deadline: o.deadline}
			outcomes[i] = m.outcome(ctx, accel)
		})
	}
	running.Wait()
	for i, o := range outcomes {
		s.add(o.results...)
		if o.err != nil { // the other kernels may still tell something
			s.broken = append(s.broken, fmt.Errorf("kernel %s: %w", kernels[i].series, o.err))
		}
	}
	if ctx.Err() != nil {
		return s, errors.New("interrupted")
	}
	return s, nil
}

// checkHost says what is missing before anything is downloaded.
func checkHost() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the fleet's kernels are for amd64, this machine is %s", runtime.GOARCH)
	}
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for a network namespace with a tap device")
	}
	for _, p := range []struct{ program, pkg string }{
		{qemu, "qemu-system-x86"}, {"apt-get", "apt"}, {"dpkg-deb", "dpkg"}, {"xz", "xz-utils"}, {"go", "golang"},
	} {
		if _, err := exec.LookPath(p.program); err != nil {
			return fmt.Errorf("no %s on this machine: install the package %s (scripts/setup kernels)", p.program, p.pkg)
		}
	}
	return nil
}

// readyKernels has every kernel in the cache, which one run fills at a time.
func readyKernels(o options) (ready []*kernel, err error) {
	unlock, err := lock(o.cache)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unlock() }()
	a := &archive{dir: filepath.Join(o.cache, "apt"), log: os.Stderr}
	for _, series := range strings.Split(o.kernels, ",") {
		k, err := openKernel(o.cache, series)
		if o.update || errors.Is(err, os.ErrNotExist) {
			k, err = fetchKernel(a, o.cache, series)
		}
		if err != nil {
			return nil, fmt.Errorf("kernel %s: %w", series, err)
		}
		ready = append(ready, k)
	}
	return ready, nil
}

// lock waits until no other run has the directory, and makes it first.
func lock(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f.Close, nil // the lock goes with the descriptor
}

func choosePrograms(names string) ([]program, error) {
	if names == "" {
		return programs, nil
	}
	var chosen []program
	for _, name := range strings.Split(names, ",") {
		i := slices.IndexFunc(programs, func(p program) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no program is called %q", name)
		}
		chosen = append(chosen, programs[i])
	}
	return chosen, nil
}

// command runs a program and returns what it prints. Its complaints become the error.
func command(name string, args ...string) ([]byte, error) { return commandIn("", name, args...) }

func commandIn(dir, name string, args ...string) ([]byte, error) {
	var complaints strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Stderr = &complaints
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args[:min(1, len(args))], " "), err, strings.TrimSpace(complaints.String()))
	}
	return out, err
}

// oneLine is an error without its line breaks.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}

// progress tells what takes long.
func progress(w io.Writer, format string, args ...any) { fmt.Fprintf(w, "vm: "+format+"\n", args...) }
