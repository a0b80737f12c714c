//go:build linux

package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// impairment is what becomes of packets on their way out (tc-netem(8)). Chances are in percent.
type impairment struct {
	delay, jitter                     time.Duration
	loss, duplicate, reorder, corrupt uint32 // reorder: sent at once, ahead of those that are delayed
}

// impair has the interface treat what it sends that way, until the end of the test.
func impair(t *testing.T, nic string, how impairment) {
	t.Helper()
	i, err := net.InterfaceByName(nic)
	if err != nil {
		t.Fatal(err)
	}
	ticks := func(d time.Duration) uint32 { return uint32(d.Microseconds()) * ticksPerMicro(t) }
	chance := func(percent uint32) uint32 { return math.MaxUint32 / 100 * percent }
	const packets = 1000 // that may be on the way
	gap := uint32(0)
	if how.reorder > 0 {
		gap = 1 // every packet may be
	}
	// struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter. Attributes follow, each
	// a chance and its correlation.
	options := words(ticks(how.delay), packets, chance(how.loss), gap, chance(how.duplicate), ticks(how.jitter))
	options = appendAttr(options, netemReorder, words(chance(how.reorder), 0))
	options = appendAttr(options, netemCorrupt, words(chance(how.corrupt), 0))
	if err := changeRootQdisc(unix.RTM_NEWQDISC, i.Index, "netem", options); err != nil {
		t.Fatalf("netem: %v", err)
	}
	t.Cleanup(func() {
		if err := changeRootQdisc(unix.RTM_DELQDISC, i.Index, "", nil); err != nil {
			t.Errorf("remove netem: %v", err)
		}
	})
}

// From linux/pkt_sched.h.
const (
	netemReorder = 3 // TCA_NETEM_REORDER
	netemCorrupt = 4
)

// words are numbers in the machine's byte order.
func words(numbers ...uint32) (b []byte) {
	for _, n := range numbers {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
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
func changeRootQdisc(kind uint16, ifindex int, qdisc string, options []byte) error {
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
		body = appendAttr(body, unix.TCA_KIND, append([]byte(qdisc), 0))
		body = appendAttr(body, unix.TCA_OPTIONS, options)
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

// counter reads one of TCP's counters since boot (snmp_counter.rst), by its name in
// /proc/net/snmp or /proc/net/netstat.
func counter(t *testing.T, name string) uint64 {
	t.Helper()
	for _, file := range []string{"/proc/net/snmp", "/proc/net/netstat"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for line := range strings.Lines(string(text)) { // of two alike the first names, the second counts
			values := strings.Fields(line)
			if len(names) == 0 || names[0] != values[0] {
				names = values
				continue
			}
			if i := slices.Index(names, name); i > 0 {
				n, err := strconv.ParseUint(values[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	t.Fatalf("the kernel does not tell %s", name)
	return 0
}
