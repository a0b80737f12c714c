package zc

import "math/bits"

// Histogram counts durations in buckets that double: bucket i holds those below 2^i µs, and
// the last one the rest. One goroutine writes.
type Histogram struct {
	Counts [HistogramBuckets]uint64
	Sum    int64 // ns
}

// HistogramBuckets makes the last bounded bucket end at 33 s, beyond every default deadline.
const HistogramBuckets = 27

// Observe counts a duration of ns nanoseconds.
func (h *Histogram) Observe(ns int64) {
	ns = max(ns, 0)
	h.Counts[min(bits.Len64(uint64(ns)/1000), HistogramBuckets-1)]++
	h.Sum += ns
}

// Merge adds what o counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o.Counts {
		h.Counts[i] += n
	}
	h.Sum += o.Sum
}

// Count is how many sends and bytes went one way.
type Count struct{ Sends, Bytes uint64 }

// Counters count sends by route and reason. One goroutine writes; others take copies
// that it makes.
type Counters struct {
	By [NumRoutes][NumReasons]Count

	NotifiedZeroCopy uint64 // notifications of sends that were not copied
	NotifiedCopied   uint64 // notifications that say copied; false for coalesced small sends
	NotifiedUnknown  uint64 // of failed sends, or from a kernel without usage reports
	Stray            uint64 // completions and notifications that nothing waited for
	ShortSends       uint64 // completions that accepted less than was submitted
}

// Add counts one send.
func (c *Counters) Add(r Route, why Reason, bytes uint64) {
	n := &c.By[r][why]
	n.Sends++
	n.Bytes += bytes
}

// Merge adds what o counted.
func (c *Counters) Merge(o *Counters) {
	for r := range c.By {
		for w := range c.By[r] {
			c.By[r][w].Sends += o.By[r][w].Sends
			c.By[r][w].Bytes += o.By[r][w].Bytes
		}
	}
	c.NotifiedZeroCopy += o.NotifiedZeroCopy
	c.NotifiedCopied += o.NotifiedCopied
	c.NotifiedUnknown += o.NotifiedUnknown
	c.Stray += o.Stray
	c.ShortSends += o.ShortSends
}

// Total is what went by route r, for whatever reason.
func (c *Counters) Total(r Route) (t Count) {
	for _, n := range c.By[r] {
		t.Sends += n.Sends
		t.Bytes += n.Bytes
	}
	return t
}
