//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/integration/vm/netif"
	"sluice/integration/vm/peer"
)

// The two ends of the wire. Nothing else is in their network namespace.
var (
	hostAddress  = netip.MustParsePrefix("10.99.0.1/24")
	guestAddress = netip.MustParsePrefix("10.99.0.2/24")
	peerAddress  = netip.AddrPortFrom(hostAddress.Addr(), 7000)
)

// namespace is a network namespace with the host's end of the wire: a tap device, which
// takes the guest's frames as they are, unsegmented and without checksums. That is what
// makes the guest's network card one that sends without copying.
//
// A namespace is a thread's, so there is a goroutine that stays on one; sockets that it makes
// and programs that it starts stay in the namespace.
type namespace struct {
	calls chan func()
	quit  chan struct{}
	tap   *os.File // qemu's end
	peers net.Listener
}

// newNamespace makes a namespace, and the peer that tests talk to.
func newNamespace() (*namespace, error) {
	n := &namespace{calls: make(chan func()), quit: make(chan struct{})}
	go n.run()
	err := n.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		tap, name, err := openTap()
		if err != nil {
			return err
		}
		n.tap = tap
		if err := netif.Up(name, hostAddress); err != nil {
			return err
		}
		n.peers, err = net.Listen("tcp", peerAddress.String())
		return err
	})
	if err != nil {
		n.close()
		return nil, err
	}
	go func() {
		if err := peer.Serve(n.peers, n.dial); err != nil {
			progress(os.Stderr, "the peer ended: %v", err)
		}
	}()
	return n, nil
}

// run is the namespace's goroutine. Its thread ends with it, because it is never unlocked.
func (n *namespace) run() {
	runtime.LockOSThread()
	for {
		select {
		case fn := <-n.calls:
			fn()
		case <-n.quit:
			return
		}
	}
}

// do runs fn in the namespace.
func (n *namespace) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case n.calls <- func() { result <- fn() }:
		return <-result
	case <-n.quit:
		return net.ErrClosed
	}
}

// close ends the namespace; programs started in it are killed (Pdeathsig).
func (n *namespace) close() {
	if n.peers != nil {
		n.peers.Close()
	}
	if n.tap != nil {
		n.tap.Close()
	}
	close(n.quit)
}

// dial connects the peer to the guest.
func (n *namespace) dial(addr string, receiveBuffer int) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if receiveBuffer == 0 {
			return nil
		}
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		})
		return errors.Join(cerr, err)
	}}
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, err // a name would be looked up, on another thread
	}
	err = n.do(func() (err error) {
		conn, err = d.DialContext(context.Background(), "tcp4", addr)
		return err
	})
	return conn, err
}

// openTap makes a tap device whose frames carry a virtio header, which says what of
// segmentation and checksums is still to be done (tun.rst, IFF_VNET_HDR).
func openTap() (tap *os.File, name string, err error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open /dev/net/tun: %w", err)
	}
	r, err := unix.NewIfreq("tap0")
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		unix.Close(fd)
		return nil, "", fmt.Errorf("make a tap device: %w", err)
	}
	return os.NewFile(uintptr(fd), "tap"), r.Name(), nil
}
