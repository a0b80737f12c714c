package bench

import (
	"context"
	"fmt"
	"strings"
)

// Key is the coordinates of a measurement. Fields that mean nothing to a part are zero.
type Key struct {
	// Subject is what is measured: a mechanism, a server.
	Subject string `json:"subject"`
	// Place is the name of the [Place].
	Place string `json:"place"`
	// Source is where the bytes are before they are sent: one of [Sources].
	Source string `json:"source,omitempty"`
	// KTLS says that the kernel encrypts.
	KTLS bool `json:"ktls,omitempty"`
	// Size is the bytes of a buffer, or of a body.
	Size int `json:"size,omitempty"`
	// Conns is the number of connections.
	Conns int `json:"conns,omitempty"`
	// Loops is the number of the engine's loops.
	Loops int `json:"loops,omitempty"`
}

// String names the cell for a person.
func (k Key) String() string {
	parts := []string{k.Place, k.Subject}
	if k.KTLS {
		parts[1] += " with kTLS"
	}
	if k.Source != "" {
		parts = append(parts, k.Source)
	}
	if k.Size > 0 {
		parts = append(parts, FormatSize(k.Size))
	}
	if k.Loops > 0 {
		parts = append(parts, count(k.Loops, "loop"))
	}
	if k.Conns > 0 {
		parts = append(parts, count(k.Conns, "connection"))
	}
	return strings.Join(parts, ", ")
}

// count is a number of things.
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Cell is one thing to measure.
type Cell struct {
	Key
	// Measure takes one sample. A *[Refusal] says that the kernel or the machine cannot do this,
	// any other error that the measurement failed.
	Measure func(context.Context) (Sample, error)
}

// Refusal is a reason why there is nothing to measure. It is a result, not a failure.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return "not measured: " + r.Reason }

// Sample is one measurement, after the warm-up.
type Sample struct {
	Seconds float64 `json:"seconds"` // of the clock on the wall
	// CPU is the processor seconds that the subject used, in user and kernel mode, kernel threads
	// that work for it included.
	CPU float64 `json:"cpu"`
	// Softirq is the part of CPU that the kernel does not charge to the process: ksoftirqd, and
	// soft interrupts where it accounts for them separately.
	Softirq float64 `json:"softirq,omitempty"`
	Bytes   uint64  `json:"bytes"`
	Ops     uint64  `json:"ops"` // system calls, sends or responses: what Bytes went by
	// ZeroCopied and Copied are the notifications of zero-copy sends that said so.
	ZeroCopied uint64 `json:"zeroCopied,omitempty"`
	Copied     uint64 `json:"copied,omitempty"`
	Allocs     uint64 `json:"allocs,omitempty"` // objects on the Go heap
	// Responses counts those of a server, and the parts of those that the ends of the window cut.
	Responses float64 `json:"responses,omitempty"`
	Times     *Times  `json:"times,omitempty"`
	Memory    uint64  `json:"memory,omitempty"` // resident bytes of a server
	// Idle is what idle connections take; Ops is how many there are.
	Idle *Idle `json:"idle,omitempty"`
}

// Idle is memory that connections take which do nothing, in bytes over all of them.
type Idle struct {
	Process int64 `json:"process"` // resident memory of the server
	Kernel  int64 `json:"kernel"`  // slab of the whole machine, which is where sockets are
}

// Times are percentiles of the times from a request to the end of its response, in seconds, of those that
// ended in the window.
type Times struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// Metric is a number of interest in a sample.
type Metric struct {
	Name   string // "CPU seconds per GB"
	Unit   string // "CPU s/GB"
	Of     func(Sample) float64
	Higher bool // more is better
}

// CPUPerGB is what a mechanism costs: it does not depend on what else the machine does as much
// as rates do. A GB is 10⁹ bytes.
var CPUPerGB = Metric{Name: "processor time per gigabyte", Unit: "CPU s/GB", Of: func(s Sample) float64 {
	return s.CPU / (float64(s.Bytes) / 1e9)
}}

// GBPerSecond is the rate at which bytes left.
var GBPerSecond = Metric{Name: "throughput", Unit: "GB/s", Higher: true, Of: func(s Sample) float64 {
	return float64(s.Bytes) / 1e9 / s.Seconds
}}

// Better reports whether a is the better value.
func (m Metric) Better(a, b float64) bool {
	if m.Higher {
		return a > b
	}
	return a < b
}
