package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/wire"
)

// commandGrace is how long a server may take to end: one of ours drains for 10 s at most.
const commandGrace = 15 * time.Second

// wireFlags is the command line of bench wire.
type wireFlags struct {
	mtu      int
	bigTCP   string
	inFlight string
	loss     int
	ipv6     bool
	clients  wire.Clients
	duration time.Duration
}

func benchWireCommand() *cobra.Command {
	var f wireFlags
	cmd := &cobra.Command{
		Use:   "wire [flags] -- COMMAND [ARG...]",
		Short: "Run a command at the end of a perfect wire, whose peers take or ask for all it can send",
		Long: `Run a command in a network namespace whose one interface leads to peers that acknowledge every byte
without touching it, so that zero-copy sends are zero-copied and only the sender is measured. The peers accept
connections to any port of 10.77.0.2 (fd77::2), or with --clients they are keep-alive clients of a server that
COMMAND runs on 10.77.0.1 (fd77::1). What they saw is printed when the command has ended, whose exit status is
that of this one.

Needs root and Linux 6.6 or later. The machine's own network is not touched.`,
		Example: `  uringserve bench wire -- stream -size 262144 10.77.0.2:9
  uringserve bench wire --clients 64 --duration 5s --path /file -- uringserve serve --listen 10.77.0.1:8080 .
  uringserve bench wire -- bash`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("bench wire takes a COMMAND to run, after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return benchWire(cmd.Context(), args, f)
		},
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false) // what follows COMMAND is its own
	fl.IntVar(&f.mtu, "mtu", 1500, "MTU of the wire")
	fl.StringVar(&f.bigTCP, "big-tcp", "", "`size` of the largest packet handed to the wire, at most 524280 (default 64KiB)")
	fl.StringVar(&f.inFlight, "in-flight", "", "`bytes` that stay unacknowledged while a connection sends, for example 1MiB (default: everything is acknowledged at once)")
	fl.IntVar(&f.loss, "loss", 0, "one super-packet in `N` loses its first segment (default: none)")
	fl.BoolVar(&f.ipv6, "ipv6", false, "speak IPv6")
	fl.IntVar(&f.clients.Connections, "clients", 0, "server mode: keep-alive connections of clients")
	fl.IntVar(&f.clients.Outstanding, "outstanding", 0, "server mode: requests at a time over all clients (default: one each)")
	fl.IntVar(&f.clients.Port, "port", 8080, "server mode: port at which COMMAND listens")
	fl.StringVar(&f.clients.Path, "path", "/", "server mode: what clients GET")
	fl.DurationVar(&f.duration, "duration", 5*time.Second, "server mode: how long the clients ask, before COMMAND is sent SIGTERM")
	return cmd
}

func benchWire(ctx context.Context, command []string, f wireFlags) (err error) {
	options, err := f.options()
	if err != nil {
		return usageError{err}
	}
	// The command is told of these by us, or by the terminal, and ends first.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(heard)

	rig, err := wire.New(options)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := rig.Close(); closeErr != nil {
			err = errors.Join(err, closeErr)
		}
	}()
	cmd := rig.Command(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	start := time.Now()
	if err := rig.StartCommand(cmd); err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	forward := func(s os.Signal) { _ = cmd.Process.Signal(s) } // fails when the command has ended

	if options.Clients != nil {
		end := func() {
			forward(syscall.SIGTERM)
			time.AfterFunc(commandGrace, func() { forward(syscall.SIGKILL) })
		}
		return benchWireServer(rig, f.duration, heard, ended, forward, end)
	}
	for {
		select {
		case s := <-heard:
			forward(s)
		case err := <-ended:
			took := time.Since(start)
			t, countErr := rig.Totals()
			if countErr != nil {
				return countErr
			}
			printWire(os.Stderr, t, took)
			return exitStatus(err)
		}
	}
}

// benchWireServer has the clients ask for as long as the command line says, and then the command end.
func benchWireServer(rig *wire.Rig, duration time.Duration, heard <-chan os.Signal, ended <-chan error, forward func(os.Signal), end func()) error {
	started := make(chan error, 1)
	go func() { started <- rig.Start() }()
	var over <-chan time.Time
	var begin time.Time
	var before wire.Totals
	var timesBefore wire.Latencies
	var failure error
	for {
		select {
		case err := <-started:
			if err != nil {
				failure = err
				end()
				continue
			}
			var err1, err2 error
			before, err1 = rig.Totals()
			timesBefore, err2 = rig.Latencies()
			if failure = errors.Join(err1, err2); failure != nil {
				end()
				continue
			}
			begin, over = time.Now(), time.After(duration)
		case <-over:
			took := time.Since(begin)
			t, err1 := rig.Totals()
			times, err2 := rig.Latencies()
			if failure = errors.Join(err1, err2, rig.Stop()); failure == nil {
				printWire(os.Stderr, t.Since(before), took)
				printTimes(os.Stderr, times.Since(timesBefore))
			}
			end()
		case s := <-heard:
			forward(s)
		case err := <-ended:
			if failure != nil {
				return failure
			}
			return exitStatus(err)
		}
	}
}

// printWire prints what the peers saw in a time.
func printWire(w io.Writer, t wire.Totals, took time.Duration) {
	gb := float64(t.Bytes) / 1e9
	fmt.Fprintf(w, "wire: %.3f GB in %.2f s, %.2f GB/s: %d packets of %d bytes on average, %d at most, %d ACKs\n",
		gb, took.Seconds(), gb/took.Seconds(), t.Packets, t.Bytes/max(t.Packets, 1), t.Largest, t.ACKs)
	if t.Requests > 0 {
		fmt.Fprintf(w, "wire: %d responses, %.0f a second\n", t.Responses, float64(t.Responses)/took.Seconds())
		if t.Finished > 0 { // and no client connects twice
			fmt.Fprintf(w, "wire: trouble: the server closed %d connections\n", t.Finished)
		}
	}
	if t.Lost > 0 || t.Repeated > 0 {
		fmt.Fprintf(w, "wire: %d segments lost on purpose, %d packets repeated\n", t.Lost, t.Repeated)
	}
	if trouble := t.Trouble(); trouble != "" {
		fmt.Fprintf(w, "wire: trouble: %s\n", trouble)
	}
}

func printTimes(w io.Writer, l wire.Latencies) {
	if l.Count() > 0 {
		fmt.Fprintf(w, "wire: response times: p50 %v, p90 %v, p99 %v, p99.9 %v\n", l.Quantile(.5), l.Quantile(.9), l.Quantile(.99), l.Quantile(.999))
	}
}

// exitStatus is how a command has ended, as a shell would say it. That it obeyed is no failure.
func exitStatus(err error) error {
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		return err
	}
	if status, ok := ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return commandStatus(128 + int(status.Signal()))
	}
	return commandStatus(ended.ExitCode())
}

// options are those of the wire.
func (f wireFlags) options() (o wire.Options, err error) {
	o = wire.Options{MTU: f.mtu, Loss: f.loss, IPv6: f.ipv6}
	if o.GSO, err = parseSize(f.bigTCP); err != nil {
		return o, fmt.Errorf("--big-tcp: %w", err)
	}
	if o.InFlight, err = parseSize(f.inFlight); err != nil {
		return o, fmt.Errorf("--in-flight: %w", err)
	}
	if f.clients.Connections != 0 {
		o.Clients = &f.clients
	}
	return o, nil
}
