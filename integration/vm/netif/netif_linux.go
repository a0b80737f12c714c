// Package netif sets up network interfaces by ioctl (netdevice(7)), so that neither the
// guest nor the host's namespace needs a program for it.
package netif

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Up gives the interface an IPv4 address, unless addr is the zero Prefix, and turns it on.
func Up(name string, addr netip.Prefix) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set up %s: socket: %w", name, err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	if addr.IsValid() {
		ip, mask := addr.Addr().As4(), net.CIDRMask(addr.Bits(), 32)
		if err := r.SetInet4Addr(ip[:]); err != nil {
			return fmt.Errorf("set up %s: %w", name, err)
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r); err != nil {
			return fmt.Errorf("give %s the address %v: %w", name, addr, err)
		}
		if err := r.SetInet4Addr(mask); err != nil {
			return fmt.Errorf("set up %s: %w", name, err)
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, r); err != nil {
			return fmt.Errorf("give %s the address %v: %w", name, addr, err)
		}
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return fmt.Errorf("turn on %s: %w", name, err)
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("turn on %s: %w", name, err)
	}
	return nil
}
