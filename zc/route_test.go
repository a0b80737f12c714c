package zc

import (
	"math/rand/v2"
	"slices"
	"testing"
)

const kib = 1 << 10

// modern is a kernel with everything, and a threshold that is easy to count with.
var modern = Kernel{SendZC: true, FixedVectors: true, Threshold: 32 * kib}

// noVectors is one of before 6.15.
var noVectors = Kernel{SendZC: true, Threshold: 32 * kib}

func TestRoute(t *testing.T) {
	remote, local := Socket{}, Socket{Local: true}
	tests := []struct {
		name     string
		policy   Policy
		kernel   Kernel
		socket   Socket
		segments []uint32
		want     Decision
	}{
		{"large", Policy{}, modern, remote, []uint32{64 * kib}, Decision{ZeroCopy, AboveThreshold, 1, false}},
		{"at the threshold", Policy{}, modern, remote, []uint32{32 * kib}, Decision{ZeroCopy, AboveThreshold, 1, false}},
		{"below the threshold", Policy{}, modern, remote, []uint32{32*kib - 1}, Decision{Copy, BelowThreshold, 1, false}},
		{"one byte", Policy{}, modern, remote, []uint32{1}, Decision{Copy, BelowThreshold, 1, false}},
		{"more bytes than 32 bits hold", Policy{}, modern, remote, []uint32{1 << 31, 1 << 31}, Decision{ZeroCopy, AboveThreshold, 2, false}},

		{"fixed threshold", Policy{Fixed, 4 * kib}, modern, remote, []uint32{4 * kib}, Decision{ZeroCopy, FixedPolicy, 1, false}},
		{"below a fixed threshold", Policy{Fixed, 128 * kib}, modern, remote, []uint32{64 * kib}, Decision{Copy, FixedPolicy, 1, false}},
		{"fixed at nothing", Policy{Mode: Fixed}, modern, remote, []uint32{1}, Decision{ZeroCopy, FixedPolicy, 1, false}},

		{"a threshold to begin with", Policy{Threshold: 4 * kib}, modern, remote, []uint32{4 * kib}, Decision{ZeroCopy, AboveThreshold, 1, false}},
		{"below a threshold to begin with", Policy{Threshold: 128 * kib}, modern, remote, []uint32{64 * kib}, Decision{Copy, BelowThreshold, 1, false}},
		{"nothing to begin with", Policy{Threshold: NoSize}, modern, remote, []uint32{64 * kib}, Decision{Copy, BelowThreshold, 1, false}},
		{"a threshold to begin with is not for local peers", Policy{Threshold: 4 * kib}, modern, local, []uint32{64 * kib}, Decision{Copy, PathCopies, 1, false}},

		{"off", Policy{Mode: Off}, modern, remote, []uint32{64 * kib, 1}, Decision{Copy, PolicyOff, 2, false}},
		{"no SEND_ZC", Policy{}, Kernel{Threshold: 32 * kib}, remote, []uint32{64 * kib, 1}, Decision{Copy, NoSendZC, 2, false}},
		{"kTLS", Policy{}, modern, Socket{Kind: TLSSocket}, []uint32{64 * kib, 1}, Decision{Copy, KTLS, 2, false}},
		{"unix", Policy{}, modern, Socket{Kind: Unix}, []uint32{64 * kib, 1}, Decision{Copy, UnixSocket, 2, false}},
		{"MPTCP", Policy{}, modern, Socket{Kind: OtherSocket}, []uint32{64 * kib, 1}, Decision{Copy, SocketCopies, 2, false}},
		{"the kind before its refusal", Policy{}, modern, Socket{Kind: TLSSocket, NoZC: true}, []uint32{64 * kib, 1}, Decision{Copy, KTLS, 2, false}},
		{"socket refuses", Policy{}, modern, Socket{NoZC: true}, []uint32{64 * kib, 1}, Decision{Copy, SocketCopies, 2, false}},
		{"socket refuses a fixed policy too", Policy{Mode: Fixed}, modern, Socket{NoZC: true}, []uint32{64 * kib}, Decision{Copy, SocketCopies, 1, false}},
		{"local peer", Policy{}, modern, local, []uint32{64 * kib, 1}, Decision{Copy, PathCopies, 2, false}},
		{"local peer by a fixed policy", Policy{Fixed, kib}, modern, local, []uint32{64 * kib}, Decision{ZeroCopy, FixedPolicy, 1, false}},
		{"off comes before the kernel", Policy{Mode: Off}, Kernel{}, Socket{Local: true, NoZC: true}, []uint32{64 * kib}, Decision{Copy, PolicyOff, 1, false}},
		{"the kernel before the socket", Policy{}, Kernel{}, Socket{Local: true, NoZC: true}, []uint32{64 * kib}, Decision{Copy, NoSendZC, 1, false}},
		{"the socket before the path", Policy{}, modern, Socket{Local: true, NoZC: true}, []uint32{64 * kib}, Decision{Copy, SocketCopies, 1, false}},

		{"header and body in one gather", Policy{}, modern, remote, []uint32{200, 64 * kib}, Decision{ZeroCopy, AboveThreshold, 2, false}},
		{"a gather that is small together", Policy{}, modern, remote, []uint32{200, 31 * kib}, Decision{Copy, BelowThreshold, 2, false}},
		{"a gather that is large only together", Policy{}, modern, remote, []uint32{20 * kib, 20 * kib}, Decision{ZeroCopy, AboveThreshold, 2, false}},
		{"a gather of pages", Policy{}, modern, remote, slices.Repeat([]uint32{4096}, 16), Decision{ZeroCopy, AboveThreshold, 16, false}},
		{"a gather of less than pages", Policy{}, modern, remote, slices.Repeat([]uint32{4095}, 16), Decision{Copy, SmallSegments, 16, false}},
		{"small pieces beside a large one", Policy{}, modern, remote, []uint32{100, 100, 100, 64 * kib}, Decision{ZeroCopy, AboveThreshold, 4, false}},

		{"no vectors: body alone", Policy{}, noVectors, remote, []uint32{64 * kib}, Decision{ZeroCopy, AboveThreshold, 1, false}},
		{"no vectors: body first", Policy{}, noVectors, remote, []uint32{64 * kib, 200, 64 * kib}, Decision{ZeroCopy, AboveThreshold, 1, false}},
		{"no vectors: header is held back for its body", Policy{}, noVectors, remote, []uint32{200, 64 * kib}, Decision{Copy, NoFixedVectors, 1, true}},
		{"no vectors: all before the body is held back", Policy{}, noVectors, remote, []uint32{200, 31 * kib, 300, 32 * kib, 5}, Decision{Copy, NoFixedVectors, 3, true}},
		{"no vectors: large only together", Policy{}, noVectors, remote, []uint32{20 * kib, 20 * kib}, Decision{Copy, NoFixedVectors, 2, false}},
		{"no vectors: small together", Policy{}, noVectors, remote, []uint32{200, 300}, Decision{Copy, BelowThreshold, 2, false}},
		{"no vectors: small pieces", Policy{}, noVectors, remote, slices.Repeat([]uint32{1000}, 100), Decision{Copy, NoFixedVectors, 100, false}},
	}
	returned := map[Reason]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.policy.Route(tt.kernel, tt.socket, tt.segments)
			if got != tt.want {
				t.Errorf("%v %v, %d segments, more %v; want %v %v, %d segments, more %v",
					got.Route, got.Reason, got.Segments, got.More, tt.want.Route, tt.want.Reason, tt.want.Segments, tt.want.More)
			}
		})
		returned[tt.want.Reason] = true
	}
	elsewhere := []Reason{Probe, OverBudget, ShortOfMemory, NoBuffers, Demoted, FileTooSmall, NotResident, CacheUnknown, Unmapped} // what the engine decides
	for why := range Reason(NumReasons) {
		if returned[why] == slices.Contains(elsewhere, why) {
			t.Errorf("reason %v: the table has it: %v", why, returned[why])
		}
	}
}

// Whatever is queued, its routes in turn send each segment once, and zero-copy is used
// only for what it can do.
func TestRouteConsumesAnyQueue(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		p := Policy{Mode: Mode(rng.IntN(3))}
		if p.Mode == Fixed {
			p.Threshold = rng.IntN(100 * kib)
		}
		k := Kernel{SendZC: rng.IntN(8) > 0, FixedVectors: rng.IntN(2) == 0, Threshold: rng.IntN(100 * kib)}
		s := Socket{Local: rng.IntN(4) == 0, NoZC: rng.IntN(8) == 0, Kind: Kind(max(0, rng.IntN(16)-12))}
		queue := make([]uint32, 1+rng.IntN(10))
		for i := range queue {
			queue[i] = 1 + rng.Uint32N(1<<rng.IntN(18))
		}
		allowed, why := p.Allowed(k, s)
		for q := queue; len(q) > 0; {
			d := p.Route(k, s, q)
			if d.Segments < 1 || d.Segments > len(q) {
				t.Fatalf("%+v of %d segments", d, len(q))
			}
			taken := 0
			for _, n := range q[:d.Segments] {
				taken += int(n)
			}
			switch {
			case d.Route == Sendfile:
				t.Fatalf("memory by sendfile: %+v", d)
			case !allowed && (d.Route != Copy || d.Reason != why):
				t.Fatalf("%+v where zero-copy is not allowed: %v", d, why)
			case d.Route == ZeroCopy && taken < p.MinSend(k):
				t.Fatalf("%d bytes by zero-copy, which pays from %d on: %+v", taken, p.MinSend(k), d)
			case d.Route == ZeroCopy && d.Segments > 1 && !k.FixedVectors:
				t.Fatalf("a gather on a kernel without: %+v", d)
			case d.Reason == FixedPolicy && p.Mode != Fixed:
				t.Fatalf("no policy fixes this: %+v", d)
			case d.Reason != FixedPolicy && (d.Route == ZeroCopy) != (d.Reason == AboveThreshold):
				t.Fatalf("route and reason contradict: %+v", d)
			case d.More && (d.Route != Copy || d.Segments == len(q)):
				t.Fatalf("more is promised with nothing to follow: %+v of %d segments", d, len(q))
			}
			if q = q[d.Segments:]; d.More {
				if next := p.Route(k, s, q); next.Route != ZeroCopy {
					t.Fatalf("held back for zero-copy, and then came %+v", next)
				}
			}
		}
	}
}

func TestRouteAllocatesNothing(t *testing.T) {
	segments := []uint32{200, 31 * kib, 300, 32 * kib, 5}
	var p Policy
	if got := testing.AllocsPerRun(1000, func() {
		p.Route(modern, Socket{}, segments)
		p.Route(noVectors, Socket{}, segments)
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		policy Policy
		ok     bool
	}{
		{Policy{}, true},
		{Policy{Mode: Off}, true},
		{Policy{Mode: Fixed}, true},
		{Policy{Fixed, 1}, true},
		{Policy{Fixed, -1}, false},
		{Policy{Adaptive, 1}, true},
		{Policy{Adaptive, NoSize}, true},
		{Policy{Adaptive, -1}, false},
		{Policy{Off, 1}, false},
		{Policy{Mode: Off + 1}, false},
		{Policy{Mode: 255}, false},
	} {
		if err := tt.policy.Validate(); (err == nil) != tt.ok {
			t.Errorf("%+v: %v, want it accepted: %v", tt.policy, err, tt.ok)
		}
	}
}

func TestDefaultThresholdIsHigherBefore610(t *testing.T) {
	const low, high = 32 * kib, 128 * kib
	for _, tt := range []struct{ major, minor, want int }{
		{5, 10, high}, {5, 19, high}, {6, 0, high}, {6, 1, high}, {6, 9, high},
		{6, 10, low}, {6, 11, low}, {6, 18, low}, {7, 0, low}, {7, 2, low}, {10, 1, low},
	} {
		if got := DefaultThreshold(tt.major, tt.minor); got != tt.want {
			t.Errorf("%d.%d: %d bytes, want %d", tt.major, tt.minor, got, tt.want)
		}
	}
}

func TestMinSendIsTheUsersOrTheKernels(t *testing.T) {
	for _, tt := range []struct {
		policy Policy
		want   int
	}{{Policy{}, modern.Threshold}, {Policy{Mode: Off}, modern.Threshold}, {Policy{Fixed, 7}, 7}, {Policy{Mode: Fixed}, 0}, {Policy{Adaptive, 7}, 7}, {Policy{Threshold: NoSize}, NoSize}} {
		if got := tt.policy.MinSend(modern); got != tt.want {
			t.Errorf("%+v: %d, want %d", tt.policy, got, tt.want)
		}
	}
}
