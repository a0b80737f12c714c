package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// result is what a run found.
type result struct {
	Command   string    `json:"command"`
	Began     time.Time `json:"began"`
	Kernel    string    `json:"kernel"`
	Control   string    `json:"congestion_control"`
	Rounds    int       `json:"rounds"`
	Seconds   float64   `json:"seconds"`
	ServerCPU int       `json:"server_cpu"`
	ClientCPU int       `json:"client_cpu"`
	Warnings  []string  `json:"warnings,omitempty"`
	Cells     []*row    `json:"cells"`

	subjects []*subject
}

// row is one subject in one cell.
type row struct {
	cell
	Subject string   `json:"subject"`
	Peer    bool     `json:"peer"` // one of those whose best sluice is compared with
	Samples []sample `json:"samples"`
}

func (r *result) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

func (r *result) add(s *subject, c cell, m sample) {
	i := slices.IndexFunc(r.Cells, func(w *row) bool { return w.cell == c && w.Subject == s.name })
	if i < 0 {
		i = len(r.Cells)
		r.Cells = append(r.Cells, &row{cell: c, Subject: s.name, Peer: s.peer})
	}
	r.Cells[i].Samples = append(r.Cells[i].Samples, m)
}

func (r *result) write(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// spread is a median with the least and the greatest.
type spread struct{ mid, low, high float64 }

func (w *row) spread(of func(sample) float64) spread {
	var v []float64
	for _, s := range w.Samples {
		v = append(v, of(s))
	}
	slices.Sort(v)
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

func (s spread) format(format string) string {
	f := func(v float64) string { return fmt.Sprintf(format, v) }
	return f(s.mid) + " (" + f(s.low) + "–" + f(s.high) + ")"
}

// cpuEach is the server's CPU for a message, in µs.
func cpuEach(s sample) float64 { return s.ServerCPU * 1e6 / s.Messages }

// print writes a table for each cell, in Markdown.
func (r *result) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, Linux %s, %s, %d rounds of %.1f s, loopback, server on processor %d, client on %d: `%s`\n",
		r.Began.Format(time.DateOnly), r.Kernel, r.Control, r.Rounds, r.Seconds, r.ServerCPU, r.ClientCPU, strings.TrimSpace(r.Command))
	for _, s := range r.Warnings {
		fmt.Fprintf(&b, "Warning: %s.\n", s)
	}
	for i := 0; i < len(r.Cells); {
		n := i
		for n < len(r.Cells) && r.Cells[n].cell == r.Cells[i].cell {
			n++
		}
		r.table(&b, r.Cells[i:n])
		i = n
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// table is one cell's. Medians, with the least and the greatest where they matter most.
func (r *result) table(b *strings.Builder, rows []*row) {
	c := rows[0].cell
	best := 0.0
	for _, w := range rows {
		if each := w.spread(cpuEach).mid; w.Peer && (best == 0 || each < best) {
			best = each
		}
	}
	fmt.Fprintf(b, "\n%s of %d bytes, connections: %d\n\n", c.Work, c.Size, c.Conns)
	b.WriteString("| subject | messages/s | GB/s | server CPU µs a message | of the best peer | server CPU s/GB | server busy | client busy |")
	rule := "\n|---|---|---|---|---|---|---|---|"
	if c.Work == echo {
		b.WriteString(" p50 µs | p99 µs |")
		rule += "---|---|"
	}
	b.WriteString(rule + "\n")
	// In the order of the command, whoever came first in the first round.
	for _, s := range r.subjects {
		i := slices.IndexFunc(rows, func(w *row) bool { return w.Subject == s.name })
		if i < 0 {
			continue
		}
		w := rows[i]
		ratio := "—"
		if best > 0 {
			ratio = fmt.Sprintf("%.2f", w.spread(cpuEach).mid/best)
		}
		of := func(format string, f func(sample) float64) string { return fmt.Sprintf(format, w.spread(f).mid) }
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s |", w.Subject,
			w.spread(func(s sample) float64 { return s.Messages / s.Seconds }).format("%.0f"),
			of("%.3f", func(s sample) float64 { return float64(s.Bytes) / 1e9 / s.Seconds }),
			w.spread(cpuEach).format("%.2f"), ratio,
			of("%.3f", func(s sample) float64 { return s.ServerCPU * 1e9 / float64(s.Bytes) }),
			of("%.0f %%", func(s sample) float64 { return s.ServerCPU / s.Seconds * 100 }),
			of("%.0f %%", func(s sample) float64 { return s.ClientCPU / s.Seconds * 100 }))
		if c.Work == echo {
			fmt.Fprintf(b, " %s | %s |", of("%.0f", func(s sample) float64 { return s.P50 }), of("%.0f", func(s sample) float64 { return s.P99 }))
		}
		b.WriteString("\n")
	}
}
