//go:build linux

package kernels

import (
	"testing"
	"time"

	"sluice/engine"
	"sluice/integration/vm/peer"
)

// noSendZC is for tests of zero-copy.
var noSendZC = notOn{"5.10": "no SEND_ZC before 6.0"}

func TestStreamsArriveByZeroCopyOverTheNIC(t *testing.T) {
	g := inGuest(t, noSendZC)
	e := newEngine(t, engine.Config{})
	total := playStreams(t, g, e, 4, 6<<20)
	wantNotCopied(t, e, wantByZeroCopy(t, e, total))
}

// impairments are what wires do to packets.
var impairments = []struct {
	name   string
	how    impairment
	sign   string // the counter that shows it
	copied bool   // some packets are copied on the way
}{
	{name: "loss", how: impairment{delay: 20 * time.Millisecond, jitter: 5 * time.Millisecond, loss: 3}, sign: "RetransSegs"},
	{name: "reordering", how: impairment{delay: 2 * time.Millisecond, reorder: 25}, sign: "TCPSACKReorder"},
	{name: "duplication", how: impairment{delay: 5 * time.Millisecond, duplicate: 10}, sign: "TCPDSACKRecv"},
	// What netem changes is a copy.
	{name: "corruption", how: impairment{delay: 5 * time.Millisecond, corrupt: 3}, sign: "RetransSegs", copied: true},
}

// Retransmission is where the kernel reads pages long after the send's completion.
func TestStreamsArriveByZeroCopyOverABadWire(t *testing.T) {
	g := inGuest(t, noSendZC)
	for _, c := range impairments {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, engine.Config{})
			impair(t, g.nic, c.how)
			before, total := counter(t, c.sign), 0
			eventually(t, "a rise of "+c.sign, func() bool { // not at the first try if packets are lucky
				total += playStreams(t, g, e, 2, 3<<19)
				return counter(t, c.sign) > before
			})
			s := wantByZeroCopy(t, e, total)
			if !c.copied {
				wantNotCopied(t, e, s)
			}
		})
	}
}

// playStreams sends streams of about size bytes to the peer, all at the same time, and
// returns their bytes.
func playStreams(t *testing.T, g guest, e *engine.Engine, count, size int) (total int) {
	t.Helper()
	type heard struct {
		got peer.Received
		err error
	}
	streams, sizes, peers := make([]*stream, count), make([][]int, count), make([]chan heard, count)
	for i := range count {
		sizes[i] = largeSizes(uint64(i), size)
		total += sum(sizes[i])
		s, p, told := newStream(t, byte(i), sizes[i]), newPeer(t, g), make(chan heard, 1)
		connect(t, g, e, p, 0, s.attach)
		go func() {
			got, err := p.Read()
			told <- heard{got, err}
		}()
		streams[i], peers[i] = s, told
	}
	for i, told := range peers {
		h := <-told
		if h.err != nil {
			t.Fatal(h.err)
		}
		wantReceived(t, h.got, byte(i), sizes[i])
		if err := streams[i].end(); err != nil {
			t.Errorf("stream %d ended with %v", i, err)
		}
	}
	return total
}
