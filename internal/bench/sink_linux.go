package bench

import (
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// sinkRead is how many bytes a receiver discards at a time.
const sinkRead = 1 << 20

// listen accepts connections on loopback for as long as the process lives, and discards what they
// send.
func (j *sinkJob) listen() (addr string, err error) {
	if err := pinProcess(j.CPUs...); err != nil {
		return "", err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for the senders: %w", err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go discard(c.(*net.TCPConn))
		}
	}()
	return ln.Addr().String(), nil
}

// discard reads by MSG_TRUNC, which drops bytes without copying them (tcp(7)): the receiver should
// not be what is measured.
func discard(c *net.TCPConn) {
	defer c.Close()
	f, err := c.File()
	if err != nil {
		return
	}
	defer f.Close()
	fd := int(f.Fd())
	if unix.SetNonblock(fd, false) != nil { // without the runtime's poller between the reads
		return
	}
	runtime.LockOSThread()
	none := make([]byte, sinkRead) // not written to
	for {
		n, _, err := unix.Recvfrom(fd, none, unix.MSG_TRUNC)
		if n <= 0 && err != unix.EINTR {
			return
		}
	}
}
