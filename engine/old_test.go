//go:build linux

package engine

import (
	"flag"
	"os"
	"os/exec"
	"testing"

	"sluice/bufreg"
	"sluice/internal/kernel"
	"sluice/ring"
)

var oneByOne = flag.Bool("one-by-one", false, "run engines as on a kernel without multishot accepts and receives")

// singleShot is the running kernel without multishot requests and provided buffers.
type singleShot struct{ kernel.Running }

func (singleShot) Open(c ring.Config, arena *bufreg.Registry, _ uint16, _, _ int) (kernel.Ring, kernel.BufRing, error) {
	r, err := ring.New(c)
	if err != nil {
		return nil, nil, err
	}
	return r, nil, arena.Attach(r)
}

// testSystem is the kernel that the tests' engines run on.
func testSystem() kernel.System {
	if *oneByOne {
		return singleShot{}
	}
	return kernel.Running{}
}

// What connections live through is the same where accepts and receives are one at a time.
func TestTheSameHoldsWithoutMultishotRequests(t *testing.T) {
	if *oneByOne {
		t.Skip("this is that run")
	}
	if testing.Short() {
		t.Skip("every test a second time takes long; 5.10 is of the fleet")
	}
	// Not of provided buffers, of multishot accepts and receives, and of no engine.
	const without = "AcceptingIsMultishot|UsedUpReceive|AReceiveThatEnds|LeakCheck"
	out, err := exec.Command(os.Args[0], "-test.skip="+without, "-one-by-one").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
