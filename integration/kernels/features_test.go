//go:build linux

package kernels

import (
	"errors"
	"strings"
	"testing"

	"sluice/engine"
	"sluice/ring"
)

// earlier lists the features that a kernel has before the release that is declared for them,
// and why. An entry that is not needed fails the test.
var earlier = []struct{ kernel, feature, why string }{
	{"6.1", "zero-copy usage reports", "6.1.y took them"},
	{"6.12", "cloned buffer registration", "io_uring_clone_buffers(3) has it since 6.12, with offsets since 6.13"},
}

// A probe that contradicts the release on which a feature is declared to have come is wrong,
// or the declaration is.
func TestProbeAgreesWithTheDeclaredReleases(t *testing.T) {
	g := inGuest(t, nil)
	caps, err := ring.Probe()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range caps.Features() {
		since := parseVersion(t, f.Since)
		want, why := !g.kernel.before(since), "declared for "+f.Since
		for _, e := range earlier {
			if e.feature == f.Name && g.kernel == parseVersion(t, e.kernel) {
				if want {
					t.Errorf("%s needs no exception on %s", f.Name, e.kernel)
				}
				want, why = true, e.why
			}
		}
		if f.Have != want {
			t.Errorf("%s on %s: the probe says %v, want %v: %s", f.Name, caps.Kernel, f.Have, want, why)
		}
	}
}

func TestEngineRefusesAKernelWithoutSendZC(t *testing.T) {
	g := inGuest(t, nil)
	if !g.kernel.before(kernelVersion{6, 0}) {
		t.Skip("it has SEND_ZC")
	}
	e, err := engine.New(engine.Config{})
	if err == nil {
		_ = e.Shutdown(t.Context())
		t.Fatalf("an engine was made on %+v", g.kernel)
	}
	var u *ring.UnsupportedError
	if !errors.Is(err, ring.ErrUnsupported) || !errors.As(err, &u) {
		t.Fatalf("%v is not a ring.UnsupportedError", err)
	}
	if u.Feature == "" || !g.kernel.before(parseVersion(t, u.Since)) {
		t.Errorf("%q of Linux %q: it must name a feature that came after %+v", u.Feature, u.Since, g.kernel)
	}
	if !strings.Contains(err.Error(), release(t)) {
		t.Errorf("%q does not name the kernel", err)
	}
	t.Log(err)
}
