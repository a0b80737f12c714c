//go:build linux

package ring

import (
	"syscall"
	"testing"
)

func TestReapKeepsOrderInSmallBatches(t *testing.T) {
	d := newRing(t, Config{Entries: 16})
	for range 10 {
		d.prep((*SQE).PrepNop)
	}
	d.submit()
	var seen uint64
	for _, want := range []int{3, 3, 3, 1, 0} {
		if left := 10 - int(seen); d.Ready() != left {
			t.Fatalf("%d ready, want %d", d.Ready(), left)
		}
		var batch [3]CQE
		if n := d.Reap(batch[:]); n != want {
			t.Fatalf("reaped %d, want %d", n, want)
		}
		for _, c := range batch[:want] {
			if seen++; c.UserData != seen {
				t.Fatalf("completion %d belongs to request %d", seen, c.UserData)
			}
		}
	}
}

func TestReapIntoNothingTakesNothing(t *testing.T) {
	d := newRing(t, Config{Entries: 8})
	d.start((*SQE).PrepNop)
	if n := d.Reap(nil); n != 0 || d.Ready() != 1 {
		t.Errorf("reaped %d, %d ready", n, d.Ready())
	}
}

func TestReapGivesSlotsBackToTheKernel(t *testing.T) {
	d := newRing(t, Config{Entries: 4, CQEntries: 4})
	var batch [4]CQE
	for range 100 {
		for range 4 {
			d.prep((*SQE).PrepNop)
		}
		d.submit()
		if d.Overflowed() {
			t.Fatal("the queue is full although everything was reaped")
		}
		if n := d.Reap(batch[:]); n != 4 {
			t.Fatalf("reaped %d of 4", n)
		}
	}
}

func TestOverflowLosesNothingAndKeepsOrder(t *testing.T) {
	const total = 64
	d := newRing(t, Config{Entries: 4, CQEntries: 4})
	for prepared := 0; prepared < total; {
		for range d.SQEntries() {
			d.prep((*SQE).PrepNop)
			prepared++
		}
		// Kernels up to 5.18 refuse to take more while completions are held back.
		if err := d.Submit(); err == syscall.EBUSY {
			t.Skip("this kernel refuses submissions on overflow")
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !d.Overflowed() {
		t.Fatalf("%d completions fit into %d slots", total, d.CQEntries())
	}
	var seen uint64
	for batch := make([]CQE, 3); seen < total; {
		n := d.Reap(batch)
		for _, c := range batch[:n] {
			if seen++; c.UserData != seen {
				t.Fatalf("completion %d belongs to request %d", seen, c.UserData)
			}
		}
		if n == 0 {
			if !d.Overflowed() {
				t.Fatalf("%d of %d completions arrived", seen, total)
			}
			d.submit() // fetches what was held back
		}
	}
	d.submit()
	if d.Overflowed() || d.Ready() != 0 {
		t.Errorf("after all were reaped: overflowed %v, %d ready", d.Overflowed(), d.Ready())
	}
}

func TestSubmitOfNothingPostsDeferredCompletions(t *testing.T) {
	needs(t, "deferred task work")
	d := newRing(t, Config{Entries: 8})
	local, peer := unixPair(t)
	if _, err := d.NewBufRing(1, 1, 64); err != nil {
		t.Fatal(err)
	}
	id := d.start(func(e *SQE) { e.PrepRecvSelect(local.fd, 1, 64) })
	peer.send([]byte("hello"))
	if d.Ready() != 0 {
		t.Fatal("deferred work ran by itself; the test shows nothing")
	}
	eventually(t, "a completion by Submit alone", func() bool { d.submit(); return d.Ready() > 0 })
	if c := d.await(id); c.Res != 5 {
		t.Errorf("receive: %s", show(c))
	}
}
