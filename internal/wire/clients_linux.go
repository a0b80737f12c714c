package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

const (
	// portsPerAddress is how many clients have the same address, from firstPort on.
	portsPerAddress = 25000
	firstPort       = 10000
	// burst is how many connections are asked for at a time, so that an ordinary backlog takes them, and
	// startPause how long a server has to accept them.
	burst      = 64
	startPause = 2 * time.Millisecond
)

// Start has the clients of server mode connect, and begin: it returns when all are connected and there is a
// response. The server may still be starting. It fails if that takes longer than 10 seconds.
func (r *Rig) Start() error {
	c := r.options.Clients
	if c == nil {
		return errors.New("wire: Start is for server mode: the options say nothing of clients")
	}
	server := netip.AddrPortFrom(r.local.Addr(), uint16(c.Port))
	waiting := make([]netip.AddrPort, c.Connections)
	addr := r.local.Addr().Next()
	for i := range waiting {
		if i%portsPerAddress == 0 {
			addr = addr.Next()
		}
		waiting[i] = netip.AddrPortFrom(addr, uint16(firstPort+i%portsPerAddress))
	}
	for end := time.Now().Add(r.patience); ; time.Sleep(startPause) {
		var err error
		if waiting, err = r.connect(waiting, server); err != nil {
			return err
		}
		t, err := r.Totals()
		if err != nil {
			return err
		}
		if len(waiting) == 0 && t.Responses > 0 {
			return nil
		}
		if time.Now().After(end) {
			err := fmt.Errorf("wire: within %v of server mode's start %d of %d clients have connected to %v and there were %d responses to %d requests for %s: is the server listening there, and does it answer with a Content-Length?",
				r.patience, c.Connections-len(waiting), c.Connections, server, t.Responses, t.Requests, c.Path)
			if trouble := t.Trouble(); trouble != "" {
				err = fmt.Errorf("%w (%s)", err, trouble)
			}
			return err
		}
	}
}

// connect has those of the clients that are not connected send a SYN, and returns them.
func (r *Rig) connect(clients []netip.AddrPort, server netip.AddrPort) (waiting []netip.AddrPort, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed
	}
	for _, client := range clients {
		var flow peerFlow
		err := r.program.objects.Flows.Lookup(flowKey(client, server), &flow)
		if err == nil {
			continue
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("wire: look for a client's connection: %w", err)
		}
		if waiting = append(waiting, client); len(waiting) > burst {
			continue // its turn comes
		}
		syn := synFrame(r.mac, client, server, r.options.MTU-r.options.headers(), r.options.Loss == 0)
		if err := r.packets.send(syn); err != nil {
			return nil, fmt.Errorf("wire: connect a client: %w", err)
		}
	}
	return waiting, nil
}

// Stop has the clients of server mode send no more requests. Responses that are on their way still arrive
// and are counted.
func (r *Rig) Stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	if err := r.program.objects.Stopped.Set(uint32(1)); err != nil {
		return fmt.Errorf("wire: stop the clients: %w", err)
	}
	return nil
}
