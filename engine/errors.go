package engine

import (
	"errors"

	"sluice/bufreg"
)

var (
	// ErrClosed is returned by operations on a connection that is closing or closed, and on
	// an engine that has stopped.
	ErrClosed = errors.New("connection is closed")
	// ErrBacklogFull says that the connection's queue is at Config.MaxQueued or holds
	// maxItems pieces; nothing was queued.
	ErrBacklogFull = errors.New("send queue is full")
	// ErrNoBuffers says that the arena is used up. Writable is called when a buffer returns.
	ErrNoBuffers = bufreg.ErrNoBuffers
	// ErrStalled ended a connection whose peer took no bytes for Config.WriteStall.
	ErrStalled = errors.New("peer took no bytes within the write-stall deadline")
	// ErrPinned ended a connection whose peer had not taken a zero-copy send after Config.PinLimit, though it
	// took some of it now and then.
	ErrPinned = errors.New("peer did not take a zero-copy send within the pin limit")
	// ErrLagged ended a connection that held shared memory for longer than Config.LagAfter: because
	// Config.Laggards says so, or there was no room for a copy of its own.
	ErrLagged = errors.New("peer held up memory that others share")
	// ErrIdle ended a connection on which nothing happened for Config.IdleTimeout.
	ErrIdle = errors.New("connection was idle")
	// ErrDeadline ended a connection at the time set with SetDeadline.
	ErrDeadline = errors.New("deadline passed")
	// ErrFileTruncated ended a connection: a file had fewer bytes than SendFile was told, so
	// what follows on the stream would be taken for the missing ones.
	ErrFileTruncated = errors.New("file is shorter than what was announced")
	// ErrDrained ended a connection that was not done when the engine's drain ran out of time.
	ErrDrained = errors.New("engine stopped")
	// ErrAborted ended a connection by Abort.
	ErrAborted = errors.New("connection was aborted")

	// errLingered is not for users: the wait for the peer's close is over.
	errLingered = errors.New("linger is over")
)
