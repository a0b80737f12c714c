package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sluice/internal/bench"
)

// serverFlags is the command line of bench server.
type serverFlags struct {
	benchFlags
	sizes  []string
	conns  []string
	places placeFlags
	dir    string
}

func (f *serverFlags) command() *cobra.Command {
	var text strings.Builder
	for _, s := range bench.Servers {
		fmt.Fprintf(&text, "  %-17s %s\n", s.Name, s.How)
	}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "uringserve beside the web servers on this machine, by size and connections",
		Long: `Measure how many responses a second servers of files give on one processor, what each costs, and how
long it takes, with all the load on other processors. A server that is not on this machine is left out, and
named; on Debian scripts/setup bench installs them.

` + text.String(),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.add(cmd, "servers")
	fl := cmd.Flags()
	fl.StringSliceVar(&f.sizes, "sizes", nil, "bytes of a body, 1KiB to 64MiB (default 1KiB,16KiB,64KiB,256KiB,1MiB,64MiB)")
	fl.StringSliceVar(&f.conns, "conns", nil, "keep-alive connections (default 1,16,64,256)")
	f.places.add(cmd)
	fl.StringVar(&f.dir, "dir", "", "`directory` for the files that are served (default the system's for temporary files)")
	return cmd
}

// plan checks the command line.
func (f *serverFlags) plan() (p bench.ServerPlan, err error) {
	p = bench.ServerPlan{Sizes: bench.DefaultBodies, Conns: bench.DefaultConns, Servers: bench.Servers, Window: f.window, Dir: f.dir}
	if err := f.check(); err != nil {
		return p, err
	}
	if len(f.sizes) > 0 {
		p.Sizes = nil
		for _, s := range f.sizes {
			n, err := parseSize(s)
			if err != nil || n < bench.MinBody || n > bench.MaxBody {
				return p, usageError{fmt.Errorf("--sizes %s: use %s to %s, like 16KiB", s, bench.FormatSize(bench.MinBody), bench.FormatSize(bench.MaxBody))}
			}
			p.Sizes = append(p.Sizes, n)
		}
		p.Sizes = rising(p.Sizes)
	}
	if len(f.conns) > 0 {
		p.Conns = nil
		for _, s := range f.conns {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 || n > bench.MaxConns {
				return p, usageError{fmt.Errorf("--conns %s: use 1 to %d", s, bench.MaxConns)}
			}
			p.Conns = append(p.Conns, n)
		}
		p.Conns = rising(p.Conns)
	}
	if len(f.only) > 0 {
		p.Servers = nil
		for _, name := range f.only {
			s, ok := bench.ServerNamed(name)
			if !ok {
				var names []string
				for _, s := range bench.Servers {
					names = append(names, s.Name)
				}
				return p, usageError{fmt.Errorf("--only %s: use some of %s", name, strings.Join(names, ", "))}
			}
			p.Servers = append(p.Servers, s)
		}
	}
	return p, f.places.check()
}

func (f *serverFlags) run(ctx context.Context, out io.Writer) (err error) {
	plan, err := f.plan()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	loopback := func() (*bench.ServerPlace, error) { return bench.ServerLoopback(), nil }
	nothing := func(*bench.ServerPlace) error { return nil } // each sample makes and ends its own
	if plan.Places, _, err = openPlaces(&f.places, loopback, bench.ServerWire, nothing); err != nil {
		return err
	}
	machine := bench.LookAtMachine()
	cells, done, err := plan.Cells(machine)
	if err != nil {
		return err
	}
	defer done()
	result := bench.Result{Part: "server", Machine: machine}
	for _, s := range plan.Servers {
		result.Subjects = append(result.Subjects, s.Subject)
	}
	var places []*bench.Place
	for _, p := range plan.Places {
		places = append(places, &bench.Place{About: p.About, Doubts: func() string { return "" }})
	}
	f.measure(ctx, &result, places, cells)
	return f.tell(out, &result)
}
