package engine

import (
	"net/netip"
	"time"

	"sluice/bufreg"
	"sluice/zc"
)

// Stats is what an engine has done and what it holds. Counters only rise.
type Stats struct {
	Conns         int    // open now
	Accepted      uint64 // accepted and dialed
	AcceptErrors  uint64
	ClosedInOrder uint64
	Aborted       uint64            // reset, for whatever reason
	Resets        [NumResets]uint64 // the same by reason: see ResetName
	BytesReceived uint64
	Sends         zc.Counters // by route and reason
	SendErrors    uint64
	Undelivered   uint64 // bytes that were queued when their connection ended
	DirectBytes   uint64 // read from files around the page cache
	NoBuffers     uint64 // leases refused because the arena was used up
	RecvNoBuffers uint64 // receives that found no provided buffer, and were armed again
	CQOverflows   uint64 // turns that found the completion queue overflowed
	Demoted       uint64 // bytes copied so that shared memory could be released; see Config.LagAfter
	Turns         uint64
	Enters        uint64 // io_uring_enter calls
	Arena         bufreg.Stats
	CloseError    error // of closing a loop

	// Now.
	States    [NumConnStates]int // connections by state
	Queued    int64              // bytes in the queues, of memory and of files
	Starved   int                // connections that wait for memory or a send slot
	Pinned    int64              // bytes of zero-copy sends that were not notified
	MaxPinned int64              // their limit; see Config.MaxPinned
	OldestPin Pin

	Paths []LoopPath // what each loop has learned; nil where nothing is

	NotifyDelay  zc.Histogram // from a zero-copy send's completion to its notification
	ResponseTime zc.Histogram // from a queue's first byte until the socket has accepted all of it
	TurnTime     zc.Histogram // of one turn in 64, without the wait at its end
}

// LoopPath is what one loop has learned of a path.
type LoopPath struct {
	Loop int
	zc.PathState
}

// Pin is a zero-copy send that the kernel still reads.
type Pin struct {
	Age   time.Duration // since its submission; 0: there is none
	Bytes int
	Peer  netip.AddrPort
}

// NumConnStates is the number of states of a connection that is counted: in order open,
// closing (sending what is queued), half-closed (waiting for the peer), aborting.
const NumConnStates = int(connClosed)

// ConnStates are the names of the states.
var ConnStates = [NumConnStates]string{"open", "closing", "half-closed", "aborting"}

func (s *Stats) merge(o *Stats) {
	s.Conns += o.Conns
	s.Accepted += o.Accepted
	s.AcceptErrors += o.AcceptErrors
	s.ClosedInOrder += o.ClosedInOrder
	s.Aborted += o.Aborted
	for i, n := range o.Resets {
		s.Resets[i] += n
	}
	s.BytesReceived += o.BytesReceived
	s.Sends.Merge(&o.Sends)
	s.SendErrors += o.SendErrors
	s.Undelivered += o.Undelivered
	s.DirectBytes += o.DirectBytes
	s.NoBuffers += o.NoBuffers
	s.RecvNoBuffers += o.RecvNoBuffers
	s.CQOverflows += o.CQOverflows
	s.Demoted += o.Demoted
	s.Queued += o.Queued
	s.Starved += o.Starved
	s.Pinned += o.Pinned
	s.MaxPinned += o.MaxPinned
	for i, n := range o.States {
		s.States[i] += n
	}
	if o.OldestPin.Age > s.OldestPin.Age {
		s.OldestPin = o.OldestPin
	}
	s.Paths = append(s.Paths, o.Paths...)
	s.NotifyDelay.Merge(&o.NotifyDelay)
	s.ResponseTime.Merge(&o.ResponseTime)
	s.TurnTime.Merge(&o.TurnTime)
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
			l.observe(&s)
			if l.ring != nil {
				s.Enters = l.ring.Entered()
			}
			all.merge(&s)
		})
	}
	all.Arena = e.reg.Stats()
	return all
}

// observe fills in what the loop holds at the moment, at the same cost however many connections there are.
func (l *loop) observe(s *Stats) {
	s.Conns = l.conns.n
	s.Starved = len(l.starved)
	s.Queued = l.queued.bytes
	s.Pinned, s.MaxPinned = l.budget.Pinned(), l.budget.Limit()
	s.OldestPin = l.oldestPin()
	if l.learner != nil {
		for _, p := range l.learner.Explain() {
			s.Paths = append(s.Paths, LoopPath{l.id, p})
		}
	}
}
