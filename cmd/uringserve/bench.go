package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/bench"
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
	cmd.AddCommand(mechanismsCommand(), benchWireCommand(), child)
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
	fl := cmd.Flags()
	fl.StringSliceVar(&f.only, "only", nil, "measure only these "+what+", comma-separated (default all)")
	fl.IntVar(&f.rounds, "rounds", 3, "samples of each; medians are told")
	fl.DurationVar(&f.window, "time", 200*time.Millisecond, "length of a sample, after a warm-up")
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

// mechanismFlags is the command line of bench mechanisms.
type mechanismFlags struct {
	benchFlags
	sizes    []string
	sources  []string
	loopback bool
	dir      string
}

func mechanismsCommand() *cobra.Command {
	var f mechanismFlags
	var text strings.Builder
	for _, m := range bench.Mechanisms {
		fmt.Fprintf(&text, "  %-20s %s\n", m.Name, m.How)
	}
	for _, s := range bench.Sources {
		fmt.Fprintf(&text, "  %-20s %s\n", "--source "+s.Name, s.Text)
	}
	cmd := &cobra.Command{
		Use:   "mechanisms",
		Short: "Every way to push bytes into a TCP socket, by size and source",
		Long:  "Measure the processor time for a gigabyte of every way to push bytes into a TCP socket:\n\n" + text.String(),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.add(cmd, "mechanisms")
	fl := cmd.Flags()
	fl.StringSliceVar(&f.sizes, "sizes", nil, "bytes of a buffer, powers of two, like 4KiB,64KiB,1MiB (default 1KiB to 4MiB)")
	fl.StringSliceVar(&f.sources, "source", []string{bench.Hot, bench.Cold, bench.File}, "where the bytes are: hot, cold, file, disk")
	fl.BoolVar(&f.loopback, "loopback", true, "over loopback")
	fl.StringVar(&f.dir, "dir", "", "`directory` for the file that is sent (default the system's for temporary files)")
	return cmd
}

// plan checks the command line.
func (f *mechanismFlags) plan() (p bench.MechanismPlan, err error) {
	p = bench.MechanismPlan{Sizes: bench.DefaultSizes, Mechanisms: bench.Mechanisms, Window: f.window, Dir: f.dir}
	if err := f.check(); err != nil {
		return p, err
	}
	if len(f.sizes) > 0 {
		p.Sizes = nil
		for _, s := range f.sizes {
			n, err := parseSize(s)
			if err != nil || n < bench.MinSize || n > bench.MaxSize || bits.OnesCount(uint(n)) != 1 {
				return p, usageError{fmt.Errorf("--sizes %s: use powers of two from %s to %s, like 4KiB", s, bench.FormatSize(bench.MinSize), bench.FormatSize(bench.MaxSize))}
			}
			p.Sizes = append(p.Sizes, n)
		}
		slices.Sort(p.Sizes)
		p.Sizes = slices.Compact(p.Sizes)
	}
	if len(f.only) > 0 {
		p.Mechanisms = nil
		for _, name := range f.only {
			m, ok := bench.MechanismNamed(name)
			if !ok {
				var names []string
				for _, m := range bench.Mechanisms {
					names = append(names, m.Name)
				}
				return p, usageError{fmt.Errorf("--only %s: use some of %s", name, strings.Join(names, ", "))}
			}
			p.Mechanisms = append(p.Mechanisms, m)
		}
	}
	for _, s := range bench.Sources {
		if slices.Contains(f.sources, s.Name) {
			p.Sources = append(p.Sources, s.Name)
		}
	}
	for _, s := range f.sources {
		if !slices.Contains(p.Sources, s) {
			return p, usageError{fmt.Errorf("--source %s: use some of hot, cold, file, disk", s)}
		}
	}
	if !f.loopback {
		return p, usageError{errors.New("--loopback=false: nowhere is left to send to")}
	}
	return p, nil
}

func (f *mechanismFlags) run(ctx context.Context, out io.Writer) error {
	plan, err := f.plan()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	machine := bench.LookAtMachine()
	_, peer := bench.Processors()
	if f.loopback {
		place, err := bench.Loopback(context.WithoutCancel(ctx), peer)
		if err != nil {
			return err
		}
		defer place.Close()
		plan.Places = append(plan.Places, place)
	}
	cells, done, err := plan.Cells(machine)
	if err != nil {
		return err
	}
	defer done()
	result := bench.Result{Part: "mechanisms", Cold: machine.ColdSize(), Machine: machine}
	for _, p := range plan.Places {
		result.Places = append(result.Places, p.About)
	}
	for _, m := range plan.Mechanisms {
		result.Subjects = append(result.Subjects, m.Subject)
	}
	f.measure(ctx, &result, cells)
	return f.tell(out, &result)
}

// measure takes the samples of a part.
func (f *benchFlags) measure(ctx context.Context, r *bench.Result, cells []bench.Cell) {
	r.Command, r.Began, r.Rounds, r.Window = os.Args, time.Now(), f.rounds, f.window.Seconds()
	runner := bench.Runner{Rounds: f.rounds, Progress: os.Stderr, Terminal: isTerminal(os.Stderr), Idle: bench.IdleShare}
	var warnings []string
	r.Outcomes, warnings = runner.Run(ctx, cells)
	r.Warnings = append(r.Warnings, warnings...)
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
