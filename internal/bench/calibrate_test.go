package bench

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/policy"
)

func TestTheBreakEvenIsTheSizeFromWhichZeroCopyPays(t *testing.T) {
	for _, c := range []struct {
		name   string
		ratios []float64
		want   int
	}{
		{"falling", []float64{1.3, 1.1, 1.01, .9, .7, .5}, 3},
		{"always", []float64{.9, .8, .7}, 0},
		{"never", []float64{1.5, 1.2, 1.1}, 3},
		{"never, though nearly", []float64{1.5, 1.2, .99}, 3},
		{"only the largest", []float64{1.5, 1.2, .9}, 2},
		{"alike is no reason to pin memory", []float64{1, 1, 1}, 3},
		{"what is worthwhile", []float64{1, 1 - worthwhile}, 1},
		{"one size comes out dear", []float64{1.3, .95, .8, 1.1, .6, .5}, 1},
		{"one size comes out cheap", []float64{1.3, .95, 1.2, 1.1, .6, .5}, 4},
		{"the largest comes out dear", []float64{1.3, 1.1, .9, .7, .5, 1.05}, 2},
		{"dear again for good", []float64{1.1, .9, .98, 1.3, 1.4}, 5},
		{"one size", []float64{.5}, 0},
		{"none", nil, 0},
	} {
		if got := breakEven(c.ratios); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// falling are ratios that fall with size and cross what is worthwhile at a place of its own.
func falling(r *rand.Rand, n int) (ratios []float64, at int) {
	for range n {
		ratios = append(ratios, math.Exp(r.NormFloat64()/4))
	}
	slices.Sort(ratios)
	slices.Reverse(ratios)
	for at < n && ratios[at] > 1-worthwhile {
		at++
	}
	return ratios, at
}

func TestWithoutNoiseTheBreakEvenIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	for range 10_000 {
		ratios, want := falling(r, 1+r.IntN(12))
		if got := breakEven(ratios); got != want {
			t.Fatalf("%v: %d, want %d", ratios, got, want)
		}
	}
}

// Noise moves the break-even only over sizes whose difference is as small as the noise.
func TestNoiseDoesNotMoveTheBreakEvenToNonsense(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	for range 10_000 {
		ratios, want := falling(r, 11)
		noisy, noise := slices.Clone(ratios), 0.0
		for i := range noisy {
			e := r.NormFloat64() * 0.02
			noisy[i] *= math.Exp(e)
			noise += math.Abs(e)
		}
		got := breakEven(noisy)
		loss := 0.0
		for i := min(got, want); i < max(got, want); i++ {
			loss += math.Abs(math.Log(ratios[i] / (1 - worthwhile)))
		}
		if loss > noise {
			t.Fatalf("%.3f became %.3f: %d, and not %d, which loses %.3f by noise of %.3f", ratios, noisy, got, want, loss, noise)
		}
	}
}

// One measurement that is quite wrong, as on a machine that somebody else uses for a moment.
func TestOneOutlierMovesTheBreakEvenByLittle(t *testing.T) {
	steep := []float64{1.3, 1.2, 1.15, 1.1, 1.05, .9, .8, .7, .6, .5, .45}
	const want = 5
	for i := range steep {
		for _, factor := range []float64{.8, 1.25} {
			noisy := slices.Clone(steep)
			noisy[i] *= factor
			if got := breakEven(noisy); got < want-2 || got > want+2 {
				t.Errorf("size %d times %v: %d, and not about %d", i, factor, got, want)
			}
		}
	}
}

// calibrated makes a run of two rounds, in which a copy costs 1 and zero-copy the ratio of its source.
func calibrated(hot, cold []float64) *Result {
	r := &Result{Part: "calibrate", Rounds: 2, Window: 0.1, Began: time.Date(2026, 11, 21, 16, 0, 0, 0, time.UTC), Cold: 1 << 20,
		Command: []string{"uringserve", "bench", "calibrate"}, Places: []About{{Name: WireName}}, Subjects: CalibrateSubjects,
		Machine: Machine{Kernel: "6.18.44-test", CPU: "a processor", CPUs: 2}}
	for i := range hot {
		for source, ratios := range map[string][]float64{Hot: hot, Cold: cold} {
			for _, subject := range CalibrateSubjects {
				cpu := 1.0
				if subject.Name == byZeroCopy {
					cpu = ratios[i]
				}
				s := Sample{CPU: cpu, Bytes: 1e9, Seconds: 1, ZeroCopied: 10}
				r.Outcomes = append(r.Outcomes, Outcome{Key: Key{Subject: subject.Name, Place: WireName, Source: source, Size: CalibrateSizes[i]}, Samples: []Sample{s, s}})
			}
		}
	}
	return r
}

func TestAPolicyHasTheBreakEvenOfHotAndColdTogether(t *testing.T) {
	for _, c := range []struct {
		hot, cold               []float64
		atHot, atCold, together int
		threshold               policy.Threshold
		said                    []string
	}{
		{[]float64{1.4, 1.2, 1.1, .8}, []float64{1.1, .9, .7, .5}, 3, 1, 2, 4 << 10, []string{"4 KiB", "from 8 KiB on where the source is hot", "from 2 KiB on where it is cold", "at 2 KiB and a cold source, it costs 11 % more"}},
		{[]float64{1.4, 1.3, 1.2, 1.1}, []float64{1.3, 1.2, 1.1, 1.01}, 4, 4, 4, policy.Never, []string{"Threshold: never", "at no size up to 8 KiB"}},
		{[]float64{.9, .8, .7, .6}, []float64{.8, .7, .6, .5}, 0, 0, 0, 1 << 10, []string{"at every size from 1 KiB on"}},
	} {
		r := calibrated(c.hot, c.cold)
		got, err := r.Calibrate()
		if err != nil {
			t.Fatal(err)
		}
		if got.Hot.BreakEven != c.atHot || got.Cold.BreakEven != c.atCold || got.BreakEven != c.together || got.Threshold() != c.threshold {
			t.Errorf("hot %d, cold %d, together %d, threshold %v: want %+v", got.Hot.BreakEven, got.Cold.BreakEven, got.BreakEven, got.Threshold(), c)
		}
		for _, s := range c.said {
			if all := strings.Join(got.Findings(), "\n"); !strings.Contains(all, s) {
				t.Errorf("%q does not say %q", all, s)
			}
		}
		name := filepath.Join(t.TempDir(), "host.yaml")
		if err := r.Host(&got).Write(name, r.Comment(&got)); err != nil {
			t.Fatal(err)
		}
		if h, err := policy.Read(name); err != nil || h.Threshold != c.threshold || h.Kernel != "6.18.44-test" || h.Command != "uringserve bench calibrate" || !strings.HasPrefix(h.Measured, "2026-11-21 16:00") {
			t.Errorf("%+v, %v", h, err)
		}
		if figures := r.Figures(); len(figures) != 2 || figures[0].Findings == nil || (figures[0].Band == nil) != (c.atHot%4 == 0) {
			t.Errorf("the figures are %+v", figures)
		}
	}
}

// What noise hides is no reason to pin memory.
func TestInDoubtItIsACopy(t *testing.T) {
	r := calibrated([]float64{.95, .9, .5}, []float64{.95, .9, .5})
	for i, o := range r.Outcomes {
		if o.Size == CalibrateSizes[0] && o.Key.Subject == byZeroCopy {
			r.Outcomes[i].Samples[0].CPU, r.Outcomes[i].Samples[1].CPU = .85, 1.05 // .95 in the median
		}
	}
	if c, err := r.Calibrate(); err != nil || math.Abs(c.Hot.Ratio[0]-.95) > 1e-9 || c.Hot.BreakEven != 1 || c.BreakEven != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestRoundsThatDisagreeAreDoubted(t *testing.T) {
	always, never := []float64{.9, .8, .7, .6, .5}, []float64{1.5, 1.4, 1.3, 1.2, 1.1}
	r, other := calibrated(always, always), calibrated(never, never)
	steady, err := r.Calibrate()
	if err != nil || steady.Doubt() != "" {
		t.Errorf("%q, %v", steady.Doubt(), err)
	}
	for i := range r.Outcomes {
		r.Outcomes[i].Samples[1] = other.Outcomes[i].Samples[0]
	}
	c, err := r.Calibrate()
	if err != nil || c.Least != 0 || c.Most != 5 || !strings.Contains(c.Doubt(), "1 KiB to never") {
		t.Errorf("%+v, %v: %q", c, err, c.Doubt())
	}
}

func TestWhatShowsNothingMakesNoPolicy(t *testing.T) {
	pays := []float64{.9, .8}
	for name, spoil := range map[string]func(*Result){
		"copied":         func(r *Result) { spoilLast(r, Sample{CPU: 1, Bytes: 1, Copied: 100}) },
		"to no size":     func(r *Result) { r.Outcomes[0].Refused = "to no size" },
		"a crash":        func(r *Result) { r.Outcomes[1].Error = "a crash" },
		"interrupted":    func(r *Result) { r.Outcomes[2].Samples = r.Outcomes[2].Samples[:1] },
		"not measured":   func(r *Result) { r.Outcomes = r.Outcomes[:5] },
		"0 of 0 samples": func(r *Result) { r.Rounds, r.Outcomes = 0, []Outcome{{}} },
	} {
		r := calibrated(pays, pays)
		spoil(r)
		if _, err := r.Calibrate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Small sends that share an skb are said to be copied.
	r := calibrated(pays, pays)
	r.Outcomes[0].Samples[0].Copied = 1000
	if _, err := r.Calibrate(); err != nil {
		t.Error(err)
	}
}

func spoilLast(r *Result, s Sample) {
	r.Outcomes[len(r.Outcomes)-1].Samples[0] = s
}
