package simring

import "math/rand/v2"

// Choices is the one source of everything that could have gone otherwise. It draws from a
// seed and remembers what it drew, so that a run can be replayed, and shrunk by leaving
// choices out: past its end a replay draws zeroes, which stand for the plainest choice.
type Choices struct {
	rng    *rand.Rand
	replay []uint32
	at     int
	Drawn  []uint32
	keep   bool
}

// FromSeed draws at random. With keep, Drawn remembers the choices.
func FromSeed(seed uint64, keep bool) *Choices {
	return &Choices{rng: rand.New(rand.NewPCG(seed, 0x51dec0de)), keep: keep}
}

// Replay repeats choices.
func Replay(drawn []uint32) *Choices { return &Choices{replay: drawn, keep: true} }

// Intn is a choice among n, 0 being the plainest. n must be positive.
func (c *Choices) Intn(n int) int {
	var v uint32
	switch {
	case c.rng != nil:
		v = c.rng.Uint32N(uint32(n))
	case c.at < len(c.replay):
		v = c.replay[c.at] % uint32(n)
		c.at++
	}
	if c.keep {
		c.Drawn = append(c.Drawn, v)
	}
	return int(v)
}

// OneIn is true once in n times; false is the plain choice.
func (c *Choices) OneIn(n int) bool { return c.Intn(n) == n-1 && n > 1 }

// Between is a choice from low to high, both included.
func (c *Choices) Between(low, high int) int {
	if high <= low {
		return low
	}
	return low + c.Intn(high-low+1)
}
