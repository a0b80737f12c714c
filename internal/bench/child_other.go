//go:build !linux

package bench

import "os/exec"

func isolate(*exec.Cmd) {}

func (j *job) run() (Sample, error) {
	return Sample{}, &Refusal{"the mechanisms are those of Linux"}
}

func (j *sinkJob) listen() (string, error) {
	return "", &Refusal{"the mechanisms are those of Linux"}
}

func (j *streamJob) run() (Sample, error) {
	return Sample{}, &Refusal{"the engine is for Linux"}
}
