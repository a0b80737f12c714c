package bufreg

import "testing"

// BenchmarkLeaseRelease is one loop's round trip through its own cache.
func BenchmarkLeaseRelease(b *testing.B) {
	r := newRegistry(b, 64<<20)
	c := r.NewCache(noWake)
	b.ReportAllocs()
	for b.Loop() {
		buf, err := c.Lease(16 << 10)
		if err != nil {
			b.Fatal(err)
		}
		buf.Release()
	}
}

// BenchmarkLeaseReleaseOtherGoroutine leases on one goroutine and releases on another, as
// a producer that answers a loop's request does.
func BenchmarkLeaseReleaseOtherGoroutine(b *testing.B) {
	r := newRegistry(b, 64<<20)
	c := r.NewCache(noWake)
	handed := make(chan Buffer, 256)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := range handed {
			buf.Release()
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		buf, err := c.Lease(16 << 10)
		if err != nil {
			b.Fatal(err)
		}
		handed <- buf
	}
	close(handed)
	<-done
}
