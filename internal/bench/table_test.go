package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// example is a run of made-up figures: CPU seconds for a GB by mechanism and size, two samples each,
// a tenth apart. A figure of 0 was refused.
func example() *Result {
	r := &Result{
		Part: "mechanisms", Command: []string{"uringserve", "bench", "mechanisms"}, Began: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC),
		Seconds: 90, Rounds: 2, Window: 0.2, Cold: 128 << 20, Machine: Machine{Kernel: "6.18.1", Arch: "amd64", CPU: "A <fast> CPU", CPUs: 2, LastCache: 32 << 20, Memory: 24 << 30, Go: "go1.26"},
		Places:   []About{{"loopback", "where the kernel copies"}, {"wire", "where it does not"}},
		Warnings: []string{"round 2 began on a busy machine"},
	}
	add := func(place, source string, ktls bool, name string, values ...float64) {
		for i, v := range values {
			o := Outcome{Key: Key{Subject: name, Place: place, Source: source, KTLS: ktls, Size: 4096 << (4 * i)}}
			if v > 0 {
				o.Samples = []Sample{{Seconds: 1, CPU: v * 0.95, Bytes: 1e9, Ops: 1}, {Seconds: 1, CPU: v * 1.05, Bytes: 1e9, Ops: 1}}
			} else {
				o.Refused = name + " is too new"
			}
			r.Outcomes = append(r.Outcomes, o)
		}
	}
	add("wire", Hot, false, "write", 1.0, 0.2, 0.15)
	add("wire", Hot, false, "SEND_ZC-registered", 1.5, 0.204, 0.06)
	add("wire", Hot, false, "SENDMSG_ZC-gathered", 0, 0, 0)
	add("wire", Hot, false, "engine", 0.5, 0.19, 0)
	add("loopback", Hot, false, "write", 2.0, 0.4, 0.3)
	add("loopback", Hot, false, "SEND_ZC-registered", 3.0, 0.5, 0.36)
	add("wire", File, true, "sendfile", 0, 0, 0)
	for _, name := range []string{"write", "SEND_ZC-registered", "SENDMSG_ZC-gathered", "sendfile", "engine"} {
		m, _ := MechanismNamed(name)
		r.Subjects = append(r.Subjects, m.Subject)
	}
	return r
}

const exampleText = `A <fast> CPU, 2 processors, last-level cache 32 MiB, 24 GiB; Linux 6.18.1 amd64; go1.26
2026-11-20 12:00; 2 rounds of 200ms
loopback: where the kernel copies
wire: where it does not
Medians; the best of a column has a star. A GB is 10⁹ bytes.

loopback, hot source
one buffer in memory, sent over and over: it stays in the processor's cache
  CPU s/GB            copies  4 KiB  64 KiB   1 MiB
  write                    1  *2.00  *0.400  *0.300
  SEND_ZC-registered       0   3.00   0.500   0.360
  → SEND_ZC-registered does not pay against write: at 1 MiB it costs 1.20 times as much.

wire, hot source
one buffer in memory, sent over and over: it stays in the processor's cache
  CPU s/GB            copies   4 KiB  64 KiB   1 MiB
  write                    1    1.00   0.200   0.150
  SEND_ZC-registered       0    1.50   0.204  *0.060
  engine                 0–2  *0.500  *0.190       –
  SENDMSG_ZC-gathered: not measured: SENDMSG_ZC-gathered is too new
  engine, 1 MiB: not measured: engine is too new
  → SEND_ZC-registered pays against write from 1 MiB on, where it costs 0.40 of it; at 64 KiB it costs 1.02, within the spread.
  → Cost of the engine over that of the cheapest other: 0.50 at 4 KiB (write), 0.95 at 64 KiB (write).

not measured: wire, file source, kTLS: sendfile is too new

warning: round 2 began on a busy machine
`

func TestTheTextHasEveryFigureOrWhyThereIsNone(t *testing.T) {
	var b bytes.Buffer
	if err := example().Write(&b, false); err != nil {
		t.Fatal(err)
	}
	if b.String() != exampleText {
		t.Errorf("printed\n%s\nwant\n%s", b.String(), exampleText)
	}
}

func TestTheSpreadIsPrintedOnDemand(t *testing.T) {
	var b bytes.Buffer
	if err := example().Write(&b, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "*2.00 (1.90–2.10)") {
		t.Errorf("%s lacks the spread of 2.00", b.String())
	}
}

func TestBreakEvenIsSaidFromTheData(t *testing.T) {
	for name, c := range map[string]struct {
		cheap, dear []float64
		want        string
		band        *Band
	}{
		"from the middle":      {[]float64{2, 1, 1}, []float64{1, 2, 2}, "pays against write from 64 KiB on, where it costs 0.50 of it; at 4 KiB it costs 2.00, at 1 MiB 0.50.", &Band{0, 1, "break-even"}},
		"always":               {[]float64{1, 1, 1}, []float64{2, 2, 4}, "costs less than write at every size: 0.50 of it at 4 KiB, 0.25 at 1 MiB.", nil},
		"never":                {[]float64{2, 2, 3}, []float64{1, 1, 1}, "does not pay against write: at 1 MiB it costs 3.00 times as much, at its best, 4 KiB, 2.00.", nil},
		"once, but not at end": {[]float64{1, 1, 3}, []float64{2, 4, 1}, "does not pay against write: at 1 MiB it costs 3.00 times as much, at its best, 64 KiB, 0.25.", nil},
	} {
		var outcomes []Outcome
		for i := range c.cheap {
			for who, v := range map[string]float64{"SEND_ZC": c.cheap[i], "write": c.dear[i]} {
				outcomes = append(outcomes, Outcome{Key: Key{Subject: who, Size: 4096 << (4 * i)}, Samples: []Sample{{CPU: v, Bytes: 1e9}}})
			}
		}
		table := Pivot(outcomes, CPUPerGB, func(k Key) string { return k.Subject }, func(k Key) string { return FormatSize(k.Size) })
		got, band := table.breakEven("SEND_ZC", "write")
		if got != "SEND_ZC "+c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if (band == nil) != (c.band == nil) || band != nil && *band != *c.band {
			t.Errorf("%s: the band is %+v, want %+v", name, band, c.band)
		}
	}
}

func TestThePageIsWholeAndSelfContained(t *testing.T) {
	name := filepath.Join(t.TempDir(), "report.html")
	r := example()
	if err := r.WriteReport(name); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, want := range []string{
		"What it costs to push bytes out of this machine", "A &lt;fast&gt; CPU, 2 processors, last-level cache 32 MiB", "uringserve bench mechanisms", "20 November 2026", "round 2 began on a busy machine",
		"where the kernel copies", "where it does not", "Not measured: SENDMSG_ZC-gathered is too new", "wire, file source, kTLS: sendfile is too new",
		"from 1 MiB on", "break-even", "io_uring_prep_send_zc_fixed(3)",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, never := range []string{"A <fast> CPU", "http:", "https:", "NaN", "Inf", "%!", "&lt;no value"} {
		if strings.Contains(page, never) {
			t.Errorf("the page has %q", never)
		}
	}
	// Two places with figures, each with an absolute and a relative plot.
	plots := svgs(t, page)
	if len(plots) != 4 {
		t.Fatalf("%d plots, want 4", len(plots))
	}
	if n := strings.Count(plots[2], "<circle"); n != 3+3+2 {
		t.Errorf("the wire's plot has %d points, want 8", n)
	}
	if strings.Contains(plots[0], "wire") || strings.Contains(plots[2], "loopback") {
		t.Error("a plot mixes places")
	}
}

// svgs takes the plots out of a page, and checks that each is well-formed.
func svgs(t *testing.T, page string) (plots []string) {
	t.Helper()
	for {
		_, rest, ok := strings.Cut(page, "<svg")
		if !ok {
			return plots
		}
		body, after, _ := strings.Cut(rest, "</svg>")
		plot := "<svg" + body + "</svg>"
		for d := xml.NewDecoder(strings.NewReader(plot)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("plot %d: %v", len(plots), err)
			}
		}
		plots, page = append(plots, plot), after
	}
}

func TestLabelsHaveRoom(t *testing.T) {
	labels := []lineLabel{{name: "y", at: plotFloor - 1}, {name: "x", at: plotFloor - 2}, {name: "alone", at: 100}, {name: "z", at: plotFloor}, {name: "n", at: 252}, {name: "m", at: 250}}
	spreadLabels(labels)
	for i, l := range labels {
		if l.y > plotFloor || l.y < plotTop {
			t.Errorf("%s is at %v, outside the plot", l.name, l.y)
		}
		if i > 0 && l.y-labels[i-1].y < labelGap-1e-9 {
			t.Errorf("%s is %v below %s", l.name, l.y-labels[i-1].y, labels[i-1].name)
		}
	}
	if labels[0].y != 100 {
		t.Errorf("%s with room was moved to %v", labels[0].name, labels[0].y)
	}
	if m := (labels[1].y + labels[2].y) / 2; m != 251 {
		t.Errorf("labels at 250 and 252 are around %v", m)
	}
}

func TestJSONHasEverySample(t *testing.T) {
	name := filepath.Join(t.TempDir(), "result.json")
	if err := example().WriteJSON(name); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	want := example()
	if len(back.Outcomes) != len(want.Outcomes) || back.Outcomes[0].Samples[1] != want.Outcomes[0].Samples[1] || back.Machine != want.Machine || back.Outcomes[6].Refused == "" {
		t.Errorf("read back %+v", back)
	}
}

func TestSizesAreWrittenWithTheirUnit(t *testing.T) {
	for n, want := range map[int]string{64: "64 B", 1000: "1000 B", 1024: "1 KiB", 1536: "1536 B", 65536: "64 KiB", 4 << 20: "4 MiB", 1 << 30: "1 GiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
