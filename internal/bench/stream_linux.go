package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/zc"
)

// streamEnd is how long connections may take to send what they have queued after the window.
const streamEnd = 5 * time.Second

// run takes a sample.
func (j *streamJob) run() (s Sample, err error) {
	runtime.GOMAXPROCS(len(j.CPUs) + 1) // each loop, and what the runtime does beside them
	if err := pinProcess(j.CPUs...); err != nil {
		return s, err
	}
	last := j.Size
	if j.Cold > 0 {
		last = j.Cold - j.Cold%j.Size
	}
	cfg := engine.Config{Loops: len(j.CPUs), CPUs: j.CPUs, Policy: j.Policy, HighWater: max(1<<20, 2*j.Size)}
	// Twice what is leased: past a half, the engine keeps what is left for peers that read. And never less
	// than it has by default, which bounds what may be pinned.
	cfg.ArenaSize = max(2*len(j.CPUs)*max(last, bufreg.MaxBuffer), bufreg.DefaultSize)
	if j.Single {
		cfg.HighWater, cfg.LowWater = 1, 1
	}
	eng, err := engine.New(cfg)
	if err != nil {
		return s, refusal(err)
	}
	t := &streaming{streamJob: j, sources: make([]streamSource, len(j.CPUs))}
	for i := range t.sources {
		if err := t.sources[i].lease(eng, last, j.Size); err != nil {
			return s, err
		}
	}
	for i := range j.Conns {
		t.open.Add(1)
		err := eng.Dial(context.Background(), "tcp", j.Addr, func(c *engine.Conn) engine.Handler {
			h := &streamHandler{t: t, source: &t.sources[c.Loop()]}
			c.Post(h.Writable)
			return h
		})
		if err != nil {
			return s, fmt.Errorf("connection %d of %d: %w", i+1, j.Conns, err)
		}
	}
	s = t.sample(eng)
	if err := t.end(); err != nil {
		return s, err
	}
	sends := eng.Stats().Sends
	switch j.Policy.Mode {
	case zc.Off:
		err = j.byRoute(zc.Copy, &sends)
	case zc.Fixed:
		err = j.byRoute(zc.ZeroCopy, &sends)
	}
	return s, err
}

// streaming is a streamJob at work.
type streaming struct {
	*streamJob
	sources []streamSource // of each loop
	over    atomic.Bool
	open    sync.WaitGroup        // connections
	failed  atomic.Pointer[error] // the first of theirs
}

// streamSource is what a loop's connections send, and how much they have. Loops share no cache line of it.
type streamSource struct {
	_     [64]byte
	slabs []bufreg.Buffer // of bufreg.MaxBuffer, or one that is smaller
	off   int             // of the next bytes
	last  int             // where they wrap
	bytes atomic.Uint64   // queued so far, in whole buffers, which the loop alone writes
	_     [64]byte
}

// lease takes the source's memory, and fills it.
func (s *streamSource) lease(eng *engine.Engine, last, size int) error {
	s.last = last
	for left := last; left > 0; left -= bufreg.MaxBuffer {
		b, err := eng.Lease(min(left, bufreg.MaxBuffer))
		if err != nil {
			return fmt.Errorf("lease the source: %w", err)
		}
		for p := b.Bytes(); len(p) > 0; p = p[min(len(p), len(pattern)):] {
			copy(p, pattern[:])
		}
		s.slabs = append(s.slabs, b)
	}
	return nil
}

// sample waits for the warm-up to end, and looks at both ends of the window. It does not ask the loops, which would
// be late to answer: what they have queued is within their queues of what they have sent.
func (t *streaming) sample(eng *engine.Engine) Sample {
	soft := newSoftirqs(t.CPUs, t.IRQTime)
	time.Sleep(t.Warm)
	before := eng.Stats().Sends
	// Heap objects to the last one: what runtime/metrics counts leaves out those of the processors' caches. What looking
	// itself allocates is outside.
	var ms runtime.MemStats
	begin := t.look(soft)
	runtime.ReadMemStats(&ms)
	objects := ms.Mallocs
	time.Sleep(t.Window)
	runtime.ReadMemStats(&ms)
	objects = ms.Mallocs - objects
	end := t.look(soft)
	after := eng.Stats().Sends
	return Sample{
		Seconds: (end.at - begin.at).Seconds(), CPU: end.cpu - begin.cpu + end.soft - begin.soft, Softirq: end.soft - begin.soft,
		Bytes: end.bytes - begin.bytes, Ops: end.ops - begin.ops, Allocs: objects,
		ZeroCopied: after.NotifiedZeroCopy - before.NotifiedZeroCopy, Copied: after.NotifiedCopied - before.NotifiedCopied,
	}
}

func (t *streaming) look(soft *softirqs) (r reading) {
	r = reading{at: time.Since(meterEpoch), cpu: processCPU(), soft: soft.seconds()}
	for i := range t.sources {
		r.bytes += t.sources[i].bytes.Load()
	}
	r.ops = r.bytes / uint64(t.Size)
	return r
}

// end waits for the connections to close, which they do in order. The engine ends with the process.
func (t *streaming) end() error {
	t.over.Store(true)
	closed := make(chan struct{})
	go func() { t.open.Wait(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(streamEnd):
		return fmt.Errorf("connections are still open %v after the last byte was queued", streamEnd)
	}
	if err := t.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (t *streaming) fail(err error) { t.failed.CompareAndSwap(nil, &err) }

// streamHandler keeps its connection's queue filled.
type streamHandler struct {
	t      *streaming
	source *streamSource
}

func (h *streamHandler) Received(_ *engine.Conn, p []byte) int { return len(p) }

func (h *streamHandler) Writable(c *engine.Conn) {
	for !c.Congested() && !h.t.over.Load() {
		if err := h.send(c); err != nil {
			h.t.fail(err)
			c.Abort()
			return
		}
	}
	if h.t.over.Load() {
		c.Close()
	}
}

// send queues the next bytes of the source.
func (h *streamHandler) send(c *engine.Conn) error {
	s, size := h.source, h.t.Size
	off := s.off
	if s.off += size; s.off >= s.last {
		s.off = 0
	}
	err := c.Send(s.slabs[off/bufreg.MaxBuffer].View(off%bufreg.MaxBuffer, size).Retain())
	if err == nil {
		s.bytes.Add(uint64(size))
	}
	return err
}

func (h *streamHandler) Closed(_ *engine.Conn, err error) {
	if err != nil {
		h.t.fail(err)
	}
	h.t.open.Done()
}
