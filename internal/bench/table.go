package bench

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is one metric of outcomes that may be compared with each other.
type Table struct {
	Title   string
	Note    string // what it shows, in a sentence
	Metric  Metric
	Columns []string
	Rows    []Row
}

// Row is a subject's line.
type Row struct {
	Name    string
	Entries []Entry // one for each column
}

// Entry is where a row meets a column.
type Entry struct {
	Spread
	Have bool   // there are samples
	Best bool   // of its column
	Why  string // there are none
}

// Pivot arranges outcomes as a table. Rows and columns come in the order of their first
// outcome. There must be one outcome for a row and a column: the caller has chosen those of one
// place, source, and so on.
func Pivot(outcomes []Outcome, m Metric, row, column func(Key) string) Table {
	t := Table{Metric: m}
	for _, o := range outcomes {
		if c := column(o.Key); !slices.Contains(t.Columns, c) {
			t.Columns = append(t.Columns, c)
		}
	}
	at := map[string]int{}
	for _, o := range outcomes {
		name := row(o.Key)
		i, ok := at[name]
		if !ok {
			i = len(t.Rows)
			at[name] = i
			t.Rows = append(t.Rows, Row{name, make([]Entry, len(t.Columns))})
		}
		t.Rows[i].Entries[slices.Index(t.Columns, column(o.Key))] = entry(&o, m)
	}
	for c := range t.Columns {
		best := -1
		for i, r := range t.Rows {
			if e := r.Entries[c]; e.Have && (best < 0 || m.Better(e.Median, t.Rows[best].Entries[c].Median)) {
				best = i
			}
		}
		if best >= 0 {
			t.Rows[best].Entries[c].Best = true
		}
	}
	return t
}

// entry is what an outcome says of a metric.
func entry(o *Outcome, m Metric) Entry {
	switch {
	case len(o.Samples) > 0:
		return Entry{Spread: o.Spread(m), Have: true}
	case o.Refused != "":
		return Entry{Why: o.Refused}
	case o.Error != "":
		return Entry{Why: "failed: " + o.Error}
	}
	return Entry{Why: "interrupted before its first sample"}
}

// Reason is why a row has no figures at all, or "".
func (r Row) Reason() string {
	why := ""
	for _, e := range r.Entries {
		if e.Have {
			return ""
		}
		why = e.Why
	}
	return why
}

// Reason is why a whole table has no figures, or "".
func (t Table) Reason() string {
	why := ""
	for _, r := range t.Rows {
		reason := r.Reason()
		if reason == "" || why != "" && why != reason {
			return ""
		}
		why = reason
	}
	return why
}

// FormatValue writes a metric's value with three significant digits, and not less than the
// decimals of a thousand.
func FormatValue(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// write prints the table: medians, the best of each column marked by a star, and with spread the
// least and the greatest sample. A row without any figure says why. Copies are told where they are known
// of the subjects.
func (t Table) write(b *strings.Builder, subjects []Subject, spread bool) {
	copies := map[string]string{}
	for _, s := range subjects {
		copies[s.Name] = s.Copies
	}
	lines := [][]string{append([]string{t.Metric.Unit, "copies"}, t.Columns...)}
	var reasons []string
	for _, r := range t.Rows {
		if why := r.Reason(); why != "" {
			reasons = append(reasons, fmt.Sprintf("  %s: not measured: %s", r.Name, why))
			continue
		}
		line := []string{r.Name, copies[r.Name]}
		for _, e := range r.Entries {
			line = append(line, e.text(spread))
		}
		lines = append(lines, line)
		for c, e := range r.Entries {
			if e.Why != "" {
				reasons = append(reasons, fmt.Sprintf("  %s, %s: not measured: %s", r.Name, t.Columns[c], e.Why))
			}
		}
	}
	fmt.Fprintf(b, "%s\n", t.Title)
	if t.Note != "" {
		fmt.Fprintf(b, "%s\n", t.Note)
	}
	if len(lines) > 1 {
		align(b, lines)
	}
	for _, r := range reasons {
		fmt.Fprintln(b, r)
	}
}

func (e Entry) text(spread bool) string {
	if !e.Have {
		return "–"
	}
	s := FormatValue(e.Median)
	if e.Best {
		s = "*" + s
	}
	if spread {
		s += fmt.Sprintf(" (%s–%s)", FormatValue(e.Min), FormatValue(e.Max))
	}
	return s
}

// align writes lines of cells: the first to the left, the others to the right.
func align(b *strings.Builder, lines [][]string) {
	width := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, c := range l {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, l := range lines {
		b.WriteString("  ")
		for i, c := range l {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			switch {
			case i == 0:
				b.WriteString(c + pad)
			default:
				b.WriteString("  " + pad + c)
			}
		}
		b.WriteByte('\n')
	}
}
