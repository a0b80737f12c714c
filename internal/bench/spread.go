package bench

import "slices"

// Spread is what several samples of one cell say.
type Spread struct {
	Median, Min, Max float64
	N                int // samples
}

// SpreadOf summarizes values; none give the zero Spread. The median of an even number is the
// mean of the middle two.
func SpreadOf(values []float64) Spread {
	n := len(values)
	if n == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	return Spread{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1], N: n}
}

// Spread is the metric's spread over the outcome's samples.
func (o *Outcome) Spread(m Metric) Spread {
	var v []float64
	for _, s := range o.Samples {
		v = append(v, m.Of(s))
	}
	return SpreadOf(v)
}
