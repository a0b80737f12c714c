// Package bufreg is registered memory: one mapped arena that the kernel pins once, cut
// into size classes and handed out as leases.
//
// # Shape
//
// A [Registry] maps the arena; [Registry.Attach] registers it with a ring, pinning it once
// and cloning the registration to every further ring where the kernel can (6.13). The
// arena is cut into slabs of 1 MiB. A slab serves one size class, a power of two from
// 4 KiB to 1 MiB, while any of its buffers is out, and any class again once all are back.
// Each loop leases through its own [Cache]; other goroutines lease from the Registry.
//
// # Ownership
//
// A lease is a [Buffer]: a value that names a piece of the arena, a generation and a view.
// It starts with one reference. Whoever holds a reference may read; only the holder of
// the sole reference, and only while no send of it is under way, may write. The
// last Release returns the piece, from any goroutine, and ends the generation: every Buffer
// of an ended generation panics when used, so that nobody reads another owner's bytes.
//
// The engine holds references for the kernel: Pin when a send is submitted, Unpin when
// the kernel is done with it. A pinned piece cannot be leased again because a reference
// is held, not because of the counter.
//
// # Threads
//
// Buffer's methods may be called from any goroutine that holds a reference. A Cache belongs
// to one goroutine.
//
// # Build tag invariants
//
// With -tags invariants, released memory is poisoned and must still be when it is leased
// again, pinned bytes are summed at Pin and compared at Unpin, and a panic about
// a reference prints the history of the lease.
package bufreg
