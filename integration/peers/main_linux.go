package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("peers: ")
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "serve":
		err = serve(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "load":
		err = load(os.Args[2:])
	default:
		err = compare(os.Args[1:])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// compare is the command without a subcommand.
func compare(args []string) error {
	f := flag.NewFlagSet("peers", flag.ExitOnError)
	rounds := f.Int("rounds", 5, "rounds; medians are printed")
	seconds := f.Float64("seconds", 2, "length of one measurement; a quarter of it, at most half a second, is warm-up before")
	only := f.String("only", "", "measure the cells whose name this regular expression matches; names are work/bytes/connections")
	names := f.String("subjects", "", "compare only these, comma-separated: "+strings.Join(subjectNames(), ", "))
	procs := f.Int("procs", 0, "GOMAXPROCS of all servers, to see what theirs does; 0: each its own")
	smoke := f.Bool("smoke", false, "every cell once for 100 ms, with the content of all streams compared")
	path := f.String("json", "", "write all samples to this file")
	_ = f.Parse(args) // ends the program on error
	if f.NArg() > 0 {
		return fmt.Errorf("argument %q: there are only flags, see -h", f.Arg(0))
	}
	cells, err := cellsMatching(*only)
	if err != nil {
		return err
	}
	if *rounds < 1 || *seconds <= 0 || *procs < 0 {
		return fmt.Errorf("%d rounds of %v s, GOMAXPROCS %d: there must be one round, of some time", *rounds, *seconds, *procs)
	}
	length := time.Duration(*seconds * float64(time.Second))
	r := &run{rounds: *rounds, length: length, warm: min(length/4, time.Second/2), cells: cells, procs: *procs, progress: os.Stderr}
	if *smoke {
		r.rounds, r.length, r.warm, r.verify = 1, 100*time.Millisecond, 0, true
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	result, err := r.do(ctx, *names)
	if err != nil {
		return err
	}
	result.Command = "peers " + strings.Join(args, " ")
	if err := result.print(os.Stdout); err != nil {
		return err
	}
	if *path != "" {
		return result.write(*path)
	}
	return nil
}

// cellsMatching are the cells that a regular expression picks.
func cellsMatching(only string) (picked []cell, err error) {
	re, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	for _, c := range allCells() {
		if re.MatchString(c.String()) {
			picked = append(picked, c)
		}
	}
	if picked == nil {
		return nil, fmt.Errorf("-only %q matches no cell: their names are like %s", only, allCells()[0])
	}
	return picked, nil
}
