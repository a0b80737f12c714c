package bufreg

import "unsafe"

// pointerTo is the address of mem[i]. The arena is mapped, not allocated: the garbage
// collector neither moves nor frees it, so slots may keep bare pointers.
func pointerTo(mem []byte, i int) unsafe.Pointer { return unsafe.Pointer(&mem[i]) }
