package bench

import "strconv"

// Metrics of servers.
var (
	ResponsesPerSecond = Metric{Name: "responses a second", Unit: "responses/s", Higher: true, Of: func(s Sample) float64 { return s.Responses / s.Seconds }}
	CPUPerResponse     = Metric{Name: "processor time of the server for a response", Unit: "CPU µs/response", Of: func(s Sample) float64 { return s.CPU * 1e6 / s.Responses }}
	MemoryUsed         = Metric{Name: "resident memory of the server", Unit: "MiB", Of: func(s Sample) float64 { return float64(s.Memory) / (1 << 20) }}
)

func (r *Result) serverFigures() (figures []Figure) {
	type group struct {
		place string
		size  int
	}
	var order []group
	outcomes := map[group][]Outcome{}
	for _, o := range r.Outcomes {
		g := group{o.Place, o.Size}
		if outcomes[g] == nil {
			order = append(order, g)
		}
		outcomes[g] = append(outcomes[g], o)
	}
	for _, g := range order {
		t := Pivot(outcomes[g], ResponsesPerSecond, func(k Key) string { return k.Subject }, func(k Key) string { return strconv.Itoa(k.Conns) })
		t.Title = g.place + ", bodies of " + FormatSize(g.size)
		figures = append(figures, Figure{Table: t, Place: g.place, XLabel: "connections"})
	}
	return figures
}
