//go:build invariants

package bufreg

import (
	"fmt"
	"hash/crc32"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

const invariants = true

// poisonByte fills released memory: sent, it shows; executed or followed, it traps.
const poisonByte = 0xdb

// Pin is the sum of the bytes at the time of submission.
type Pin struct{ sum uint32 }

var table = crc32.MakeTable(crc32.Castagnoli)

func pinned(b Buffer) Pin {
	b.s.debug.record(eventPin)
	return Pin{crc32.Checksum(b.Bytes(), table)}
}

func (p Pin) verify(b Buffer) {
	if sum := crc32.Checksum(b.Bytes(), table); sum != p.sum {
		panic(fmt.Sprintf("bufreg: bytes [%d:%d] of page %d, lease %d, changed while the kernel had them (crc32c %#x, then %#x)%s",
			b.off, b.off+b.n, b.s.index, b.gen, p.sum, sum, b.s.debug.history()))
	}
	b.s.debug.record(eventUnpin)
}

type event uint8

const (
	eventLease event = iota
	eventRetain
	eventRelease
	eventPin
	eventUnpin
)

var eventNames = [...]string{"lease", "retain", "release", "pin", "unpin"}

// historyLen is how many events of a slot are kept.
const historyLen = 16

// slotDebug is the recent history of a slot.
type slotDebug struct {
	mu     sync.Mutex
	n      int
	events [historyLen]struct {
		event event
		pc    [3]uintptr
	}
}

func (d *slotDebug) record(e event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := &d.events[d.n%historyLen]
	at.event, at.pc = e, [3]uintptr{}
	runtime.Callers(3, at.pc[:])
	d.n++
}

func (d *slotDebug) history() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	b.WriteString("; history, oldest first:")
	for i := max(0, d.n-historyLen); i < d.n; i++ {
		at := &d.events[i%historyLen]
		fmt.Fprintf(&b, "\n\t%s", eventNames[at.event])
		for frames := runtime.CallersFrames(at.pc[:]); ; {
			f, more := frames.Next()
			if f.Function != "" {
				fmt.Fprintf(&b, " %s:%d", f.Function, f.Line)
			}
			if !more {
				break
			}
		}
	}
	return b.String()
}

// leased checks that nobody wrote to the memory since it was released.
func (d *slotDebug) leased(s *slot) {
	for i, c := range s.memory() {
		if c != poisonByte {
			panic(fmt.Sprintf("bufreg: byte %d of page %d was written to after its release%s", i, s.index, d.history()))
		}
	}
	d.record(eventLease)
}

func (d *slotDebug) poison(s *slot) { poison(s.memory()) }

func (s *slot) memory() []byte { return unsafe.Slice((*byte)(s.base), s.class.size()) }

func poison(m []byte) {
	for i := range m {
		m[i] = poisonByte
	}
}
