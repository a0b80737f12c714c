package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// sinkFlows is how many connections a sink keeps at a time.
const sinkFlows = 65536

// granules is a quarter of RING in bpf/state.h.
const granules = 64

// program is the eBPF program that plays the peers. Its links and maps have no name in any
// file system, so they go with their descriptors.
type program struct {
	objects peerObjects
	links   []io.Closer
}

func loadProgram(o Options, local netip.Prefix, mac net.HardwareAddr) (*program, error) {
	spec, err := loadPeer()
	if err != nil {
		return nil, fmt.Errorf("read the program: %w", err)
	}
	config := peerOptions{
		Mss:      uint32(o.MTU - o.headers()),
		Sack:     1,
		InFlight: uint32(o.InFlight),
		Granule:  uint32(o.InFlight / granules),
		Loss:     uint32(o.Loss),
	}
	if o.IPv6 {
		config.Ipv6 = 1
	}
	if o.Loss > 0 {
		config.Sack = 0 // the program knows one hole, and does not report it
	}
	copy(config.Mac[:], mac)
	config.Local = inLastBytes(local.Addr())
	config.Peers = inLastBytes(local.Masked().Addr())
	flows := uint32(sinkFlows)
	var request peerRequest
	if c := o.Clients; c != nil {
		config.Request = uint32(copy(request.Text[:], c.request()))
		config.Outstanding = uint32(c.Outstanding)
		flows = uint32(c.Connections)
		spec.Maps["idle"].MaxEntries = flows
	}
	spec.Maps["flows"].MaxEntries = flows
	spec.Maps["held"].MaxEntries = 2 * flows // a connection may be there twice for a moment
	if err := spec.Variables["config"].Set(config); err != nil {
		return nil, fmt.Errorf("set the program's options: %w", err)
	}
	p := new(program)
	if err := spec.LoadAndAssign(&p.objects, nil); err != nil {
		return nil, fmt.Errorf("load the program: %w", err)
	}
	if err := p.objects.Requests.Put(uint32(0), request); err != nil {
		return nil, errors.Join(fmt.Errorf("set the clients' request: %w", err), p.close())
	}
	return p, nil
}

// inLastBytes is an address of either kind where the program expects it.
func inLastBytes(a netip.Addr) (b [16]uint8) {
	copy(b[16-a.BitLen()/8:], a.AsSlice())
	return b
}

// attach puts the program to both sides of an interface of the thread's namespace.
func (p *program) attach(index int) error {
	for _, side := range []struct {
		program *ebpf.Program
		attach  ebpf.AttachType
	}{
		{p.objects.PeerIn, ebpf.AttachTCXIngress},
		{p.objects.PeerOut, ebpf.AttachTCXEgress},
	} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: side.program, Attach: side.attach})
		if err != nil {
			if errors.Is(err, ebpf.ErrNotSupported) {
				return fmt.Errorf("attach the program (%v): this kernel has no tcx: it takes Linux 6.6: %w", side.attach, err)
			}
			return fmt.Errorf("attach the program (%v): %w", side.attach, err)
		}
		p.links = append(p.links, l)
	}
	return nil
}

func (p *program) close() error {
	errs := []error{p.objects.Close()}
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// addResetRule has all packets that come from an interface dropped and answered by a TCP reset: the source
// of the peers' packets. The rule is behind the program, which drops what needs no answer.
func addResetRule(ns int, device string) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: "wire"})
	chain := c.AddChain(&nftables.Chain{
		Name: "in", Table: table, Type: nftables.ChainTypeFilter, Device: device,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("make the nftables rule \"reject with tcp reset\" at %s's ingress (Linux 5.11, nft_reject_netdev): %w", device, err)
	}
	return nil
}

func netnsHandle(fd int) netns.NsHandle { return netns.NsHandle(fd) }

// Totals reads what was counted so far.
func (r *Rig) Totals() (t Totals, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return t, errClosed
	}
	var cpus []peerCounters
	if err := r.program.objects.Counted.Lookup(uint32(0), &cpus); err != nil {
		return t, fmt.Errorf("wire: read the counters: %w", err)
	}
	for _, c := range cpus {
		t.Packets += c.Packets
		t.Bytes += c.Bytes
		t.ACKs += c.Acks
		t.Opened += c.Opened
		t.Finished += c.Finished
		t.Requests += c.Requests
		t.Responses += c.Responses
		t.Repeated += c.Repeated
		t.Lost += c.Lost
		t.Reset += c.Reset
		t.Refused += c.Refused
		t.Unparsed += c.Unparsed
		t.Stray += c.Stray
		t.Failed += c.Failed
		t.Largest = max(t.Largest, c.Largest)
	}
	return t, nil
}

// Latencies reads the response times so far, in server mode.
func (r *Rig) Latencies() (l Latencies, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return l, errClosed
	}
	var cpus []peerLatencies
	if err := r.program.objects.ResponseTimes.Lookup(uint32(0), &cpus); err != nil {
		return l, fmt.Errorf("wire: read the response times: %w", err)
	}
	for _, c := range cpus {
		for i, n := range c.N {
			l.n[i] += n
		}
	}
	return l, nil
}

// flowKey names a client's connection in the program's tables.
func flowKey(client, server netip.AddrPort) peerKey {
	b := client.Addr().AsSlice()
	return peerKey{
		Peer:      binary.NativeEndian.Uint32(b[len(b)-4:]),
		PeerPort:  networkOrder(client.Port()),
		LocalPort: networkOrder(server.Port()),
	}
}

func networkOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
