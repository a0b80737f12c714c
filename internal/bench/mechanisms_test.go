package bench

import (
	"errors"
	"slices"
	"testing"
)

func TestDatagramsAreOfSizesThatUDPTakes(t *testing.T) {
	p := &Place{UDP: true}
	if got, want := p.sizes(DefaultSizes), []int{1 << 10, 4 << 10, 16 << 10, 60 << 10}; !slices.Equal(got, want) {
		t.Errorf("of %d: %d, want %d", DefaultSizes, got, want)
	}
	if got := p.sizes([]int{MaxSize}); !slices.Equal(got, []int{maxDatagram}) {
		t.Errorf("of %d: %d", MaxSize, got)
	}
	p.UDP = false
	if got := p.sizes(DefaultSizes); !slices.Equal(got, DefaultSizes) {
		t.Errorf("of streams: %d", got)
	}
}

// What is asked for and not measured is told of, with its reason, and sends nothing.
func TestWhatSendsNoDatagramsIsRefused(t *testing.T) {
	place := &Place{About: About{Name: UDPName}, UDP: true} // without Start: a sample would panic
	plan := MechanismPlan{Places: []*Place{place}, Mechanisms: Mechanisms, Sizes: []int{4096, 1 << 20}, Sources: []string{Hot, File}, Dir: t.TempDir()}
	cells, done, err := plan.Cells(Machine{})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	refused, taken := map[string]string{}, map[string]bool{}
	for _, c := range cells {
		if c.KTLS || c.Size > maxDatagram {
			t.Errorf("%v is a cell", c.Key)
		}
		if m, _ := MechanismNamed(c.Subject); m.UDP && c.Source == Hot {
			taken[c.Subject] = true
			continue
		}
		var refusal *Refusal
		if _, err := c.Measure(t.Context()); !errors.As(err, &refusal) {
			t.Errorf("%v: %v", c.Key, err)
		} else {
			refused[c.Subject+" "+c.Source] = refusal.Reason
		}
	}
	for _, name := range []string{"vmsplice hot", "tee hot", "engine hot", "sendfile file", "read+write file", "engine file"} {
		if refused[name] == "" {
			t.Errorf("%s is not refused", name)
		}
	}
	for _, name := range []string{"write", "writev", "SEND", "MSG_ZEROCOPY", "SEND_ZC", "SEND_ZC-registered", "SENDMSG_ZC-gathered"} {
		if !taken[name] {
			t.Errorf("%s is not measured", name)
		}
	}
}
