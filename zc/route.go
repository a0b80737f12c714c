package zc

import (
	"fmt"
	"math"
)

// Route is the way that bytes take to the socket.
type Route uint8

const (
	// Copy is SEND or SENDMSG: the kernel copies the bytes, the buffer is free at the completion.
	Copy Route = iota
	// ZeroCopy is SEND_ZC or SENDMSG_ZC from registered memory, or of file pages in the page cache: the kernel reads
	// the bytes when it transmits, a buffer is free at the notification.
	ZeroCopy
	// Sendfile is sendfile(2): page-cache pages are handed to the socket.
	Sendfile

	NumRoutes = iota
)

func (r Route) String() string { return [NumRoutes]string{"copy", "zero-copy", "sendfile"}[r] }

// Reason says why a route was taken.
type Reason uint8

const (
	AboveThreshold Reason = iota // zero-copy: large enough to pay
	BelowThreshold               // copy: too small to pay
	FixedPolicy                  // either: by the size that the policy fixes
	SmallSegments                // copy: a gather of pieces smaller than a page
	PathCopies                   // the kernel copies zero-copy sends on the way to this peer, as it does to peers on this host
	Probe                        // zero-copy, to find out whether the path still copies
	OverBudget                   // copy or sendfile: the connection or its loop pins, or holds, as much as it may
	KTLS                         // the socket encrypts, and takes no zero-copy sends
	UnixSocket                   // nor do these
	SocketCopies                 // nor does this one: it refused one, or is neither TCP nor unix (MPTCP)
	PolicyOff                    // the policy forbids zero-copy
	NoSendZC                     // the kernel has no SEND_ZC (before 6.0)
	NoFixedVectors               // copy: a header before a body, on a kernel that cannot gather registered buffers (before 6.15)
	ShortOfMemory                // copy: the kernel refused the zero-copy send with ENOBUFS or ENOMEM
	NoBuffers                    // sendfile: the arena had no buffer for the file's bytes
	Demoted                      // copy: from private memory, the peer having held up shared memory
	FileTooSmall                 // copy: a small file left with its header
	NotResident                  // a file's bytes were read into the arena: for them sendfile would have waited for the disk
	CacheUnknown                 // the same, where the kernel does not say what the page cache holds
	Unmapped                     // sendfile: the file cannot be mapped, or is too large to be

	NumReasons = iota
)

func (r Reason) String() string {
	return [NumReasons]string{"above-threshold", "below-threshold", "fixed-policy", "small-segments", "path-copies", "probe",
		"over-budget", "ktls", "unix-socket", "socket-copies", "policy-off", "no-send-zc", "no-fixed-vectors", "short-of-memory", "no-buffers", "demoted", "file-too-small",
		"not-resident", "cache-unknown", "unmapped"}[r]
}

// Mode is who sets the threshold.
type Mode uint8

const (
	Adaptive Mode = iota // what traffic teaches, from Threshold or the kernel's default on; no zero-copy where the path copies
	Fixed                // zero-copy from Threshold on, on every path
	Off                  // never zero-copy
)

// NoSize is a Threshold above every send: in Mode Adaptive nothing goes by zero-copy until traffic
// teaches that it pays.
const NoSize = math.MaxInt

// Policy is what the user asked for. The zero Policy is Adaptive.
type Policy struct {
	Mode Mode
	// Threshold is bytes in one send. For Fixed, zero-copy pays from there on. For Adaptive it is where learning
	// begins on a path that leaves this host, to the next power of two; 0: where the kernel's release says, see
	// DefaultThreshold. Off has none.
	Threshold int
}

// Validate refuses settings that have no meaning.
func (p Policy) Validate() error {
	if p.Mode > Off {
		return fmt.Errorf("zero-copy mode %d: use Adaptive, Fixed or Off", p.Mode)
	}
	if p.Threshold < 0 {
		return fmt.Errorf("zero-copy threshold of %d bytes: it cannot be negative", p.Threshold)
	}
	if p.Threshold != 0 && p.Mode == Off {
		return fmt.Errorf("zero-copy threshold of %d bytes with Mode Off: it would have no effect", p.Threshold)
	}
	return nil
}

// Kernel is what the kernel can do, as far as routes depend on it.
type Kernel struct {
	SendZC       bool // 6.0
	Vectors      bool // SENDMSG_ZC, 6.1
	FixedVectors bool // SENDMSG_ZC from registered buffers, 6.15
	// Threshold is where zero-copy starts to pay in Adaptive mode, in bytes, unless the policy has one;
	// see DefaultThreshold.
	Threshold int
}

// DefaultThreshold is where Adaptive mode starts with zero-copy, in bytes of one send. The
// break-even lies near 8 KiB for a source that is cold in the cache and near 64 KiB for a
// hot one; 32 KiB loses little either way. Before 6.10 each send's notification was an
// allocation of its own, which moves it up.
func DefaultThreshold(major, minor int) int {
	if major < 6 || major == 6 && minor < 10 {
		return 128 << 10
	}
	return 32 << 10
}

// Kind is what a socket is, as far as its sends depend on it.
type Kind uint8

const (
	TCP         Kind = iota
	TLSSocket        // TCP that encrypts in the kernel
	Unix             // of any type
	OtherSocket      // MPTCP and the like
)

// Socket is what is known of a connection.
type Socket struct {
	Kind  Kind
	NoZC  bool // it refused a zero-copy send
	Local bool // the peer is on this host
	// Flow is what traffic has taught, for Adaptive; nil: nothing yet.
	Flow *Flow
}

// CopyOnly reports whether the socket takes nothing but plain copies, and why.
func (s Socket) CopyOnly() (bool, Reason) {
	switch {
	case s.Kind == TLSSocket:
		return true, KTLS
	case s.Kind == Unix:
		return true, UnixSocket
	case s.Kind != TCP || s.NoZC:
		return true, SocketCopies
	}
	return false, 0
}

// minSegment is the mean size of a gather's pieces below which zero-copy does not pay: each
// piece takes one of the 17 page slots of an skb.
const minSegment = 4096

// Decision is a route and why.
type Decision struct {
	Route  Route
	Reason Reason
	// Segments is how many of the offered segments go with this send, at least 1.
	Segments int
	// More asks for MSG_MORE: the rest of the message follows at once.
	More bool
}

// Allowed reports whether zero-copy can be used at all on this socket, and if not why.
func (p Policy) Allowed(k Kernel, s Socket) (bool, Reason) {
	if p.Mode == Off {
		return false, PolicyOff
	}
	if !k.SendZC {
		return false, NoSendZC
	}
	if only, why := s.CopyOnly(); only {
		return false, why
	}
	if s.Local && s.Flow == nil && p.Mode == Adaptive {
		return false, PathCopies
	}
	return true, AboveThreshold
}

// Pays reports whether a send of n bytes would go by zero-copy now, and why or why not.
func (p Policy) Pays(k Kernel, s Socket, n int) (bool, Reason) {
	ok, why := p.Allowed(k, s)
	switch {
	case !ok:
	case p.Mode == Fixed:
		return n >= p.Threshold, FixedPolicy
	case s.Flow != nil:
		return s.Flow.pays(n)
	case n < p.MinSend(k):
		return false, BelowThreshold
	}
	return ok, why
}

// MinSend is the size from which a send goes by zero-copy where it is allowed; in Mode Adaptive, before
// traffic has taught anything.
func (p Policy) MinSend(k Kernel) int {
	if p.Mode == Fixed || p.Threshold != 0 {
		return p.Threshold
	}
	return k.Threshold
}

// Route decides how the segments of the given sizes, which lie at the head of a
// connection's queue, are sent. There is at least one. In Adaptive mode what the socket's
// Flow has learned counts; a probe that it lets through is noted there.
func (p Policy) Route(k Kernel, s Socket, segments []uint32) Decision {
	d := p.route(k, s, segments)
	if d.Reason == Probe {
		s.Flow.probed()
	}
	return d
}

func (p Policy) route(k Kernel, s Socket, segments []uint32) Decision {
	all, total := len(segments), 0
	for _, n := range segments {
		total += int(n)
	}
	ok, why := p.Pays(k, s, total)
	switch {
	case !ok:
		return Decision{Copy, why, all, false}
	case all == 1:
		return Decision{ZeroCopy, why, 1, false}
	case k.FixedVectors && total < all*minSegment:
		return Decision{Copy, SmallSegments, all, false}
	case k.FixedVectors:
		return Decision{ZeroCopy, why, all, false}
	}
	// No gather from registered memory: what comes before the first segment that pays alone
	// is copied, and held back by MSG_MORE until that segment follows.
	for i, n := range segments {
		if ok, why := p.Pays(k, s, int(n)); ok && i == 0 {
			return Decision{ZeroCopy, why, 1, false}
		} else if ok {
			return Decision{Copy, NoFixedVectors, i, true}
		}
	}
	return Decision{Copy, NoFixedVectors, all, false}
}
