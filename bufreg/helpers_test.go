package bufreg

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/ring"
)

// patience is how long a test waits for what must happen before it calls it lost.
const patience = 20 * time.Second

func noWake() {}

// mapRegistry maps an arena that the test closes itself.
func mapRegistry(tb testing.TB, size int) *Registry {
	tb.Helper()
	r, err := New(size)
	if errors.Is(err, ring.ErrUnsupported) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// newRegistry maps an arena and expects that it can be closed when the test ends: that
// every test leaves nothing leased is part of every test.
func newRegistry(tb testing.TB, size int) *Registry {
	tb.Helper()
	r := mapRegistry(tb, size)
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// leaser is what a Registry and a Cache have in common.
type leaser interface{ Lease(n int) (Buffer, error) }

func lease(tb testing.TB, from leaser, n int) Buffer {
	tb.Helper()
	b, err := from.Lease(n)
	if err != nil {
		tb.Fatalf("lease %d bytes: %v", n, err)
	}
	return b
}

// leaseAll leases n bytes at a time until nothing is left.
func leaseAll(tb testing.TB, from leaser, n int) []Buffer {
	tb.Helper()
	var all []Buffer
	for {
		b, err := from.Lease(n)
		if errors.Is(err, ErrNoBuffers) {
			return all
		}
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, b)
	}
}

func releaseAll(bufs []Buffer) {
	for _, b := range bufs {
		b.Release()
	}
}

func wantNoBuffers(tb testing.TB, from leaser, n int) {
	tb.Helper()
	if b, err := from.Lease(n); !errors.Is(err, ErrNoBuffers) {
		tb.Fatalf("lease %d bytes of an exhausted arena: %d bytes and error %v, want ErrNoBuffers", n, b.Len(), err)
	}
}

// panicOf runs f, which must panic, and returns what it said.
func panicOf(tb testing.TB, f func()) (text string) {
	tb.Helper()
	defer func() {
		tb.Helper()
		p := recover()
		if p == nil {
			tb.Fatal("no panic")
		}
		text, _ = p.(string)
		if !strings.HasPrefix(text, "bufreg: ") {
			tb.Fatalf("panic %v, want one that starts with \"bufreg: \"", p)
		}
	}()
	f()
	return ""
}

// onGoroutine runs f on another goroutine and waits for it.
func onGoroutine(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// wakes counts the calls of a cache's wake function.
type wakes struct{ atomic.Int32 }

func (w *wakes) wake() { w.Add(1) }

func (w *wakes) want(tb testing.TB, n int32) {
	tb.Helper()
	if got := w.Load(); got != n {
		tb.Fatalf("wake was called %d times, want %d", got, n)
	}
}

// wantStats compares the account with what the test knows to be leased.
func wantStats(tb testing.TB, r *Registry, leased int64) Stats {
	tb.Helper()
	st := r.Stats()
	if st.Leased != leased {
		tb.Errorf("Leased = %d, want %d (%+v)", st.Leased, leased, st)
	}
	if st.Total != st.Free+st.Cached+st.Leased {
		tb.Errorf("Total is not Free + Cached + Leased: %+v", st)
	}
	return st
}
