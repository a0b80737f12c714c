//go:build !linux

package bench

// Other systems have nothing to measure: [Child] refuses.

func kernelRelease() string { return "" }

// AllowedCPUs are the processors that this process may use.
func AllowedCPUs() []int { return []int{0} }

func irqTimeApart() bool { return false }
