package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// MechanismPlan is what a run of the mechanisms covers.
type MechanismPlan struct {
	Places     []*Place
	Mechanisms []Mechanism
	Sizes      []int // bytes of a buffer
	Sources    []string
	Window     time.Duration // of one sample
	Dir        string        // of the file that is sent; empty: for temporary files
}

// minWarm lets a connection open its window; the engine needs engineWarm windows to learn.
const (
	minWarm    = 50 * time.Millisecond
	engineWarm = 3
)

// Cells lists what is to be measured, all of one size in a row, and makes the file that is sent. The
// caller calls done at the end.
func (p *MechanismPlan) Cells(m Machine) (cells []Cell, done func(), err error) {
	cold, file, done := m.ColdSize(), "", func() {}
	if slices.Contains(p.Sources, File) || slices.Contains(p.Sources, Disk) {
		if file, done, err = makeFile(p.Dir, cold); err != nil {
			return nil, nil, err
		}
	}
	cpu, _ := Processors()
	for _, place := range p.Places {
		for _, size := range place.sizes(p.Sizes) {
			for _, ktls := range []bool{false, true} {
				for _, source := range p.Sources {
					for _, mech := range p.Mechanisms {
						if ktls && (!mech.KTLS || place.UDP) || !slices.Contains(mech.Sources, source) {
							continue
						}
						j := job{
							Mechanism: mech.Name, Source: source, KTLS: ktls, Size: size,
							Warm: max(p.Window/2, minWarm), Window: p.Window, CPU: cpu, Cold: cold, File: file, IRQTime: m.IRQTime,
						}
						if mech.Family == familyEngine {
							j.Warm = engineWarm * max(p.Window, minWarm)
						}
						cells = append(cells, Cell{
							Key: Key{Subject: mech.Name, Place: place.Name, Source: source, KTLS: ktls, Size: size},
							Measure: func(ctx context.Context) (Sample, error) {
								if place.UDP {
									if err := mech.datagrams(source); err != nil {
										return Sample{}, err
									}
								}
								return place.sample(ctx, j)
							},
						})
					}
				}
			}
		}
	}
	return cells, done, nil
}

// makeFile writes a file of n bytes to the disk, so that its pages may be dropped.
func makeFile(dir string, n int) (name string, remove func(), err error) {
	if dir, err = os.MkdirTemp(dir, "uringserve-bench-"); err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	name = filepath.Join(dir, "source")
	if err := fillFile(name, n); err != nil {
		remove()
		return "", nil, fmt.Errorf("make a file of %s to send: %w", FormatSize(n), err)
	}
	return name, remove, nil
}

func fillFile(name string, n int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for ; n > 0; n -= len(block) {
		if _, err := f.Write(block[:min(n, len(block))]); err != nil {
			return err
		}
	}
	return f.Sync()
}

// mechanismFigures are one for each place, source, and with and without encryption.
func (r *Result) mechanismFigures() (figures []Figure) {
	type group struct {
		place, source string
		ktls          bool
	}
	var order []group
	outcomes := map[group][]Outcome{}
	for _, o := range r.Outcomes {
		g := group{o.Place, o.Source, o.KTLS}
		if outcomes[g] == nil {
			order = append(order, g)
		}
		outcomes[g] = append(outcomes[g], o)
	}
	for _, g := range order {
		t := Pivot(outcomes[g], CPUPerGB, func(k Key) string { return k.Subject }, func(k Key) string { return FormatSize(k.Size) })
		t.Title = fmt.Sprintf("%s, %s source", g.place, g.source)
		if g.ktls {
			t.Title += ", kTLS"
			t.Note = "the kernel encrypts, by AES-128-GCM; "
		}
		t.Note += aboutNamed(Sources, g.source)
		f := Figure{Table: t, Place: g.place, XLabel: "bytes of a buffer", LogY: true}
		pair := [2]string{"SEND_ZC-registered", "write"}
		if g.source == File || g.source == Disk {
			pair = [2]string{"sendfile", "read+write"}
		}
		f.Base = pair[1]
		var sentence string
		if sentence, f.Band = t.breakEven(pair[0], pair[1]); sentence != "" {
			f.Findings = append(f.Findings, sentence)
		}
		if sentence = t.besideOthers("engine"); sentence != "" {
			f.Findings = append(f.Findings, sentence)
		}
		figures = append(figures, f)
	}
	return figures
}

func aboutNamed(all []About, name string) string {
	for _, a := range all {
		if a.Name == name {
			return a.Text
		}
	}
	return ""
}
