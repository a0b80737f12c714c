//go:build linux

package serve_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"
)

// smallNames are the small files.
func smallNames() (names []string) {
	for i := range smalls {
		names = append(names, fmt.Sprint("s", i))
	}
	return names
}

// everyWay runs a test for each setting that changes the way of the bytes.
func everyWay(t *testing.T, test func(t *testing.T, s *server)) {
	for _, threshold := range []string{"auto", "off", "1", "16384"} {
		for _, loops := range []string{"1", "2"} {
			t.Run("threshold "+threshold+", loops "+loops, func(t *testing.T) {
				test(t, start(t, "--zc-threshold", threshold, "--loops", loops))
			})
		}
	}
}

func TestNetHTTPReceivesEveryByte(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server) {
		c := newClient(t, s)
		c.want("big", "one", "zero", "big")
		c.wantRange("big", bigSize/2-1000, 3<<20)
		c.wantRange("big", 4095, 2)
		c.wantRange("big", bigSize-1, 1)
		c.wantRange("mid", 1, midSize-2)
		c.wantRange("one", 0, 1)
		if n := c.made.Load(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
		c.want(smallNames()...)
		if n := c.made.Load(); n != 1 {
			t.Errorf("%d connections for %d files, want 1", n, smalls)
		}
		c.atOnce(64, "mid")
		if n := c.made.Load(); n != 64 {
			t.Errorf("%d connections, want 64", n)
		}
		c.close()
		accounted(t, s.stop(), c.received.Load(), 64)
	})
}

func TestCurlReceivesEveryByte(t *testing.T) {
	everyWay(t, func(t *testing.T, s *server) {
		received := int64(0)
		out, n := curl(t, s.url+"big")
		if sum := sha256.Sum256(out); sum != files["big"].sum {
			t.Fatalf("%d bytes with sha256 %.6x", len(out), sum)
		}
		received += n
		for _, r := range []struct{ off, n int }{{bigSize / 2, 3 << 20}, {1, 1}, {4096 * 3, 32 << 10}} {
			out, n := curl(t, "--range", fmt.Sprintf("%d-%d", r.off, r.off+r.n-1), s.url+"big")
			if !bytes.Equal(out, files["big"].data[r.off:r.off+r.n]) {
				t.Fatalf("%v: %d bytes, and not the right ones", r, len(out))
			}
			received += n
		}
		received += curlFiles(t, s, 1, append(smallNames(), "one", "zero"))
		const ranges, inOrder = 3, 1
		received += curlFiles(t, s, 64, []string{"mid"}, "--parallel", "--parallel-immediate", "--parallel-max", "64")
		accounted(t, s.stop(), received, 1+ranges+inOrder+64)
	})
}

// accounted compares what the server says that it sent with what arrived.
func accounted(t *testing.T, got totals, received, conns int64) {
	t.Helper()
	if got.bytes() != received {
		t.Errorf("%d bytes sent, %d received: %+v", got.bytes(), received, got)
	}
	if got.accepted != conns || got.closed != conns || got.reset != 0 {
		t.Errorf("%d connections accepted, %d closed, %d reset, want %d closed", got.accepted, got.closed, got.reset, conns)
	}
	if got.failed != 0 || got.undelivered != 0 || got.stray != 0 {
		t.Errorf("%+v", got)
	}
}

// routed fetches files over one connection and returns the totals.
func routed(t *testing.T, names []string, args ...string) totals {
	s := start(t, append([]string{"--loops", "1"}, args...)...)
	c := newClient(t, s)
	c.want(names...)
	c.close()
	got := s.stop()
	accounted(t, got, c.received.Load(), 1)
	return got
}

// bytesAbove is how many bytes the named files over a size have, and how many those are.
func bytesAbove(names []string, size int) (n, count int64) {
	for _, name := range names {
		if l := len(files[name].data); l > size {
			n, count = n+int64(l), count+1
		}
	}
	return n, count
}

func TestAThresholdOfOneSendsEverythingByZeroCopy(t *testing.T) {
	names := append(smallNames(), "one", "zero", "mid", "big")
	got := routed(t, names, "--zc-threshold", "1")
	all, _ := bytesAbove(names, 0)
	if got.copied != (count{}) || got.sendfile != (count{}) || got.zeroCopied.bytes <= all {
		t.Errorf("%+v for %d bytes of files", got, all)
	}
}

func TestAutoSendsLargeFilesOverLoopbackBySendfile(t *testing.T) {
	names := append(smallNames(), "one", "zero", "mid", "big")
	got := routed(t, names)
	large, n := bytesAbove(names, inMemory)
	if got.sendfile.bytes != large || got.sendfile.sends < n || got.zeroCopied != (count{}) {
		t.Errorf("%+v for %d bytes of %d large files", got, large, n)
	}
}

func TestOffNeverSendsByZeroCopy(t *testing.T) {
	names := append(smallNames(), "one", "zero", "mid", "big")
	got := routed(t, names, "--zc-threshold", "off")
	large, _ := bytesAbove(names, inMemory)
	if got.zeroCopied != (count{}) || got.sendfile.bytes != large {
		t.Errorf("%+v for %d bytes of large files", got, large)
	}
}

func TestAThresholdDividesFilesBySize(t *testing.T) {
	const threshold = 16384
	names := append(smallNames(), "one", "zero", "mid")
	got := routed(t, names, "--zc-threshold", fmt.Sprint(threshold))
	const head = 400 // bytes at most; a small file is sent together with its own
	all, _ := bytesAbove(names, 0)
	large, _ := bytesAbove(names, threshold-1)
	largest, n := bytesAbove(names, threshold-1-head)
	if got.sendfile != (count{}) || got.zeroCopied.bytes < large || got.zeroCopied.bytes > largest+n*head || got.copied.bytes < all-largest {
		t.Errorf("%+v for %d bytes of large files, %d in all", got, large, all)
	}
}

func TestCopyOnlyServesWithoutZeroCopy(t *testing.T) {
	names := append(smallNames(), "mid")
	got := routed(t, names, "--copy-only", "--zc-threshold", "1")
	if large, _ := bytesAbove(names, inMemory); got.zeroCopied != (count{}) || got.sendfile.bytes != large {
		t.Errorf("%+v for %d bytes of large files", got, large)
	}
}

// An arena that has no room for what is asked for at once changes the way of the bytes,
// and nothing else.
func TestATinyArenaServesEveryByteToAll(t *testing.T) {
	for _, threshold := range []string{"auto", "1"} {
		t.Run(threshold, func(t *testing.T) {
			s := start(t, "--arena", "1MiB", "--zc-threshold", threshold, "--loops", "2")
			c := newClient(t, s)
			c.atOnce(64, "mid")
			c.atOnce(64, "s99")
			c.want("big", "zero")
			c.close()
			accounted(t, s.stop(), c.received.Load(), 64)
		})
	}
}
