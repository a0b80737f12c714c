package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sluice/internal/bench"
)

// scaleFlags is the command line of bench scale.
type scaleFlags struct {
	benchFlags
	loops  []int
	conns  []int
	places placeFlags
	dir    string
}

func (f *scaleFlags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "What more loops and more connections do, and what an idle connection takes",
		Long: `Measure how the engine's throughput grows with its loops, how uringserve's responses go with the number of
keep-alive connections, and the memory that idle ones take.

Loops have a processor each that their load does not use: over loopback the load has half of the cores. Over the wire
the load's work is done on the processor of the loop that it belongs to, so that loops may have all.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.add(cmd, "parts: "+strings.Join(bench.ScaleParts, ", "))
	fl := cmd.Flags()
	fl.IntSliceVar(&f.loops, "loops", nil, "numbers of loops (default 1,2,4,… and the number of processors)")
	fl.IntSliceVar(&f.conns, "conns", bench.DefaultScaleConns, "numbers of connections; as many as the last of them idle")
	f.places.add(cmd)
	fl.StringVar(&f.dir, "dir", "", "`directory` for the file that is served (default the system's for temporary files)")
	return cmd
}

// plan checks the command line.
func (f *scaleFlags) plan() (p bench.ScalePlan, err error) {
	p = bench.ScalePlan{Loops: f.loops, Conns: f.conns, Parts: bench.ScaleParts, Window: f.window, Dir: f.dir}
	if err := f.check(); err != nil {
		return p, err
	}
	if len(p.Loops) == 0 {
		p.Loops = bench.LoopCounts()
	}
	const maxLoops = 1024 // the engine's limit
	for _, n := range p.Loops {
		if n < 1 || n > maxLoops {
			return p, usageError{fmt.Errorf("--loops %d: use 1 to %d", n, maxLoops)}
		}
	}
	if len(p.Conns) == 0 {
		return p, usageError{errors.New("--conns: use some numbers, like 1,100,10000")}
	}
	for _, n := range p.Conns {
		if n < 1 || n > bench.MaxScaleConns {
			return p, usageError{fmt.Errorf("--conns %d: use 1 to %d", n, bench.MaxScaleConns)}
		}
	}
	p.Loops, p.Conns = rising(p.Loops), rising(p.Conns)
	for _, s := range f.only {
		if !slices.Contains(bench.ScaleParts, s) {
			return p, usageError{fmt.Errorf("--only %s: use some of %s", s, strings.Join(bench.ScaleParts, ", "))}
		}
	}
	if len(f.only) > 0 {
		p.Parts = slices.DeleteFunc(slices.Clone(bench.ScaleParts), func(s string) bool { return !slices.Contains(f.only, s) })
	}
	return p, f.places.check()
}

func (f *scaleFlags) run(ctx context.Context, out io.Writer) (err error) {
	plan, err := f.plan()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	machine := bench.LookAtMachine()
	places, leave, err := openPlaces(&f.places, func() (*bench.ScalePlace, error) { return bench.ScaleLoopback(context.Background()) }, bench.ScaleWire,
		func(p *bench.ScalePlace) error { return p.Close() })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	plan.Places = places
	cells, done, err := plan.Cells(machine)
	if err != nil {
		return err
	}
	defer done()
	result := bench.Result{Part: "scale", Machine: machine, Subjects: bench.ScaleSubjects}
	var at []*bench.Place
	for _, p := range places {
		at = append(at, p.Place)
	}
	f.measure(ctx, &result, at, cells)
	return f.tell(out, &result)
}
