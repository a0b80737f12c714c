package zc

import (
	"fmt"
	"reflect"
	"testing"
)

// numbers calls f with every number inside v, which must hold nothing else.
func numbers(t *testing.T, path string, v reflect.Value, f func(path string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Uint64:
		f(path, v)
	case reflect.Struct:
		for i := range v.NumField() {
			numbers(t, path+"."+v.Type().Field(i).Name, v.Field(i), f)
		}
	case reflect.Array:
		for i := range v.Len() {
			numbers(t, fmt.Sprintf("%s[%d]", path, i), v.Index(i), f)
		}
	default:
		t.Fatalf("%s is a %v: teach this test, and Merge", path, v.Kind())
	}
}

// fill gives every counter another value.
func fill(t *testing.T, c *Counters, next uint64) {
	numbers(t, "Counters", reflect.ValueOf(c).Elem(), func(_ string, v reflect.Value) {
		v.SetUint(next)
		next += 3
	})
}

func values(t *testing.T, c *Counters) (paths []string, out []uint64) {
	numbers(t, "Counters", reflect.ValueOf(c).Elem(), func(path string, v reflect.Value) {
		paths, out = append(paths, path), append(out, v.Uint())
	})
	return paths, out
}

func TestMergeAddsEveryCounter(t *testing.T) {
	var a, b Counters
	fill(t, &a, 1)
	fill(t, &b, 100_000)
	paths, before := values(t, &a)
	_, added := values(t, &b)
	a.Merge(&b)
	_, after := values(t, &a)
	_, untouched := values(t, &b)
	for i, path := range paths {
		if want := before[i] + added[i]; after[i] != want {
			t.Errorf("%s = %d after Merge, want %d", path, after[i], want)
		}
		if untouched[i] != added[i] {
			t.Errorf("%s of what was merged went from %d to %d", path, added[i], untouched[i])
		}
	}
}

func TestTotalIsTheSumOverAllReasons(t *testing.T) {
	var c Counters
	fill(t, &c, 1)
	for r := range Route(NumRoutes) {
		sum := Count{}
		fields := reflect.ValueOf(&sum).Elem()
		for _, n := range c.By[r] {
			for i := range fields.NumField() {
				fields.Field(i).SetUint(fields.Field(i).Uint() + reflect.ValueOf(n).Field(i).Uint())
			}
		}
		if got := c.Total(r); got != sum {
			t.Errorf("%v: %+v, want %+v", r, got, sum)
		}
	}
}

func TestAddCountsOneSend(t *testing.T) {
	var c, want Counters
	c.Add(ZeroCopy, AboveThreshold, 100)
	c.Add(ZeroCopy, AboveThreshold, 11)
	c.Add(Copy, PathCopies, 5)
	want.By[ZeroCopy][AboveThreshold] = Count{2, 111}
	want.By[Copy][PathCopies] = Count{1, 5}
	if c != want {
		t.Errorf("%+v, want %+v", c, want)
	}
}
