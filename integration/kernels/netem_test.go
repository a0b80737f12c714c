//go:build linux

package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// impair has the interface lose some of what it sends and delay the rest, until the end of
// the test (tc-netem(8)).
func impair(t *testing.T, nic string, lossPercent, delayMicros uint32) {
	t.Helper()
	i, err := net.InterfaceByName(nic)
	if err != nil {
		t.Fatal(err)
	}
	// struct tc_netem_qopt: latency in ticks, limit in packets, loss as a fraction of 2³²-1, gap,
	// duplicate, jitter.
	options := []uint32{delayMicros * ticksPerMicro(t), 1000, math.MaxUint32 / 100 * lossPercent, 0, 0, 0}
	if err := changeRootQdisc(unix.RTM_NEWQDISC, i.Index, "netem", options); err != nil {
		t.Fatalf("netem: %v", err)
	}
	t.Cleanup(func() {
		if err := changeRootQdisc(unix.RTM_DELQDISC, i.Index, "", nil); err != nil {
			t.Errorf("remove netem: %v", err)
		}
	})
}

// ticksPerMicro is the packet scheduler's clock: /proc/net/psched has nanoseconds a
// microsecond and nanoseconds a tick, in hexadecimal.
func ticksPerMicro(t *testing.T) uint32 {
	t.Helper()
	text, err := os.ReadFile("/proc/net/psched")
	if err != nil {
		t.Fatal(err)
	}
	var micro, tick uint32
	if _, err := fmt.Sscanf(string(text), "%x %x", &micro, &tick); err != nil || tick == 0 {
		t.Fatalf("/proc/net/psched has %q: %v", text, err)
	}
	return micro / tick
}

// changeRootQdisc sends one message to the packet scheduler and awaits its answer
// (rtnetlink(7)).
func changeRootQdisc(kind uint16, ifindex int, qdisc string, options []uint32) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags := uint16(unix.NLM_F_REQUEST | unix.NLM_F_ACK)
	if kind == unix.RTM_NEWQDISC {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	le := binary.NativeEndian
	// struct tcmsg: family and padding, interface, handle, parent, info.
	body := le.AppendUint32(nil, unix.AF_UNSPEC)
	body = le.AppendUint32(body, uint32(ifindex))
	body = le.AppendUint32(body, 0)
	body = le.AppendUint32(body, rootHandle)
	body = le.AppendUint32(body, 0)
	if qdisc != "" {
		var value []byte
		for _, o := range options {
			value = le.AppendUint32(value, o)
		}
		body = appendAttr(body, unix.TCA_KIND, append([]byte(qdisc), 0))
		body = appendAttr(body, unix.TCA_OPTIONS, value)
	}
	msg := le.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = le.AppendUint16(msg, kind)
	msg = le.AppendUint16(msg, flags)
	msg = le.AppendUint32(msg, 1) // sequence
	msg = le.AppendUint32(msg, 0) // port: the kernel fills it in
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || (*unix.NlMsghdr)(unsafe.Pointer(&answer[0])).Type != unix.NLMSG_ERROR {
		return fmt.Errorf("the kernel answered with %d bytes that are no acknowledgement", n)
	}
	if errno := int32(le.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

const rootHandle = 0xffffffff // TC_H_ROOT

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// retransmitted is how many segments TCP has sent again since boot.
func retransmitted(t *testing.T) (n uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names, values []string
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "Tcp:" {
			names, values = values, f // the first such line names, the second counts
		}
	}
	for i, name := range names {
		if name == "RetransSegs" {
			if _, err := fmt.Sscan(values[i], &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("/proc/net/snmp does not tell RetransSegs")
	return 0
}
