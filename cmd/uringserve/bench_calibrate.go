package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/bench"
	"sluice/internal/wire"
)

// calibrateFlags is the command line of bench calibrate.
type calibrateFlags struct {
	benchFlags
	policy   string
	loopback bool
}

func (f *calibrateFlags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "calibrate",
		Short: "Find out from which size zero-copy pays on this host, and write a policy file for serve",
		Long: `Measure what the engine's sends cost by copy and by zero-copy, from 1 KiB to 1 MiB, out of the processor's cache and
out of memory, find the size from which zero-copy pays, and write it to a policy file that
uringserve serve --policy reads.

It measures over a wire whose far end takes everything, which needs root. Over loopback the kernel copies zero-copy
sends, so that loopback cannot show where they pay: without root, calibrate shows what it costs there, and writes no policy.`,
		Example: `  uringserve bench calibrate --policy host.yaml
  uringserve serve --policy host.yaml DIR`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.addRun(cmd, 5, 150*time.Millisecond)
	fl := cmd.Flags()
	fl.StringVar(&f.policy, "policy", "", "write the policy to this `file`, like host.yaml")
	fl.BoolVar(&f.loopback, "loopback", false, "measure over loopback, which shows nothing that a policy could rest on")
	return cmd
}

// open makes the place to measure over. The note says why it is not the wire.
func (f *calibrateFlags) open() (p *bench.Place, note string, err error) {
	if !f.loopback {
		if p, err = bench.Wire(bench.WireName, wire.Options{}); err == nil {
			return p, "", nil
		}
	}
	const why = "loopback cannot show where zero-copy pays, because the kernel copies zero-copy sends there"
	switch {
	case f.loopback && f.policy != "":
		return nil, "", usageError{fmt.Errorf("--policy %s with --loopback: %s; leave --loopback out, as root", f.policy, why)}
	case f.loopback:
		note = why
	case f.policy != "":
		return nil, "", fmt.Errorf("%w; without a wire there is no policy to write: %s", err, why)
	default:
		note = fmt.Sprintf("%v; measured over loopback instead: %s", err, why)
	}
	_, peer := bench.Processors()
	p, err = bench.Loopback(context.Background(), peer)
	return p, note, err
}

func (f *calibrateFlags) run(ctx context.Context, out io.Writer) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	machine := bench.LookAtMachine()
	place, note, err := f.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, place.Close()) }()
	if note != "" {
		fmt.Fprintf(os.Stderr, "%s\n", note)
	}
	result := bench.Result{Part: "calibrate", Cold: machine.ColdSize(), Machine: machine, Subjects: bench.CalibrateSubjects}
	if note != "" {
		result.Warnings = []string{note}
	}
	f.measure(ctx, &result, []*bench.Place{place}, bench.CalibrateCells(place, bench.CalibrateSizes, f.window, machine))
	found, why := result.Calibrate()
	if why == nil {
		if doubt := found.Doubt(); doubt != "" {
			result.Warnings = append(result.Warnings, doubt)
		}
	}
	if err := f.tell(out, &result); err != nil {
		return err
	}
	if why != nil {
		if f.policy == "" && note != "" {
			return nil // that was said
		}
		return fmt.Errorf("no policy: %w", why)
	}
	fmt.Fprintln(out)
	for _, s := range found.Findings() {
		fmt.Fprintf(out, "→ %s\n", s)
	}
	if f.policy == "" {
		fmt.Fprintf(out, "To have a server begin there, write it to a file with --policy.\n")
		return nil
	}
	if err := result.Host(&found).Write(f.policy, result.Comment(&found)); err != nil {
		return err
	}
	fmt.Fprintf(out, "Written to %s: uringserve serve --policy %s DIR\n", f.policy, f.policy)
	return nil
}
