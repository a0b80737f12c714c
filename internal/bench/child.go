package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// ChildArgs begin the command line that makes this program a child of a benchmark: what follows
// is for [Child].
var ChildArgs = []string{"bench", "child"}

// childArgs is the command line of a child with this kind of work.
func childArgs(kind string, work any) []string {
	b, err := json.Marshal(work)
	if err != nil {
		panic(err) // plain fields
	}
	return append(append([]string(nil), ChildArgs...), kind, string(b))
}

// job is what a child measures.
type job struct {
	Mechanism string
	Source    string
	KTLS      bool
	Size      int
	Addr      string
	UDP       bool
	Warm      time.Duration
	Window    time.Duration
	CPU       int    // to run on
	Cold      int    // bytes of the working set
	File      string // of that many bytes
	IRQTime   bool   // see [Machine]
}

// sinkJob is what a receiver does.
type sinkJob struct {
	CPUs []int
}

// answer is the line that a child prints.
type answer struct {
	Sample  *Sample `json:"sample,omitempty"`
	Addr    string  `json:"addr,omitempty"`
	Refused string  `json:"refused,omitempty"`
	Error   string  `json:"error,omitempty"`
}

func (a *answer) err() error {
	switch {
	case a.Refused != "":
		return &Refusal{a.Refused}
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

// Child is the whole of a child process: it does what the command line after ChildArgs asks for, and
// prints the answer. The error says only that this was not possible.
func Child(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("bench child is how bench starts itself, with a kind of work and its description")
	}
	say := func(a answer, err error) error {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			a = answer{Refused: refusal.Reason}
		} else if err != nil {
			a = answer{Error: err.Error()}
		}
		return json.NewEncoder(stdout).Encode(a)
	}
	switch args[0] {
	case "sample":
		var j job
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return err
		}
		s, err := j.run()
		return say(answer{Sample: &s}, err)
	case "stream":
		var j streamJob
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return err
		}
		s, err := j.run()
		return say(answer{Sample: &s}, err)
	case "sink":
		var j sinkJob
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return err
		}
		addr, err := j.listen()
		if err := say(answer{Addr: addr}, err); err != nil || addr == "" {
			return err
		}
		_, err = io.Copy(io.Discard, stdin) // the parent's end is ours
		return err
	case "idle":
		var j idleJob
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return err
		}
		held, err := j.connect()
		if err := say(answer{}, err); err != nil || held == nil {
			return err
		}
		_, err = io.Copy(io.Discard, stdin) // the parent's end is ours
		return err
	case "load":
		var j loadJob
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return err
		}
		s, err := j.run()
		return say(answer{Sample: &s}, err)
	case "fileserver":
		var j fileServerJob
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return err
		}
		return j.run()
	}
	return fmt.Errorf("bench child: no work is called %s", args[0])
}

// childPatience is what a child may take beyond its warm-up and its window: filling a large working
// set on a busy machine.
const childPatience = time.Minute

// sample has a child measure j at a place.
func (p *Place) sample(ctx context.Context, j job) (Sample, error) {
	j.Addr, j.UDP = p.Addr, p.UDP
	return p.child(ctx, "sample", j, j.Warm+j.Window)
}

// child has a child of this kind take a sample, which lasts for as long as it is said to, and starts and ends in
// childPatience.
func (p *Place) child(ctx context.Context, kind string, work any, lasts time.Duration) (Sample, error) {
	limited, cancel := context.WithTimeout(ctx, lasts+childPatience)
	defer cancel()
	cmd := exec.CommandContext(limited, self, childArgs(kind, work)...)
	isolate(cmd)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := p.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("ended after %v without a result", lasts+childPatience)
		}
		return Sample{}, fmt.Errorf("%w: %s", err, crash(diag.Bytes()))
	}
	var a answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return Sample{}, fmt.Errorf("child printed %q: %w", out.Bytes(), err)
	}
	if err := a.err(); err != nil {
		return Sample{}, err
	}
	if a.Sample == nil || a.Sample.Bytes == 0 || a.Sample.CPU <= 0 || a.Sample.Seconds <= 0 {
		return Sample{}, fmt.Errorf("child measured nothing: %q", out.Bytes())
	}
	return *a.Sample, nil
}

// crash is enough of a crash to see what it was.
func crash(b []byte) []byte {
	const most = 2000
	if len(b) > most {
		b = b[:most]
	}
	return bytes.TrimSpace(b)
}
