package engine

import (
	"sluice/bufreg"
	"sluice/zc"
)

// Stats is what an engine has done and what it holds. Counters only rise.
type Stats struct {
	Conns         int    // open now
	Accepted      uint64 // accepted and dialed
	AcceptErrors  uint64
	ClosedInOrder uint64
	Aborted       uint64 // reset, for whatever reason
	BytesReceived uint64
	Sends         zc.Counters // by route and reason
	SendErrors    uint64
	Undelivered   uint64 // bytes that were queued when their connection ended
	NoBuffers     uint64 // leases refused because the arena was used up
	RecvNoBuffers uint64 // receives that found no provided buffer, and were armed again
	CQOverflows   uint64 // turns that found the completion queue overflowed
	Turns         uint64
	Enters        uint64 // io_uring_enter calls
	Arena         bufreg.Stats
	CloseError    error // of closing a loop
}

func (s *Stats) merge(o *Stats) {
	s.Conns += o.Conns
	s.Accepted += o.Accepted
	s.AcceptErrors += o.AcceptErrors
	s.ClosedInOrder += o.ClosedInOrder
	s.Aborted += o.Aborted
	s.BytesReceived += o.BytesReceived
	s.Sends.Merge(&o.Sends)
	s.SendErrors += o.SendErrors
	s.Undelivered += o.Undelivered
	s.NoBuffers += o.NoBuffers
	s.RecvNoBuffers += o.RecvNoBuffers
	s.CQOverflows += o.CQOverflows
	s.Turns += o.Turns
	s.Enters += o.Enters
}

// Stats asks every loop for its counters, between two turns. After Shutdown it returns the
// final ones. It must not be called from a handler: it waits for the loop.
func (e *Engine) Stats() Stats {
	select {
	case <-e.stopped:
		return e.final
	default:
	}
	return e.collect(func(l *loop, take func()) {
		ran := make(chan struct{})
		if l.post(func() { take(); close(ran) }) {
			<-ran
		} else {
			<-l.done
			take()
		}
	})
}

// collect adds up the loops' counters; on runs take where it is safe to read them.
func (e *Engine) collect(on func(l *loop, take func())) (all Stats) {
	for _, l := range e.loops {
		on(l, func() {
			s := l.stats
			s.Conns = l.conns.n
			if l.ring != nil {
				s.Enters = l.ring.Entered()
			}
			all.merge(&s)
		})
	}
	all.Arena = e.reg.Stats()
	return all
}
