//go:build linux

package engine

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPostedFunctionsRunInTheOrderOfEachGoroutine(t *testing.T) {
	const goroutines, each = 8, 3000
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 0)
	var next [goroutines]int // touched by the loop only
	var wait sync.WaitGroup
	for g := range goroutines {
		wait.Go(func() {
			for i := range each {
				ok := k.conn.Post(func(*Conn) {
					if next[g] != i {
						t.Errorf("function %d of goroutine %d runs as number %d", i, g, next[g])
					}
					next[g]++
				})
				if !ok {
					t.Errorf("function %d of goroutine %d was refused", i, g)
				}
			}
		})
	}
	wait.Wait()
	k.do(func(*Conn) {
		for g, n := range next {
			if n != each {
				t.Errorf("%d functions of goroutine %d ran, want %d", n, g, each)
			}
		}
	})
}

func TestPostReachesALoopWithAClosedConnection(t *testing.T) {
	e := newEngine(t, Config{})
	k := connect(t, e, &handler{}, 0)
	k.peer.Close()
	k.wantEnd(nil)
	ran := make(chan error, 1)
	if !k.conn.Post(func(c *Conn) { _, err := c.Write([]byte("x")); ran <- err }) {
		t.Fatal("Post is refused while the loop runs")
	}
	if err := await(t, ran, "the function"); err != ErrClosed {
		t.Errorf("a write on the closed connection: %v, want ErrClosed", err)
	}
}

// TestNoWakeUpIsLost posts to a loop that is on its way to sleep, again and again; each
// function must run although nothing else wakes the loop.
func TestNoWakeUpIsLost(t *testing.T) {
	for _, c := range []struct {
		name  string
		cfg   Config
		posts int
	}{
		{"sleeping", Config{IdleTimeout: -1}, 20_000},
		{"spinning", Config{IdleTimeout: -1, Spin: 5 * time.Microsecond}, 5000},
		{"submission polling", Config{IdleTimeout: -1, SQPoll: true}, 3000},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, c.cfg)
			l := e.loops[0]
			var ran atomic.Int64
			done := make(chan struct{}, 1)
			for i := range amount(c.posts, c.posts/10) {
				l.post(func() {
					ran.Add(1)
					done <- struct{}{}
				})
				select {
				case <-done:
				case <-time.After(patience):
					t.Fatalf("post %d never ran", i)
				}
				for spin := i % 64; spin > 0; spin-- { // meet the loop at different steps
					_ = ran.Load()
				}
			}
		})
	}
}

// TestEveryAcceptedPostRunsWhenTheEngineStops races posts with the loop's end.
func TestEveryAcceptedPostRunsWhenTheEngineStops(t *testing.T) {
	for range 10 {
		const goroutines = 2
		e := startEngine(t, Config{})
		l := e.loops[0]
		var accepted, ran atomic.Int64
		var wait sync.WaitGroup
		for range goroutines {
			wait.Go(func() {
				for l.post(func() { ran.Add(1) }) {
					accepted.Add(1)
				}
			})
		}
		eventually(t, "some posts", func() bool { return ran.Load() > 100 })
		stopEngine(t, e)
		wait.Wait()
		if accepted.Load() != ran.Load() {
			t.Fatalf("%d posts were accepted and %d ran", accepted.Load(), ran.Load())
		}
	}
}

func TestInboxTakesInTheOrderOfPushes(t *testing.T) {
	var b inbox
	var got []int
	for i := range 5 {
		b.push(func() { got = append(got, i) })
	}
	if b.empty() {
		t.Error("empty after five pushes")
	}
	for p := b.take(); p != nil; p = p.next {
		p.fn()
	}
	if len(got) != 5 || got[0] != 0 || got[4] != 4 {
		t.Errorf("ran %v, want 0 to 4 in order", got)
	}
	if b.take() != nil {
		t.Error("the second take returns something")
	}
}

func TestAClosedInboxRefuses(t *testing.T) {
	var b inbox
	b.push(func() {})
	if b.close() == nil {
		t.Error("close does not return what was pushed")
	}
	if b.push(func() {}) {
		t.Error("push is accepted after close")
	}
	if b.take() != nil || b.close() != nil {
		t.Error("something is in a closed inbox")
	}
}
