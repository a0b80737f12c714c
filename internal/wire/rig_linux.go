package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The interfaces' names, in a namespace each.
const (
	engineLink = "wire0"
	peerLink   = "wire1"
)

// Rig is a wire with its peers, from New to Close.
type Rig struct {
	options Options
	engine  *namespace // of the process under test
	peers   *namespace // of the far end, where nothing runs but the program
	program *program
	packets *packetSocket
	mac     net.HardwareAddr // of the engine's interface
	local   netip.Prefix     // its address and network

	patience time.Duration // startTimeout, less in tests

	mu     sync.Mutex // what follows, and the namespaces' end
	closed bool
	ticks  *ticker
}

// New makes a wire. It needs root, and Linux 6.6 with veth, eBPF and nftables. Close takes it away again.
func New(options Options) (*Rig, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Rig{options: options, local: netip.MustParsePrefix("10.77.0.1/16"), patience: startTimeout}
	if options.IPv6 {
		r.local = netip.MustParsePrefix("fd77::1/64")
	}
	if err := r.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("wire: %w%s", err, advice(err)), r.Close())
	}
	return r, nil
}

func (r *Rig) build() (err error) {
	if r.engine, err = newNamespace(); err != nil {
		return err
	}
	if r.peers, err = newNamespace(); err != nil {
		return err
	}
	for _, n := range []*namespace{r.engine, r.peers} {
		// Where IPv6 is not spoken, nobody announces himself. The peers' side has no stack at all.
		disable := "1"
		if r.options.IPv6 && n == r.engine {
			disable = "0"
		}
		if err := n.set(map[string]string{"ipv6/conf/all/disable_ipv6": disable, "ipv6/conf/default/disable_ipv6": disable}); err != nil {
			return err
		}
	}
	err = r.engine.set(map[string]string{
		"ipv4/tcp_timestamps":         "0",    // the program reads and writes headers without options
		"ipv4/tcp_no_metrics_save":    "1",    // each connection begins like the first
		"ipv4/tcp_congestion_control": "reno", // every kernel has it, and it does not pace
		"ipv4/tcp_syncookies":         "0",    // without timestamps a cookie loses the window's scale
	})
	if err != nil {
		return err
	}
	peerIndex, err := r.joinNamespaces()
	if err != nil {
		return err
	}
	if r.program, err = loadProgram(r.options, r.local, r.mac); err != nil {
		return err
	}
	err = r.peers.do(func() error {
		if err := r.program.attach(peerIndex); err != nil {
			return err
		}
		r.packets, err = openPacketSocket(peerIndex)
		return err
	})
	if err != nil {
		return err
	}
	if err := addResetRule(r.peers.fd, peerLink); err != nil {
		return err
	}
	if r.options.InFlight > 0 {
		r.ticks = startTicker(r.packets, r.mac)
	}
	return nil
}

// joinNamespaces makes the pair of interfaces, and returns the index of the peers' end.
func (r *Rig) joinNamespaces() (int, error) {
	engine, err := netlink.NewHandleAt(netnsHandle(r.engine.fd), unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("netlink: %w", err)
	}
	defer engine.Close()
	peers, err := netlink.NewHandleAt(netnsHandle(r.peers.fd), unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("netlink: %w", err)
	}
	defer peers.Close()

	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = engineLink, r.options.MTU
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: peerLink, PeerNamespace: netlink.NsFd(r.peers.fd), PeerMTU: uint32(r.options.MTU)}
	if err := engine.LinkAdd(pair); err != nil {
		return 0, fmt.Errorf("make a pair of interfaces (veth): %w", err)
	}
	far, err := up(peers, peerLink)
	if err != nil {
		return 0, err
	}
	near, err := up(engine, engineLink)
	if err != nil {
		return 0, err
	}
	if _, err := up(engine, "lo"); err != nil {
		return 0, err
	}
	r.mac = near.Attrs().HardwareAddr
	if r.options.GSO != usualGSO {
		if err := engine.LinkSetGSOMaxSize(near, r.options.GSO); err != nil {
			return 0, fmt.Errorf("set the largest packet of %s to %d (gso_max_size): %w", engineLink, r.options.GSO, err)
		}
		if err := engine.LinkSetGSOIPv4MaxSize(near, r.options.GSO); err != nil {
			return 0, fmt.Errorf("set the largest packet of %s to %d (gso_ipv4_max_size): %w", engineLink, r.options.GSO, err)
		}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: r.local.Addr().AsSlice(), Mask: net.CIDRMask(r.local.Bits(), r.local.Addr().BitLen())}}
	if err := engine.AddrAdd(near, addr); err != nil {
		return 0, fmt.Errorf("give %s the address %v: %w", engineLink, r.local, err)
	}
	return far.Attrs().Index, nil
}

// up turns an interface on, without neighbour discovery: whoever is at the other end is there.
func up(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	if name != "lo" {
		if err := h.LinkSetARPOff(link); err != nil {
			return nil, fmt.Errorf("turn ARP off on %s: %w", name, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("turn %s on: %w", name, err)
	}
	return link, nil
}

// Sink is an address to dial in sink mode. Any other port is as good, and so is any other address
// of the wire's network.
func (r *Rig) Sink() string {
	return netip.AddrPortFrom(r.local.Addr().Next(), 9).String()
}

// Local is the address that a server in the namespace has; in server mode with the port at
// which clients expect it.
func (r *Rig) Local() string {
	if r.options.Clients == nil {
		return r.local.Addr().String()
	}
	return net.JoinHostPort(r.local.Addr().String(), strconv.Itoa(r.options.Clients.Port))
}

// Command is like exec.CommandContext for a process on the wire: it must be started by StartCommand, because a
// process is in the namespace of the thread that starts it. It is killed when the Rig is closed, or when
// this process ends.
func (r *Rig) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// StartCommand starts any exec.Cmd in the engine's namespace.
func (r *Rig) StartCommand(cmd *exec.Cmd) error {
	return r.Do(cmd.Start)
}

// Do has a thread that is in the engine's namespace call fn, one at a time: sockets that fn makes stay in the
// namespace wherever they are used. A goroutine that fn starts is elsewhere.
func (r *Rig) Do(fn func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	return r.engine.do(fn)
}

var errClosed = errors.New("wire: the rig is closed")

// Close ends what was started on the wire by Command and takes everything away. It may be called twice.
func (r *Rig) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if r.ticks != nil {
		r.ticks.stop()
	}
	var errs []error
	if r.packets != nil {
		errs = append(errs, r.packets.close())
	}
	if r.program != nil {
		errs = append(errs, r.program.close())
	}
	// The kernel takes namespaces away some time after their last user has gone. The interfaces go now.
	if r.mac != nil {
		errs = append(errs, r.engine.do(removeLink))
	}
	for _, n := range []*namespace{r.engine, r.peers} {
		if n != nil {
			n.close()
		}
	}
	return errors.Join(errs...)
}

func removeLink() error {
	link, err := netlink.LinkByName(engineLink)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("wire: remove %s: %w", engineLink, err)
	}
	return nil
}

// advice says what is missing when the kernel refuses.
func advice(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ": it takes root, or CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF in the initial user namespace"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOSYS):
		return ": the kernel lacks it; it takes Linux 6.6 with CONFIG_NET_NS, CONFIG_VETH, CONFIG_BPF_SYSCALL, CONFIG_NF_TABLES_NETDEV and CONFIG_NFT_REJECT_NETDEV"
	}
	return ""
}
