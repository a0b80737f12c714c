package bench

import (
	"context"
	"fmt"
	"time"

	"sluice/zc"
)

// streamJob is what a child does that has the engine stream over many connections.
type streamJob struct {
	Addr  string
	CPUs  []int // with a loop on each
	Conns int   // over all loops, which take turns
	Size  int   // bytes of a buffer
	// Cold is the bytes of the working set that each loop's connections walk together; 0: one buffer, over and over.
	Cold int
	// Single has each connection queue one buffer at a time, so that a send is that buffer and no gather.
	Single  bool
	Policy  zc.Policy
	Warm    time.Duration
	Window  time.Duration
	IRQTime bool // see [Machine]
}

// stream has a child measure j at a place.
func (p *Place) stream(ctx context.Context, j streamJob) (Sample, error) {
	j.Addr = p.Addr
	return p.child(ctx, "stream", j, j.Warm+j.Window)
}

// byRoute refuses a sample that did not go by the route that the policy forces.
func (j *streamJob) byRoute(route zc.Route, sends *zc.Counters) error {
	if want, all := sends.Total(route).Bytes, total(sends).Bytes; want < all-all/100 {
		return fmt.Errorf("%d of %d bytes went by %s: the measurement is of something else", want, all, route)
	}
	return nil
}

func total(c *zc.Counters) (t zc.Count) {
	for r := range zc.Route(zc.NumRoutes) {
		n := c.Total(r)
		t.Sends += n.Sends
		t.Bytes += n.Bytes
	}
	return t
}
