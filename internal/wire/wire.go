// Package wire is a perfect wire with perfect TCP peers at its far end, on one machine, for
// measuring what sending costs. A process that it starts is alone in a network namespace with one
// interface. Behind that an eBPF program acknowledges every segment without touching its payload,
// so that a real TCP socket sends at full speed, its zero-copy sends are not copied, and the CPU time
// is the sender's. README.md says how, what that represents, and what not.
//
// Sink mode: the peers accept connections to any port of any address of the wire's network and take
// all that is sent. Server mode (Options.Clients): they are keep-alive clients of an HTTP/1.1 server in the
// namespace.
//
// A Rig may be used by any goroutine. It holds two threads, each of which is what keeps a namespace
// without a name alive, so nothing is left of it however the process ends.
package wire

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

const (
	minMTU = 1280  // below it there is no IPv6 (RFC 8200, section 5)
	maxMTU = 65535 // of a veth (include/uapi/linux/if_ether.h, ETH_MAX_MTU)
	// minGSO leaves room for a segment; maxGSO is GSO_MAX_SIZE (include/linux/netdevice.h).
	minGSO = 4096
	maxGSO = 8 * 65535
	// usualGSO is what interfaces have: more is BIG TCP (6.3 for IPv4, 5.19 for IPv6).
	usualGSO = 65536
	// maxInFlight is a quarter of the window that a peer advertises.
	maxInFlight = 256 << 20
	// maxClients is how many connections the program keeps, and maxPath what fits its request.
	maxClients = 50000
	maxPath    = 900
	// startTimeout is how long a server may take to listen and to answer everybody: it may
	// be one that reads its files first.
	startTimeout = 10 * time.Second
)

// Options say what the wire is like. The zero value is a sink on an Ethernet with TSO.
type Options struct {
	MTU      int  // of the wire; 0: 1500
	GSO      int  // bytes of the largest super-packet, headers included; 0: 65536; more is BIG TCP
	InFlight int  // bytes that a sink's peers leave unacknowledged while a connection sends; 0: none
	Loss     int  // of one super-packet in Loss the first segment is lost; 0: none. Peers then offer no SACK
	IPv6     bool // else IPv4

	Clients *Clients // nil: sink mode
}

// Clients are those of server mode.
type Clients struct {
	Port        int    // where the server listens; 0: 8080
	Connections int    // which the clients keep open; 0: 1
	Outstanding int    // requests at a time over all connections, in turn; 0: one for each
	Path        string // requested by GET; "": /
}

// Totals is what the far end has seen since New. It only counts what the peers do: CPU time
// is the caller's to measure.
type Totals struct {
	Packets   uint64 // with data; those above the MTU are super-packets
	Bytes     uint64 // of TCP payload that arrived in order, each once
	ACKs      uint64 // of data
	Opened    uint64 // connections
	Finished  uint64 // connections that the engine closed in order
	Requests  uint64 // sent by clients
	Responses uint64 // complete
	Repeated  uint64 // packets that brought nothing new
	Lost      uint64 // segments lost on purpose

	// What does not belong into a measurement. Zero, all of them, when all goes well.
	Reset    uint64 // connections that the engine reset
	Refused  uint64 // responses with a status other than 200
	Unparsed uint64 // responses without a Content-Length in a header of at most 1 KiB a segment
	Stray    uint64 // TCP packets of no connection
	Failed   uint64 // events that a full table of the rig lost

	Largest uint64 // payload of the largest packet ever, in bytes
}

// Since is what was counted after earlier. Largest stays.
func (t Totals) Since(earlier Totals) Totals {
	t.Packets -= earlier.Packets
	t.Bytes -= earlier.Bytes
	t.ACKs -= earlier.ACKs
	t.Opened -= earlier.Opened
	t.Finished -= earlier.Finished
	t.Requests -= earlier.Requests
	t.Responses -= earlier.Responses
	t.Repeated -= earlier.Repeated
	t.Lost -= earlier.Lost
	t.Reset -= earlier.Reset
	t.Refused -= earlier.Refused
	t.Unparsed -= earlier.Unparsed
	t.Stray -= earlier.Stray
	t.Failed -= earlier.Failed
	return t
}

// Trouble says what spoils a measurement, or nothing.
func (t Totals) Trouble() string {
	var all []string
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{t.Reset, "connections reset by the engine"},
		{t.Refused, "responses with a status other than 200"},
		{t.Unparsed, "responses without a Content-Length"},
		{t.Stray, "packets of no connection"},
		{t.Failed, "events lost by the rig"},
	} {
		if c.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	return strings.Join(all, ", ")
}

// Latencies is a histogram of the time from a request to the end of its response. It has 16 buckets to
// each power of two, so that a bucket is at most 6 % wide.
type Latencies struct {
	n [1024]uint64
}

// Since is what was counted after earlier.
func (l Latencies) Since(earlier Latencies) Latencies {
	for i := range l.n {
		l.n[i] -= earlier.n[i]
	}
	return l
}

// Count is how many there are.
func (l Latencies) Count() (n uint64) {
	for _, x := range l.n {
		n += x
	}
	return n
}

// Quantile is the time within which the part q of all responses was complete, to the upper end of
// its bucket; 0 if there are none.
func (l Latencies) Quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(l.Count())))
	var n uint64
	for i, x := range l.n {
		if n += x; n >= rank && n > 0 {
			return bucketEnd(i)
		}
	}
	return 0
}

// bucketEnd is the first nanosecond after a bucket. See bucket in bpf/response.h.
func bucketEnd(i int) time.Duration {
	if i++; i < 16 {
		return time.Duration(i)
	}
	return time.Duration(uint64(16+i%16) << (i/16 - 1))
}

// withDefaults returns the options as they will be, or says which makes no sense.
func (o Options) withDefaults() (Options, error) {
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if o.GSO == 0 {
		o.GSO = usualGSO
	}
	limits := []limit{
		{"MTU", o.MTU, minMTU, maxMTU},
		{"GSO", o.GSO, minGSO, maxGSO},
		{"in-flight bytes", o.InFlight, 0, maxInFlight},
		{"loss", o.Loss, 0, math.MaxInt32},
	}
	if o.Clients != nil {
		c := *o.Clients
		if c.Port == 0 {
			c.Port = 8080
		}
		if c.Connections == 0 {
			c.Connections = 1
		}
		if c.Outstanding == 0 {
			c.Outstanding = c.Connections
		}
		if c.Path == "" {
			c.Path = "/"
		}
		limits = append(limits,
			limit{"port", c.Port, 1, math.MaxUint16},
			limit{"connections", c.Connections, 1, maxClients},
			limit{"outstanding requests", c.Outstanding, 1, c.Connections},
			limit{"length of the path", len(c.Path), 1, maxPath})
		if c.Path[0] != '/' || strings.ContainsAny(c.Path, " \r\n") {
			return o, fmt.Errorf("wire: the path %q does not begin with a slash, or has a space or a line's end in it", c.Path)
		}
		o.Clients = &c
	}
	if o.InFlight > 0 && o.Loss > 0 {
		return o, errors.New("wire: loss and bytes in flight: a loss has the sender's congestion window shrink below the bytes in flight, and then the wire's clock sets the pace; ask for one of them")
	}
	for _, l := range limits {
		if l.value < l.least || l.value > l.most {
			return o, fmt.Errorf("wire: %s of %d: want %d to %d", l.what, l.value, l.least, l.most)
		}
	}
	return o, nil
}

type limit struct {
	what               string
	value, least, most int
}

// headers are those of a packet without options: IP's and TCP's.
func (o Options) headers() int {
	if o.IPv6 {
		return 40 + 20
	}
	return 20 + 20
}

// request is what a client sends.
func (c *Clients) request() []byte {
	return []byte("GET " + c.Path + " HTTP/1.1\r\nHost: wire\r\n\r\n")
}
