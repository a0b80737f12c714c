//go:build invariants

package bufreg

import (
	"bytes"
	"strings"
	"testing"
)

// newBrokenRegistry is for tests that end in a panic, after which the account cannot be
// right any more: it is unmapped without being closed.
func newBrokenRegistry(t *testing.T, size int) *Registry {
	t.Helper()
	r := mapRegistry(t, size)
	t.Cleanup(func() { _ = unmapArena(r.mem) })
	return r
}

func wantIn(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("the panic does not say %q:\n%s", p, text)
		}
	}
}

func TestUnpinPanicsWhenPinnedBytesChanged(t *testing.T) {
	for name, at := range map[string]int{"first byte": 100, "middle": 150, "last byte": 199} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, 1<<20)
			c := r.NewCache(noWake)
			b := lease(t, c, 1000)
			v := b.View(100, 100)
			p := c.Pin(v)
			b.Bytes()[at]++
			wantIn(t, panicOf(t, func() { c.Unpin(v, p) }), "[100:200]", "changed while the kernel had them", "pin", "TestUnpinPanics")
			b.Release()
		})
	}
}

func TestUnpinAcceptsChangesBesideThePinnedBytes(t *testing.T) {
	r := newRegistry(t, 1<<20)
	c := r.NewCache(noWake)
	b := lease(t, c, 1000)
	v := b.View(100, 100)
	p := c.Pin(v)
	b.Bytes()[99]++
	b.Bytes()[200]++
	c.Unpin(v, p)
	b.Release()
}

func TestLeasePanicsWhenReleasedBytesWereWritten(t *testing.T) {
	for name, from := range map[string]func(*Registry) leaser{
		"cache":    func(r *Registry) leaser { return r.NewCache(noWake) },
		"registry": func(r *Registry) leaser { return r },
	} {
		for _, at := range []int{0, 4095, 5000, MaxBuffer - 1} {
			t.Run(name, func(t *testing.T) {
				r := newBrokenRegistry(t, 1<<20)
				from := from(r)
				b := lease(t, from, MaxBuffer)
				kept := b.Bytes()
				b.Release()
				kept[at] = 1
				text := panicOf(t, func() { _, _ = from.Lease(MaxBuffer) })
				wantIn(t, text, "written to after its release", "release", "TestLeasePanics")
			})
		}
	}
}

func TestDoubleReleasePanicTellsTheHistory(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 100)
	b.Retain()
	b.Release()
	b.Release()
	text := panicOf(t, b.Release)
	wantIn(t, text, "Release of a released buffer", "lease 0 of page 0", "now lease 1 with 0 references",
		"history, oldest first", "TestDoubleReleasePanicTellsTheHistory")
	_, history, _ := strings.Cut(text, "oldest first:")
	var events []string
	for line := range strings.Lines(history) {
		if f := strings.Fields(line); len(f) > 0 {
			events = append(events, f[0])
		}
	}
	if got := strings.Join(events, " "); got != "lease retain release release release" {
		t.Errorf("history: %s, want lease retain release release release", got)
	}
}

func TestHistoryKeepsTheLastEvents(t *testing.T) {
	r := newRegistry(t, 1<<20)
	b := lease(t, r, 100)
	for range historyLen {
		b.Retain()
	}
	for range historyLen + 1 {
		b.Release()
	}
	text := panicOf(t, b.Release)
	if got := strings.Count(text, "\n\trelease "); got != historyLen {
		t.Errorf("the history has %d releases, want %d", got, historyLen)
	}
	if strings.Contains(text, "\n\tlease ") {
		t.Error("the history kept an event that is older than its length")
	}
}

func TestFreeMemoryIsPoisoned(t *testing.T) {
	poisoned := bytes.Repeat([]byte{poisonByte}, MaxBuffer)
	r := newRegistry(t, 1<<20)
	if !bytes.Equal(r.mem, poisoned) {
		t.Error("a new arena is not poisoned")
	}
	b := lease(t, r, 5000)
	clear(b.Extend(b.Room()).Bytes())
	b.Release()
	if !bytes.Equal(r.mem, poisoned) {
		t.Error("memory is not poisoned, or not all of it, after its release")
	}
}
