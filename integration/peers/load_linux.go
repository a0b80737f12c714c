package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// sample is one measurement, as the client prints it.
type sample struct {
	Messages  float64 `json:"messages"` // of a stream: bytes over the size
	Bytes     uint64  `json:"bytes"`
	Seconds   float64 `json:"seconds"`
	ServerCPU float64 `json:"server_cpu_seconds"`  // with Softirq
	Softirq   float64 `json:"softirq_cpu_seconds"` // of ksoftirqd on the server's processor
	ClientCPU float64 `json:"client_cpu_seconds"`
	P50       float64 `json:"p50_us,omitempty"` // of an echo, from before its write to after its read
	P99       float64 `json:"p99_us,omitempty"`
}

const (
	// connectWithin is how long a server may take to listen.
	connectWithin = 10 * time.Second
	// silence is how long nothing may arrive, on any connection, before the run is given up.
	silence = 5 * time.Second
	// readSize is how much of a stream one call takes: more than a socket's buffer usually holds.
	readSize = 4 << 20
	// slowest bounds the latencies that are told apart; what is slower counts as this.
	slowest = 10 * time.Second
)

// client is a load generator on one thread: epoll and plain non-blocking calls, without the Go
// scheduler in between.
type client struct {
	work   work
	size   int
	verify bool // read streams and compare them, rather than discard them in the kernel
	pid    int  // the server's
	irq    int  // of its processor's ksoftirqd; 0: not known

	epoll  int
	events []unix.EpollEvent
	conns  []loadConn
	begin  time.Time

	bytes     uint64
	messages  uint64 // of an echo
	latency   *hdrhistogram.Histogram
	scratch   []byte // what streams are read into
	want      []byte // twice the message of a stream
	delivered uint64 // bytes since the beginning, to notice silence
}

// loadConn is one connection. An echo has one message outstanding.
type loadConn struct {
	fd   int
	sent int64  // when, in ns since the client's begin
	seq  uint64 // of the echo's message, its first 8 bytes
	msg  []byte
	in   []byte // with a byte more than a message, to notice an answer that is too long
	got  int    // bytes of the message; of a stream: since the beginning
}

// load is `peers load`, which the driver runs pinned.
func load(args []string) error {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	addr := f.String("addr", "", "IPv4 address of the server")
	kind := f.String("work", "echo", "echo or stream")
	size := f.Int("size", 64, "bytes in a message")
	conns := f.Int("conns", 1, "connections")
	warm := f.Duration("warm", 0, "before measuring begins")
	length := f.Duration("time", time.Second, "length of the measurement")
	pid := f.Int("pid", 0, "the server's process; 0: this one")
	irq := f.Int("softirq-pid", 0, "ksoftirqd of the server's processor; 0: not counted")
	verify := f.Bool("verify", false, "compare what streams bring")
	_ = f.Parse(args) // ends the program on error
	if *size < 8 || *size > sourceSize || *conns < 1 {
		return fmt.Errorf("%d connections of %d bytes: there must be one at least, of 8 to %d", *conns, *size, sourceSize)
	}
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // nothing is allocated while it runs
	c := &client{
		work: work(*kind), size: *size, verify: *verify, pid: *pid, irq: *irq, begin: time.Now(),
		latency: hdrhistogram.New(1, int64(slowest), 3), events: make([]unix.EpollEvent, 1024),
	}
	defer c.close()
	if err := c.open(*addr, *conns); err != nil {
		return err
	}
	s, err := c.measure(*warm, *length)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// open connects, and sends the first message of each echo.
func (c *client) open(addr string, conns int) (err error) {
	if c.work == stream {
		if c.scratch, err = unix.Mmap(-1, 0, readSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
			return fmt.Errorf("map %d bytes to read into: %w", readSize, err)
		}
		c.want = make([]byte, 2*c.size)
		fill(c.want[:c.size])
		copy(c.want[c.size:], c.want[:c.size])
	}
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make an epoll: %w", err)
	}
	c.conns = make([]loadConn, conns)
	for i := range c.conns {
		k := &c.conns[i]
		if k.fd, err = connect(addr); err != nil {
			return fmt.Errorf("connection %d of %d to %s: %w", i+1, conns, addr, err)
		}
		if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, k.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return fmt.Errorf("add a connection to the epoll: %w", err)
		}
		if c.work == stream {
			continue
		}
		k.msg, k.in = make([]byte, c.size), make([]byte, c.size+1)
		for j := range k.msg {
			k.msg[j] = byte(i*31 + j) // no two connections have the same
		}
	}
	for i := range c.conns {
		if c.work == echo {
			if err := c.send(&c.conns[i], c.now()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *client) close() {
	for i := range c.conns {
		if c.conns[i].fd > 0 {
			unix.Close(c.conns[i].fd)
		}
	}
	if c.epoll > 0 {
		unix.Close(c.epoll)
	}
	if c.scratch != nil {
		_ = unix.Munmap(c.scratch) // what was mapped can be unmapped
	}
}

// connect makes a connection, and waits for a server that does not listen yet.
func connect(addr string) (fd int, err error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return -1, err
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return -1, err
		}
		err = unix.Connect(fd, sa)
		if err == nil {
			break
		}
		unix.Close(fd)
		if err != unix.ECONNREFUSED || time.Since(began) > connectWithin {
			return -1, err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return -1, err
	}
	return fd, unix.SetNonblock(fd, true)
}

func (c *client) now() int64 { return int64(time.Since(c.begin)) }

// measure runs the load, and counts from the end of the warm-up on.
func (c *client) measure(warm, length time.Duration) (sample, error) {
	if err := c.run(c.now() + int64(warm)); err != nil {
		return sample{}, err
	}
	c.bytes, c.messages = 0, 0
	c.latency.Reset()
	begin, err := c.read()
	if err != nil {
		return sample{}, err
	}
	if err := c.run(begin.now + int64(length)); err != nil {
		return sample{}, err
	}
	end, err := c.read()
	if err != nil {
		return sample{}, err
	}
	s := sample{
		Messages: float64(c.messages), Bytes: c.bytes, Seconds: time.Duration(end.now - begin.now).Seconds(),
		Softirq: (end.softirq - begin.softirq).Seconds(), ClientCPU: (end.own - begin.own).Seconds(),
	}
	s.ServerCPU = (end.server - begin.server).Seconds() + s.Softirq
	if c.work == stream {
		s.Messages = float64(c.bytes) / float64(c.size)
	} else {
		s.P50 = float64(c.latency.ValueAtPercentile(50)) / 1e3
		s.P99 = float64(c.latency.ValueAtPercentile(99)) / 1e3
	}
	if c.bytes == 0 {
		return s, fmt.Errorf("nothing arrived in %v", length)
	}
	return s, nil
}

// clocks are read together.
type clocks struct {
	now                  int64
	server, softirq, own time.Duration
}

func (c *client) read() (k clocks, err error) {
	if k.server, err = cpuTime(c.pid); err != nil {
		return k, err
	}
	if c.irq != 0 {
		if k.softirq, err = cpuTime(c.irq); err != nil {
			return k, err
		}
	}
	k.own, err = cpuTime(0)
	k.now = c.now()
	return k, err
}

// run serves the connections until the given time.
func (c *client) run(until int64) error {
	heard, before := c.now(), c.delivered
	for {
		n, errno := epollWait(c.epoll, c.events, 100)
		if errno != 0 && errno != syscall.EINTR {
			return fmt.Errorf("epoll_wait: %w", errno)
		}
		for i := range max(n, 0) {
			k := &c.conns[c.events[i].Fd]
			var err error
			if c.work == echo {
				err = c.answered(k)
			} else {
				err = c.streamed(k)
			}
			if err != nil {
				return fmt.Errorf("connection %d: %w", c.events[i].Fd+1, err)
			}
		}
		now := c.now()
		if now >= until {
			return nil
		}
		if c.delivered != before {
			heard, before = now, c.delivered
		} else if now-heard > int64(silence) {
			return fmt.Errorf("nothing arrived on %d connections for %v", len(c.conns), silence)
		}
	}
}

// send writes a connection's next message.
func (c *client) send(k *loadConn, now int64) error {
	k.seq++
	binary.LittleEndian.PutUint64(k.msg, k.seq)
	k.sent, k.got = now, 0
	n, errno := call(unix.SYS_WRITE, k.fd, k.msg, 0)
	if n != c.size {
		return fmt.Errorf("write of %d bytes with nothing outstanding: %d, %w", c.size, n, errno)
	}
	return nil
}

// answered takes what has come of an answer, compares it when it is whole, and sends the next.
func (c *client) answered(k *loadConn) error {
	n, errno := call(unix.SYS_READ, k.fd, k.in[k.got:], 0)
	switch {
	case errno == syscall.EAGAIN:
		return nil
	case errno != 0:
		return fmt.Errorf("read: %w", errno)
	case n == 0:
		return fmt.Errorf("the server closed the connection")
	}
	if k.got += n; k.got < c.size {
		return nil
	}
	if !bytes.Equal(k.in[:k.got], k.msg) {
		return fmt.Errorf("message %d of %d bytes came back as %d others", k.seq, c.size, k.got)
	}
	now := c.now()
	// Above the bound the histogram would refuse.
	if err := c.latency.RecordValue(min(now-k.sent, int64(slowest))); err != nil {
		return err
	}
	c.messages++
	c.bytes += uint64(c.size)
	c.delivered += uint64(c.size)
	return c.send(k, now)
}

// streamed takes what a stream has brought.
func (c *client) streamed(k *loadConn) error {
	flags := unix.MSG_TRUNC // discard: nothing is copied (tcp(7))
	if c.verify {
		flags = 0
	}
	n, errno := call(unix.SYS_RECVFROM, k.fd, c.scratch, flags)
	switch {
	case errno == syscall.EAGAIN:
		return nil
	case errno != 0:
		return fmt.Errorf("receive: %w", errno)
	case n == 0:
		return fmt.Errorf("the server closed the connection after %d bytes", k.got)
	}
	if c.verify {
		if err := c.compare(c.scratch[:n], k.got); err != nil {
			return err
		}
	}
	k.got += n
	c.bytes += uint64(n)
	c.delivered += uint64(n)
	return nil
}

// compare checks p, which lies at offset off of a stream: messages of the right length and
// content, one after the other.
func (c *client) compare(p []byte, off int) error {
	want := c.want[off%c.size:][:c.size] // as in every stretch of a message's length
	for len(p) > 0 {
		n := min(len(p), c.size)
		if !bytes.Equal(p[:n], want[:n]) {
			return fmt.Errorf("the stream's content is wrong in the %d bytes from offset %d on", n, off)
		}
		p, off = p[n:], off+n
	}
	return nil
}

// call is read, write or recv on p, past the Go scheduler: it does not block.
func call(trap uintptr, fd int, p []byte, flags int) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}

// epollWait blocks without telling the Go scheduler: nothing else has to run here.
func epollWait(epoll int, events []unix.EpollEvent, ms int) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(ms), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}
