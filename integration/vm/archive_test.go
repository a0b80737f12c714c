//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestNewestKernelOfASeriesComesFirst(t *testing.T) {
	got := newestFirst("6.1", []string{
		"linux-image-6.1.0-9-cloud-amd64",
		"linux-image-6.1.0-10-cloud-amd64",
		"linux-image-6.12.9-cloud-amd64",
		"linux-image-6.1.0-11-amd64",
		"linux-image-6.1.0-10-cloud-amd64-dbg",
		"linux-image-6.1.0-0.deb11.52-cloud-amd64",
	})
	want := []string{"linux-image-6.1.0-10-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-0.deb11.52-cloud-amd64"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNumbersCompareAsNumbers(t *testing.T) {
	ordered := []string{"6.1.9", "6.1.10", "6.1.10+deb13", "6.1.10+deb13.1", "6.2"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := compareNatural(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%s and %s compare as %d", a, b, got)
			}
		}
	}
}

func TestMirrorIsTheMachinesOwn(t *testing.T) {
	for _, c := range []struct{ archive, repositories, want string }{
		{"debian", "http://m/debian/", "http://m/debian/"},
		{"debian", "http://m/debian", "http://m/debian/"},
		{"debian-security", "http://m/debian/ http://s/debian-security/", "http://s/debian-security/"},
		{"debian-security", "http://m/x/debian/", "http://m/x/debian-security/"},
		{"debian", "http://s/debian-security/", "http://s/debian/"},
		{"debian-security", "http://m/archive/debian/20260101T000000Z/", "http://m/archive/debian-security/20260101T000000Z/"},
		{"debian", "http://debian.m/ubuntu/", ""},
	} {
		got, ok := mirrorOf(c.archive, strings.Fields(c.repositories))
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s among %s: %q, %v, want %q", c.archive, c.repositories, got, ok, c.want)
		}
	}
}

func TestSourcesNeedADebianMirror(t *testing.T) {
	if list, err := sourcesFrom([]string{"http://m/ubuntu/"}); err == nil {
		t.Errorf("made %q of no mirror", list)
	}
	list, err := sourcesFrom([]string{"http://m/debian/"})
	if err != nil || strings.Count(list, "\n") != len(suites) {
		t.Errorf("%q, %v", list, err)
	}
}
