package bench

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/internal/wire"
)

// ScalePlan is what a run covers that looks at what more loops and more connections do.
type ScalePlan struct {
	Places []*ScalePlace
	Loops  []int    // numbers of loops that stream
	Conns  []int    // numbers of keep-alive connections of a server; the most of them idle too
	Parts  []string // of ScaleParts
	Window time.Duration
	Dir    string // of the file that is served; empty: for temporary files
}

// The parts of such a run.
const (
	partLoops = "loops"
	partConns = "connections"
	partIdle  = "idle"
)

var ScaleParts = []string{partLoops, partConns, partIdle}

// DefaultScaleConns are a server's connections.
var DefaultScaleConns = []int{1, 10, 100, 1000, 10000}

// MaxScaleConns is what a wire's clients can be, and fewer than the ports that clients on this host have.
const MaxScaleConns = 20000

const (
	// streamSize is the bytes of a buffer, and streamConns the connections of each loop: enough that a loop always has
	// something to do.
	streamSize, streamConns = 256 << 10, 4
	// scaleBody is the bytes of a response: small, so that connections count and not bytes.
	scaleBody = 1 << 10
	// spareFiles is how many files besides connections a server or its clients have open, and more.
	spareFiles = 100
	// settle is how long a server is left alone before its memory is looked at.
	settle = 300 * time.Millisecond
)

// ScaleSubjects are the engine as it streams, and the server.
var ScaleSubjects = []Subject{
	{Name: streams, Family: familyEngine, Copies: "0–1", How: fmt.Sprintf("the engine as it comes streams leased memory in buffers of %s, over %d connections of each loop; every loop has its own processor, connections and buffer", FormatSize(streamSize), streamConns), Reference: "docs/ARCHITECTURE.md"},
	{Name: Ours, Family: familyEngine, Copies: "1", How: fmt.Sprintf("serve --loops 1, all else as it comes: responses of %s over keep-alive connections", FormatSize(scaleBody)), Reference: "docs/ARCHITECTURE.md"},
}

const streams = "engine"

// LoopCounts are 1, 2, 4, … and the number of processors; and 2 where there is but one, so that it is said why not.
func LoopCounts() (counts []int) {
	most := max(2, len(AllowedCPUs()))
	for n := 1; n < most; n *= 2 {
		counts = append(counts, n)
	}
	return append(counts, most)
}

// ScalePlace is where loops send to, and where a server's clients are.
type ScalePlace struct {
	*Place
	server *ServerPlace
	loops  []int // processors for loops, in the order in which they are taken
	beside string
	idle   func(context.Context, *serverRun) (Sample, error)
}

// ScaleLoopback has the load on this host, on half of its cores; loops may have the others.
func ScaleLoopback(ctx context.Context) (*ScalePlace, error) {
	loops, load := split(cores())
	p, err := Loopback(ctx, load...)
	if err != nil {
		return nil, err
	}
	p.Text = fmt.Sprintf("Streams go to a process on this host that discards them, requests come from another, both on %s that no loop has. ", count(len(load), "processor")) +
		"The kernel copies zero-copy sends here, and half of TCP's work for a connection is done by whoever sends, on his processor."
	return &ScalePlace{Place: p, server: ServerLoopback(), loops: loops, beside: " beside the load's", idle: func(ctx context.Context, r *serverRun) (Sample, error) { return r.idleOverLoopback(ctx) }}, nil
}

// ScaleWire has the load beyond a wire, whose work is done on the processor of who sends: so loops may have all. See
// package wire. It needs root.
func ScaleWire(name string, options wire.Options) (*ScalePlace, error) {
	server, err := ServerWire(name, options)
	if err != nil {
		return nil, err
	}
	p, err := Wire(name, options)
	if err != nil {
		return nil, err
	}
	p.Text += " A server's clients are simulated there too, and ask again when a response is complete. A loop's peers take part of its own processor and nothing of another's."
	return &ScalePlace{Place: p, server: server, loops: spread(cores()), idle: func(ctx context.Context, r *serverRun) (Sample, error) { return r.idleOverWire(ctx, options) }}, nil
}

// Cells lists what is to be measured. The caller calls done at the end.
func (p *ScalePlan) Cells(m Machine) (cells []Cell, done func(), err error) {
	servers := ServerPlan{Sizes: []int{scaleBody}, Conns: p.Conns, Window: p.Window, Dir: p.Dir}
	ours, _ := ServerNamed(Ours)
	servers.Servers = []Server{ours}
	for _, place := range p.Places {
		servers.Places = append(servers.Places, place.server)
	}
	asked, done, err := servers.Cells(m)
	if err != nil {
		return nil, nil, err
	}
	for _, part := range p.Parts {
		for _, place := range p.Places {
			switch part {
			case partLoops:
				for _, n := range p.Loops {
					cells = append(cells, place.stream(n, p.Window, m))
				}
			case partConns:
				for _, c := range asked {
					if c.Place == place.Name {
						cells = append(cells, c)
					}
				}
			case partIdle:
				cells = append(cells, place.idleCell(&servers, slices.Max(p.Conns)))
			}
		}
	}
	for i, c := range cells {
		switch err := roomFor(c.Conns); {
		case err != nil:
			cells[i].Measure = func(context.Context) (Sample, error) { return Sample{}, err }
		case c.Conns >= manyConns:
			cells[i].Measure = func(ctx context.Context) (Sample, error) {
				defer calm(ctx)
				return c.Measure(ctx)
			}
		}
	}
	return cells, done, nil
}

// manyConns are so many connections that the kernel is busy with them after their processes have ended.
const manyConns = 500

// calm waits until that is over, but no longer than two seconds: the machine may be somebody else's too.
func calm(ctx context.Context) {
	for range 8 {
		if ctx.Err() != nil || IdleShare() >= busyBelow {
			return
		}
	}
}

// stream is the cell of so many loops.
func (p *ScalePlace) stream(loops int, window time.Duration, m Machine) Cell {
	c := Cell{Key: Key{Subject: streams, Place: p.Name, Size: streamSize, Conns: loops * streamConns, Loops: loops}}
	c.Measure = func(ctx context.Context) (Sample, error) {
		if have := len(p.loops); loops > have {
			return Sample{}, &Refusal{fmt.Sprintf("%s need %s%s, and there is room for %d", count(loops, "loop"), count(loops, "processor"), p.beside, have)}
		}
		return p.Place.stream(ctx, streamJob{
			CPUs: p.loops[:loops], Conns: loops * streamConns, Size: streamSize,
			Warm: engineWarm * max(window, minWarm), Window: window, IRQTime: m.IRQTime,
		})
	}
	return c
}

// idleCell is the cell of connections that are left alone.
func (p *ScalePlace) idleCell(plan *ServerPlan, conns int) Cell {
	cpu, peer := Processors()
	r := &serverRun{
		Key:  Key{Subject: idleConnections, Place: p.Name, Size: scaleBody, Conns: conns},
		plan: plan, server: plan.Servers[0], file: servedFile{path: "/" + strconv.Itoa(scaleBody), size: scaleBody}, cpu: cpu, peer: peer,
	}
	return Cell{r.Key, func(ctx context.Context) (Sample, error) { return p.idle(ctx, r) }}
}

// idleConnections is the subject of those.
const idleConnections = Ours + ", idle"

// roomFor refuses what the limit of open files does not allow, of the server or of its clients.
func roomFor(conns int) error {
	if most := openFiles(); conns+spareFiles > most {
		return &Refusal{fmt.Sprintf("%s need as many open files in one process, and RLIMIT_NOFILE allows %d: raise its hard limit (ulimit -Hn)", count(conns, "connection"), most)}
	}
	return nil
}

// idleJob is what a child does that holds connections to a server which have had a response, and are idle.
type idleJob struct {
	Addr  string
	Path  string
	Size  int // of the body
	Conns int
	CPU   int // to run on
}

// Metrics of idle connections.
var (
	idleProcess = Metric{Name: "resident memory of the server for an idle connection", Unit: "bytes", Of: func(s Sample) float64 { return float64(s.Idle.Process) / float64(s.Ops) }}
	idleKernel  = Metric{Name: "slab memory of the kernel for an idle connection", Unit: "bytes", Of: func(s Sample) float64 { return float64(s.Idle.Kernel) / float64(s.Ops) }}
)

// idleGoal is what a connection that does nothing may take of the server's memory.
const idleGoal = 4 << 10

// scaleFigures are of loops, of connections, and of idle ones, for each place.
func (r *Result) scaleFigures() (figures []Figure) {
	subject := func(k Key) string { return k.Subject }
	conns := func(k Key) string { return thousands(k.Conns) }
	for _, p := range r.Places {
		of := func(name string) (some []Outcome) {
			for _, o := range r.Outcomes {
				if o.Place == p.Name && o.Subject == name {
					some = append(some, o)
				}
			}
			return some
		}
		add := func(outcomes []Outcome, m Metric, column func(Key) string, title, note, x string, findings ...string) {
			if outcomes == nil {
				return
			}
			t := Pivot(outcomes, m, subject, column)
			for i := range t.Rows { // they are numbers of the same, not rivals
				for c := range t.Rows[i].Entries {
					t.Rows[i].Entries[c].Best = false
				}
			}
			t.Title, t.Note = p.Name+": "+title, note
			figures = append(figures, Figure{Table: t, Place: p.Name, XLabel: x, Findings: findings})
		}
		loops := of(streams)
		byLoops := func(k Key) string { return count(k.Loops, "loop") }
		add(loops, GBPerSecond, byLoops, "throughput of loops", "each on a processor of its own. More is better", "loops of the engine", besideOne(loops)...)
		add(loops, CPUPerGB, byLoops, "what loops cost", "of all loops together; level is best", "loops of the engine", allocations(loops)...)
		asked := of(Ours)
		add(asked, ResponsesPerSecond, conns, "responses by connections", fmt.Sprintf("of %s, one loop, a request under way on each connection. More is better", FormatSize(scaleBody)), "keep-alive connections")
		add(asked, CPUPerResponse, conns, "what a response costs", "of the server's processor; level is best", "keep-alive connections")
		idle := of(idleConnections)
		add(idle, idleProcess, conns, "memory of an idle connection", "of the process: resident memory with the connections, each after one response and more, less that without", "idle connections", idleFinding(idle)...)
		add(idle, idleKernel, conns, "the kernel's memory of an idle connection", "slab, of the whole machine: sockets and what belongs to them"+map[bool]string{true: ", of both ends"}[p.Name == LoopbackName], "idle connections")
	}
	return figures
}

// besideOne says how much more several loops do than one.
func besideOne(outcomes []Outcome) (findings []string) {
	one := 0.0
	for _, o := range outcomes {
		s := o.Spread(GBPerSecond)
		switch {
		case s.N == 0:
		case o.Loops == 1:
			one = s.Median
		case one > 0:
			findings = append(findings, fmt.Sprintf("%s send %.2f times what one does.", count(o.Loops, "loop"), s.Median/one))
		}
	}
	return findings
}

// allocations says what the steady streams put on the heap.
func allocations(outcomes []Outcome) []string {
	objects := Metric{Of: func(s Sample) float64 { return float64(s.Allocs) }}
	var parts []string
	for _, o := range outcomes {
		if s := o.Spread(objects); s.N > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f (%.0f–%.0f) in %.1f GB", count(o.Loops, "loop"), s.Median, s.Min, s.Max,
				o.Spread(Metric{Of: func(s Sample) float64 { return float64(s.Bytes) / 1e9 }}).Median))
		}
	}
	if parts == nil {
		return nil
	}
	return []string{"Objects allocated on the heap in a sample, by the whole process: " + strings.Join(parts, ", ") + "."}
}

func idleFinding(outcomes []Outcome) (findings []string) {
	for _, o := range outcomes {
		if s := o.Spread(idleProcess); s.N > 0 {
			findings = append(findings, fmt.Sprintf("%s take %.0f bytes each of the server's memory; the goal is at most %d.", thousands(o.Conns)+" idle connections", s.Median, idleGoal))
		}
	}
	return findings
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
