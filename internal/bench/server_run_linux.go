package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/internal/wire"
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

// fetch gets a response once and compares its body with the file's. It returns the length of its header.
func fetch(c net.Conn, path string, file servedFile) (head int, err error) {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(slowest)); err != nil {
		return 0, err
	}
	if _, err := c.Write(request(c.RemoteAddr().String(), path)); err != nil {
		return 0, err
	}
	var begin []byte
	heads := headReader{size: file.size}
	chunk := make([]byte, firstRead)
	for head == 0 {
		n, err := c.Read(chunk)
		if err != nil {
			return 0, fmt.Errorf("a response's header: %w", err)
		}
		begin = append(begin, chunk[:n]...)
		if head, _, err = heads.read(begin); err != nil {
			return 0, err
		}
	}
	begin = begin[head:]
	if len(begin) > file.size {
		return 0, errTooLong
	}
	sum := sha256.New()
	sum.Write(begin)
	if _, err := io.CopyN(sum, c, int64(file.size-len(begin))); err != nil {
		return 0, fmt.Errorf("the body of a response: %w", err)
	}
	if [sha256.Size]byte(sum.Sum(nil)) != file.sum {
		return 0, errors.New("the body of a response is not what the file holds")
	}
	return head, nil
}

// here is the network of this process.
func here(call func() error) error { return call() }

// check fetches a file once from a server, unless that was done.
func (r *serverRun) check(s *running, inNet func(func() error) error) (head int, err error) {
	what := r.Key
	what.Conns = 0
	if head := r.plan.checked[what]; head > 0 {
		return head, nil
	}
	var c net.Conn
	err = inNet(func() (err error) {
		c, err = net.DialTimeout("tcp", s.addr, time.Second)
		return err
	})
	if err == nil {
		head, err = fetch(c, r.file.path, r.file)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", r.file.path, err)
	}
	r.plan.checked[what] = head
	return head, nil
}

// overLoopback takes a sample by clients on another processor of this host.
func (r *serverRun) overLoopback(ctx context.Context) (sample Sample, err error) {
	port, err := freePort()
	if err != nil {
		return sample, err
	}
	at, remove, err := r.site("127.0.0.1", port)
	if err != nil {
		return sample, err
	}
	defer remove()
	s, err := r.server.start(ctx, at, r.cpu, here)
	if err != nil {
		return sample, err
	}
	defer s.stop()
	if _, err := r.check(s, here); err != nil {
		return sample, err
	}
	limited, cancel := context.WithTimeout(ctx, r.warm+r.window+2*slowest)
	defer cancel()
	cmd := exec.CommandContext(limited, self, childArgs("load", loadJob{
		Addr: s.addr, Path: r.file.path, Size: r.file.size, Conns: r.Conns, Warm: r.warm, Window: r.window, CPU: r.peer,
		Server: serverProcess{PID: s.cmd.Process.Pid, CPU: r.cpu, IRQTime: r.irqTime},
	})...)
	isolate(cmd)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		return sample, fmt.Errorf("the clients: %w: %s", err, crash(diag.Bytes()))
	}
	var a answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return sample, fmt.Errorf("the clients printed %q: %w", out.Bytes(), err)
	}
	if err := errors.Join(a.err(), s.died()); err != nil {
		return sample, err
	}
	if a.Sample == nil {
		return sample, fmt.Errorf("the clients measured nothing: %q", out.Bytes())
	}
	return *a.Sample, nil
}

// freePort is one that nobody listens on. Somebody may take it before the server does, which then says so.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// closedMost is the share of connections, one in so many, that a server may have closed by the end of a
// sample: lighttpd does after 65,535 requests, and what one does less the others do more.
const closedMost = 8

// overWire takes a sample by the simulated clients of a wire, which is made for it: they cannot leave, or
// ask for anything else.
func (r *serverRun) overWire(ctx context.Context, options wire.Options) (sample Sample, err error) {
	options.Clients = &wire.Clients{Connections: r.Conns, Path: r.file.path}
	rig, err := wire.New(options)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	host, port, err := net.SplitHostPort(rig.Local())
	if err != nil {
		return sample, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return sample, err
	}
	at, remove, err := r.site(host, n)
	if err != nil {
		return sample, err
	}
	defer remove()
	s, err := r.server.start(ctx, at, r.cpu, rig.Do)
	if err != nil {
		return sample, err
	}
	defer s.stop()
	head, err := r.check(s, rig.Do)
	if err != nil {
		return sample, err
	}
	if err := rig.Start(); err != nil {
		return sample, errors.Join(err, s.died())
	}
	m := wireMeter{rig: rig, process: serverProcess{PID: s.cmd.Process.Pid, CPU: r.cpu, IRQTime: r.irqTime}}
	m.soft = newSoftirqs([]int{r.cpu}, r.irqTime)
	if err := pause(ctx, r.warm); err != nil {
		return sample, err
	}
	begin, err := m.edge()
	if err != nil {
		return sample, errors.Join(err, s.died())
	}
	beginTimes := m.times
	wait := r.window
	for {
		if err := pause(ctx, wait); err != nil {
			return sample, err
		}
		end, err := m.edge()
		if err != nil {
			return sample, errors.Join(err, s.died())
		}
		if end.responses-begin.responses < uint64(r.Conns) && m.totals.Finished == 0 { // as with clients on this host
			if end.at.Sub(begin.at) > slowest {
				return sample, fmt.Errorf("%d responses on %d connections within %v", end.responses-begin.responses, r.Conns, end.at.Sub(begin.at))
			}
			wait = 10 * time.Millisecond
			continue
		}
		if trouble := m.totals.Trouble(); trouble != "" {
			return sample, errors.New(trouble)
		}
		if closed := m.totals.Finished; closed > uint64(r.Conns/closedMost) {
			return sample, &Refusal{fmt.Sprintf("it ends keep-alive: it closed %d of %d connections, and these clients do not come back; use a shorter --time", closed, r.Conns)}
		}
		times := m.times.Since(beginTimes)
		return serverSample(begin, end, head, r.file.size, &Times{
			P50: times.Quantile(.5).Seconds(), P99: times.Quantile(.99).Seconds(), P999: times.Quantile(.999).Seconds(),
		}), s.died()
	}
}

// wireMeter reads what happened on a wire.
type wireMeter struct {
	rig     *wire.Rig
	process serverProcess
	soft    *softirqs
	totals  wire.Totals
	times   wire.Latencies
}

func (m *wireMeter) edge() (e edge, err error) {
	e.at = time.Now()
	if m.totals, err = m.rig.Totals(); err != nil {
		return e, err
	}
	e.bytes, e.responses, e.soft = m.totals.Bytes, m.totals.Responses, m.soft.seconds()
	if e.use, err = m.process.use(); err != nil {
		return e, err
	}
	m.times, err = m.rig.Latencies()
	return e, err
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// site makes a directory for what a server writes.
func (r *serverRun) site(host string, port int) (at site, remove func(), err error) {
	state, err := os.MkdirTemp(r.plan.state, "")
	if err != nil {
		return at, nil, err
	}
	return site{Host: host, Port: port, Root: r.plan.root, State: state, Config: filepath.Join(state, "config")}, func() { os.RemoveAll(state) }, nil
}

// run serves files by net/http until the process is killed.
func (j *fileServerJob) run() error {
	runtime.GOMAXPROCS(1)
	var config net.ListenConfig
	config.SetMultipathTCP(false) // which costs a plain connection a little
	l, err := config.Listen(context.Background(), "tcp", j.Addr)
	if err != nil {
		return err
	}
	return (&http.Server{Handler: http.FileServer(http.Dir(j.Root))}).Serve(l)
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
