package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/bench"
	"sluice/internal/wire"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what pays on this machine",
		Long: `Measure what pushing bytes out of this machine costs, each way there is beside the others.

Rounds are interleaved, medians are told, each sample after a warm-up and in a process of its own on a
processor of its own. Leave the machine alone meanwhile: bench looks at that before each round, and says
when it was busy.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	child := &cobra.Command{
		Use: "child", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return bench.Child(args, os.Stdin, os.Stdout) },
	}
	cmd.AddCommand(new(mechanismFlags).command(), new(serverFlags).command(), new(calibrateFlags).command(), new(scaleFlags).command(), benchWireCommand(), child)
	return cmd
}

// benchFlags is what all parts of bench have in common.
type benchFlags struct {
	only   []string
	rounds int
	window time.Duration
	json   string
	report string
	spread bool
}

func (f *benchFlags) add(cmd *cobra.Command, what string) {
	cmd.Flags().StringSliceVar(&f.only, "only", nil, "measure only these "+what+", comma-separated (default all)")
	f.addRun(cmd, 3, 200*time.Millisecond)
}

// addRun adds what says how much is measured, and where it is written, with a part's defaults.
func (f *benchFlags) addRun(cmd *cobra.Command, rounds int, window time.Duration) {
	fl := cmd.Flags()
	fl.IntVar(&f.rounds, "rounds", rounds, "samples of each; medians are told")
	fl.DurationVar(&f.window, "time", window, "length of a sample, after a warm-up")
	fl.BoolVar(&f.spread, "spread", false, "print the least and the greatest sample beside each median")
	fl.StringVar(&f.json, "json", "", "write every sample to this `file`")
	fl.StringVar(&f.report, "report", "", "write a page with plots to this `file`, like report.html")
}

const (
	// Less than minWindow is a few dozen large sends; more than maxWindow or maxRounds shows nothing new.
	minWindow, maxWindow = 10 * time.Millisecond, time.Minute
	maxRounds            = 1000
)

func (f *benchFlags) check() error {
	switch {
	case f.rounds < 1 || f.rounds > maxRounds:
		return usageError{fmt.Errorf("--rounds %d: use 1 to %d", f.rounds, maxRounds)}
	case f.window < minWindow || f.window > maxWindow:
		return usageError{fmt.Errorf("--time %v: use %v to %v", f.window, minWindow, maxWindow)}
	}
	return nil
}

// placeFlags say where bytes are sent to.
type placeFlags struct {
	loopback bool
	wire     bool
	bigTCP   string
	udp      bool // of the mechanisms alone
	gso      int
}

func (f *placeFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.loopback, "loopback", true, "measure over loopback, where the kernel copies zero-copy sends")
	fl.BoolVar(&f.wire, "wire", false, "measure over a wire whose far end takes everything, where only the sender counts; needs root")
	fl.StringVar(&f.bigTCP, "big-tcp", "", "measure over a wire with packets of this `size` too, for example 512KiB; needs root")
}

func (f *placeFlags) check() (err error) {
	if !f.loopback && !f.wire && f.bigTCP == "" && !f.udp {
		return usageError{errors.New("--loopback=false: use --wire or --big-tcp with it, so that there is somewhere to send to")}
	}
	if f.gso, err = parseSize(f.bigTCP); err != nil {
		return usageError{fmt.Errorf("--big-tcp %s: %w", f.bigTCP, err)}
	}
	if most := 8 * 65535; f.bigTCP != "" && (f.gso <= 64<<10 || f.gso > 512<<10) {
		return usageError{fmt.Errorf("--big-tcp %s: use more than 64KiB and at most 512KiB, of which the kernel makes %d bytes", f.bigTCP, most)}
	}
	return nil
}

// open makes the places. The caller calls leave at the end.
func (f *placeFlags) open() (places []*bench.Place, leave func() error, err error) {
	_, peer := bench.Processors()
	loopback := func() (*bench.Place, error) { return bench.Loopback(context.Background(), peer) }
	places, leave, err = openPlaces(f, loopback, bench.Wire, func(p *bench.Place) error { return p.Close() })
	if err == nil && f.udp {
		p, failed := bench.BlackHole()
		if failed != nil {
			return nil, nil, errors.Join(failed, leave())
		}
		made := leave
		places, leave = append(places, p), func() error { return errors.Join(made(), p.Close()) }
	}
	return places, leave, err
}

// openPlaces makes the places that the flags ask for, of any part's kind. The caller calls leave at the end.
func openPlaces[P any](f *placeFlags, loopback func() (P, error), onWire func(string, wire.Options) (P, error), end func(P) error) (places []P, leave func() error, err error) {
	leave = func() (err error) {
		for _, p := range places {
			err = errors.Join(err, end(p))
		}
		return err
	}
	add := func(p P, err error) error {
		if err == nil {
			places = append(places, p)
		}
		return err
	}
	if f.loopback {
		err = add(loopback())
	}
	if err == nil && f.wire {
		err = add(onWire(bench.WireName, wire.Options{}))
	}
	if err == nil && f.bigTCP != "" {
		err = add(onWire(bench.BigTCPName, wire.Options{GSO: min(f.gso, 8*65535)}))
	}
	if err != nil {
		return nil, nil, errors.Join(err, leave())
	}
	return places, leave, nil
}

// rising is numbers in their order, each once.
func rising(n []int) []int {
	n = slices.Clone(n)
	slices.Sort(n)
	return slices.Compact(n)
}

// measure takes the samples of a part.
func (f *benchFlags) measure(ctx context.Context, r *bench.Result, places []*bench.Place, cells []bench.Cell) {
	r.Command, r.Began, r.Rounds, r.Window = os.Args, time.Now(), f.rounds, f.window.Seconds()
	runner := bench.Runner{Rounds: f.rounds, Progress: os.Stderr, Terminal: isTerminal(os.Stderr), Idle: bench.IdleShare}
	var warnings []string
	r.Outcomes, warnings = runner.Run(ctx, cells)
	r.Warnings = append(r.Warnings, warnings...)
	for _, p := range places {
		r.Places = append(r.Places, p.About)
		if doubts := p.Doubts(); doubts != "" {
			r.Warnings = append(r.Warnings, p.Name+": "+doubts)
		}
	}
	if r.Machine.CPUs < 2 {
		r.Warnings = append(r.Warnings, "one processor: what is measured and its peer take it from each other")
	}
	r.Seconds = time.Since(r.Began).Seconds()
}

// tell prints a result, and writes the files that were asked for. What failed is an error.
func (f *benchFlags) tell(out io.Writer, r *bench.Result) error {
	err := r.Write(out, f.spread)
	if f.json != "" {
		err = errors.Join(err, r.WriteJSON(f.json))
	}
	if f.report != "" {
		err = errors.Join(err, r.WriteReport(f.report))
	}
	if failed := r.Failed(); len(failed) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d measurements failed, the first: %s: %s", len(failed), len(r.Outcomes), failed[0].Key, failed[0].Error))
	}
	return err
}
