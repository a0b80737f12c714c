package bufreg

import "math/bits"

const (
	minShift = 12 // 4 KiB: a page, so that no two leases share one
	maxShift = 20 // 1 MiB: past it a send gains nothing more, and a gather takes several

	// MinBuffer and MaxBuffer are the smallest and largest capacity of a lease, in bytes.
	MinBuffer = 1 << minShift
	// MaxBuffer is also the size of a slab.
	MaxBuffer = 1 << maxShift

	// NumClasses is the number of sizes: MinBuffer << 0 to MaxBuffer.
	NumClasses = maxShift - minShift + 1
)

// class is an index into the size classes: class c holds buffers of MinBuffer << c bytes.
type class uint8

func (c class) size() int { return MinBuffer << c }

// perSlab is how many buffers of the class a slab holds.
func (c class) perSlab() int { return MaxBuffer >> (minShift + c) }

// classFor is the smallest class that holds n bytes, 0 <= n <= MaxBuffer.
func classFor(n int) class {
	if n <= MinBuffer {
		return 0
	}
	return class(bits.Len(uint(n-1)) - minShift)
}
