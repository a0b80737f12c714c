//go:build linux

package engine

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/bufreg"
	"sluice/zc"
)

// piece is a part of a stream: a leased buffer, a Write or a stretch of a file.
type piece struct {
	kind   pieceKind
	off, n int // in the pool, or in a file of the pool's bytes
}

type pieceKind uint8

const (
	pieceLease pieceKind = iota
	pieceWrite
	pieceFile
	pieceKinds
)

// plan is a stream of about total bytes: pieces of every kind and of sizes from a byte to
// the largest lease, small ones as likely as large ones.
func plan(seed uint64, total int) (pieces []piece, want digest) {
	r := rand.New(rand.NewPCG(seed, 0))
	h := sha256.New()
	for want.n < int64(total) {
		n := 1 + r.IntN(1<<(1+r.IntN(20)))
		p := piece{kind: pieceKind(r.IntN(int(pieceKinds))), n: n, off: r.IntN(len(pool()) - n)}
		pieces = append(pieces, p)
		h.Write(pool()[p.off : p.off+p.n])
		want.n += int64(n)
	}
	h.Sum(want.sum[:0])
	return pieces, want
}

// player queues the pieces of a plan as fast as the connection takes them, then closes it.
type player struct {
	handler
	tb     testing.TB
	pieces []piece
	file   *File
}

// newPlayer plays from the engine's first look at the connection on.
func newPlayer(tb testing.TB, pieces []piece, file *File) *player {
	p := &player{tb: tb, pieces: pieces, file: file}
	p.writable = p.play
	return p
}

func (p *player) play(c *Conn) {
	for len(p.pieces) > 0 && !c.Congested() {
		next := &p.pieces[0]
		switch next.kind {
		case pieceLease:
			b, err := c.Lease(next.n)
			if errors.Is(err, ErrNoBuffers) {
				return // Writable will be called
			}
			p.check(err)
			copy(b.Bytes(), pool()[next.off:])
			p.check(c.Send(b))
		case pieceWrite:
			n, err := c.Write(pool()[next.off : next.off+next.n])
			next.off += n
			next.n -= n
			if errors.Is(err, ErrNoBuffers) {
				return
			}
			p.check(err)
		case pieceFile:
			p.check(c.SendFile(p.file.Retain(), int64(next.off), int64(next.n)))
		}
		p.pieces = p.pieces[1:]
	}
	if len(p.pieces) == 0 {
		c.Close()
	}
}

func (p *player) check(err error) {
	if err != nil {
		p.tb.Errorf("the player: %v", err)
	}
}

// way is a route and the reason for it.
type way struct {
	route zc.Route
	why   zc.Reason
}

// ways are those that sends must take, and those that they may take besides.
type ways struct{ must, may []way }

// wantWays expects every byte counted, on these ways and no other.
func wantWays(tb testing.TB, st Stats, bytes int64, want ways) {
	tb.Helper()
	if !cachestat() { // what might wait for a disk is read through the ring, unless the test knows better
		for _, list := range []*[]way{&want.must, &want.may} {
			*list = slices.Clone(*list)
			for i, w := range *list {
				if w.route == zc.Sendfile && w.why != zc.NoBuffers && st.Sends.By[w.route][w.why].Sends == 0 {
					(*list)[i] = way{zc.Copy, zc.CacheUnknown}
				}
			}
		}
	}
	var counted uint64
	for route := range zc.Route(zc.NumRoutes) {
		for why := range zc.Reason(zc.NumReasons) {
			n, w := st.Sends.By[route][why], way{route, why}
			counted += n.Bytes
			if n.Sends == 0 && slices.Contains(want.must, w) {
				tb.Errorf("no send by %v because of %v", route, why)
			}
			if n.Sends > 0 && !slices.Contains(append(want.must, want.may...), w) {
				tb.Errorf("%d sends by %v because of %v", n.Sends, route, why)
			}
		}
	}
	if counted != uint64(bytes) {
		tb.Errorf("%d bytes are counted by route, %d were sent", counted, bytes)
	}
	wantNotified(tb, st)
}

// policies are what a user can ask for, and what becomes of a mixed stream on loopback.
var policies = []struct {
	name    string
	policy  zc.Policy
	want    ways
	gathers bool // by zero-copy, without which there are other ways
}{
	{name: "all zero-copy", policy: everything, want: ways{
		must: []way{{zc.ZeroCopy, zc.FixedPolicy}},
		may:  []way{{zc.Copy, zc.SmallSegments}}, // gathers of pieces below a page
	}},
	{name: "zero-copy from 16 KiB", policy: zc.Policy{Mode: zc.Fixed, Threshold: 16 << 10}, want: ways{
		must: []way{{zc.ZeroCopy, zc.FixedPolicy}, {zc.Copy, zc.FixedPolicy}},
		may:  []way{{zc.Copy, zc.SmallSegments}, {zc.Copy, zc.FileTooSmall}},
	}, gathers: true},
	{name: "no zero-copy", policy: zc.Policy{Mode: zc.Off}, want: ways{
		must: []way{{zc.Copy, zc.PolicyOff}, {zc.Copy, zc.FileTooSmall}, {zc.Sendfile, zc.PolicyOff}},
	}},
	{name: "adaptive", policy: zc.Policy{}, want: ways{
		must: []way{{zc.Copy, zc.PathCopies}, {zc.Copy, zc.FileTooSmall}, {zc.Sendfile, zc.PathCopies}},
	}},
}

func TestMixedStreamsArriveByEveryRoute(t *testing.T) {
	for _, r := range policies {
		for _, loops := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, %d loops", r.name, loops), func(t *testing.T) {
				e := newEngine(t, Config{Loops: loops, ArenaSize: 64 << 20, Policy: r.policy})
				if r.gathers {
					needs(t, e, fixedVectors)
				}
				total := playStreams(t, e, 2*loops, 3<<20)
				wantWays(t, e.Stats(), total, r.want)
			})
		}
	}
}

// playStreams plays streams over connections at the same time, and returns their bytes.
func playStreams(tb testing.TB, e *Engine, conns, size int) (total int64) {
	tb.Helper()
	file := NewFile(poolFile(tb, int64(len(pool()))))
	defer file.Release()
	var links []*link
	var wants []digest
	var heard []<-chan digest
	for i := range conns {
		pieces, want := plan(uint64(i), size)
		p := newPlayer(tb, pieces, file)
		k := connectOut(tb, e, p, 0)
		heard = append(heard, k.peer.startHearing())
		k.conn.Post(p.play)
		links, wants = append(links, k), append(wants, want)
	}
	for i, k := range links {
		got := await(tb, heard[i], "a stream")
		if got != wants[i] {
			tb.Errorf("stream %d: received %d bytes (%x…) and then %v, want %d (%x…)", i, got.n, got.sum[:4], got.err, wants[i].n, wants[i].sum[:4])
		}
		total += got.n
		k.peer.Close()
		k.wantEnd(nil)
	}
	return total
}

func TestMixedStreamsArriveWithSubmissionPolling(t *testing.T) {
	e := newEngine(t, Config{SQPoll: true, ArenaSize: 32 << 20, Policy: everything})
	total := playStreams(t, e, 2, 2<<20)
	wantWays(t, e.Stats(), total, policies[0].want)
}

func TestMixedStreamsArriveWhenTheArenaIsTight(t *testing.T) {
	e := newEngine(t, Config{Loops: 2, ArenaSize: 3 << 20, Policy: everything})
	playStreams(t, e, 6, 2<<20)
	if e.Stats().NoBuffers == 0 {
		t.Error("the arena was never used up")
	}
}

// withoutFixedVectors has an engine's loop behave as before Linux 6.15.
func withoutFixedVectors(tb testing.TB, e *Engine) {
	tb.Helper()
	for _, l := range e.loops {
		onLoop(tb, l, func() { l.can.FixedVectors = false })
	}
}

func TestMixedStreamsArriveOnAKernelWithoutFixedVectors(t *testing.T) {
	e := newEngine(t, Config{ArenaSize: 32 << 20, Policy: zc.Policy{Mode: zc.Fixed, Threshold: 16 << 10}})
	withoutFixedVectors(t, e)
	total := playStreams(t, e, 3, 3<<20)
	wantWays(t, e.Stats(), total, ways{must: []way{
		{zc.ZeroCopy, zc.FixedPolicy},
		{zc.Copy, zc.FixedPolicy},
		{zc.Copy, zc.NoFixedVectors},
		{zc.Copy, zc.FileTooSmall},
	}})
}

func TestHeaderAndBodyAreOneSendFromFixedVectors(t *testing.T) {
	e := newEngine(t, Config{Policy: zc.Policy{Mode: zc.Fixed, Threshold: 16 << 10}})
	needs(t, e, fixedVectors)
	k := connect(t, e, &handler{}, 0)
	sendHeaderAndBody(k)
	if st := settled(t, e); st.Sends.Total(zc.ZeroCopy).Sends != 1 || st.Sends.Total(zc.Copy).Sends != 0 {
		t.Errorf("%s; want one zero-copy send and no copy", taken(st))
	}
}

func TestHeaderWaitsForItsBodyWithoutFixedVectors(t *testing.T) {
	e := newEngine(t, Config{Policy: zc.Policy{Mode: zc.Fixed, Threshold: 16 << 10}})
	withoutFixedVectors(t, e)
	k := connect(t, e, &handler{}, 0)
	sendHeaderAndBody(k)
	st := settled(t, e)
	if st.Sends.By[zc.Copy][zc.NoFixedVectors].Sends != 1 || st.Sends.Total(zc.ZeroCopy).Sends != 1 {
		t.Errorf("%s; want the header copied and the body by zero-copy", taken(st))
	}
	if got := k.segmentsSent(); got != 1 {
		t.Errorf("header and body left in %d segments, want 1: MSG_MORE holds the header back", got)
	}
}

// sendHeaderAndBody sends 20 KiB behind a header, in one segment's reach on loopback.
func sendHeaderAndBody(k *link) {
	k.tb.Helper()
	k.do(func(c *Conn) {
		if _, err := c.Write(pool()[:200]); err != nil {
			k.tb.Error(err)
		}
		b, err := c.Lease(20 << 10)
		if err != nil {
			k.tb.Error(err)
			return
		}
		fill(b, 200)
		if err := c.Send(b); err != nil {
			k.tb.Error(err)
		}
	})
	k.peer.hear(pool()[:200+20<<10])
}

// segmentsSent is how many segments with data the connection's TCP has sent.
func (k *link) segmentsSent() (n uint32) {
	k.tb.Helper()
	k.do(func(c *Conn) {
		info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			k.tb.Error(err)
			return
		}
		n = info.Data_segs_out
	})
	return n
}

func TestAdaptivePolicySendsZeroCopyToOtherHosts(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 0)
	least := zc.Policy{}.MinSend(k.conn.loop.can)
	for _, n := range []int{least, least - 1} {
		k.do(func(c *Conn) {
			c.sock.Local = false
			c.flow = c.loop.learner.Flow(zc.PathKey{Device: "a card"})
			b, err := c.Lease(n)
			if err != nil {
				t.Error(err)
				return
			}
			fill(b, 0)
			if err := c.Send(b); err != nil {
				t.Error(err)
			}
		})
		k.peer.hear(pool()[:n])
	}
	st := settled(t, e)
	if got := st.Sends.By[zc.ZeroCopy][zc.AboveThreshold]; got != (zc.Count{Sends: 1, Bytes: uint64(least)}) {
		t.Errorf("zero-copy: %+v, want one send of %d bytes", got, least)
	}
	if got := st.Sends.By[zc.Copy][zc.BelowThreshold]; got != (zc.Count{Sends: 1, Bytes: uint64(least - 1)}) {
		t.Errorf("copy: %+v, want one send of %d bytes", got, least-1)
	}
}

// sender sends total bytes of the pool in leased buffers of the largest size, then closes.
func sender(tb testing.TB, total int) *handler {
	sent := 0
	play := func(c *Conn) {
		for sent < total && !c.Congested() {
			b, err := c.Lease(min(total-sent, bufreg.MaxBuffer))
			if errors.Is(err, ErrNoBuffers) {
				return
			}
			if err != nil {
				tb.Errorf("lease: %v", err)
				return
			}
			fill(b, sent)
			sent += b.Len()
			if err := c.Send(b); err != nil {
				tb.Errorf("send: %v", err)
				return
			}
		}
		if sent == total {
			c.Close()
		}
	}
	return &handler{writable: play}
}

func TestFarMoreThanTheSocketHoldsArrivesAfterAStall(t *testing.T) {
	for _, r := range policies {
		t.Run(r.name, func(t *testing.T) {
			total := amount(64<<20, 12<<20)
			e := newEngine(t, Config{Policy: r.policy})
			h := sender(t, total)
			k := connect(t, e, h, 32<<10)
			k.conn.Post(h.writable)
			k.untilStuck()
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, int64(total))
			st := settled(t, e)
			wantNotified(t, st)
			zero, copied := st.Sends.Total(zc.ZeroCopy).Bytes, st.Sends.Total(zc.Copy).Bytes
			if r.policy.Mode == zc.Fixed {
				zero, copied = copied, zero
			}
			if zero != 0 || copied != uint64(total) {
				t.Errorf("%s; want all bytes by one route", taken(st))
			}
		})
	}
}

func TestTinySocketBuffersLoseNothing(t *testing.T) {
	for _, r := range policies[:3] {
		t.Run(r.name, func(t *testing.T) {
			const total = 2 << 20
			e := newEngine(t, Config{Policy: r.policy})
			h := sender(t, total)
			k := connect(t, e, h, 4096)
			k.do(func(c *Conn) { limitSendBuffer(t, c) })
			k.conn.Post(h.writable)
			k.untilStuck()
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, 0, total)
		})
	}
}

// TestAShortSendResumesAtTheExactByte cuts sends short by cancelling them: the kernel then
// reports what it had accepted. Each send is a gather, cut inside one of its pieces.
func TestAShortSendResumesAtTheExactByte(t *testing.T) {
	for _, r := range policies[:3] {
		t.Run(r.name, func(t *testing.T) {
			const size, pieces, cuts, step = 80_000, 60, 5, 200_000
			e := newEngine(t, Config{Policy: r.policy})
			if r.policy.Mode == zc.Fixed {
				// Otherwise a send is one piece, and may have ended when the socket was full: then the
				// next has nothing to cut.
				needs(t, e, fixedVectors)
			}
			k := connect(t, e, &handler{}, 64<<10)
			k.stuff(size, size*pieces)
			for i := range cuts {
				k.do(func(c *Conn) { c.loop.cancel(userData(kindSend, c.sending.id)) })
				eventually(t, "a short send", func() bool { return e.Stats().Sends.ShortSends == uint64(i+1) })
				heard := make([]byte, step)
				if _, err := io.ReadFull(k.peer, heard); err != nil {
					t.Fatal(err)
				}
				if off := i * step; !bytes.Equal(heard, poolBytes(off, step)) {
					t.Fatalf("after %d short sends, bytes from %d on are not the ones sent", i+1, off)
				}
				k.untilStuck()
			}
			k.do((*Conn).Close)
			got := k.peer.hearAll()
			k.peer.Close()
			k.wantEnd(nil)
			wantDigest(t, got, cuts*step, size*pieces-cuts*step)
			wantNotified(t, e.Stats())
		})
	}
}

// TestASocketThatTakesNoZeroCopyIsSentCopies adopts a unix socket as if it were TCP: the
// first zero-copy send is refused, and nothing of it is lost.
func TestASocketThatTakesNoZeroCopyIsSentCopies(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	k := adoptUnix(t, e, &handler{}, func(c *Conn) { c.sock.Kind = zc.TCP })
	for i := range 3 {
		k.do(func(c *Conn) {
			b, err := c.Lease(16 << 10)
			if err != nil {
				t.Error(err)
				return
			}
			fill(b, i<<14)
			if err := c.Send(b); err != nil {
				t.Error(err)
			}
		})
		k.peer.hear(pool()[i<<14 : (i+1)<<14])
	}
	st := settled(t, e)
	copies := st.Sends.By[zc.Copy][zc.UnixSocket]
	if copies != (zc.Count{Sends: 3, Bytes: 3 << 14}) || st.Sends.Total(zc.ZeroCopy).Sends != 0 {
		t.Errorf("%s; want three sends by copy", taken(st))
	}
	if st.Sends.NotifiedUnknown != 1 {
		t.Errorf("%d notifications of refused sends, want 1: one zero-copy send was tried", st.Sends.NotifiedUnknown)
	}
}

func TestSocketsThatAreNotTCPAreNotTriedWithZeroCopy(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	k := adoptUnix(t, e, &handler{}, func(*Conn) {})
	k.do(func(c *Conn) {
		if _, err := c.Write(pool()[:10<<10]); err != nil {
			t.Error(err)
		}
	})
	k.peer.hear(pool()[:10<<10])
	st := settled(t, e)
	if st.Sends.NotifiedUnknown != 0 || st.Sends.By[zc.Copy][zc.UnixSocket].Bytes != 10<<10 {
		t.Errorf("%s; want copies only", taken(st))
	}
}

func TestTheSendAfterAMemoryShortageIsACopyAndTheNextIsNot(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) { c.copyOnce = true }) // as zc.CopyOnce does
	for i := range 2 {
		k.do(func(c *Conn) { sendPieces(t, c, i*10_000, 10_000, 1) })
		k.peer.hear(poolBytes(i*10_000, 10_000))
	}
	wantWays(t, settled(t, e), 20_000, ways{must: []way{{zc.Copy, zc.ShortOfMemory}, {zc.ZeroCopy, zc.FixedPolicy}}})
}

func TestNotificationsWithoutUsageReportsAreUnknown(t *testing.T) {
	e := newEngine(t, Config{Policy: everything})
	onLoop(t, e.loops[0], func() { e.loops[0].usage = 0 }) // as before Linux 6.2
	k := connect(t, e, &handler{}, 0)
	k.do(func(c *Conn) { sendPieces(t, c, 0, 10_000, 1) })
	k.peer.hear(poolBytes(0, 10_000))
	if st := settled(t, e); st.Sends.NotifiedUnknown != 1 || st.Sends.NotifiedCopied+st.Sends.NotifiedZeroCopy != 0 {
		t.Errorf("%d unknown notifications, %d copied, %d zero-copied; want 1, 0, 0", st.Sends.NotifiedUnknown, st.Sends.NotifiedCopied, st.Sends.NotifiedZeroCopy)
	}
}
