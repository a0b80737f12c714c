package bench

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLoopsAndTheirLoadShareNoCoreWhereThereAreTwo(t *testing.T) {
	for _, c := range []struct {
		cores       [][]int
		all         []int
		loops, load []int
	}{
		{[][]int{{0}}, []int{0}, []int{0}, []int{0}},
		{[][]int{{0}, {1}}, []int{1, 0}, []int{1}, []int{0}},
		{[][]int{{0, 1}}, []int{0, 1}, []int{1}, []int{0}},
		{[][]int{{0}, {1}, {2}}, []int{2, 1, 0}, []int{2, 1}, []int{0}},
		{[][]int{{0, 4}, {1, 5}, {2, 6}, {3, 7}}, []int{3, 2, 1, 0, 7, 6, 5, 4}, []int{3, 2, 7, 6}, []int{1, 0, 5, 4}},
		{[][]int{{0}, {1, 2}}, []int{1, 0, 2}, []int{1, 2}, []int{0}},
	} {
		if got := spread(c.cores); !slices.Equal(got, c.all) {
			t.Errorf("%v: all are %v, want %v", c.cores, got, c.all)
		}
		if loops, load := split(c.cores); !slices.Equal(loops, c.loops) || !slices.Equal(load, c.load) {
			t.Errorf("%v: loops %v, load %v, want %v and %v", c.cores, loops, load, c.loops, c.load)
		}
	}
	var together []int
	for _, core := range cores() {
		together = append(together, core...)
	}
	slices.Sort(together)
	if !slices.Equal(together, AllowedCPUs()) {
		t.Errorf("this machine's cores are %v, of processors %v", cores(), AllowedCPUs())
	}
}

func TestLoopsWithoutAProcessorAreRefused(t *testing.T) {
	p := &ScalePlace{Place: &Place{About: About{Name: LoopbackName}}, loops: []int{1}, beside: " beside the load's"}
	_, err := p.stream(2, time.Millisecond, Machine{}).Measure(context.Background())
	var refusal *Refusal
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "2 loops need 2 processors beside the load's, and there is room for 1") {
		t.Error(err)
	}
	if counts := LoopCounts(); counts[0] != 1 || !slices.Contains(counts, 2) || !slices.Contains(counts, max(2, len(AllowedCPUs()))) || !slices.IsSorted(counts) {
		t.Errorf("the numbers of loops are %v", counts)
	}
}

func TestConnectionsWithoutFilesAreRefused(t *testing.T) {
	most := openFiles()
	if err := roomFor(most - spareFiles); err != nil {
		t.Error(err)
	}
	if err := roomFor(most); !errors.As(err, new(*Refusal)) || !strings.Contains(err.Error(), "RLIMIT_NOFILE") {
		t.Error(err)
	}
}

func TestScaleIsToldInFigures(t *testing.T) {
	r := &Result{Part: "scale", Rounds: 1, Window: 1, Subjects: ScaleSubjects, Places: []About{{Name: LoopbackName}, {Name: WireName}}}
	add := func(k Key, refused string, samples ...Sample) {
		r.Outcomes = append(r.Outcomes, Outcome{Key: k, Samples: samples, Refused: refused})
	}
	for loops, gb := range map[int]uint64{1: 10, 2: 19} {
		add(Key{Subject: streams, Place: WireName, Loops: loops, Conns: loops * streamConns}, "", Sample{Seconds: 1, CPU: float64(loops), Bytes: gb * 1e9, Allocs: uint64(loops - 1)})
	}
	slices.SortFunc(r.Outcomes, func(a, b Outcome) int { return a.Loops - b.Loops })
	add(Key{Subject: streams, Place: LoopbackName, Loops: 2}, "no room")
	for _, conns := range []int{1, 10000} {
		add(Key{Subject: Ours, Place: WireName, Conns: conns}, "", Sample{Seconds: 2, CPU: 1, Responses: 200_000})
	}
	add(Key{Subject: idleConnections, Place: WireName, Conns: 10000}, "", Sample{Ops: 10000, Idle: &Idle{Process: 12_340_000, Kernel: 56_780_000}})
	var b strings.Builder
	if err := r.Write(&b, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"2 loops send 1.90 times what one does", "1 loop 0 (0–0) in 10.0 GB, 2 loops 1 (1–1) in 19.0 GB",
		"10,000 idle connections take 1234 bytes each", "5678", "100000", "5.00", "loopback: throughput of loops", "no room",
	} {
		if !strings.Contains(b.String(), s) {
			t.Errorf("%q is not in\n%s", s, b.String())
		}
	}
	// Numbers of loops are no rivals: none is the best of its column.
	if strings.Contains(b.String(), " *") {
		t.Errorf("there is a best in\n%s", b.String())
	}
	if figures := r.Figures(); len(figures) != 8 {
		t.Errorf("%d figures", len(figures))
	}
	if page := r.page(); page.Title == "" || page.Intro == "" || len(page.Sections) != 2 || len(page.Sections[1].Figures) != 6 {
		t.Errorf("the page is %+v", page)
	}
}

func TestNumbersHaveCommas(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 10000: "10,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
}
