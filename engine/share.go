package engine

import "sluice/bufreg"

// How the arena is shared. A peer that does not read holds what is queued for it, and nothing
// gives that back before its deadline; and nobody can know who will stop reading. So as memory
// becomes scarce each connection may have a smaller part of it, and the last parts are for those whose
// peers read. While one waits, the deadline is Config.PressureStall. What zero-copy sends pin has a
// budget beside this: zc.Budget.

// lease takes n bytes for c, or refuses with ErrNoBuffers and a wake-up that certainly comes:
// see feedStarved.
func (l *loop) lease(c *Conn, n int) (bufreg.Buffer, error) {
	if !l.mayHold(c, n) {
		c.lookForProgress()
		l.cache.Await()
		if !l.mayHold(c, n) { // still, now that a return would be noticed
			return bufreg.Buffer{}, ErrNoBuffers
		}
	}
	return l.cache.Lease(n)
}

// mayHold reports whether c may take n more bytes of the arena: whatever it likes while memory is not scarce;
// then its share; and always smallHold.
func (l *loop) mayHold(c *Conn, n int) bool {
	return c.held()+int64(n) <= smallHold || !l.scarce(0, n) || l.inShare(c, n)
}

// mayTry reports whether a starved connection would not be refused now as it was.
func (l *loop) mayTry(c *Conn) bool {
	return int64(c.wants) <= l.arena.Size()-l.arena.Leased() && l.mayHold(c, c.wants)
}

// inShare reports whether n more bytes are within c's share of scarce memory. Three bounds, each of which
// leaves something for those to whom the next applies:
//
//   - To hold more, its peer must read, and it holds at most a sixteenth of what is free above a quarter
//     of the arena (a dynamic threshold, as in switches that share their memory: Choudhury and Hahne,
//     1998). With many such connections each has less, and that quarter stays.
//   - To begin, while an eighth stays free: a thousand peers that never read take no more.
//   - To begin when its peer reads: as long as there is anything. So it is never without.
func (l *loop) inShare(c *Conn, n int) bool {
	free, held := l.arena.Size()-l.arena.Leased(), c.held()
	switch reads := c.reads(); {
	case held > 0:
		return reads && held+int64(n) <= (free-l.arena.Size()/4)/16
	case reads:
		return int64(n) <= free
	default:
		return int64(n) <= free-l.arena.Size()/8
	}
}

// mayRead reports whether n bytes of a file may be read into the arena for c. They have another
// way, and so make room for what has none.
func (l *loop) mayRead(c *Conn, n int) bool {
	if !l.scarce(n, n) {
		return true
	}
	c.lookForProgress()
	return c.reads() && l.inShare(c, n)
}

// held is what waits for the peer: queued, and pinned.
func (c *Conn) held() int64 { return c.queue.memory + int64(c.asked) + c.pins.Pinned() }

// scarce reports whether with n bytes more than half of the arena is leased, and with waiting
// bytes more than this loop's part of that half waits for peers: memory that an embedder keeps
// for itself makes nobody wait.
func (l *loop) scarce(waiting, n int) bool {
	half := l.arena.Size() / 2
	return l.queued.memory+l.reading+l.budget.Pinned()+int64(waiting) > half/int64(l.cfg.Loops) && l.arena.Leased()+int64(n) > half
}

// reads reports whether the peer has taken a good deal, and some of it just now, as of the last look.
func (c *Conn) reads() bool {
	return c.acked >= readsEnough && c.loop.now-c.takenAt <= int64(readsLately)
}

// lookForProgress asks the socket what the peer has taken: a send of many bytes completes
// once, and what the socket has accepted it may still hold.
func (c *Conn) lookForProgress() {
	if c.state >= connAborting {
		return // the socket is not to be asked any more
	}
	if acked, _ := c.loop.sys.BytesAcked(c.fd); acked != c.acked {
		c.acked, c.takenAt, c.activeAt = acked, c.loop.now, c.loop.now
		if c.starved {
			c.loop.mayRetry()
		}
	}
}

// lags reports whether c has queued memory that others share for longer than Config.LagAfter.
func (c *Conn) lags() bool {
	after := int64(c.loop.cfg.LagAfter)
	if after == 0 {
		return false
	}
	i := c.queue.firstShared()
	return i >= 0 && c.loop.now-c.queue.at(i).sharedAt >= after
}

// endLag has a laggard let go of the memory that it shares with others and has not given to its
// socket, or returns why it must end. A send in flight that has some is ended first: it may have got rid of it.
func (l *loop) endLag(c *Conn) error {
	if c.queue.firstShared() >= c.queue.inFlight {
		return l.giveBack(c)
	}
	if !c.lagging {
		c.lagging = true
		l.cancel(userData(kindSend, c.sending.id))
	}
	return nil
}

// giveBack copies what a queue has kept of shared memory for too long. It returns why the connection must end
// instead: Config.Laggards says so, or there is no room for a copy. No send in flight has any.
func (l *loop) giveBack(c *Conn) error {
	c.lagging = false
	q := &c.queue
	for i := q.inFlight; i < q.len(); i++ {
		n, size := q.lagging(i, l.now-int64(l.cfg.LagAfter))
		if n == 0 {
			continue
		}
		if l.cfg.Laggards == CutOff {
			return ErrLagged
		}
		own, err := l.arena.Private(size)
		if err != nil {
			return ErrLagged
		}
		to := own.Bytes()
		for k := range n {
			b := q.at(i + k).buf
			to = to[copy(to, b.Bytes()):]
			b.Release()
		}
		q.replace(i, n, item{buf: own})
		l.stats.Demoted += uint64(size)
	}
	return nil
}
