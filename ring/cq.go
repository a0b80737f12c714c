package ring

import "sync/atomic"

// Ready is the number of completions that wait to be reaped.
func (r *Ring) Ready() int { return int(atomic.LoadUint32(r.cqKTail) - r.cqHeadLocal) }

// Reap copies completions to dst, oldest first, gives their slots back to the kernel and
// returns how many. Slots are free before any handler runs, so that handlers which
// submit cannot overflow the queue that they are reading from.
func (r *Ring) Reap(dst []CQE) int {
	n := min(uint32(len(dst)), atomic.LoadUint32(r.cqKTail)-r.cqHeadLocal)
	for i := range n {
		dst[i] = r.cqes[(r.cqHeadLocal+i)&r.cqMask]
	}
	if n > 0 {
		r.cqHeadLocal += n
		atomic.StoreUint32(r.cqHead, r.cqHeadLocal)
	}
	return int(n)
}

// Overflowed reports whether the kernel holds completions back because the queue was
// full. They are not lost (IORING_FEAT_NODROP, 5.5): reap, then Submit or SubmitAndWait.
func (r *Ring) Overflowed() bool { return r.sqLoadFlags()&SQCQOverflow != 0 }
