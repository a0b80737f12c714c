package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// Place is where bytes are sent to.
type Place struct {
	About
	// Addr takes all that is sent to it, host:port.
	Addr string
	// Command makes a process that can reach Addr.
	Command func(ctx context.Context, name string, args ...string) *exec.Cmd
	// Close takes the place down. No process of its may be left.
	Close func() error
}

// self is this program, for children: also after its file was replaced.
const self = "/proc/self/exe"

// LoopbackName and so on are the names of the places.
const LoopbackName = "loopback"

// Loopback is a receiver on this host, on processor cpu, that reads and discards.
func Loopback(ctx context.Context, cpu int) (*Place, error) {
	cmd := exec.CommandContext(ctx, self, childArgs("sink", sinkJob{CPU: cpu})...)
	isolate(cmd)
	stdin, err := cmd.StdinPipe() // its end is the sink's
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the receiver: %w", err)
	}
	end := func() error {
		stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		return cmd.Wait()
	}
	var said answer
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = errors.Join(json.Unmarshal(line, &said), said.err())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the receiver: %w", err), end())
	}
	return &Place{
		About: About{LoopbackName, "TCP to a process on this host that discards what it reads, on another processor. " +
			"The kernel copies zero-copy sends here, so that zero-copy must look bad; files and pipes go by reference. " +
			"The receiving half of TCP runs partly on the sender's processor and is charged to it."},
		Addr:    said.Addr,
		Command: exec.CommandContext,
		Close:   end,
	}, nil
}
