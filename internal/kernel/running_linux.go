package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/ring"
	"sluice/zc"
)

// Running is the kernel that this process runs on.
type Running struct{}

var _ System = Running{}

// Now is the time.
func (Running) Now() time.Time { return time.Now() }

// ThreadCPU reads CLOCK_THREAD_CPUTIME_ID (clock_gettime(2)).
func (Running) ThreadCPU() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // every kernel has it
	return ts.Nano()
}

// Open makes a ring.
func (Running) Open(c ring.Config, arena *bufreg.Registry, group uint16, buffers, size int) (Ring, BufRing, error) {
	caps, err := ring.Probe()
	if err != nil {
		return nil, nil, err
	}
	r, err := ring.New(c)
	if err != nil {
		return nil, nil, err
	}
	if err = arena.Attach(r); err == nil {
		if caps.Require("provided-buffer rings", "multishot accept", "multishot receive") != nil {
			return r, nil, nil
		}
		var b *ring.BufRing
		if b, err = r.NewBufRing(group, buffers, size); err == nil {
			return r, b, nil
		}
	}
	return nil, nil, errors.Join(err, r.Close())
}

// EventFD makes an eventfd.
func (Running) EventFD() (int, error) {
	return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
}

// Wake increments an eventfd.
func (Running) Wake(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:]) // fails only when the counter is full, and then a wake-up is pending
}

// ResetEvent reads an eventfd.
func (Running) ResetEvent(fd int) {
	var count [8]byte
	_, _ = unix.Read(fd, count[:]) // fails when the counter is zero already
}

// Recv is recv(2) with MSG_DONTWAIT.
func (Running) Recv(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// Close closes a descriptor.
func (Running) Close(fd int) { _ = unix.Close(fd) }

// ShutdownWrite is shutdown(2).
func (Running) ShutdownWrite(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) }

// ResetOnClose has close send a reset and drop what the socket holds (tcp(7), SO_LINGER).
func (Running) ResetOnClose(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// Cork sets TCP_CORK (tcp(7)), which a socket that is not TCP's refuses.
//
// With bbr, which paces, what a corked socket holds back is taken for want of data: over loopback 1 MiB cost more than
// twice as much.
func (Running) Cork(fd int, on bool) {
	value := 0
	if on {
		var name [16]byte // TCP_CA_NAME_MAX
		if tcpOption(fd, unix.TCP_CONGESTION, unsafe.Pointer(&name), unsafe.Sizeof(name)) != 0 || string(name[:3]) == "bbr" {
			return
		}
		value = 1
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_CORK, value)
}

// MapFile is mmap(2), shared and only readable. Page tables come with the first send of each page.
func (Running) MapFile(fd int, most int64) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size == 0 || st.Size > most {
		return nil, unix.EFBIG
	}
	return unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
}

// UnmapFile is munmap(2).
func (Running) UnmapFile(mem []byte) { _ = unix.Munmap(mem) }

// Sendfile is sendfile(2). The Go scheduler is not told of it: to be told of calls that take
// longer than 20 µs costs a tenth of a sender's time, and from the page cache to a non-blocking
// socket it waits for nothing. A page that was evicted since Residency is waited for.
func (Running) Sendfile(out, in int, off int64, n int) (int, syscall.Errno) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDFILE, uintptr(out), uintptr(in), uintptr(unsafe.Pointer(&off)), uintptr(n), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}

// probeStep is how far apart the pages are that are looked at where cachestat does not answer:
// short of the least that readahead brings for a stream on the usual 128 KiB setting, so that
// a stretch which only some requests have touched shows; nine looks cost about what cachestat does.
const probeStep = 32 << 10

// Residency asks cachestat(2) (6.5) whether pages are missing. It counts those that a readahead
// has begun to fill as present, and sendfile would wait for them; so the last one, which a
// readahead fills last, is also looked at by a read that does not wait.
//
// cachestat answers only who owns the file or may write to it (seen on 6.18), which a server
// often must not. Without its answer such reads look at the stretch page for page, in steps.
func (Running) Residency(fd int, off int64, n int) Residency {
	last := off + int64(n) - 1
	at := off
	missing, errno := missingPages(fd, off, n)
	if errno == 0 {
		if missing {
			return NotResident
		}
		at = last
	}
	for ; ; at = min(at+probeStep, last) {
		switch e := readNow(fd, at); {
		case e == syscall.EAGAIN:
			return NotResident
		case e != 0 && errno == 0:
			return Resident // tmpfs refuses such reads, and has no readahead
		case e != 0:
			return ResidencyUnknown
		case at == last:
			return Resident
		}
	}
}

// missingPages reports whether the page cache lacks any of n bytes of a file from off. Bytes past
// its end are missing too.
func missingPages(fd int, off int64, n int) (bool, syscall.Errno) {
	pageSize := uint64(os.Getpagesize())
	span := [2]uint64{uint64(off), uint64(n)}
	var stat [5]uint64 // cached, dirty, under writeback, evicted, recently evicted; in pages
	_, _, errno := unix.RawSyscall6(unix.SYS_CACHESTAT, uintptr(fd), uintptr(unsafe.Pointer(&span)), uintptr(unsafe.Pointer(&stat)), 0, 0, 0)
	pages := (uint64(off)+uint64(n)+pageSize-1)/pageSize - uint64(off)/pageSize
	return stat[0] < pages, errno
}

// readNow reads a byte at off if that needs no waiting, and fails with EAGAIN if it does
// (preadv2 with RWF_NOWAIT, 4.14).
func readNow(fd int, off int64) syscall.Errno {
	var b byte
	v := unix.Iovec{Base: &b, Len: 1}
	_, _, errno := unix.RawSyscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&v)), 1, uintptr(off), uintptr(uint64(off)>>32), unix.RWF_NOWAIT)
	return errno
}

// BytesAcked is tcpi_bytes_acked (4.1), and whether anything is unacknowledged or unsent.
func (Running) BytesAcked(fd int) (acked uint64, held bool) {
	var info unix.TCPInfo
	if tcpOption(fd, unix.TCP_INFO, unsafe.Pointer(&info), unsafe.Sizeof(info)) != 0 {
		return 0, false
	}
	return info.Bytes_acked, info.Unacked > 0 || info.Notsent_bytes > 0
}

// tcpOption is getsockopt(2) into memory of the caller's, which golang.org/x/sys allocates for each call.
func tcpOption(fd, name int, into unsafe.Pointer, size uintptr) syscall.Errno {
	n := uint32(size)
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, uintptr(name), uintptr(into), uintptr(unsafe.Pointer(&n)), 0)
	return errno
}

// SocketFacts looks at both addresses. Zero-copy sends to a peer on this host are copied, and
// only plain TCP takes them.
func (Running) SocketFacts(fd int) (f Facts) {
	if f.Kind = socketKind(fd); f.Kind == zc.Unix {
		return f
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return f
	}
	f.Peer = addrOf(peer)
	if f.Peer.Addr().IsLoopback() {
		f.Local = true
		return f
	}
	if own, err := unix.Getsockname(fd); err == nil {
		addr := addrOf(own).Addr()
		f.Local = addr == f.Peer.Addr()
		f.Device = deviceOf(addr)
	}
	return f
}

func socketKind(fd int) zc.Kind {
	if p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || p != unix.IPPROTO_TCP {
		if d, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && d == unix.AF_UNIX {
			return zc.Unix
		}
		return zc.OtherSocket
	}
	if ulp, err := unix.GetsockoptString(fd, unix.SOL_TCP, unix.TCP_ULP); err == nil && ulp == "tls" {
		return zc.TLSSocket
	}
	return zc.TCP
}

func addrOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// devices remembers which device has an address: asking takes a dump of all of them. An
// address that moves to another device is taken to be where it was, for the life of the process.
var devices sync.Map // netip.Addr to string

func deviceOf(addr netip.Addr) string {
	if name, ok := devices.Load(addr); ok {
		return name.(string)
	}
	name := ""
	all, _ := net.Interfaces() // without an answer the device has no name
	for _, dev := range all {
		addrs, _ := dev.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if has, ok := netip.AddrFromSlice(n.IP); ok && has.Unmap() == addr {
					name = dev.Name
				}
			}
		}
	}
	devices.Store(addr, name)
	return name
}
