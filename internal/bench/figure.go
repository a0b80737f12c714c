package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Figure is a table with what is to be seen in it: a plot on the page, sentences in both.
type Figure struct {
	Table
	Place    string
	XLabel   string // what the columns are
	LogY     bool
	Findings []string // sentences from the data
	// Base is the row that a second plot shows the others in proportion to; empty: there is none.
	Base string
	// Band marks the columns between which something changes; nil: nothing does.
	Band *Band
}

// Band is a stretch of a plot's axis, from one column to a later one, or from the left edge (-1).
type Band struct {
	From, To int
	Label    string
}

// Figures are what the run shows, in the order of its outcomes, one place after the other.
func (r *Result) Figures() (figures []Figure) {
	of := r.mechanismFigures
	switch r.Part {
	case "server":
		of = r.serverFigures
	case "calibrate":
		of = r.calibrateFigures
	case "scale":
		of = r.scaleFigures
	}
	for _, p := range r.Places {
		for _, f := range of() {
			if f.Place == p.Name {
				figures = append(figures, f)
			}
		}
	}
	return figures
}

// absent is figures without figures, all for the same reason.
type absent struct {
	Why    string
	Titles []string
}

// missing lists what was not measured at all, by reason.
func missing(figures []Figure) (list []absent) {
	for _, f := range figures {
		why := f.Reason()
		if why == "" {
			continue
		}
		i := slices.IndexFunc(list, func(a absent) bool { return a.Why == why })
		if i < 0 {
			i, list = len(list), append(list, absent{Why: why})
		}
		list[i].Titles = append(list[i].Titles, f.Title)
	}
	return list
}

// crossing finds from which column on one row is cheaper than another, for good: from that to the
// end it is everywhere. ok is false where there is none, or a row has no figures.
func (t Table) crossing(cheap, dear string) (column int, ok bool) {
	a, b := t.row(cheap), t.row(dear)
	if a == nil || b == nil {
		return 0, false
	}
	column = len(t.Columns)
	for c := column - 1; c >= 0; c-- {
		if !a.Entries[c].Have || !b.Entries[c].Have || !t.Metric.Better(a.Entries[c].Median, b.Entries[c].Median) {
			break
		}
		column = c
	}
	return column, column < len(t.Columns)
}

func (t Table) row(name string) *Row {
	i := slices.IndexFunc(t.Rows, func(r Row) bool { return r.Name == name && r.Reason() == "" })
	if i < 0 {
		return nil
	}
	return &t.Rows[i]
}

// over is the table in proportion to the median of one row, column by column.
func (t Table) over(base string) Table {
	b := t.row(base)
	if b == nil {
		return Table{}
	}
	o := t
	o.Metric = Metric{Name: t.Metric.Name + " in proportion to " + base, Unit: "of " + base, Of: t.Metric.Of, Higher: t.Metric.Higher}
	o.Rows = nil
	for _, r := range t.Rows {
		n := Row{r.Name, slices.Clone(r.Entries)}
		for c := range n.Entries {
			e := &n.Entries[c]
			if m := b.Entries[c].Median; m > 0 {
				e.Median, e.Min, e.Max = e.Median/m, e.Min/m, e.Max/m
			} else {
				e.Have = false
			}
		}
		o.Rows = append(o.Rows, n)
	}
	return o
}

// breakEven says in a sentence from which size on one row pays against another, and marks the
// stretch of sizes in which that changes.
func (t Table) breakEven(cheap, dear string) (sentence string, band *Band) {
	a, b := t.row(cheap), t.row(dear)
	if a == nil || b == nil || len(t.Columns) < 2 {
		return "", nil
	}
	ratio := func(c int) string {
		if !a.Entries[c].Have || !b.Entries[c].Have {
			return "unknown"
		}
		return fmt.Sprintf("%.2f", a.Entries[c].Median/b.Entries[c].Median)
	}
	spread := func(c int) string {
		if x, y := a.Entries[c], b.Entries[c]; x.N > 1 && x.Max >= y.Min && y.Max >= x.Min {
			return ", within the spread"
		}
		return ""
	}
	last := len(t.Columns) - 1
	from, ok := t.crossing(cheap, dear)
	switch {
	case !ok:
		sentence = fmt.Sprintf("%s does not pay against %s: at %s it costs %s times as much%s", cheap, dear, t.Columns[last], ratio(last), spread(last))
		if c := t.leastRatio(a, b); c >= 0 && c != last {
			sentence += fmt.Sprintf(", at its best, %s, %s%s", t.Columns[c], ratio(c), spread(c))
		}
		return sentence + ".", nil
	case from == 0:
		return fmt.Sprintf("%s costs less than %s at every size: %s of it at %s%s, %s at %s%s.", cheap, dear,
			ratio(0), t.Columns[0], spread(0), ratio(last), t.Columns[last], spread(last)), nil
	}
	sentence = fmt.Sprintf("%s pays against %s from %s on, where it costs %s of it%s; at %s it costs %s%s", cheap, dear,
		t.Columns[from], ratio(from), spread(from), t.Columns[from-1], ratio(from-1), spread(from-1))
	if from != last {
		sentence += fmt.Sprintf(", at %s %s%s", t.Columns[last], ratio(last), spread(last))
	}
	return sentence + ".", &Band{from - 1, from, "break-even"}
}

// leastRatio is the column where a is cheapest beside b; -1: there is none.
func (t Table) leastRatio(a, b *Row) int {
	least := -1
	for c := range t.Columns {
		x, y := a.Entries[c], b.Entries[c]
		if x.Have && y.Have && (least < 0 || x.Median*b.Entries[least].Median < a.Entries[least].Median*y.Median) {
			least = c
		}
	}
	return least
}

// besideOthers says how one row compares with the best of all others.
func (t Table) besideOthers(name string) string {
	row := t.row(name)
	if row == nil {
		return ""
	}
	var parts []string
	for c, e := range row.Entries {
		best := -1
		for i, r := range t.Rows {
			if r.Name != name && r.Entries[c].Have && (best < 0 || t.Metric.Better(r.Entries[c].Median, t.Rows[best].Entries[c].Median)) {
				best = i
			}
		}
		if e.Have && best >= 0 {
			parts = append(parts, fmt.Sprintf("%.2f at %s (%s)", e.Median/t.Rows[best].Entries[c].Median, t.Columns[c], t.Rows[best].Name))
		}
	}
	if parts == nil {
		return ""
	}
	return fmt.Sprintf("Cost of the %s over that of the cheapest other: %s.", name, strings.Join(parts, ", "))
}
