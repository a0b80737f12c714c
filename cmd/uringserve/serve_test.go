package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/engine"
	"sluice/internal/policy"
	"sluice/ring"
	"sluice/zc"
)

// given checks a command line of flags and their values.
func given(tb testing.TB, args ...string) (engine.Config, error) {
	tb.Helper()
	f := serveFlags{listen: "127.0.0.1:0", threshold: "auto", recheck: time.Second, stall: time.Second, idle: time.Second, drain: time.Second}
	var err error
	for ; len(args) > 0; args = args[2:] {
		switch value := args[1]; args[0] {
		case "--listen":
			f.listen = value
		case "--loops":
			f.loops, err = strconv.Atoi(value)
		case "--zc-threshold":
			f.threshold = value
		case "--policy":
			f.policy = value
		case "--copy-only":
			f.copyOnly, err = strconv.ParseBool(value)
		case "--arena":
			f.arena = value
		case "--max-pinned":
			f.maxPinned = value
		case "--recheck":
			f.recheck, err = time.ParseDuration(value)
		case "--write-stall":
			f.stall, err = time.ParseDuration(value)
		case "--idle":
			f.idle, err = time.ParseDuration(value)
		case "--drain":
			f.drain, err = time.ParseDuration(value)
		default:
			tb.Fatalf("no flag %s", args[0])
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return f.config()
}

func TestTheThresholdIsANumberOrAWord(t *testing.T) {
	for s, want := range map[string]zc.Policy{
		"auto":  {},
		"off":   {Mode: zc.Off},
		"0":     {Mode: zc.Fixed},
		"1":     {Mode: zc.Fixed, Threshold: 1},
		"65536": {Mode: zc.Fixed, Threshold: 65536},
	} {
		c, err := given(t, "--zc-threshold", s)
		if err != nil || c.Policy != want {
			t.Errorf("%q: %+v, %v; want %+v", s, c.Policy, err, want)
		} else if err := c.Policy.Validate(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestAPolicyFileSaysWhereTheLoopsBegin(t *testing.T) {
	name := filepath.Join(t.TempDir(), "host.yaml")
	for threshold, want := range map[policy.Threshold]int{1: 1, 65536: 65536, policy.Never: zc.NoSize} {
		if err := (policy.Host{Threshold: threshold}).Write(name, ""); err != nil {
			t.Fatal(err)
		}
		c, err := given(t, "--policy", name)
		if want := (zc.Policy{Mode: zc.Adaptive, Threshold: want}); err != nil || c.Policy != want {
			t.Errorf("%v: %+v, %v; want %+v", threshold, c.Policy, err, want)
		}
	}
	for _, args := range [][]string{{"--zc-threshold", "off"}, {"--zc-threshold", "0"}, {"--zc-threshold", "65536"}, {"--copy-only", "true"}} {
		_, err := given(t, append(args, "--policy", name)...)
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), "--policy "+name) || !strings.Contains(err.Error(), args[0]) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := given(t, "--policy", name+".none"); err == nil || errors.As(err, new(usageError)) {
		t.Errorf("a missing file is no usage error, and not %v", err)
	}
}

func TestTheArenaIsANumberWithAUnit(t *testing.T) {
	for s, want := range map[string]int{
		"": 0, "1": 1, "4096": 4096, "10B": 10, "1KiB": 1 << 10, "3K": 3 << 10, "64MiB": 64 << 20, "64M": 64 << 20, "2GiB": 2 << 30, "2G": 2 << 30, "1024GiB": 1 << 40,
	} {
		if c, err := given(t, "--arena", s); err != nil || c.ArenaSize != want {
			t.Errorf("%q: %d, %v; want %d", s, c.ArenaSize, err, want)
		}
	}
}

func TestWhatMakesNoSenseIsAUsageErrorThatNamesTheFlag(t *testing.T) {
	for _, args := range [][]string{
		{"--zc-threshold", ""}, {"--zc-threshold", "-1"}, {"--zc-threshold", "x"}, {"--zc-threshold", "1KiB"}, {"--zc-threshold", "Auto"},
		{"--zc-threshold", "1.5"}, {"--zc-threshold", "99999999999999999999"},
		{"--arena", "0"}, {"--arena", "-1"}, {"--arena", "x"}, {"--arena", "MiB"}, {"--arena", "1.5MiB"}, {"--arena", "1XB"}, {"--arena", "1 MiB"},
		{"--arena", "1mib"}, {"--arena", "1MiBMiB"}, {"--arena", "1BiM"}, {"--arena", "9223372036854775807GiB"}, {"--arena", "8589934592GiB"},
		{"--arena", "9223372036854775807"}, {"--arena", "1025GiB"},
		{"--max-pinned", "0"}, {"--max-pinned", "-1"}, {"--max-pinned", "x"}, {"--max-pinned", "65MiB"}, {"--max-pinned", "9223372036854775807"},
		{"--loops", "-1"},
		{"--listen", ""},
		{"--recheck", "-1s"}, {"--write-stall", "0s"}, {"--write-stall", "-1s"}, {"--write-stall", "999us"}, {"--idle", "0s"}, {"--idle", "-1s"}, {"--drain", "-1s"},
	} {
		_, err := given(t, args...)
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%q: %v", args, err)
		} else if !strings.Contains(err.Error(), args[0]) {
			t.Errorf("%q: %q does not name the flag", args, err)
		}
	}
}

func TestPinsHaveRoomInTheArena(t *testing.T) {
	for _, args := range [][]string{
		{"--max-pinned", "64MiB"}, // the default arena
		{"--max-pinned", "1"},
		{"--max-pinned", "1GiB", "--arena", "1GiB"},
	} {
		if c, err := given(t, args...); err != nil || c.MaxPinned == 0 {
			t.Errorf("%q: %d, %v", args, c.MaxPinned, err)
		}
	}
	_, err := given(t, "--max-pinned", "1025MiB", "--arena", "1GiB")
	var usage usageError
	if !errors.As(err, &usage) || !strings.Contains(err.Error(), "--max-pinned 1025MiB") || !strings.Contains(err.Error(), "--arena") {
		t.Errorf("%v does not say which flags disagree", err)
	}
}

func TestTheLimitsOfTimesAreAllowed(t *testing.T) {
	c, err := given(t, "--recheck", "0s", "--write-stall", "1ms", "--idle", "1ns", "--drain", "0s")
	if err != nil || c.WriteStall != time.Millisecond || c.IdleTimeout != 1 || c.DrainTimeout != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWithoutFlagsThereIsALoopForEachProcessor(t *testing.T) {
	c, err := given(t)
	if err != nil || c.Loops < 1 || c.ArenaSize != 0 || c.Policy != (zc.Policy{}) || c.CopyOnly || c.SQPoll {
		t.Errorf("%+v, %v", c, err)
	}
}

// What a kernel before 6.0 gets to hear.
func TestAMissingSendZCIsNamedWithTheWayOut(t *testing.T) {
	err := explain((&ring.Caps{BufRing: true, AcceptMultishot: true, RecvMultishot: true}).Require("SEND_ZC"))
	if !errors.Is(err, ring.ErrUnsupported) {
		t.Fatalf("%v does not match ErrUnsupported", err)
	}
	for _, part := range []string{"SEND_ZC", "6.0", "--copy-only"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %s", err, part)
		}
	}
}

func TestErrorsOfTheEngineSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"locked memory":  {fmt.Errorf("register: %w (%w)", ring.ErrMemlock, syscall.ENOMEM), "--arena 1MiB"},
		"address space":  {os.NewSyscallError("mmap", syscall.ENOMEM), "--arena"},
		"old kernel":     {fmt.Errorf("probe: %w", &ring.UnsupportedError{Feature: "multishot receive", Since: "6.0"}), "--copy-only"},
		"something else": {syscall.EINVAL, "invalid argument"},
	} {
		got := explain(c.err)
		if !errors.Is(got, c.err) || !strings.Contains(got.Error(), c.want) || strings.Contains(got.Error(), "\n") {
			t.Errorf("%s: %v", name, got)
		}
	}
	if explain(nil) != nil {
		t.Error("nothing is explained")
	}
}
