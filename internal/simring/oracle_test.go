package simring_test

import (
	"errors"
	"slices"
	"syscall"
	"time"

	"sluice/engine"
	"sluice/internal/simring"
)

const (
	// maxSends is the engine's limit of sends between submission and notification.
	maxSends = 1 << 16
	// acceptPause is how long the engine accepts nothing after an error.
	acceptPause = 100 * time.Millisecond
	// grace is what the simulated kernel may take for what the engine only waits for: a few
	// file reads, a cancellation that comes late.
	grace = 50 * time.Millisecond
	// lastNotification is how late the last notification of a reset connection may be.
	lastNotification = 2*time.Second + grace
)

// asleep checks that loop i, which has just gone to sleep, may: everything that it owes
// somebody must wait for something that will come, and must not have waited for too long. It is
// what makes "nothing waits for ever" a matter of single steps.
func (m *sim) asleep(i int) {
	if m.Waking() {
		return // it is not to sleep for long
	}
	now, conns := m.Punctual(), 0
	for _, s := range m.watched {
		switch {
		case s.c == nil || s.c.Loop() != i:
		case s.closed:
			if s.peer.Pins() > 0 && !s.peer.Gone() && now > max(s.peer.NotifiedAt, s.peer.PinnedAt)+m.cfg.WriteStall+grace {
				m.failf("loop %d sleeps, and memory is pinned for connection %d, which it has closed", i, s.peer.FD)
			}
		default:
			conns++
			if why := s.overlooked(now); why != "" {
				m.failf("loop %d sleeps, and connection %d %s", i, s.peer.FD, why)
			}
		}
	}
	switch ln := m.listeners[i]; {
	case m.draining && now > m.drainBy+grace && conns > 0:
		m.failf("loop %d sleeps %v after the end of its drain, with %d connections", i, now-m.drainBy, conns)
	case m.draining && now > m.drainBy+lastNotification+grace:
		m.failf("loop %d sleeps %v after the end of its drain, without connections", i, now-m.drainBy)
	case m.Backlog(ln) > 0 && !m.Accepting(ln) && conns < m.cfg.MaxConns && now > m.AcceptFailed(ln)+acceptPause:
		m.failf("loop %d sleeps, has room and does not accept: %d connections wait", i, m.Backlog(ln))
	}
}

// overlooked says what the engine has forgotten about a connection, or "".
func (s *session) overlooked(now time.Duration) string {
	m, c, k := s.m, s.c, s.peer
	if m.eng.Aborting(c) {
		if s.dying == 0 {
			s.dying = now
		}
		if now > s.dying+grace {
			return "was aborted and is not closed"
		}
		return ""
	}
	reading := s.reading()
	open := !s.begun && (s.eofs || !k.EndTold) && (s.drains || !m.draining)

	// Something must be under way.
	switch {
	case c.Queued() > 0 && !k.Sending() && !k.Polling() && !reading && m.Sends(c.Loop()) < maxSends:
		return "has bytes to send, and nothing is under way"
	case k.Corked && (c.Queued() == 0 || reading):
		return "is corked, and nothing follows at once"
	case open && !k.Receiving() && !k.EndTold && s.seen-s.consumed < m.cfg.InputLimit:
		return "does not receive, and has room for input"
	case open && s.resumed && s.seen > s.consumed:
		return "was not shown its input again"
	case open && s.starving && m.eng.Forgotten(c) && (s.shared || m.eng.Totals().Arena.Leased < s.leased):
		return "waits for a buffer that it may have"
	case open && c.Congested() && c.Queued() < int64(m.cfg.LowWater):
		return "is below the low-water mark, and was not told"
	case !open && !s.outstanding() && !k.Shut() && !k.EndTold:
		return "is closing with nothing left to send, and did not shut down"
	case !open && !s.outstanding() && k.EndTold && !reading && !k.Polling():
		return "is closing with nothing left on either side, and is not closed"
	}

	// And every wait has its end.
	progress := max(k.ToldAt, k.NotifiedAt, k.PinnedAt)
	moved := max(progress, k.AcceptedAt, s.began)
	switch {
	case s.deadline != 0 && now > s.deadline+grace:
		return "is past its deadline"
	case k.Pins() > 0 && now > progress+m.cfg.WriteStall+grace:
		return "pins memory for a peer that takes nothing"
	case s.pinnedTooLong(now):
		return "has a send that has been pinned for longer than it may"
	case s.lagsTooLong(now):
		return "has queued shared memory for longer than it may"
	case s.outstanding() && now > moved+m.cfg.WriteStall+grace:
		return "waits for a peer that takes nothing"
	case s.outstanding():
	case open && now > max(moved, s.heard)+m.cfg.IdleTimeout+grace:
		return "is idle"
	case k.Shut() && now > max(k.ShutAt+m.cfg.Linger, k.NotifiedAt+m.cfg.WriteStall/4)+grace:
		return "waits for its peer to close"
	}
	return ""
}

// pinnedTooLong reports whether a pin is older than it may become, which is looked for at least twice in the shortest of
// the times that bound it.
func (s *session) pinnedTooLong(now time.Duration) bool {
	cfg := &s.m.cfg
	for p := range s.peer.Pinned() { // the oldest first
		switch {
		case cfg.PinLimit > 0 && now > p.At+cfg.PinLimit+cfg.PressureStall/2+grace:
			return true
		case cfg.Laggards != engine.CutOff || now <= p.At+cfg.LagAfter*3/2+grace:
			return false
		case s.borrows(p):
			return true
		}
	}
	return false
}

// borrows reports whether a pin is of shared memory.
func (s *session) borrows(p simring.Pin) bool {
	return slices.ContainsFunc(s.lent, func(l lent) bool { return l.from < p.To && p.From < l.to })
}

// lagsTooLong reports whether the socket has not taken memory that is shared, which the engine neither copied nor
// ended the connection for.
func (s *session) lagsTooLong(now time.Duration) bool {
	cfg := &s.m.cfg
	if cfg.LagAfter == 0 {
		return false
	}
	accepted := s.peer.Accepted()
	done := accepted // what neither the queue nor the socket has any more
	for p := range s.peer.Pinned() {
		done = min(done, p.From)
		break
	}
	for len(s.lent) > 0 && s.lent[0].to <= done {
		s.lent = s.lent[1:]
	}
	kept := accepted + 1
	if cfg.Laggards == engine.Demote { // it may have copies of its own meanwhile
		kept = s.m.eng.Shared(s.c)
	}
	if kept < 0 {
		return false
	}
	i := slices.IndexFunc(s.lent, func(l lent) bool { return l.to >= kept })
	return i >= 0 && now > s.lent[i].at+cfg.LagAfter*5/4+grace
}

// lagged reports whether there was a reason to cut a connection off as a laggard: what is in its queue, or was in its
// socket.
func (s *session) lagged() bool {
	cfg, now := &s.m.cfg, s.c.Now()
	if cfg.LagAfter == 0 {
		return false
	}
	if cfg.Laggards == engine.CutOff && s.lends && s.peer.LongestPin() >= cfg.LagAfter {
		return true
	}
	return slices.ContainsFunc(s.lent, func(l lent) bool { return l.to > s.peer.Accepted() && !now.Before(l.since.Add(cfg.LagAfter)) })
}

// outstanding reports whether the engine has bytes for the peer that are queued or pinned.
func (s *session) outstanding() bool {
	return s.c.Queued() > 0 || s.peer.Sending() || s.peer.Pins() > 0
}

func (s *session) reading() bool {
	for _, fd := range s.files {
		if s.m.files[fd] && s.m.Reading(fd) {
			return true
		}
	}
	return false
}

// ended checks that there was a reason to end the connection, and that it was the one given.
func (s *session) ended(err error) {
	now, k := s.c.Now(), s.peer
	switch {
	case errors.Is(err, engine.ErrStalled) && k.Quiet < s.m.cfg.PressureStall:
		s.m.failf("connection %d was cut off as stalled, %v after its peer took bytes", k.FD, k.Quiet)
	case errors.Is(err, engine.ErrStalled) && now.Before(s.beganAt.Add(s.m.cfg.PressureStall)):
		s.m.failf("connection %d was cut off as stalled, %v after it began to send", k.FD, now.Sub(s.beganAt))
	case errors.Is(err, engine.ErrPinned) && !s.m.jumps && (s.m.cfg.PinLimit == 0 || k.LongestPin() < s.m.cfg.PinLimit):
		s.m.failf("connection %d was cut off for its pins, of at most %v", k.FD, k.LongestPin())
	case errors.Is(err, engine.ErrLagged) && !s.lagged():
		s.m.failf("connection %d was cut off as a laggard, and is none", k.FD)
	case errors.Is(err, engine.ErrIdle) && now.Before(s.heardAt.Add(s.m.cfg.IdleTimeout)):
		s.m.failf("connection %d was closed as idle, %v after its peer sent bytes", k.FD, now.Sub(s.heardAt))
	case errors.Is(err, engine.ErrDeadline) && (s.soonest.IsZero() || now.Before(s.soonest)):
		s.m.failf("connection %d was ended before its deadline", k.FD)
	case errors.Is(err, engine.ErrDrained) && !s.m.draining:
		s.m.failf("connection %d was ended by a drain that was not asked for", k.FD)
	case errors.Is(err, engine.ErrAborted) && !s.aborted:
		s.m.failf("connection %d was aborted, by nobody", k.FD)
	case errors.Is(err, syscall.EINVAL):
		s.m.failf("connection %d failed with %v: a file system that refuses a way of reading has another", k.FD, err)
	case errors.Is(err, syscall.EFAULT):
		s.m.failf("connection %d failed with %v: a page that cannot be had can be read", k.FD, err)
	case errors.Is(err, engine.ErrFileTruncated) && !s.short:
		s.m.failf("connection %d was ended for a short file, and had none", k.FD)
	}
}

// final are the oracles of a run that has ended.
func (m *sim) final() error {
	if m.check() != nil {
		return m.err
	}
	for _, s := range m.conns {
		if s.c == nil {
			continue // never accepted
		}
		switch {
		case !s.closed:
			m.failf("connection %d was never told that it closed", s.peer.FD)
		case s.err == nil && !s.peer.Peer.SawRST && s.peer.Gone() && len(s.peer.Peer.Got) != len(s.want):
			m.failf("connection %d closed in order and lost %d of %d bytes", s.peer.FD, len(s.want)-len(s.peer.Peer.Got), len(s.want))
		case s.err == nil && s.short:
			m.failf("connection %d closed in order after a truncated file", s.peer.FD)
		case s.err != nil && s.peer.Peer.SawFIN && len(s.peer.Peer.Got) != len(s.want):
			m.failf("connection %d failed with %v, and its peer saw an orderly end %d bytes early", s.peer.FD, s.err, len(s.want)-len(s.peer.Peer.Got))
		}
	}
	t := m.eng.Totals()
	switch {
	case t.Pinned != 0 || t.Queued != 0 || t.Starved != 0 || t.Arena.Private != 0:
		m.failf("at the end %d bytes are charged to budgets, %d queued, %d in private copies; %d connections wait for memory", t.Pinned, t.Queued, t.Arena.Private, t.Starved)
	case t.Arena.Leased != 0 || t.Arena.Pinned != 0 || t.Conns != 0:
		m.failf("left over: %s", m.state())
	case m.OpenSockets() != 0:
		m.failf("descriptors left over: %d", m.OpenSockets())
	case len(m.files) != 0:
		m.failf("%d files were not released", len(m.files))
	case m.posted != m.ran:
		m.failf("%d functions were posted and %d ran", m.posted, m.ran)
	case m.BuffersOut() != 0:
		m.failf("%d receive buffers were not given back", m.BuffersOut())
	}
	if err := m.eng.End(); err != nil {
		m.failf("%v", err)
	}
	return m.err
}
