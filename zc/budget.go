package zc

import "time"

// Budget bounds the bytes that the zero-copy sends of one loop pin, from submission to
// notification, so that peers which do not read cannot take the arena. What it does not admit
// is sent by copy, which pins nothing: nobody waits for a budget.
//
// A peer that never reads pins what its socket holds, and until its deadline nothing gives
// that back. Hence two rules, neither of which needs to know who will stall:
//
//   - The bytes of connections that have not drained anything lately are together at most half
//     of the limit. A thousand connections that stop reading at once take that half, and leave
//     the other to those that read.
//   - One connection pins at most half of what the others leave, so that a later one always
//     finds some.
//
// It belongs to the loop's goroutine.
type Budget struct {
	limit int64
	total int64 // pinned now
	fresh int64 // of that, by sends whose connection had not drained when they were submitted
}

// Account is one connection's part of a Budget. The zero Account is of a new connection.
type Account struct {
	pinned  int64
	drained int64 // bytes notified since the connection last lagged
	since   int64 // the last notification, or when the first byte was pinned after none was
}

const (
	// drainedEnough is how much a connection must have taken to count as one that reads: more
	// than a peer's kernel takes without its program reading (tcp_rmem starts with 128 KiB,
	// of which 64 are advertised).
	drainedEnough = 1 << 20
	// lagging is how long pinned bytes may see no notification before the connection counts
	// as one that does not read: some round trips of the longest paths.
	lagging = 500 * time.Millisecond
)

// NewBudget makes a budget of limit bytes.
func NewBudget(limit int64) Budget { return Budget{limit: limit} }

// Limit is the most bytes that may be pinned.
func (b *Budget) Limit() int64 { return b.limit }

// Pinned is the number of bytes that are.
func (b *Budget) Pinned() int64 { return b.total }

// Pinned is the number of bytes that the connection pins.
func (a *Account) Pinned() int64 { return a.pinned }

// Admit pins n bytes of a's connection, or reports that they must be copied. now is the
// loop's time in ns. fresh is for Settle.
func (b *Budget) Admit(a *Account, n int64, now int64) (fresh, ok bool) {
	if a.pinned > 0 && now-a.since > int64(lagging) {
		a.drained = 0
	}
	fresh = a.drained < drainedEnough
	switch {
	case a.pinned+n > (b.limit-b.total+a.pinned)/2, fresh && b.fresh+n > b.limit/2:
		return fresh, false
	}
	if a.pinned == 0 {
		a.since = now
	}
	a.pinned += n
	b.total += n
	if fresh {
		b.fresh += n
	}
	return fresh, true
}

// Drains notes that the connection's peer is known, from elsewhere, to have drained enough: what
// is copied to it has no notifications.
func (a *Account) Drains(now int64) { a.drained, a.since = drainedEnough, now }

// Settle ends the pin of n bytes that Admit admitted. taken is how many the kernel has sent;
// it is 0 for a send that was refused.
func (b *Budget) Settle(a *Account, n int64, fresh bool, taken, now int64) {
	a.pinned -= n
	b.total -= n
	if fresh {
		b.fresh -= n
	}
	if a.pinned < 0 || b.total < 0 || b.fresh < 0 {
		panic("zc: more bytes settled than were pinned")
	}
	if taken > 0 {
		a.drained += taken
		a.since = now
	}
}
