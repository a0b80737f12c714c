package bench

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"sluice/zc"
)

// streamed has the engine stream for a moment over loopback, in a child as ever.
func streamed(t *testing.T, j streamJob) (Sample, error) {
	t.Helper()
	cpu, peer := Processors()
	place, err := Loopback(context.Background(), peer)
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	if j.CPUs == nil {
		j.CPUs = []int{cpu}
	}
	j.Warm, j.Window = 50*time.Millisecond, 200*time.Millisecond
	s, err := place.stream(t.Context(), j)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		t.Skip(refusal)
	}
	return s, err
}

func TestTheEngineStreamsByTheRouteThatIsMeasured(t *testing.T) {
	for _, policy := range []zc.Policy{{Mode: zc.Off}, {Mode: zc.Fixed}} {
		for _, cold := range []int{0, MaxSize} {
			s, err := streamed(t, streamJob{Conns: 4, Size: 16 << 10, Cold: cold, Single: true, Policy: policy})
			if err != nil {
				t.Fatal(err)
			}
			if s.Seconds < 0.02 || s.CPU <= 0 || s.Bytes == 0 || s.Ops != s.Bytes>>14 || s.Allocs > 20 {
				t.Errorf("%+v, cold %d: %+v", policy, cold, s)
			}
			// Each send is a buffer, and has its own notification.
			if zero := s.ZeroCopied+s.Copied > s.Ops/2; zero != (policy.Mode == zc.Fixed) {
				t.Errorf("%+v: %d notifications of %d sends", policy, s.ZeroCopied+s.Copied, s.Ops)
			}
		}
	}
}

func TestAStreamToNobodyFails(t *testing.T) {
	cpu, _ := Processors()
	p := &Place{Addr: "127.0.0.1:1"}
	p.Start = func(cmd *exec.Cmd) error { return cmd.Start() }
	if _, err := p.stream(t.Context(), streamJob{CPUs: []int{cpu}, Conns: 1, Size: 4096}); err == nil {
		t.Error("a refused connection is a measurement")
	}
}
