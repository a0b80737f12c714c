//go:build !linux

package wire

import (
	"context"
	"errors"
	"os/exec"
)

// errOS is what a Rig cannot do without.
var errOS = errors.New("wire: needs Linux 6.6 or later")

// Rig cannot be made here.
type Rig struct{}

// New fails.
func New(Options) (*Rig, error) { return nil, errOS }

// Sink is nowhere.
func (r *Rig) Sink() string { return "" }

// Local is nowhere.
func (r *Rig) Local() string { return "" }

// Command is exec.CommandContext.
func (r *Rig) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

// StartCommand fails.
func (r *Rig) StartCommand(*exec.Cmd) error { return errOS }

// Do fails.
func (r *Rig) Do(func() error) error { return errOS }

// Start fails.
func (r *Rig) Start() error { return errOS }

// Stop fails.
func (r *Rig) Stop() error { return errOS }

// Totals fails.
func (r *Rig) Totals() (Totals, error) { return Totals{}, errOS }

// Latencies fails.
func (r *Rig) Latencies() (Latencies, error) { return Latencies{}, errOS }

// Close has nothing to do.
func (r *Rig) Close() error { return nil }
