//go:build linux

package ring

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// needs skips a test on a kernel that lacks one of the features.
func needs(t testing.TB, features ...string) {
	t.Helper()
	c, err := Probe()
	if err != nil {
		t.Fatalf("Probe: %v", err)
	}
	if err := c.Require(features...); err != nil {
		t.Skip(err)
	}
}

// needsRelease skips a test of what is no feature of [Caps] on kernels before it came.
func needsRelease(t testing.TB, since, what string) {
	t.Helper()
	if parseRelease(t, kernelRelease()).before(parseRelease(t, since)) {
		t.Skip(&UnsupportedError{Feature: what, Since: since})
	}
}

// release is a kernel release as far as it can be compared.
type release struct{ major, minor int }

func parseRelease(t testing.TB, s string) (r release) {
	t.Helper()
	if _, err := fmt.Sscanf(s, "%d.%d", &r.major, &r.minor); err != nil {
		t.Fatalf("kernel release %q: %v", s, err)
	}
	return r
}

func (r release) before(s release) bool {
	return r.major < s.major || r.major == s.major && r.minor < s.minor
}

func TestProbeIsDoneOnce(t *testing.T) {
	first, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Probe(); second != first || err != nil {
		t.Errorf("a second Probe: %p, %v; the first: %p", second, err, first)
	}
}

func TestProbingAgainFindsTheSame(t *testing.T) {
	first, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // more often than a thread has slots for registered rings
		again, err := probeKernel()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(first, again) {
			t.Fatalf("first %+v, then %+v", first, again)
		}
	}
}

// A probe that misses what the kernel's release must have is wrong. The other way round
// proves nothing: distributions backport.
func TestProbeFindsWhatTheReleaseMustHave(t *testing.T) {
	c, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	running := parseRelease(t, c.Kernel)
	for _, f := range c.Features() {
		if !f.Have && !running.before(parseRelease(t, f.Since)) {
			t.Errorf("the probe does not find %s of Linux %s on %s", f.Name, f.Since, c.Kernel)
		}
	}
}

func TestProbeAgreesWithARing(t *testing.T) {
	c, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	d := newRing(t, Config{})
	if got := d.SetupFlags() &^ (SetupCQSize | SetupClamp); got != c.SetupFlags {
		t.Errorf("a ring gets setup flags %#x, the probe says %#x", got, c.SetupFlags)
	}
	if c.Kernel != kernelRelease() {
		t.Errorf("probed %q, running %q", c.Kernel, kernelRelease())
	}
}

func TestFeaturesAreInTheOrderOfTheirReleases(t *testing.T) {
	features := new(Caps).Features()
	for i, f := range features[1:] {
		if parseRelease(t, f.Since).before(parseRelease(t, features[i].Since)) {
			t.Errorf("%s (%s) stands after %s (%s)", f.Name, f.Since, features[i].Name, features[i].Since)
		}
	}
}

// Each capability has a name of its own: with all but one, exactly one is missing.
func TestEveryCapabilityIsAFeature(t *testing.T) {
	var all Caps
	v := reflect.ValueOf(&all).Elem()
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Bool {
			v.Field(i).SetBool(true)
		}
	}
	all.SetupFlags = ladder[0]
	named := map[string]string{}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Type.Kind() != reflect.Bool {
			continue
		}
		v.Field(i).SetBool(false)
		var missing []string
		for _, f := range all.Features() {
			if !f.Have {
				missing = append(missing, f.Name)
			}
		}
		v.Field(i).SetBool(true)
		if len(missing) != 1 || named[missing[0]] != "" {
			t.Errorf("without %s, missing are %q", field.Name, missing)
			continue
		}
		named[missing[0]] = field.Name
	}
}

func TestRequireNamesTheMissingFeatureAndItsRelease(t *testing.T) {
	c := &Caps{SendZC: true}
	err := c.Require("SEND_ZC", "SENDMSG_ZC", "zero-copy usage reports")
	var u *UnsupportedError
	if !errors.As(err, &u) || !errors.Is(err, ErrUnsupported) {
		t.Fatalf("%v is not an UnsupportedError that matches ErrUnsupported", err)
	}
	if u.Feature != "SENDMSG_ZC" || u.Since != "6.1" {
		t.Errorf("%+v is not the first that is missing", u)
	}
	for _, want := range []string{"SENDMSG_ZC", "Linux 6.1", kernelRelease()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not mention %q", err, want)
		}
	}
}

func TestRequireAcceptsWhatIsThere(t *testing.T) {
	c := &Caps{SendZC: true, SendMsgZC: true}
	if err := c.Require("SEND_ZC", "SENDMSG_ZC"); err != nil {
		t.Error(err)
	}
	if err := c.Require(); err != nil {
		t.Error(err)
	}
}

func TestRequirePanicsOnAnUnknownName(t *testing.T) {
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "SEND_CZ") {
			t.Errorf("recovered %v", r)
		}
	}()
	_ = new(Caps).Require("SEND_CZ")
}
