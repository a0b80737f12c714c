package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Metrics of servers.
var (
	ResponsesPerSecond = Metric{Name: "responses a second", Unit: "responses/s", Higher: true, Of: func(s Sample) float64 { return s.Responses / s.Seconds }}
	CPUPerResponse     = Metric{Name: "processor time of the server for a response", Unit: "CPU µs/response", Of: func(s Sample) float64 { return s.CPU * 1e6 / s.Responses }}
	MemoryUsed         = Metric{Name: "resident memory of the server", Unit: "MiB", Of: func(s Sample) float64 { return float64(s.Memory) / (1 << 20) }}
	// Busy is the share of its processor that a server used: where it is clearly less than 1, something else sets the
	// pace.
	Busy = Metric{Name: "share of its processor that the server used", Unit: "of a processor", Of: func(s Sample) float64 { return s.CPU / s.Seconds }}
)

// responseTime is a metric of a percentile.
func responseTime(name string, of func(*Times) float64) Metric {
	return Metric{Name: "response time", Unit: "ms, " + name, Of: func(s Sample) float64 { return of(s.Times) * 1e3 }}
}

// ResponseTimes are the percentiles of response times.
var ResponseTimes = []Metric{
	responseTime("p50", func(t *Times) float64 { return t.P50 }),
	responseTime("p99", func(t *Times) float64 { return t.P99 }),
	responseTime("p99.9", func(t *Times) float64 { return t.P999 }),
}

// Comparison is one metric of all servers at a place, a line for each size and number of connections.
type Comparison struct {
	Place   string
	Title   string
	Metric  Metric
	Servers []string // that have figures
	Lines   []ComparisonLine
	Missing []absent // servers that have none
	// Findings are sentences from the data.
	Findings []string
}

// ComparisonLine is one size and number of connections.
type ComparisonLine struct {
	Size, Conns int
	Entries     []Entry // one for each server; Best is that of the line
	// Ratio is ours over the best of the others; 0: one of them is missing.
	Ratio float64
}

// What names the line.
func (l ComparisonLine) What() string { return fmt.Sprintf("%s × %d", FormatSize(l.Size), l.Conns) }

// comparison arranges a metric of the outcomes at a place.
func (r *Result) comparison(place string, m Metric) Comparison {
	c := Comparison{Place: place, Metric: m, Title: place + ": " + m.Name}
	for _, s := range r.Subjects {
		why, have := "", false
		for i := range r.Outcomes {
			if o := &r.Outcomes[i]; o.Place == place && o.Subject == s.Name {
				have = have || len(o.Samples) > 0
				why = entry(o, m).Why
			}
		}
		if have {
			c.Servers = append(c.Servers, s.Name)
		} else {
			c.Missing = append(c.Missing, absent{why, []string{s.Name}})
		}
	}
	for i := range r.Outcomes {
		o := &r.Outcomes[i]
		column := slices.Index(c.Servers, o.Subject)
		if o.Place != place || column < 0 {
			continue
		}
		n := slices.IndexFunc(c.Lines, func(l ComparisonLine) bool { return l.Size == o.Size && l.Conns == o.Conns })
		if n < 0 {
			n, c.Lines = len(c.Lines), append(c.Lines, ComparisonLine{Size: o.Size, Conns: o.Conns, Entries: make([]Entry, len(c.Servers))})
		}
		c.Lines[n].Entries[column] = entry(o, m)
	}
	for i := range c.Lines {
		c.Lines[i].judge(m, slices.Index(c.Servers, Ours))
	}
	return c
}

// judge marks the best of a line, and compares ours with the others.
func (l *ComparisonLine) judge(m Metric, ours int) {
	best := func(skip int) int {
		best := -1
		for i, e := range l.Entries {
			if i != skip && e.Have && (best < 0 || m.Better(e.Median, l.Entries[best].Median)) {
				best = i
			}
		}
		return best
	}
	if i := best(-1); i >= 0 {
		l.Entries[i].Best = true
	}
	if other := best(ours); ours >= 0 && other >= 0 && l.Entries[ours].Have {
		l.Ratio = l.Entries[ours].Median / l.Entries[other].Median
	}
}

// idleBelow is the share of its processor below which a server is said to wait for its clients.
const idleBelow = 0.95

// paces says where a server was not what set the pace.
func (r *Result) paces(place string) (sentences []string) {
	busy := r.comparison(place, Busy)
	for i, name := range busy.Servers {
		var parts []string
		for _, l := range busy.Lines {
			if e := l.Entries[i]; e.Have && l.Conns > 1 && e.Median < idleBelow { // one alone waits by its nature
				parts = append(parts, fmt.Sprintf("%.0f %% at %s", 100*e.Median, l.What()))
			}
		}
		if parts != nil {
			sentences = append(sentences, fmt.Sprintf("%s did not need all of its processor, so that its clients, or whatever else ran, set the pace: it used %s.", name, strings.Join(parts, ", ")))
		}
	}
	return sentences
}

// Comparisons are the tables of a run of servers, place after place; none of another run.
func (r *Result) Comparisons() (all []Comparison) {
	if r.Part != "server" {
		return nil
	}
	for _, p := range r.Places {
		for i, m := range []Metric{ResponsesPerSecond, CPUPerResponse, ResponseTimes[1], MemoryUsed} {
			c := r.comparison(p.Name, m)
			if i == 0 {
				c.Findings = r.paces(p.Name)
			} else {
				c.Missing = nil // told above
			}
			all = append(all, c)
		}
	}
	return all
}

func (c Comparison) write(b *strings.Builder, spread bool) {
	fmt.Fprintf(b, "%s\n", c.Title)
	head := append([]string{c.Metric.Unit}, c.Servers...)
	ratio := slices.ContainsFunc(c.Lines, func(l ComparisonLine) bool { return l.Ratio > 0 })
	if ratio {
		head = append(head, Ours+" over the best other")
	}
	lines := [][]string{head}
	var reasons []string
	for _, l := range c.Lines {
		line := []string{l.What()}
		for i, e := range l.Entries {
			line = append(line, e.text(spread))
			if e.Why != "" {
				reasons = append(reasons, fmt.Sprintf("  %s, %s: not measured: %s", c.Servers[i], l.What(), e.Why))
			}
		}
		if ratio {
			text := "–"
			if l.Ratio > 0 {
				text = fmt.Sprintf("%.2f", l.Ratio)
			}
			line = append(line, text)
		}
		lines = append(lines, line)
	}
	if len(lines) > 1 {
		align(b, lines)
	}
	for _, text := range reasons {
		fmt.Fprintln(b, text)
	}
	for _, m := range c.Missing {
		fmt.Fprintf(b, "  %s: not measured: %s\n", strings.Join(m.Titles, ", "), m.Why)
	}
	for _, text := range c.Findings {
		fmt.Fprintf(b, "  → %s\n", text)
	}
}

// usualConns is the number of connections at which what is drawn once is drawn, where it was measured.
const usualConns = 64

// serverFigures are, for each place: throughput against connections by size, what a gigabyte costs by size,
// response times by size, and memory.
func (r *Result) serverFigures() (figures []Figure) {
	for _, p := range r.Places {
		var sizes, conns []int
		for _, o := range r.Outcomes {
			if o.Place == p.Name {
				sizes, conns = append(sizes, o.Size), append(conns, o.Conns)
			}
		}
		if sizes == nil {
			continue
		}
		slices.Sort(sizes)
		sizes = slices.Compact(sizes)
		usual := slices.Max(conns)
		if slices.Contains(conns, usualConns) {
			usual = usualConns
		}
		of := func(take func(Outcome) bool) (some []Outcome) {
			for _, o := range r.Outcomes {
				if o.Place == p.Name && take(o) {
					some = append(some, o)
				}
			}
			return some
		}
		subject := func(k Key) string { return k.Subject }
		at := fmt.Sprintf("%d connections", usual)
		add := func(t Table, title, note, x string, log bool) {
			t.Title, t.Note = title, note
			figures = append(figures, Figure{Table: t, Place: p.Name, XLabel: x, LogY: log})
		}
		for _, size := range sizes {
			t := Pivot(of(func(o Outcome) bool { return o.Size == size }), ResponsesPerSecond, subject, func(k Key) string { return strconv.Itoa(k.Conns) })
			add(t, fmt.Sprintf("Responses a second of %s", FormatSize(size)), "More is better", "keep-alive connections", false)
		}
		bySize := func(m Metric) Table {
			return Pivot(of(func(o Outcome) bool { return o.Conns == usual }), m, subject, func(k Key) string { return FormatSize(k.Size) })
		}
		add(bySize(CPUPerGB), "What a gigabyte costs", "Processor seconds of the server, at "+at+". Less is better", "bytes of a body", true)
		for _, size := range sizes {
			var times Table
			for i, m := range ResponseTimes {
				name := strings.TrimPrefix(m.Unit, "ms, ")
				t := Pivot(of(func(o Outcome) bool { return o.Size == size && o.Conns == usual }), m, subject, func(Key) string { return name })
				if i == 0 {
					times = t
					times.Metric.Unit = "ms"
					continue
				}
				times.Columns = append(times.Columns, name)
				for n := range times.Rows {
					times.Rows[n].Entries = append(times.Rows[n].Entries, t.Rows[n].Entries...)
				}
			}
			add(times, "Response times of "+FormatSize(size), fmt.Sprintf("At %s, each with one request under way: the faster a server, the more requests it is asked. Less is better", at), "percentile", true)
		}
		add(bySize(MemoryUsed), "Resident memory", "At the end of a sample, at "+at+". Less is better", "bytes of a body", true)
	}
	return figures
}
