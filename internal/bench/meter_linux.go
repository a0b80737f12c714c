package bench

import (
	"runtime"
	"time"
)

// meter counts what a sender sends, leaves out the warm-up, and says when it is over. It belongs to
// the goroutine that sends.
type meter struct {
	warm, window time.Duration
	soft         *softirqs

	bytes, ops         uint64
	zeroCopied, copied uint64
	unlooked           uint64 // bytes since the clock was last read
	next               time.Time
	measuring          bool
	begin              reading
	out                reading // spent on what does not count
	sample             Sample
	over               bool
}

// reading is all that is read at the ends of the window.
type reading struct {
	at                      time.Duration // of the clock on the wall
	cpu, soft               float64
	bytes, ops              uint64
	zeroCopied, copied, mem uint64
}

// start begins the warm-up.
func (m *meter) start() { m.next = time.Now().Add(m.warm) }

const (
	// The clock is read once in so many bytes or calls, so that reading it costs nothing.
	lookBytes = 1 << 20
	lookOps   = 32
)

// sent counts n bytes by one call, and reports whether to go on.
func (m *meter) sent(n int) bool {
	m.bytes += uint64(n)
	m.ops++
	if m.unlooked += uint64(n); m.unlooked < lookBytes && m.ops%lookOps != 0 {
		return !m.over
	}
	m.unlooked = 0
	if m.over || time.Now().Before(m.next) {
		return !m.over
	}
	if !m.measuring {
		m.measuring = true
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms) // dear, therefore before the clocks
		m.begin = m.read()
		m.begin.mem = ms.Mallocs
		m.next = time.Now().Add(m.window)
		return true
	}
	end := m.read()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	m.over = true
	soft := end.soft - m.begin.soft
	m.sample = Sample{
		Seconds: (end.at - m.begin.at - m.out.at).Seconds(), CPU: end.cpu - m.begin.cpu - m.out.cpu + soft, Softirq: soft,
		Bytes: end.bytes - m.begin.bytes, Ops: end.ops - m.begin.ops,
		ZeroCopied: end.zeroCopied - m.begin.zeroCopied, Copied: end.copied - m.begin.copied, Allocs: ms.Mallocs - m.begin.mem,
	}
	return false
}

var meterEpoch = time.Now()

func (m *meter) read() reading {
	return reading{
		at: time.Since(meterEpoch), cpu: processCPU(), soft: m.soft.seconds(),
		bytes: m.bytes, ops: m.ops, zeroCopied: m.zeroCopied, copied: m.copied,
	}
}

// aside runs what is no part of the work, and does not count it.
func (m *meter) aside(f func() error) error {
	at, cpu := time.Now(), processCPU()
	err := f()
	if m.measuring {
		m.out.at += time.Since(at)
		m.out.cpu += processCPU() - cpu
	}
	return err
}
