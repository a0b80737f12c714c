//go:build !linux

package bench

import (
	"context"

	"sluice/internal/wire"
)

var errServers = &Refusal{"servers are measured on Linux"}

// loadJob and fileServerJob are the work of children.
type (
	loadJob struct{}
)

func (j *loadJob) run() (Sample, error) { return Sample{}, errServers }

func (j *fileServerJob) run() error { return errServers }

func (r *serverRun) overLoopback(context.Context) (Sample, error) { return Sample{}, errServers }

func (r *serverRun) overWire(context.Context, wire.Options) (Sample, error) {
	return Sample{}, errServers
}

func raiseLimit() error { return nil }
