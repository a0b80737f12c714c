package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// work is what a server does.
type work string

const (
	echo   work = "echo"   // sends back what it receives
	stream work = "stream" // sends messages as fast as it can
)

// cell is one load.
type cell struct {
	Work  work `json:"work"`
	Size  int  `json:"size"` // bytes in a message
	Conns int  `json:"conns"`
}

func (c cell) String() string { return fmt.Sprintf("%s/%d/%d", c.Work, c.Size, c.Conns) }

func allCells() (cells []cell) {
	add := func(w work, sizes ...int) {
		for _, size := range sizes {
			for _, conns := range []int{1, 64, 1000} {
				cells = append(cells, cell{w, size, conns})
			}
		}
	}
	add(echo, 64, 1<<10)
	add(stream, 16<<10, 64<<10, 256<<10, 1<<20)
	return cells
}

// subject is what is compared.
type subject struct {
	name string
	// procs is GOMAXPROCS; 0 where Go is not used. See the package's documentation.
	procs int
	// only is the one work that it does; empty: both.
	only work
	// peer says that sluice is compared with the best of these.
	peer bool
	// program builds what serves, in a directory; nil: it is linked into this program. An error
	// that is errMissing leaves the subject out.
	program func(ctx context.Context, dir string) (path string, err error)
	// mode is the limit's.
	mode string

	path string // of the program
}

// errMissing says that this machine has not got what a subject is built with.
var errMissing = errors.New("left out")

func subjects() []*subject {
	return []*subject{
		{name: "sluice", procs: 2},
		{name: "gnet", procs: 2, peer: true},
		{name: "netpoll", procs: 1, peer: true},
		{name: "net", procs: 1, peer: true},
		{name: "giouring", procs: 2, program: buildGiouring},
		{name: "limit", program: buildLimit, mode: "send"},
		{name: "limit-zc", program: buildLimit, mode: "zcfix", only: stream},
	}
}

func subjectNames() (names []string) {
	for _, s := range subjects() {
		names = append(names, s.name)
	}
	return names
}

// pick returns the subjects of a comma-separated list; an empty one has all.
func pick(names string) (picked []*subject, err error) {
	if names == "" {
		return subjects(), nil
	}
	for name := range strings.SplitSeq(names, ",") {
		all := subjects()
		i := slices.IndexFunc(all, func(s *subject) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no subject %q: there are %s", name, strings.Join(subjectNames(), ", "))
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

//go:embed limit/limit.c
var limitSource []byte

// buildLimit compiles the C program.
func buildLimit(ctx context.Context, dir string) (string, error) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return "", fmt.Errorf("%w: %w: install a C compiler and the kernel's headers", errMissing, err)
	}
	path := filepath.Join(dir, "limit")
	cmd := exec.CommandContext(ctx, cc, "-O2", "-x", "c", "-o", path, "-")
	cmd.Stdin = bytes.NewReader(limitSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile limit.c: %w\n%s", err, out)
	}
	return path, nil
}

// buildGiouring builds the program beside this one, which needs a linker flag of its own.
func buildGiouring(ctx context.Context, dir string) (string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", fmt.Errorf("%w: %w: install Go", errMissing, err)
	}
	path := filepath.Join(dir, "giouring")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-checklinkname=0", "-o", path, "sluice/integration/peers/giouring")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build giouring (run this in integration/peers): %w\n%s", err, out)
	}
	return path, nil
}

// run is one comparison.
type run struct {
	rounds       int
	warm, length time.Duration
	verify       bool
	cells        []cell
	procs        int // in place of each subject's own, if not 0
	progress     io.Writer

	self                 string
	serverCPU, clientCPU int
	softirq              int // see softirqThread
}

// busyWarning is the share of the machine that others may use before a round is doubtful.
const busyWarning = 0.05

// do measures the named subjects, in turn, in every round of every cell.
func (r *run) do(ctx context.Context, names string) (*result, error) {
	picked, err := pick(names)
	if err != nil {
		return nil, err
	}
	if r.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if r.serverCPU, r.clientCPU, err = processors(); err != nil {
		return nil, err
	}
	if r.softirq, err = softirqThread(r.serverCPU); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	res := &result{Kernel: setting("kernel/osrelease"), Control: setting("net/ipv4/tcp_congestion_control"), Rounds: r.rounds, Seconds: r.length.Seconds(), ServerCPU: r.serverCPU, ClientCPU: r.clientCPU, Began: time.Now()}
	if r.serverCPU == r.clientCPU {
		res.warn("there is one processor: servers and client share it, and latencies mean nothing")
	}
	if r.softirq == 0 {
		res.warn("ksoftirqd cannot be seen from here: what it does for the servers is not counted")
	}
	built := make(map[string]string) // by name and reason: one build for two subjects
	for _, s := range picked {
		if err := r.build(ctx, s, dir, built); errors.Is(err, errMissing) {
			res.warn("%s: %v", s.name, err)
		} else if err != nil {
			return nil, err
		} else {
			res.subjects = append(res.subjects, s)
		}
	}
	for i, c := range r.cells {
		for round := range r.rounds {
			if busy, err := busyShare(ctx, 100*time.Millisecond); err != nil {
				return nil, err
			} else if busy > busyWarning {
				res.warn("%s, round %d: others used %.0f %% of the machine just before", c, round+1, busy*100)
			}
			for k := range res.subjects {
				s := res.subjects[(k+round)%len(res.subjects)] // no one is always behind the same other
				if s.only != "" && s.only != c.Work {
					continue
				}
				fmt.Fprintf(r.progress, "\r%-70s", fmt.Sprintf("cell %d of %d, %s, round %d of %d: %s", i+1, len(r.cells), c, round+1, r.rounds, s.name))
				m, err := r.measure(ctx, s, c)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", s.name, c, err)
				}
				res.add(s, c, m)
			}
		}
	}
	fmt.Fprintf(r.progress, "\r%70s\r", "")
	return res, nil
}

func (r *run) build(ctx context.Context, s *subject, dir string, built map[string]string) (err error) {
	if s.program == nil {
		s.path = r.self
		return nil
	}
	key := strings.TrimSuffix(s.name, "-zc")
	if s.path = built[key]; s.path == "" {
		s.path, err = s.program(ctx, dir)
		built[key] = s.path
	}
	return err
}

// measure starts a server, runs the client against it, and ends it.
func (r *run) measure(ctx context.Context, s *subject, c cell) (m sample, err error) {
	addr, err := freeAddress()
	if err != nil {
		return m, err
	}
	server := r.server(ctx, s, c, addr)
	var said bytes.Buffer
	server.Stdout, server.Stderr = &said, &said
	if err := startPinned(server, r.serverCPU); err != nil {
		return m, fmt.Errorf("start %v: %w", server.Args, err)
	}
	client := exec.CommandContext(ctx, r.self, "load", "-addr", addr, "-work", string(c.Work), "-size", strconv.Itoa(c.Size), "-conns", strconv.Itoa(c.Conns),
		"-warm", r.warm.String(), "-time", r.length.String(), "-pid", strconv.Itoa(server.Process.Pid),
		"-softirq-pid", strconv.Itoa(r.softirq), "-verify="+strconv.FormatBool(r.verify))
	var out, problem bytes.Buffer
	client.Stdout, client.Stderr = &out, &problem
	err = startPinned(client, r.clientCPU)
	if err == nil {
		err = client.Wait()
	}
	_ = server.Process.Kill()
	_ = server.Wait() // killed: what it said counts
	if err != nil {
		return m, fmt.Errorf("the client: %w: %s; the server said: %s", err, strings.TrimSpace(problem.String()), strings.TrimSpace(said.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		return m, fmt.Errorf("the client printed %q: %w", out.String(), err)
	}
	return m, nil
}

// server is the command that serves a cell.
func (r *run) server(ctx context.Context, s *subject, c cell, addr string) *exec.Cmd {
	args := []string{"-work", string(c.Work), "-size", strconv.Itoa(c.Size)}
	procs := s.procs
	if r.procs > 0 {
		procs = r.procs
	}
	switch {
	case s.mode != "":
		args = append(args, "-listen", addr, "-mode", s.mode)
	case s.program != nil:
		args = append(args, "-addr", addr)
	default:
		args = append([]string{"serve", "-subject", s.name, "-addr", addr}, args...)
	}
	cmd := exec.CommandContext(ctx, s.path, args...)
	// By the environment, so that it holds when packages are initialized.
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(procs))
	return cmd
}

// freeAddress is a port that nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a port: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}
