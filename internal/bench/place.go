package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"

	"sluice/internal/wire"
)

// Place is where bytes are sent to.
type Place struct {
	About
	// Addr takes all that is sent to it, host:port.
	Addr string
	// UDP says that it takes datagrams, and nothing else.
	UDP bool
	// Start starts a process that can reach Addr.
	Start func(*exec.Cmd) error
	// Doubts says what spoils the measurements taken so far, or nothing.
	Doubts func() string
	// Close takes the place down. No process of its may be left.
	Close func() error
}

// self is this program, for children: also after its file was replaced.
const self = "/proc/self/exe"

// The names of the places.
const (
	LoopbackName = "loopback"
	WireName     = "wire"
	BigTCPName   = "BIG TCP wire"
	UDPName      = "UDP black hole"
)

// Loopback is a receiver on this host, on these processors, that reads and discards.
func Loopback(ctx context.Context, cpus ...int) (*Place, error) {
	said, end, err := helper(ctx, "sink", sinkJob{CPUs: cpus})
	if err != nil {
		return nil, fmt.Errorf("start the receiver: %w", err)
	}
	return &Place{
		About: About{LoopbackName, "TCP to a process on this host that discards what it reads, on another processor. " +
			"The kernel copies zero-copy sends here, so that zero-copy must look bad; files and pipes go by reference. " +
			"The receiving half of TCP runs partly on the sender's processor and is charged to it."},
		Addr:   said.Addr,
		Start:  (*exec.Cmd).Start,
		Doubts: func() string { return "" },
		Close:  end,
	}, nil
}

// helper starts a child that works until end is called, and returns what it says when it is ready.
func helper(ctx context.Context, kind string, work any) (said answer, end func() error, err error) {
	cmd := exec.CommandContext(ctx, self, childArgs(kind, work)...)
	isolate(cmd)
	stdin, err := cmd.StdinPipe() // its end is the child's
	if err != nil {
		return said, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return said, nil, err
	}
	// The child dies with the thread that started it (see isolate). This one does nothing else until it has ended:
	// another may become a wire's, and end with that.
	started, ended, done := make(chan error), make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-done
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return said, nil, err
	}
	end = func() error {
		stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		close(done)
		return <-ended
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = errors.Join(json.Unmarshal(line, &said), said.err())
	}
	if err != nil {
		return said, nil, errors.Join(err, end())
	}
	return said, end, nil
}

// Wire is a perfect wire; see package wire. It needs root.
func Wire(name string, options wire.Options) (*Place, error) {
	rig, err := wire.New(options)
	if err != nil {
		return nil, err
	}
	text := "A real TCP socket, and beyond a pair of interfaces an eBPF program as its peer, which acknowledges every packet at once and touches no payload. " +
		"Zero-copy sends are not copied, and only the sender is measured: the acknowledging, a fixed price for each packet, runs on its processor and is in every figure alike. "
	packet := "64 KiB"
	if options.GSO != 0 {
		packet = FormatSize(options.GSO)
	}
	return &Place{
		About: About{name, text + "Packets are of up to " + packet + ". There is no card, and no round-trip time."},
		Addr:  rig.Sink(),
		Start: rig.StartCommand,
		Doubts: func() string {
			totals, err := rig.Totals()
			if err != nil {
				return err.Error()
			}
			return totals.Trouble()
		},
		Close: rig.Close,
	}, nil
}

// sizes are those of the given, in rising order, that it takes.
func (p *Place) sizes(all []int) []int {
	if !p.UDP {
		return all
	}
	var some []int
	for _, n := range all {
		if n = min(n, maxDatagram); !slices.Contains(some, n) {
			some = append(some, n)
		}
	}
	return some
}

// BlackHole drops datagrams behind a pair of interfaces. It needs root.
func BlackHole() (*Place, error) {
	// What arrives there and is not TCP is dropped by the wire's program before anything else has
	// seen it, a tap above all, for which the kernel would copy. With the largest MTU no datagram
	// has to be fragmented, which would copy it too.
	rig, err := wire.New(wire.Options{MTU: 65535})
	if err != nil {
		return nil, err
	}
	return &Place{
		About: About{UDPName, "Connected UDP: datagrams leave by a pair of interfaces with an MTU of 65,535 and are dropped at the other end by an eBPF program, untouched. " +
			"Zero-copy sends are not copied, and the sender alone is measured. A buffer is a datagram, of at most 60 KiB instead of larger sizes, and a gathered send is one of several buffers. " +
			"There is no card, no receiver, and nothing that holds the sender back; memory is free again before a send returns."},
		Addr:   rig.Sink(),
		UDP:    true,
		Start:  rig.StartCommand,
		Doubts: func() string { return "" },
		Close:  rig.Close,
	}, nil
}
