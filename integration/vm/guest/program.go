//go:build linux

package main

import (
	"errors"
	"os/exec"
	"syscall"
	"time"

	"sluice/integration/vm/job"
)

// runProgram runs a program to its end and reports both.
func runProgram(out *serial, p job.Program, env []string) {
	out.event(job.Event{Kind: job.Begin, Name: p.Name})
	start := time.Now()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Dir = "/tmp"
	cmd.Env = append([]string{"HOME=/tmp", "TMPDIR=/tmp", "PATH=/"}, env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // for a child of the program's that keeps the pipe open
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		out.problem(err)
	}
	out.event(job.Event{Kind: job.End, Name: p.Name, Code: exitCode(err), Seconds: time.Since(start).Seconds()})
}

// exitCode is an exit status as shells have it.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return 0
	case !errors.As(err, &exit):
		return 127
	}
	if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return exit.ExitCode()
}
