package main

import (
	"math/big"
	"regexp"
	"strconv"
	"testing"

	"sluice/zc"
)

// size is what a size may look like.
var size = regexp.MustCompile(`^([+]?[0-9]+)(B|K|KiB|M|MiB|G|GiB)?$`)

// FuzzSize checks sizes against their grammar and against numbers without a limit.
func FuzzSize(f *testing.F) {
	for _, seed := range []string{"", "1", "4096B", "64MiB", "1G", "0", "-1", "1.5MiB", "9223372036854775807GiB", "4611686018427387904", "1BiM", "+1K", " 1", "0x10"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		m := size.FindStringSubmatch(s)
		want := new(big.Int)
		if m != nil {
			want.SetString(m[1], 10)
			unit := map[string]uint{"K": 10, "M": 20, "G": 30}[(m[2] + "B")[:1]]
			want.Lsh(want, unit)
		}
		switch {
		case s == "":
			if n != 0 || err != nil {
				t.Fatalf("nothing is %d, %v", n, err)
			}
		case err == nil:
			if m == nil || n <= 0 || want.Cmp(big.NewInt(int64(n))) != 0 {
				t.Fatalf("%q is %d, want %v", s, n, want)
			}
		case n != 0:
			t.Fatalf("%q is %d and %v", s, n, err)
		case m != nil && want.Sign() > 0 && want.Cmp(big.NewInt(1<<62)) < 0:
			t.Fatalf("%q: %v", s, err)
		}
	})
}

// FuzzThreshold checks that what is taken for a threshold has a meaning, and is the number.
func FuzzThreshold(f *testing.F) {
	for _, seed := range []string{"auto", "off", "0", "1", "65536", "-1", "1KiB", "Auto", "+5", "007", "9223372036854775808"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseThreshold(s)
		if err != nil {
			if p != (zc.Policy{}) {
				t.Fatalf("%q: %+v and %v", s, p, err)
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if n, err := strconv.ParseUint(s, 10, 63); err == nil && (p.Mode != zc.Fixed || p.Threshold != int(n)) || err != nil && p.Mode == zc.Fixed && s[0] != '+' && s[0] != '-' {
			t.Fatalf("%q: %+v", s, p)
		}
	})
}
