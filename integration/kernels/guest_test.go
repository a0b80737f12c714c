//go:build linux

// Package kernels holds the tests that need a kernel of their own: one of the fleet's, a
// network card that sends without copying, and leave to change the network. They run in
// the guests of integration/vm, by make test-kernels, and are skipped anywhere else.
package kernels

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/integration/vm/job"
)

// notOn says on which kernels, by major and minor, a test cannot hold, and why.
type notOn map[string]string

// guest is what a test knows of the guest it runs in.
type guest struct {
	kernel  kernelVersion
	nic     string // the interface towards the peer
	address string
	peer    string // for orders; see package peer
}

// inGuest skips the test outside of a guest, and on the kernels that it cannot hold on.
func inGuest(t *testing.T, not notOn) guest {
	t.Helper()
	g := guest{nic: os.Getenv(job.EnvNIC), address: os.Getenv(job.EnvAddress), peer: os.Getenv(job.EnvPeer)}
	if g.nic == "" {
		t.Skip("needs a guest of integration/vm: make test-kernels")
	}
	g.kernel = parseVersion(t, release(t))
	for kernel, why := range not {
		if g.kernel == parseVersion(t, kernel) {
			t.Skip(why)
		}
	}
	return g
}

func release(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	return unix.ByteSliceToString(u.Release[:])
}

// kernelVersion is a release as far as features depend on it.
type kernelVersion struct{ major, minor int }

func parseVersion(t *testing.T, s string) (v kernelVersion) {
	t.Helper()
	if _, err := fmt.Sscanf(s, "%d.%d", &v.major, &v.minor); err != nil {
		t.Fatalf("kernel release %q: %v", s, err)
	}
	return v
}

func (v kernelVersion) before(w kernelVersion) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}
