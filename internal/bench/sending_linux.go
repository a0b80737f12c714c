package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/ring"
)

// sending is a mechanism at work, in a process of its own. Nothing is closed or freed: the
// process ends with its measurement.
type sending struct {
	job
	meter
	mem  []byte // the source, or its mapping, or nil
	file int    // the source, or -1
	off  int    // of the next bytes of the source
	last int    // where the source wraps

	// What the kernel reads or writes during a call, here so that no call allocates.
	at     int64
	vector ring.Iovec
}

// senders are the mechanisms by name.
var senders = map[string]func(*sending) error{
	"write":               (*sending).write,
	"writev":              (*sending).writev,
	"SEND":                func(s *sending) error { return s.ring(ringWay{}) },
	"SEND-SQPOLL":         func(s *sending) error { return s.ring(ringWay{poller: true}) },
	"read+write":          (*sending).readWrite,
	"mmap+write":          (*sending).mmapWrite,
	"sendfile":            (*sending).sendfile,
	"splice":              (*sending).splice,
	"vmsplice":            (*sending).splice,
	"tee":                 (*sending).tee,
	"MSG_ZEROCOPY":        (*sending).msgZeroCopy,
	"SEND_ZC":             func(s *sending) error { return s.ring(ringWay{zeroCopy: true}) },
	"SEND_ZC-registered":  func(s *sending) error { return s.ring(ringWay{zeroCopy: true, registered: true}) },
	"SENDMSG_ZC-gathered": func(s *sending) error { return s.ring(ringWay{zeroCopy: true, registered: true, gather: true}) },
	"SEND_ZC-SQPOLL":      func(s *sending) error { return s.ring(ringWay{zeroCopy: true, registered: true, poller: true}) },
	"engine":              (*sending).engine,
}

// run takes a sample.
func (j *job) run() (Sample, error) {
	m, ok := MechanismNamed(j.Mechanism)
	if !ok {
		return Sample{}, fmt.Errorf("no mechanism is called %q", j.Mechanism)
	}
	runtime.GOMAXPROCS(2) // the sender, and what the runtime does beside it
	if err := pinProcess(j.CPU); err != nil {
		return Sample{}, err
	}
	runtime.LockOSThread()
	cpus := []int{j.CPU}
	if m.poller {
		cpus = AllowedCPUs()
	}
	s := &sending{job: *j, file: -1, meter: meter{warm: j.Warm, window: j.Window, soft: newSoftirqs(cpus, j.IRQTime)}}
	if m.Name != "engine" {
		debug.SetGCPercent(-1) // system calls go around the scheduler, and nothing is allocated
	}
	if err := s.open(m); err != nil {
		return Sample{}, refusal(err)
	}
	if err := senders[m.Name](s); err != nil {
		return Sample{}, refusal(err)
	}
	return s.sample, nil
}

// refusal tells what the kernel cannot do from what went wrong.
func refusal(err error) error {
	if errors.Is(err, ring.ErrUnsupported) || errors.Is(err, ring.ErrForbidden) || errors.Is(err, ring.ErrMemlock) {
		return &Refusal{err.Error()}
	}
	return err
}

// open makes the source ready.
func (s *sending) open(m Mechanism) (err error) {
	switch s.Source {
	case File, Disk:
		if s.file, err = unix.Open(s.File, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open %s: %w", s.File, err)
		}
		s.last = s.Cold - s.Cold%s.Size
		if s.Source == Disk {
			return s.dropCache()
		}
		return s.fillCache()
	case Hot:
		s.last = s.Size
	case Cold:
		s.last = s.Cold - s.Cold%s.Size
	}
	if m.Name == "engine" {
		return nil // whose memory is its own
	}
	if s.mem, err = mapPages(s.last); err != nil {
		return err
	}
	for i := 0; i < len(s.mem); i += len(pattern) {
		copy(s.mem[i:], pattern[:])
	}
	return nil
}

// pattern is what is sent: pages that hold something, each of them touched.
var pattern = func() (p [4096]byte) {
	for i := range p {
		p[i] = byte(i * 7)
	}
	return p
}()

// mapPages maps memory in pages of 4 KiB: what zero-copy costs with huge pages hangs on the offset in
// the page.
func mapPages(n int) ([]byte, error) {
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", n, err)
	}
	_ = unix.Madvise(m, unix.MADV_NOHUGEPAGE) // a kernel without huge pages refuses
	return m, nil
}

// advance returns the offset of the source's next Size bytes.
func (s *sending) advance() (off int, err error) {
	off = s.off
	if s.off += s.Size; s.off >= s.last {
		s.off = 0
	}
	if off == 0 && s.Source == Disk && s.bytes > 0 {
		err = s.aside(s.dropCache)
	}
	return off, err
}

// next returns the address of the next Size bytes of memory.
func (s *sending) next() uintptr {
	off, _ := s.advance()
	return uintptr(unsafe.Pointer(&s.mem[off]))
}

// fillCache has the page cache hold the file: the sample before may have dropped it, and some
// systems take back what was not used for seconds.
func (s *sending) fillCache() error {
	b := make([]byte, 1<<20)
	for off := int64(0); off < int64(s.last); {
		n, err := unix.Pread(s.file, b, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("read %s: %w", s.File, err)
		case n == 0:
			return fmt.Errorf("%s ends at %d of %d bytes", s.File, off, s.last)
		}
		off += int64(max(n, 0))
	}
	return nil
}

// dropCache has the page cache forget the file, and makes sure that it has.
func (s *sending) dropCache() error {
	if s.mem != nil { // mapped pages stay
		if err := unix.Madvise(s.mem, unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("drop the mapping of %s: %w", s.File, err)
		}
	}
	if err := unix.Fadvise(s.file, 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop %s from the page cache: %w", s.File, err)
	}
	b := make([]byte, 1)
	const looks = 16
	for i := range looks {
		switch n, err := unix.Preadv2(s.file, [][]byte{b}, int64(s.last/looks*i), unix.RWF_NOWAIT); {
		case n == 1:
			return &Refusal{"the file stays in the page cache: " + s.File + " may be on a file system in memory"}
		case err == unix.EOPNOTSUPP:
			return &Refusal{"the file system of " + s.File + " does not tell what is in the page cache"}
		}
	}
	return nil
}

// connect opens a connection to the place's address, blocking.
func (s *sending) connect() (fd int, err error) {
	to, err := netip.ParseAddrPort(s.Addr)
	if err != nil {
		return -1, err
	}
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	family := unix.AF_INET
	if to.Addr().Is6() {
		sa, family = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}, unix.AF_INET6
	}
	kind := unix.SOCK_STREAM
	if s.UDP {
		kind = unix.SOCK_DGRAM
	}
	if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return -1, fmt.Errorf("connect to %s: %w", s.Addr, err)
	}
	if s.UDP {
		return fd, nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return -1, err
	}
	if s.KTLS {
		return fd, encrypt(fd)
	}
	return fd, nil
}

// From linux/tls.h.
const (
	tlsTX        = 1
	tls12        = 0x0303
	tlsAESGCM128 = 51
)

// encrypt has the kernel encrypt what is sent (Documentation/networking/tls.rst), by AES-128-GCM, with
// a key that nobody else has: the peer discards what it cannot read.
func encrypt(fd int) error {
	// struct tls12_crypto_info_aes_gcm_128: version, cipher, iv, key, salt, sequence number.
	info := struct {
		version, cipher uint16
		iv              [8]byte
		key             [16]byte
		salt            [4]byte
		seq             [8]byte
	}{tls12, tlsAESGCM128, [8]byte{1}, [16]byte{2}, [4]byte{3}, [8]byte{}}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
		return &Refusal{fmt.Sprintf("this kernel has no kTLS (%v): it needs CONFIG_TLS, or modprobe tls", err)}
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info))
	if err := unix.SetsockoptString(fd, unix.SOL_TLS, tlsTX, string(b)); err != nil {
		return fmt.Errorf("kTLS: set a key: %w", err)
	}
	return nil
}

// call is a system call that may block. The Go scheduler is not told: nothing else runs here, and
// what it would cost is not the mechanism's. Signals of the runtime are no reason to stop. What the
// arguments point at is kept where it is meanwhile.
//
//go:uintptrescapes
func call(nr, a, b, c, d, e, f uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(nr, a, b, c, d, e, f)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		}
		return int(n), errno
	}
}

// loop calls step, which sends and says how many bytes, until the window is over.
func (s *sending) loop(what string, step func() (int, error)) error {
	for s.start(); ; {
		n, err := step()
		if err != nil {
			return fmt.Errorf("%s of %d bytes: %w", what, s.Size, err)
		}
		if !s.sent(n) {
			return nil
		}
	}
}
