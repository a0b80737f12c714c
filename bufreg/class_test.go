package bufreg

import "testing"

func TestClassForIsTheSmallestThatFits(t *testing.T) {
	check := func(n int) {
		c := classFor(n)
		if c >= NumClasses {
			t.Fatalf("classFor(%d) = %d: there are %d classes", n, c, NumClasses)
		}
		if c.size() < n {
			t.Fatalf("classFor(%d) = %d bytes: too small", n, c.size())
		}
		if c > 0 && (c-1).size() >= n {
			t.Fatalf("classFor(%d) = %d bytes, and %d would do", n, c.size(), (c - 1).size())
		}
	}
	for n := range 3 * MinBuffer {
		check(n)
	}
	for c := range class(NumClasses) {
		for d := -2; d <= 2; d++ {
			if n := c.size() + d; n <= MaxBuffer {
				check(n)
			}
		}
	}
	for n := 0; n <= MaxBuffer; n += 997 {
		check(n)
	}
}

func TestClassesReachFromMinBufferToMaxBuffer(t *testing.T) {
	if got := class(0).size(); got != MinBuffer {
		t.Errorf("smallest class: %d bytes, want %d", got, MinBuffer)
	}
	if got := class(NumClasses - 1).size(); got != MaxBuffer {
		t.Errorf("largest class: %d bytes, want %d", got, MaxBuffer)
	}
	for c := range class(NumClasses) {
		if got := c.perSlab() * c.size(); got != MaxBuffer {
			t.Errorf("class %d fills %d bytes of a slab of %d", c, got, MaxBuffer)
		}
	}
}
