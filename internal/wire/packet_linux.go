package wire

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// packetSocket sends frames out of the peers' end of the wire (packet(7)).
type packetSocket struct {
	fd int
	to unix.SockaddrLinklayer
}

// openPacketSocket makes one in the thread's namespace.
func openPacketSocket(index int) (*packetSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a packet socket: %w", err)
	}
	return &packetSocket{fd: fd, to: unix.SockaddrLinklayer{Ifindex: index}}, nil
}

func (p *packetSocket) send(frame []byte) error {
	to := p.to // Sendto writes to it
	if err := unix.Sendto(p.fd, frame, 0, &to); err != nil {
		return fmt.Errorf("send a frame of %d bytes to %s: %w", len(frame), engineLink, err)
	}
	return nil
}

func (p *packetSocket) close() error { return unix.Close(p.fd) }

// tickPeriod is how long a connection may pause before what is left in flight is acknowledged, once or twice. It
// is the round-trip time of a sender that waits for less than the bytes in flight.
const tickPeriod = time.Millisecond

// tickProtocol marks the frame of which the program makes a tick, see bpf/packet.h.
const tickProtocol = 0x88b5

// ticker is the clock of a wire with bytes in flight. It is in this process so that its cost is not the
// engine's, and because the kernel's timers have no packets to make acknowledgements of.
type ticker struct {
	end, ended chan struct{}
}

func startTicker(p *packetSocket, mac net.HardwareAddr) *ticker {
	t := &ticker{end: make(chan struct{}), ended: make(chan struct{})}
	frame := make([]byte, 14+40+20) // what an acknowledgement needs, for IPv6
	copy(frame[:6], mac)
	copy(frame[6:12], mac)
	binary.BigEndian.PutUint16(frame[12:], tickProtocol)
	go func() {
		defer close(t.ended)
		clock := time.NewTicker(tickPeriod)
		defer clock.Stop()
		for {
			select {
			case <-t.end:
				return
			case <-clock.C:
				_ = p.send(frame) // the interface's queue is never full; the next tick does the rest
			}
		}
	}()
	return t
}

func (t *ticker) stop() {
	close(t.end)
	<-t.ended
}

// firstSequence is where a client's bytes begin, less one for its SYN.
const firstSequence = 0x10000000

// synFrame is the first frame of a client's connection, with the options of RFC 9293 and RFC 7323 that
// the program sends to an engine that dials.
func synFrame(mac net.HardwareAddr, client, server netip.AddrPort, mss int, sack bool) []byte {
	permitted := []byte{1, 1}
	if sack {
		permitted = []byte{4, 2}
	}
	be := binary.BigEndian
	tcp := be.AppendUint16(nil, client.Port())
	tcp = be.AppendUint16(tcp, server.Port())
	tcp = be.AppendUint32(tcp, firstSequence)
	tcp = append(tcp, 0, 0, 0, 0, 32/4<<4, 2, 0xff, 0xff, 0, 0, 0, 0)
	tcp = append(tcp, 2, 4, byte(mss>>8), byte(mss), permitted[0], permitted[1], 1, 3, 3, 14, 1, 1)

	from, to := client.Addr().AsSlice(), server.Addr().AsSlice()
	pseudo := append(append([]byte{0, unix.IPPROTO_TCP, 0, byte(len(tcp))}, from...), to...)
	be.PutUint16(tcp[16:], checksum(pseudo, tcp))

	frame := append(append([]byte(nil), mac...), mac...)
	if client.Addr().Is6() {
		frame = append(frame, 0x86, 0xdd, 6<<4, 0, 0, 0, 0, byte(len(tcp)), unix.IPPROTO_TCP, 64)
		frame = append(append(frame, from...), to...)
	} else {
		ip := append([]byte{0x45, 0, 0, byte(20 + len(tcp)), 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}, from...)
		ip = append(ip, to...)
		be.PutUint16(ip[10:], checksum(ip))
		frame = append(append(frame, 8, 0), ip...)
	}
	return append(frame, tcp...)
}

// checksum is that of the Internet (RFC 1071) over parts of even length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for ; len(p) > 0; p = p[2:] {
			sum += uint32(binary.BigEndian.Uint16(p))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
