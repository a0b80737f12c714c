package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// loadJob is what the clients of a server do: keep-alive connections, each with one request under
// way, from one thread that waits by epoll and copies nothing of a body, so that they cost as little as
// clients can.
type loadJob struct {
	Addr   string
	Path   string
	Size   int // of the body
	Conns  int
	Warm   time.Duration
	Window time.Duration
	CPU    int // to run on
	Server serverProcess
}

const (
	// firstRead is how many bytes are read while the length of headers is not known, and for small bodies, which
	// then take one call. Of others the header alone is copied.
	firstRead = 4 << 10
	// slowest is the longest response time that a histogram holds, and patience how long nobody may hear anything.
	slowest, patience = time.Minute, 10 * time.Second
	// waitEvents is how many connections one wait reports at most, waitMost how long it lasts.
	waitEvents, waitMost = 256, 100 * time.Millisecond
)

// client is one connection.
type client struct {
	response
	fd    int
	asked time.Time
}

// load is a run of the clients, on one goroutine.
type load struct {
	loadJob
	addr    netip.AddrPort
	request []byte
	heads   headReader
	clients []client
	epoll   int
	scratch [firstRead]byte
	nothing []byte // what is discarded is not written to it

	bytes, responses uint64 // headers included; complete ones
	times            *hdrhistogram.Histogram
	soft             *softirqs
}

func (j *loadJob) run() (s Sample, err error) {
	if err := pinProcess(j.CPU); err != nil {
		return s, err
	}
	l := load{
		loadJob: *j, request: request(j.Addr, j.Path), heads: headReader{size: j.Size}, nothing: make([]byte, sinkRead),
		times: hdrhistogram.New(int64(time.Microsecond), int64(slowest), 3), // within 0.1 %
		soft:  newSoftirqs([]int{j.Server.CPU}, j.Server.IRQTime),
	}
	if l.addr, err = netip.ParseAddrPort(j.Addr); err != nil {
		return s, err
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return s, fmt.Errorf("epoll: %w", err)
	}
	defer unix.Close(l.epoll)
	l.clients = make([]client, j.Conns)
	defer func() {
		for i := range l.clients {
			if l.clients[i].fd > 0 {
				unix.Close(l.clients[i].fd) // by a reset: see connect
			}
		}
	}()
	for i := range l.clients {
		if err := l.connect(i); err != nil {
			return s, err
		}
	}
	return l.measure()
}

// connect opens a connection and asks.
func (l *load) connect(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("client %d of %d: socket: %w", i+1, l.Conns, err)
	}
	c := &l.clients[i]
	*c = client{fd: fd}
	// Closed by a reset, it does not linger as TIME_WAIT, of which a machine has room for some thousands.
	err = errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
	)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: l.addr.Addr().As4(), Port: int(l.addr.Port())})
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err == nil {
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(i)})
	}
	if err != nil {
		return fmt.Errorf("client %d of %d: connect to %s: %w", i+1, l.Conns, l.Addr, err)
	}
	return l.ask(c, time.Now())
}

// ask sends the request, which a connection without unsent bytes always has room for.
func (l *load) ask(c *client, now time.Time) error {
	c.asked = now
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(&l.request[0])), uintptr(len(l.request)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno == 0 && int(n) < len(l.request) {
		errno = unix.EAGAIN
	}
	if errno == unix.EPIPE || errno == unix.ECONNRESET {
		return nil // reading tells what is the matter
	}
	if errno != 0 {
		return fmt.Errorf("send a request: %w", errno)
	}
	return nil
}

// receive reads with flags into b.
func receive(fd int, b []byte, flags uintptr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags|unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// readable takes what a connection has.
func (l *load) readable(i int) error {
	c := &l.clients[i]
	for {
		var b []byte
		var flags uintptr
		switch {
		case c.body:
			b, flags = l.nothing[:min(c.left, len(l.nothing))], unix.MSG_TRUNC // discards without a copy (tcp(7))
		case len(l.heads.known) > 0 && l.Size > firstRead && len(c.head) == 0:
			b = l.scratch[:min(len(l.heads.known), firstRead)]
		default:
			b = l.scratch[:]
		}
		n, errno := receive(c.fd, b, flags)
		switch {
		case errno == unix.EAGAIN:
			return nil
		case errno == unix.EINTR:
			continue
		case n == 0 || errno == unix.ECONNRESET || errno == unix.EPIPE:
			if c.body || len(c.head) > 0 {
				return c.cutShort()
			}
			return l.again(i) // a server may close a connection whenever nothing is under way
		case errno != 0:
			return fmt.Errorf("receive a response: %w", errno)
		}
		l.bytes += uint64(n)
		done, err := false, error(nil)
		if c.body {
			done, err = c.went(n)
		} else {
			done, err = c.began(&l.heads, b[:n])
		}
		if err != nil {
			return err
		}
		if done {
			now := time.Now()
			l.responses++
			_ = l.times.RecordValue(int64(min(now.Sub(c.asked), slowest)))
			if c.last {
				return l.again(i)
			}
			return l.ask(c, now)
		}
		if !c.body || n < len(b) {
			return nil // epoll tells when there is more
		}
	}
}

// again connects anew where the server closed a connection in order.
func (l *load) again(i int) error {
	unix.Close(l.clients[i].fd)
	l.clients[i].fd = 0
	return l.connect(i)
}

// edge is what is read at an end of the window.
type edge struct {
	at        time.Time
	use       serverUse
	soft      float64
	bytes     uint64
	responses uint64
}

func (l *load) edge() (e edge, err error) {
	e = edge{at: time.Now(), soft: l.soft.seconds(), bytes: l.bytes, responses: l.responses}
	e.use, err = l.Server.use()
	return e, err
}

// measure runs the clients through warm-up and window. The window lasts until there was a response for
// each connection, so that the times are not those of a few fast ones.
func (l *load) measure() (s Sample, err error) {
	var begin edge
	events := make([]unix.EpollEvent, waitEvents)
	heard, next, measuring := time.Now(), time.Now().Add(l.Warm), false
	for {
		n, err := unix.EpollWait(l.epoll, events, int(waitMost.Milliseconds()))
		if err != nil && err != unix.EINTR {
			return s, fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if err := l.readable(int(e.Fd)); err != nil {
				return s, err
			}
		}
		now := time.Now()
		if n > 0 {
			heard = now
		} else if now.Sub(heard) > patience {
			return s, fmt.Errorf("no byte of %d responses within %v", l.Conns, patience)
		}
		if now.Before(next) || l.responses == 0 {
			continue
		}
		if !measuring {
			measuring = true
			l.times.Reset()
			if begin, err = l.edge(); err != nil {
				return s, err
			}
			next = begin.at.Add(l.Window)
			continue
		}
		if l.responses-begin.responses < uint64(l.Conns) {
			if now.After(next.Add(slowest)) {
				return s, fmt.Errorf("%d responses on %d connections within %v", l.responses-begin.responses, l.Conns, now.Sub(begin.at))
			}
			continue
		}
		end, err := l.edge()
		if err != nil {
			return s, err
		}
		return serverSample(begin, end, len(l.heads.known), l.Size, &Times{
			P50: time.Duration(l.times.ValueAtQuantile(50)).Seconds(), P99: time.Duration(l.times.ValueAtQuantile(99)).Seconds(), P999: time.Duration(l.times.ValueAtQuantile(99.9)).Seconds(),
		}), nil
	}
}

// serverSample is what happened between two edges. Of responses that the edges cut, a part counts.
func serverSample(begin, end edge, head, body int, times *Times) Sample {
	responses := float64(end.bytes-begin.bytes) / float64(head+body)
	soft := end.soft - begin.soft
	return Sample{
		Seconds: end.at.Sub(begin.at).Seconds(), CPU: end.use.cpu - begin.use.cpu + soft, Softirq: soft,
		Bytes: uint64(responses * float64(body)), Ops: end.responses - begin.responses,
		Responses: responses, Times: times, Memory: end.use.memory,
	}
}
