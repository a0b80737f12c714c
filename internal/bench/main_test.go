package bench

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// The children of a test are this test's program, as those of uringserve are uringserve.
func TestMain(m *testing.M) {
	if n := 1 + len(ChildArgs); len(os.Args) > n && slices.Equal(os.Args[1:n], ChildArgs) {
		if err := Child(os.Args[n:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each child of a race test sleeps for a second at its end
	os.Exit(m.Run())
}
