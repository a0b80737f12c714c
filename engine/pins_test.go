//go:build linux

package engine

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestAPeerThatTakesAByteNowAndThenIsGivenUp: the write stall never ends its pins.
func TestAPeerThatTakesAByteNowAndThenIsGivenUp(t *testing.T) {
	inTime(t)
	const limit = 2 * stall
	e := newEngine(t, Config{Policy: everything, WriteStall: stall, PinLimit: limit})
	k := connectOut(t, e, &handler{}, 16<<10)
	since := time.Now()
	k.do(func(c *Conn) { limitSendBuffer(t, c); sendPieces(t, c, 0, 1<<20, 1) })
	go (&slowReader{peer: k.peer, chunk: 4 << 10, pause: stall / 20}).hearAll() // the whole of it would take 6 s
	if err := k.end(); !errors.Is(err, ErrPinned) {
		t.Errorf("ended with %v", err)
	}
	if took := time.Since(since); took < limit || took > 2*limit {
		t.Errorf("reset after %v, want %v", took, limit)
	}
	if st := settled(t, e); st.Pinned != 0 || st.OldestPin.Age != 0 {
		t.Errorf("%d bytes stay pinned, the oldest by %+v", st.Pinned, st.OldestPin)
	}
}

// TestThePinLimitIsOfOneSend: a stream may last for longer, and so may copies.
func TestThePinLimitIsOfOneSend(t *testing.T) {
	inTime(t)
	const total, piece = 640 << 10, 64 << 10
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, Config{Policy: p.policy, WriteStall: stall, PinLimit: 2 * stall, HighWater: 128 << 10})
			sent := 0
			h := &handler{writable: func(c *Conn) {
				for ; sent < total && !c.Congested(); sent += piece {
					sendPieces(t, c, sent, piece, 1)
				}
				if sent == total {
					c.Close()
				}
			}}
			k := connect(t, e, h, 16<<10)
			k.do(func(c *Conn) { limitSendBuffer(t, c); h.writable(c) })
			k.hearSlowly(total, 3*stall)
		})
	}
}

// TestPinsAreListedInTheOrderOfTheirSubmission against a slice, in any order of ends.
func TestPinsAreListedInTheOrderOfTheirSubmission(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var list pinList
	var want []*sendOp
	for range 10_000 {
		if n := len(want); n > 0 && rng.IntN(20) < n {
			i := rng.IntN(n)
			list.remove(want[i])
			want = slices.Delete(want, i, i+1)
		} else {
			op := new(sendOp)
			list.add(op)
			want = append(want, op)
		}
		var up, down []*sendOp
		for op := list.oldest; op != nil; op = op.newer {
			up = append(up, op)
		}
		for op := list.newest; op != nil; op = op.older {
			down = append(down, op)
		}
		slices.Reverse(down)
		if !slices.Equal(up, want) || !slices.Equal(down, want) {
			t.Fatalf("%d and %d listed, want %d, or another order", len(up), len(down), len(want))
		}
	}
}
