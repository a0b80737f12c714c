package engine

import "sync/atomic"

// inbox takes functions from any goroutine to a loop. It is a stack that producers push to
// and the loop takes whole, so that neither side ever waits for the other.
type inbox struct {
	head   atomic.Pointer[posted]
	closed posted // a head of &closed refuses what comes later
}

type posted struct {
	fn   func()
	next *posted
}

// push reports whether the function will run: false after close.
func (b *inbox) push(fn func()) bool {
	p := &posted{fn: fn}
	for {
		head := b.head.Load()
		if head == &b.closed {
			return false
		}
		p.next = head
		if b.head.CompareAndSwap(head, p) {
			return true
		}
	}
}

func (b *inbox) empty() bool {
	head := b.head.Load()
	return head == nil || head == &b.closed
}

// take returns what was pushed, oldest first. Only the loop takes and closes.
func (b *inbox) take() *posted {
	if b.empty() {
		return nil
	}
	return reverse(b.head.Swap(nil))
}

// close returns what was pushed, and refuses what comes later.
func (b *inbox) close() *posted {
	head := b.head.Swap(&b.closed)
	if head == &b.closed {
		return nil
	}
	return reverse(head)
}

func reverse(p *posted) (first *posted) {
	for p != nil {
		p.next, first, p = first, p, p.next
	}
	return first
}
