package bench

import (
	"reflect"
	"testing"
)

func TestAColdWorkingSetIsFarLargerThanTheCache(t *testing.T) {
	for cache, want := range map[int]int{0: 128 << 20, 1 << 20: 128 << 20, 32 << 20: 128 << 20, 33 << 20: 144 << 20, 105 << 20: 432 << 20, 512 << 20: 1 << 30} {
		if got := (Machine{LastCache: cache}).ColdSize(); got != want {
			t.Errorf("a cache of %s: %s, want %s", FormatSize(cache), FormatSize(got), FormatSize(want))
		}
	}
}

func TestListsOfProcessorsAreRead(t *testing.T) {
	for s, want := range map[string]map[int]bool{
		"0": {0: true}, "0-2": {0: true, 1: true, 2: true}, "3,7": {3: true, 7: true}, "0-1,8": {0: true, 1: true, 8: true},
	} {
		if got := parseCPUList(s); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestTheMachineIsDescribed(t *testing.T) {
	m := LookAtMachine()
	if m.Arch == "" || m.CPUs < 1 || m.Go == "" {
		t.Errorf("%+v", m)
	}
	if measured, peer := Processors(); len(AllowedCPUs()) > 1 && measured == peer {
		t.Errorf("what is measured and its peer are both on processor %d of %v", peer, AllowedCPUs())
	}
	if idle := IdleShare(); idle < 0 || idle > 1 {
		t.Errorf("%v of the processors idle", idle)
	}
}
