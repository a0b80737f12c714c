package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sluice/internal/wire"
)

// openFiles is how many files a process may have open: the hard limit, which the children have as theirs.
func openFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(limit.Max, 1<<30)) // or infinity
}

// idleOverLoopback has a process on this host hold the connections.
func (r *serverRun) idleOverLoopback(ctx context.Context) (sample Sample, err error) {
	port, err := freePort()
	if err != nil {
		return sample, err
	}
	return r.idleAt(ctx, "127.0.0.1", port, here, func(s *running) (func() error, error) {
		_, end, err := helper(ctx, "idle", idleJob{Addr: s.addr, Path: r.file.path, Size: r.file.size, Conns: r.Conns, CPU: r.peer})
		return end, err
	})
}

// idleOverWire has the simulated clients of a wire ask for a moment, and then no more.
func (r *serverRun) idleOverWire(ctx context.Context, options wire.Options) (sample Sample, err error) {
	options.Clients = &wire.Clients{Connections: r.Conns, Path: r.file.path}
	rig, err := wire.New(options)
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, rig.Close()) }()
	host, text, err := net.SplitHostPort(rig.Local())
	if err != nil {
		return sample, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return sample, err
	}
	return r.idleAt(ctx, host, port, rig.Do, func(s *running) (func() error, error) {
		if err := rig.Start(); err != nil {
			return nil, err
		}
		if err := rig.Stop(); err != nil {
			return nil, err
		}
		return func() error {
			t, err := rig.Totals()
			if err == nil && (t.Trouble() != "" || t.Finished > 0) {
				err = fmt.Errorf("%s; the server closed %d connections", t.Trouble(), t.Finished)
			}
			return err
		}, nil
	})
}

// idleAt starts a server, has its clients connect and fall silent, and looks at memory before and after. end says
// whether the connections were there all the time, and lets them go.
func (r *serverRun) idleAt(ctx context.Context, host string, port int, inNet func(func() error) error, connect func(*running) (end func() error, err error)) (sample Sample, err error) {
	at, remove, err := r.site(host, port)
	if err != nil {
		return sample, err
	}
	defer remove()
	s, err := r.server.start(ctx, at, r.cpu, inNet)
	if err != nil {
		return sample, err
	}
	defer s.stop()
	began := time.Now()
	if err := pause(ctx, settle); err != nil {
		return sample, err
	}
	before, err := lookAtMemory(s.cmd.Process.Pid)
	if err != nil {
		return sample, errors.Join(err, s.died())
	}
	end, err := connect(s)
	if err != nil {
		return sample, errors.Join(err, s.died())
	}
	err = pause(ctx, settle)
	var after Idle
	if err == nil {
		after, err = lookAtMemory(s.cmd.Process.Pid)
	}
	var open int
	if err == nil {
		open, err = sockets(s.cmd.Process.Pid)
	}
	if err := errors.Join(err, s.died(), end()); err != nil {
		return sample, err
	}
	if open < r.Conns {
		return sample, fmt.Errorf("%d of %s were open when they should have been idle", open, count(r.Conns, "connection"))
	}
	return Sample{Seconds: time.Since(began).Seconds(), Ops: uint64(r.Conns), Idle: &Idle{after.Process - before.Process, after.Kernel - before.Kernel}}, nil
}

// lookAtMemory reads a process's resident memory and the machine's slab.
func lookAtMemory(pid int) (m Idle, err error) {
	name := fmt.Sprintf("/proc/%d/smaps_rollup", pid) // exact, which statm is no longer (6.2)
	if m.Process, err = kibibytes(name, "Rss"); err != nil {
		return m, err
	}
	m.Kernel, err = kibibytes("/proc/meminfo", "Slab")
	return m, err
}

// kibibytes reads a line "name: n kB" of a file in bytes.
func kibibytes(file, name string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(procField(b, name), " kB"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %s: %w", file, name, err)
	}
	return n << 10, nil
}

// sockets counts a process's.
func sockets(pid int) (n int, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, f := range names {
		if to, _ := os.Readlink(dir + "/" + f.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n, nil
}

// connect opens the connections, each of which gets a response. They are open for as long as the process lives.
func (j *idleJob) connect() (held []net.Conn, err error) {
	if err := pinProcess(j.CPU); err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: patience}
	dialer.SetMultipathTCP(false)
	b := make([]byte, maxHead+j.Size)
	for i := range j.Conns {
		c, err := dialer.Dial("tcp", j.Addr)
		if err != nil {
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, j.Conns, err)
		}
		held = append(held, c)
		// Closed by a reset, it does not linger as TIME_WAIT.
		err = errors.Join(c.(*net.TCPConn).SetLinger(0), c.SetDeadline(time.Now().Add(patience)))
		if err == nil {
			_, err = c.Write(request(j.Addr, j.Path))
		}
		for n, head := 0, 0; err == nil && (head == 0 || n < head+j.Size); {
			var k int
			k, err = c.Read(b[n:])
			if n += k; err == nil && head == 0 {
				heads := headReader{size: j.Size}
				head, err = heads.read(b[:n])
			}
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != nil {
			return nil, fmt.Errorf("a response on connection %d of %d: %w", i+1, j.Conns, err)
		}
	}
	return held, nil
}
