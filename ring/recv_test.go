//go:build linux

package ring

import (
	"bytes"
	"encoding/binary"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func newBufRing(t testing.TB, d *driver, group uint16, count, size int) *BufRing {
	t.Helper()
	b, err := d.NewBufRing(group, count, size)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// take copies what a receive left in a provided buffer, and gives the buffer back.
func take(t testing.TB, b *BufRing, c CQE) []byte {
	t.Helper()
	if c.Res <= 0 || c.Flags&CQEBuffer == 0 {
		t.Fatalf("a receive without data: %s", show(c))
	}
	data := bytes.Clone(b.Bytes(c.BufferID())[:c.Res])
	b.Recycle(c.BufferID())
	b.Publish()
	return data
}

func TestMultishotReceiveRecyclesItsBuffers(t *testing.T) {
	needs(t, "multishot receive")
	d := newRing(t, Config{Entries: 8})
	local, peer := tcpPair(t)
	const buffers = 4
	b := newBufRing(t, d, 7, buffers, 1024)
	id := d.start(func(e *SQE) { e.PrepRecvMultishot(local.fd, 7) })
	sent := noise(t, 1024)
	for i := range 50 * buffers {
		msg := sent[:1+i*5%len(sent)]
		peer.send(msg)
		c := d.await(id)
		if !c.More() {
			t.Fatalf("message %d ended the receive: %s", i, show(c))
		}
		if want := uint16(i % buffers); c.BufferID() != want {
			t.Fatalf("message %d is in buffer %d, want %d: buffers are used in the order of recycling", i, c.BufferID(), want)
		}
		if !bytes.Equal(take(t, b, c), msg) {
			t.Fatalf("message %d arrived changed", i)
		}
	}
}

func TestMultishotReceiveOnNonblockingSocketWaits(t *testing.T) {
	needs(t, "multishot receive")
	d := newRing(t, Config{Entries: 8})
	local, peer := tcpPair(t)
	local.setNonblock()
	b := newBufRing(t, d, 1, 4, 64)
	id := d.start(func(e *SQE) { e.PrepRecvMultishot(local.fd, 1) })
	d.expectNone(id)
	for _, msg := range []string{"first", "second"} {
		peer.send([]byte(msg))
		if c := d.await(id); !c.More() || string(take(t, b, c)) != msg {
			t.Fatalf("receive of %q: %s", msg, show(c))
		}
		d.expectNone(id)
	}
}

func TestMultishotReceiveEndsWhenBuffersRunOut(t *testing.T) {
	needs(t, "multishot receive")
	d := newRing(t, Config{Entries: 8})
	local, peer := tcpPair(t)
	const size = 256
	b := newBufRing(t, d, 1, 2, size)
	sent := noise(t, 3*size)
	peer.send(sent)
	recv := func(e *SQE) { e.PrepRecvMultishot(local.fd, 1) }

	id := d.start(recv)
	first, second, end := d.await(id), d.await(id), d.await(id)
	if !first.More() || !second.More() {
		t.Fatalf("completions with a buffer: %s, %s", show(first), show(second))
	}
	if errnoOf(end) != syscall.ENOBUFS || end.More() || end.Flags&CQEBuffer != 0 {
		t.Fatalf("the end for want of buffers: %s", show(end))
	}

	got := append(take(t, b, first), take(t, b, second)...)
	again := d.start(recv)
	got = append(got, take(t, b, d.await(again))...)
	if !bytes.Equal(got, sent) {
		t.Error("bytes were lost between the two receives")
	}
	d.expectNone(id)
}

func TestMultishotReceiveEndsWithTheStream(t *testing.T) {
	needs(t, "multishot receive")
	d := newRing(t, Config{Entries: 8})
	local, peer := tcpPair(t)
	b := newBufRing(t, d, 1, 2, 64)
	id := d.start(func(e *SQE) { e.PrepRecvMultishot(local.fd, 1) })
	peer.send([]byte("bye"))
	if got := take(t, b, d.await(id)); string(got) != "bye" {
		t.Fatalf("received %q", got)
	}
	peer.close()
	if c := d.await(id); c.Res != 0 || c.More() || c.Flags&CQEBuffer != 0 {
		t.Errorf("end of stream: %s", show(c))
	}
	d.expectNone(id)
}

func TestReceiveSelectTakesOneBuffer(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	local, peer := tcpPair(t)
	b := newBufRing(t, d, 1, 2, 64)
	peer.send([]byte("hello, world"))
	c := d.do(func(e *SQE) { e.PrepRecvSelect(local.fd, 1, 5) })
	if c.More() || string(take(t, b, c)) != "hello" {
		t.Errorf("receive of at most 5 bytes: %s", show(c))
	}
}

// The ring's tail is 16 bits wide and has to wrap unnoticed.
func TestBufferRingSurvivesTheWrapOfItsTail(t *testing.T) {
	needs(t, "multishot receive")
	const (
		buffers = 512
		batch   = buffers / 2 // leaves buffers over, so that the receive never ends
		size    = 16
		rounds  = (1<<16+1<<15)/batch + 10 // ends with the tail's top bit set
	)
	d := newRing(t, Config{Entries: 8, CQEntries: 2 * buffers})
	local, peer := unixPair(t)
	b := newBufRing(t, d, 1, buffers, size)
	id := d.start(func(e *SQE) { e.PrepRecvMultishot(local.fd, 1) })
	sent := make([]byte, batch*size)
	for round := range rounds {
		for i := range batch {
			binary.NativeEndian.PutUint64(sent[i*size:], uint64(round*batch+i))
		}
		peer.send(sent)
		for i := range batch {
			message := round*batch + i
			c := d.await(id)
			if !c.More() || c.Res != size || c.Flags&CQEBuffer == 0 {
				t.Fatalf("message %d: %s", message, show(c))
			}
			if want := uint16(message % buffers); c.BufferID() != want {
				t.Fatalf("message %d is in buffer %d, want %d", message, c.BufferID(), want)
			}
			if got := binary.NativeEndian.Uint64(b.Bytes(c.BufferID())); got != uint64(message) {
				t.Fatalf("message %d arrived as %d", message, got)
			}
			b.Recycle(c.BufferID())
		}
		b.Publish()
	}
	if recycled := rounds * batch; recycled <= 1<<16 {
		t.Fatalf("only %d recycles: the tail has not wrapped", recycled)
	}
	// Kernel and package still agree on how many buffers there are.
	peer.send(make([]byte, (buffers+1)*size))
	for i := range buffers {
		if c := d.await(id); !c.More() {
			t.Fatalf("buffer %d of %d: %s", i, buffers, show(c))
		}
	}
	if c := d.await(id); errnoOf(c) != syscall.ENOBUFS {
		t.Errorf("past the last buffer: %s", show(c))
	}
}

func TestBuffersAreUsedInTheOrderOfRecycling(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	local, peer := tcpPair(t)
	const buffers = 4
	b := newBufRing(t, d, 1, buffers, 8)
	recv := func(e *SQE) { e.PrepRecvSelect(local.fd, 1, 1) }
	order := []uint16{0, 1, 2, 3}
	for round := range 8 {
		msg := []byte{'a', 'b', 'c', 'd'}
		peer.send(msg)
		for i, want := range order {
			c := d.do(recv)
			if c.Res != 1 || c.BufferID() != want || b.Bytes(want)[0] != msg[i] {
				t.Fatalf("round %d, byte %d: %s in buffer %d, want %d", round, i, show(c), c.BufferID(), want)
			}
		}
		order = []uint16{order[2], order[0], order[3], order[1]}
		for _, id := range order {
			b.Recycle(id)
			b.Publish()
		}
	}
}

func TestRecycledBufferIsTheCallersUntilPublish(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	local, peer := tcpPair(t)
	b := newBufRing(t, d, 1, 1, 64)
	recv := func(e *SQE) { e.PrepRecvSelect(local.fd, 1, 1) }
	peer.send([]byte("ab"))
	c := d.do(recv)
	b.Recycle(c.BufferID())
	if c := d.do(recv); errnoOf(c) != syscall.ENOBUFS {
		t.Fatalf("before Publish: %s", show(c))
	}
	b.Publish()
	if c := d.do(recv); string(take(t, b, c)) != "b" {
		t.Errorf("after Publish: %s", show(c))
	}
}

func TestCloseUnmapsTheBuffers(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	mem := newBufRing(t, d, 1, 4, 16<<20).mem
	if err := unix.Msync(mem, unix.MS_ASYNC); err != nil {
		t.Fatalf("before Close: %v", err)
	}
	d.close()
	// msync(2): ENOMEM when any page of the range is not mapped.
	if err := unix.Msync(mem, unix.MS_ASYNC); err != unix.ENOMEM {
		t.Errorf("after Close: %v", err)
	}
}

func TestBuffersDoNotOverlap(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	b := newBufRing(t, d, 1, 4, 100)
	for id := range uint16(4) {
		if m := b.Bytes(id); len(m) != 100 || cap(m) != 100 {
			t.Fatalf("buffer %d: %d bytes, capacity %d", id, len(m), cap(m))
		}
		for i := range b.Bytes(id) {
			b.Bytes(id)[i] += byte(id + 1)
		}
	}
	for id := range uint16(4) {
		if want := bytes.Repeat([]byte{byte(id + 1)}, 100); !bytes.Equal(b.Bytes(id), want) {
			t.Errorf("buffer %d shares bytes with another", id)
		}
	}
}

func TestBufferRingRefusesImpossibleSizes(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	for _, c := range []struct{ count, size int }{{0, 64}, {-1, 64}, {3, 64}, {1 << 16, 64}, {4, 0}, {4, -1}} {
		b, err := d.NewBufRing(1, c.count, c.size)
		if b != nil || err == nil || !strings.Contains(err.Error(), "power of two") {
			t.Errorf("%d buffers of %d bytes: %v", c.count, c.size, err)
		}
	}
}

func TestBufferGroupIsProvidedOnce(t *testing.T) {
	needs(t, "provided-buffer rings")
	d := newRing(t, Config{Entries: 8})
	newBufRing(t, d, 1, 1, 64)
	if _, err := d.NewBufRing(1, 1, 64); !isA(err, syscall.EEXIST) {
		t.Errorf("the same group again: %v", err)
	}
	newBufRing(t, d, 2, 1<<15, 1)
}

func TestTailIsPackedBesideTheBufferID(t *testing.T) {
	var entry buf
	word := packTail(0x1234, 0xfedc)
	raw := binary.NativeEndian.AppendUint32(nil, word)
	entry.BID = binary.NativeEndian.Uint16(raw)
	entry.Tail = binary.NativeEndian.Uint16(raw[2:])
	if entry.BID != 0x1234 || entry.Tail != 0xfedc {
		t.Errorf("packed as %+v", entry)
	}
}
