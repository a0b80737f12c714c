package zc

import (
	"fmt"
	"testing"
)

// Every value has a name of its own: names are keys where counters are published.
func TestNamesAreDistinct(t *testing.T) {
	t.Run("Route", func(t *testing.T) { distinct[Route](t, NumRoutes) })
	t.Run("Reason", func(t *testing.T) { distinct[Reason](t, NumReasons) })
	t.Run("State", func(t *testing.T) { distinct[State](t, int(Completed)+1) })
	t.Run("Next", func(t *testing.T) { distinct[Next](t, int(Fail)+1) })
}

func distinct[T interface {
	~uint8
	fmt.Stringer
}](t *testing.T, n int) {
	seen := map[string]T{}
	for i := range n {
		name := T(i).String()
		if name == "" {
			t.Errorf("%d has no name", i)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%d and %d are both %q", uint8(other), i, name)
		}
		seen[name] = T(i)
	}
	if panics(func() { _ = T(n).String() }) == nil {
		t.Errorf("there is a name for %d, which this test does not know", n)
	}
}

// The names that dashboards and the issue tracker know.
func TestReasonsKeepTheirNames(t *testing.T) {
	for why, name := range map[Reason]string{
		BelowThreshold: "below-threshold", PathCopies: "path-copies", OverBudget: "over-budget", NoFixedVectors: "no-fixed-vectors",
		KTLS: "ktls", UnixSocket: "unix-socket", FixedPolicy: "fixed-policy", Probe: "probe",
	} {
		if why.String() != name {
			t.Errorf("%q, want %q", why, name)
		}
	}
}
