//go:build linux

package main

import (
	"fmt"
	"slices"
)

// fleet is the kernels that tests run on: one without SEND_ZC, the oldest long-term one with
// it, those of Debian 13 and of the newest long-term one, and the newest.
var fleet = []string{"5.10", "6.1", "6.12", "6.18", "7.2"}

// program is a test binary. Tests that need what a kernel lacks skip themselves.
type program struct {
	name  string
	pkg   string            // below the module
	run   string            // as for go test; "": every test
	cmd   string            // command that its tests run, below the module; the guest has it at job.CommandPath
	notOn map[string]string // kernels that it does not run on, and why
}

var programs = []program{
	{name: "ring", pkg: "ring"},
	{name: "bufreg", pkg: "bufreg", run: "^Test(Attach|TheArenaHasHugePages)"}, // the rest needs no kernel
	{name: "engine", pkg: "engine", notOn: map[string]string{"5.10": "its tests need 6.0; engines that only copy are seen in kernels"}},
	{name: "bench", pkg: "internal/bench", run: "^Test(WhatLeavesByKTLS)", notOn: map[string]string{"5.10": "the engine that it measures needs 6.0"}},
	{name: "kernels", pkg: "integration/kernels", cmd: "cmd/uringserve"},
}

// file is the built program's name, guestPath where the guest has it.
func (p program) file() string      { return p.name + ".test" }
func (p program) guestPath() string { return "/" + p.file() }

// command is what the guest runs. With -test.short tests move less: processors are slow
// under emulation. A test that hangs is ended with the stacks of its goroutines; -deadline is
// for a kernel that does.
func (p program) command(run string, count int) []string {
	args := []string{p.guestPath(), "-test.v=test2json", "-test.short", "-test.timeout=8m", fmt.Sprint("-test.count=", count)}
	if run == "" {
		run = p.run
	}
	if run != "" {
		args = append(args, "-test.run="+run)
	}
	return args
}

// programsOn returns those of the programs that run on a kernel.
func programsOn(series string, chosen []program) []program {
	return slices.DeleteFunc(slices.Clone(chosen), func(p program) bool { return p.notOn[series] != "" })
}
