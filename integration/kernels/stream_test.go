//go:build linux

package kernels

import (
	"testing"

	"sluice/engine"
	"sluice/integration/vm/peer"
)

// noSendZC is for tests of zero-copy.
var noSendZC = notOn{"5.10": "no SEND_ZC before 6.0"}

func TestStreamsArriveByZeroCopyOverTheNIC(t *testing.T) {
	g := inGuest(t, noSendZC)
	e := newEngine(t, engine.Config{})
	total := playStreams(t, g, e, 4, 12<<20)
	wantZeroCopy(t, e, total)
}

// Retransmission is where the kernel reads pages long after the send's completion.
func TestStreamsArriveByZeroCopyThroughLossAndDelay(t *testing.T) {
	g := inGuest(t, noSendZC)
	e := newEngine(t, engine.Config{})
	impair(t, g.nic, 3, 5000)
	before := retransmitted(t)
	total := playStreams(t, g, e, 2, 4<<20)
	if retransmitted(t) == before {
		t.Error("nothing was sent again: the wire loses nothing")
	}
	wantZeroCopy(t, e, total)
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
