//go:build !invariants

package bufreg

// Without the build tag every check below is nothing, and takes no memory.

const invariants = false

// Pin is what Unpin needs to know of a Pin.
type Pin struct{}

func pinned(Buffer) Pin { return Pin{} }

func (Pin) verify(Buffer) {}

type slotDebug struct{}

type event uint8

const (
	eventRetain event = iota
	eventRelease
)

func (*slotDebug) record(event) {}

func (*slotDebug) leased(*slot) {}

func (*slotDebug) poison(*slot) {}

func (*slotDebug) history() string { return "" }

func poison([]byte) {}
