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

	"github.com/spf13/cobra"

	"sluice/internal/bench"
)

// mechanismFlags is the command line of bench mechanisms.
type mechanismFlags struct {
	benchFlags
	sizes   []string
	sources []string
	places  placeFlags
	dir     string
}

func (f *mechanismFlags) command() *cobra.Command {
	var text strings.Builder
	for _, m := range bench.Mechanisms {
		fmt.Fprintf(&text, "  %-20s %s\n", m.Name, m.How)
	}
	for _, s := range bench.Sources {
		fmt.Fprintf(&text, "  %-20s %s\n", "--source "+s.Name, s.Text)
	}
	cmd := &cobra.Command{
		Use:   "mechanisms",
		Short: "Every way to push bytes into a socket, by size and source",
		Long:  "Measure the processor time for a gigabyte of every way to push bytes into a TCP socket, or with --udp into a UDP socket:\n\n" + text.String(),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.add(cmd, "mechanisms")
	fl := cmd.Flags()
	fl.StringSliceVar(&f.sizes, "sizes", nil, "bytes of a buffer, powers of two, like 4KiB,64KiB,1MiB (default 1KiB to 4MiB)")
	fl.StringSliceVar(&f.sources, "source", []string{bench.Hot, bench.Cold, bench.File}, "where the bytes are: hot, cold, file, disk")
	f.places.add(cmd)
	fl.BoolVar(&f.places.udp, "udp", false, "measure with UDP too, into a black hole that takes datagrams untouched; needs root")
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
		p.Sizes = rising(p.Sizes)
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
	if len(f.sources) == 0 {
		return p, usageError{errors.New("--source: use some of hot, cold, file, disk")}
	}
	for _, s := range f.sources {
		if !slices.Contains(p.Sources, s) {
			return p, usageError{fmt.Errorf("--source %s: use some of hot, cold, file, disk", s)}
		}
	}
	return p, f.places.check()
}

func (f *mechanismFlags) run(ctx context.Context, out io.Writer) (err error) {
	plan, err := f.plan()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	machine := bench.LookAtMachine()
	places, leave, err := f.places.open()
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
	result := bench.Result{Part: "mechanisms", Cold: machine.ColdSize(), Machine: machine}
	for _, m := range plan.Mechanisms {
		result.Subjects = append(result.Subjects, m.Subject)
	}
	f.measure(ctx, &result, places, cells)
	return f.tell(out, &result)
}
