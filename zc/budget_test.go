package zc

import (
	"math/rand/v2"
	"testing"
	"time"
)

type admitted struct {
	who   int
	n     int64
	fresh bool
}

func TestABudgetHoldsWhateverIsAdmitted(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		limit := int64(1+r.IntN(64)) << 20
		b := NewBudget(limit)
		accounts := make([]Account, 1+r.IntN(50))
		var out []admitted
		now := int64(0)
		for range 5000 {
			now += int64(r.IntN(int(100 * time.Millisecond)))
			if len(out) > 0 && r.IntN(2) == 0 {
				i := r.IntN(len(out))
				a := out[i]
				b.Settle(&accounts[a.who], a.n, a.fresh, a.n*int64(r.IntN(2)), now)
				out[i] = out[len(out)-1]
				out = out[:len(out)-1]
			} else {
				who, n := r.IntN(len(accounts)), int64(1+r.IntN(1<<20))
				before := accounts[who].Pinned()
				others := b.Pinned() - before
				fresh, ok := b.Admit(&accounts[who], n, now)
				if ok {
					out = append(out, admitted{who, n, fresh})
					if before+n > (limit-others)/2 {
						t.Fatalf("seed %d: %d bytes admitted beside %d of others, of %d", seed, before+n, others, limit)
					}
				}
			}
			var sum, fresh int64
			for _, a := range out {
				sum += a.n
				if a.fresh {
					fresh += a.n
				}
			}
			if b.Pinned() != sum || sum > limit || fresh > limit/2 {
				t.Fatalf("seed %d: %d pinned, the sends add up to %d (%d of them fresh), the limit is %d", seed, b.Pinned(), sum, fresh, limit)
			}
		}
		for _, a := range out {
			b.Settle(&accounts[a.who], a.n, a.fresh, a.n, now)
		}
		for i := range accounts {
			if accounts[i].Pinned() != 0 {
				t.Fatalf("seed %d: account %d ends with %d", seed, i, accounts[i].Pinned())
			}
		}
		if b.Pinned() != 0 {
			t.Fatalf("seed %d: the budget ends with %d", seed, b.Pinned())
		}
	}
}

// However many peers never read, what they pin leaves room for those that do.
func TestConnectionsThatDrainHaveRoomBesideAThousandThatDoNot(t *testing.T) {
	const size = 256 << 10
	b := NewBudget(48 << 20)
	var reader Account
	drain(&b, &reader, drainedEnough)
	stalled := make([]Account, 1000)
	for range 10 {
		for i := range stalled {
			b.Admit(&stalled[i], size, 0)
		}
	}
	if b.Pinned() == 0 || b.Pinned() > b.Limit()/2 {
		t.Fatalf("the stalled pin %d of %d", b.Pinned(), b.Limit())
	}
	if _, ok := b.Admit(&reader, size, 0); !ok {
		t.Error("no room for one that drains")
	}
}

func TestAConnectionThatLagsIsFreshAgain(t *testing.T) {
	b := NewBudget(1 << 30)
	var a Account
	if fresh, _ := b.Admit(&a, 1, 0); !fresh {
		t.Error("a new connection counts as one that drains")
	}
	b.Settle(&a, 1, true, 1, 0)
	drain(&b, &a, drainedEnough)
	if fresh, _ := b.Admit(&a, 1000, 0); fresh {
		t.Error("a connection that has drained enough is fresh")
	}
	if fresh, _ := b.Admit(&a, 1000, int64(lagging)); fresh {
		t.Error("fresh at the edge of lagging")
	}
	if fresh, _ := b.Admit(&a, 1000, int64(lagging)+1); !fresh {
		t.Error("a connection that lags counts as one that drains")
	}
	for range 2 {
		b.Settle(&a, 1000, false, 1000, int64(lagging)+1)
	}
	if fresh, _ := b.Admit(&a, 1000, int64(lagging)+1); !fresh {
		t.Error("two thousand bytes are enough")
	}
}

func TestRefusedSendsAreNoProgress(t *testing.T) {
	b := NewBudget(1 << 30)
	var a Account
	for range 10 {
		fresh, ok := b.Admit(&a, drainedEnough, 0)
		if !fresh || !ok {
			t.Fatalf("fresh %v, admitted %v", fresh, ok)
		}
		b.Settle(&a, drainedEnough, fresh, 0, 0)
	}
}

func TestSettlingMoreThanWasAdmittedPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	b := NewBudget(1 << 20)
	var a Account
	b.Admit(&a, 10, 0)
	b.Settle(&a, 11, true, 11, 0)
}

// drain has a connection send and drain n bytes.
func drain(b *Budget, a *Account, n int64) {
	fresh, _ := b.Admit(a, n, 0)
	b.Settle(a, n, fresh, n, 0)
}
