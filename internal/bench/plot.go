package bench

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// Plots are SVG by hand: a few lines of text, and no script or picture to load.

// The plot's box, in its own units.
const (
	plotWidth, plotHeight   = 980.0, 460.0
	plotLeft, plotRight     = 62.0, 186.0 // the labels of lines are to the right
	plotTop, plotBottom     = 18.0, 48.0
	labelGap                = 15.5 // between two labels
	plotFloor, plotRightEnd = plotHeight - plotBottom, plotWidth - plotRight
)

// style is how a subject's line looks, in every plot of a page.
type style struct {
	Color string
	Dash  string
	Width float64
}

// palettes are a family's colours: hues tell families apart, shades their members. They are readable
// on white and on black.
var palettes = map[string][]string{
	familyCopy:      {"#2f6fc1", "#6aa1e0", "#5b7fa6", "#8fb3d9", "#2f6fc1", "#6aa1e0"},
	familyReference: {"#c46a12", "#e59a3c", "#a8741f", "#8f6f4e"},
	familyZeroCopy:  {"#6fae5e", "#3d9a63", "#0f7f45", "#1f9e93", "#93b84a"},
	familyEngine:    {"#d81b60"},
}

// otherPalette is for subjects of no family.
var otherPalette = []string{"#2f6fc1", "#c46a12", "#0f7f45", "#8e5bb5", "#8f6f4e", "#1f9e93", "#7d7f86"}

// styles gives every subject its own.
func styles(subjects []Subject) map[string]style {
	of, used := map[string]style{}, map[string]int{}
	for _, s := range subjects {
		colors := palettes[s.Family]
		if colors == nil {
			colors = otherPalette
		}
		n := used[s.Family]
		used[s.Family]++
		st := style{Color: colors[n%len(colors)], Width: 1.8}
		if strings.Contains(s.Name, "SQPOLL") || n >= len(colors) {
			st.Dash = "5 4"
		}
		if s.Family == familyEngine {
			st.Width = 3.2
		}
		of[s.Name] = st
	}
	return of
}

// axis maps values to heights.
type axis struct {
	low, high float64
	log       bool
}

// newAxis has room for all medians and spreads of a table.
func newAxis(t Table, log bool) axis {
	a := axis{low: math.Inf(1), high: 0, log: log}
	for _, r := range t.Rows {
		for _, e := range r.Entries {
			if e.Have {
				a.low, a.high = min(a.low, e.Min), max(a.high, e.Max)
			}
		}
	}
	a.log = log && a.low > 0
	if a.log {
		a.low, a.high = a.low/1.15, a.high*1.15
	} else {
		a.low, a.high = 0, a.high*1.05
	}
	return a
}

func (a axis) y(v float64) float64 {
	share := (v - a.low) / (a.high - a.low)
	if a.log {
		share = math.Log(v/a.low) / math.Log(a.high/a.low)
	}
	return plotFloor - share*(plotFloor-plotTop)
}

// ticks are round values: 1, 2 and 5 times powers of ten, and more where these are few.
func (a axis) ticks() (ticks []float64) {
	step := math.Pow(10, math.Floor(math.Log10(max(a.high, 1e-9)))) / 2
	if !a.log {
		for v := 0.0; v <= a.high; v += step {
			ticks = append(ticks, v)
		}
		return ticks
	}
	marks := []float64{1, 2, 5}
	if a.high/a.low < 12 {
		marks = []float64{1, 1.5, 2, 3, 4, 5, 6, 8}
	}
	for p := math.Floor(math.Log10(a.low)); p <= math.Log10(a.high); p++ {
		for _, m := range marks {
			if v := m * math.Pow(10, p); v >= a.low && v <= a.high {
				ticks = append(ticks, v)
			}
		}
	}
	return ticks
}

// lineLabel is a line's name at its right end.
type lineLabel struct {
	name  string
	at, y float64 // where the line ends, and where there is room
	from  float64 // the line's last x
	style style
}

// SVG draws the figure: a line for each row that has figures.
func (f Figure) SVG(of map[string]style) template.HTML {
	var b strings.Builder
	esc := template.HTMLEscapeString
	y := newAxis(f.Table, f.LogY)
	x := func(column int) float64 {
		if len(f.Columns) == 1 {
			return (plotLeft + plotRightEnd) / 2
		}
		return plotLeft + 26 + float64(column)*(plotRightEnd-plotLeft-46)/float64(len(f.Columns)-1)
	}
	fmt.Fprintf(&b, `<svg class="plot" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, plotWidth, plotHeight, esc(f.Title+": "+f.Metric.Name))
	if f.Band != nil {
		from, to := x(f.Band.From), x(f.Band.To)
		fmt.Fprintf(&b, `<rect class="band" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/><text class="bandlabel" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`,
			from, plotTop, to-from, plotFloor-plotTop, (from+to)/2, plotTop+14, esc(f.Band.Label))
	}
	for _, v := range y.ticks() {
		class := "grid"
		if v == 1 && strings.HasPrefix(f.Metric.Unit, "of ") {
			class = "grid one"
		}
		fmt.Fprintf(&b, `<line class="%s" x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f"/><text class="tick" x="%.0f" y="%.1f" text-anchor="end">%s</text>`,
			class, plotLeft, plotRightEnd, y.y(v), y.y(v), plotLeft-8, y.y(v)+4, trimZeros(v))
	}
	for c, name := range f.Columns {
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, x(c), plotFloor+20, esc(name))
	}
	fmt.Fprintf(&b, `<text class="axis" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, (plotLeft+plotRightEnd)/2, plotHeight-6, esc(f.XLabel))
	fmt.Fprintf(&b, `<text class="axis" transform="translate(14 %.1f) rotate(-90)" text-anchor="middle">%s%s</text>`, (plotTop+plotFloor)/2, esc(f.Metric.Unit), map[bool]string{true: " (logarithmic)"}[y.log])
	var labels []lineLabel
	rows := slices.Clone(f.Rows)
	slices.SortStableFunc(rows, func(a, b Row) int { return cmp.Compare(of[a.Name].Width, of[b.Name].Width) }) // the thick above
	for _, r := range rows {
		if r.Reason() != "" {
			continue
		}
		st := of[r.Name]
		fmt.Fprintf(&b, `<g class="series" data-s="%s" stroke="%s" fill="%s">`, esc(r.Name), st.Color, st.Color)
		path, pen, last := "", "M", lineLabel{}
		var marks strings.Builder
		for c, e := range r.Entries {
			if !e.Have {
				pen = "M"
				continue
			}
			path += fmt.Sprintf("%s%.1f %.1f", pen, x(c), y.y(e.Median))
			pen = "L"
			if e.N > 1 {
				fmt.Fprintf(&marks, `<line class="spread" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x(c), x(c), y.y(e.Min), y.y(e.Max))
			}
			fmt.Fprintf(&marks, `<circle cx="%.1f" cy="%.1f" r="%.1f"><title>%s, %s: %s %s (%s–%s)</title></circle>`,
				x(c), y.y(e.Median), 1.6+st.Width*0.6, esc(r.Name), esc(f.Columns[c]), FormatValue(e.Median), esc(f.Metric.Unit), FormatValue(e.Min), FormatValue(e.Max))
			last = lineLabel{name: r.Name, at: y.y(e.Median), from: x(c), style: st}
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke-width="%.1f"%s/>%s</g>`, path, st.Width, dash(st), marks.String())
		labels = append(labels, last)
	}
	spreadLabels(labels)
	for _, l := range labels {
		fmt.Fprintf(&b, `<g class="series" data-s="%s"><path class="lead" d="M%.1f %.1fL%.1f %.1f" stroke="%s"/><text class="name" x="%.1f" y="%.1f" fill="%s">%s</text></g>`,
			esc(l.name), l.from+6, l.at, plotRightEnd+10, l.y, l.style.Color, plotRightEnd+14, l.y+4, l.style.Color, esc(l.name))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

func dash(s style) string {
	if s.Dash == "" {
		return ""
	}
	return fmt.Sprintf(` stroke-dasharray="%s"`, s.Dash)
}

// spreadLabels moves labels apart, in the order of their lines' ends: those that would touch become a
// block, whose middle is where that of its lines is, inside the plot.
func spreadLabels(labels []lineLabel) {
	slices.SortStableFunc(labels, func(a, b lineLabel) int { return cmp.Compare(a.at, b.at) })
	type block struct {
		first, n int
		sum      float64 // of where each would have the block begin
	}
	height := func(b block) float64 { return float64(b.n-1) * labelGap }
	top := func(b block) float64 {
		return max(plotTop, min(b.sum/float64(b.n), plotFloor-height(b)))
	}
	var blocks []block
	for i, l := range labels {
		blocks = append(blocks, block{i, 1, l.at})
		for n := len(blocks); n > 1; n-- {
			a, b := blocks[n-2], blocks[n-1]
			if top(b) >= top(a)+height(a)+labelGap {
				break
			}
			blocks = append(blocks[:n-2], block{a.first, a.n + b.n, a.sum + b.sum - float64(a.n*b.n)*labelGap})
		}
	}
	for _, b := range blocks {
		for i := range b.n {
			labels[b.first+i].y = top(b) + float64(i)*labelGap
		}
	}
}

// trimZeros writes a tick's value.
func trimZeros(v float64) string {
	if v >= 10_000 {
		return trimZeros(v/1000) + "k"
	}
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.4f", v), "0"), ".")
}
