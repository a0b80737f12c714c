//go:build !linux

package bench

import (
	"context"
	"net"

	"sluice/internal/wire"
)

func openFiles() int { return 0 }

func (r *serverRun) idleOverLoopback(context.Context) (Sample, error) { return Sample{}, errServers }

func (r *serverRun) idleOverWire(context.Context, wire.Options) (Sample, error) {
	return Sample{}, errServers
}

func (j *idleJob) connect() ([]net.Conn, error) { return nil, errServers }
