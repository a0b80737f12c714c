package engine

import (
	"errors"
	"slices"
	"syscall"

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
	ErrLagged = errors.New("peer held up shared memory")
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

// reset is a reason for which connections are reset.
type reset struct {
	name string
	errs []error
}

// resets are all of them, as Stats counts them: the first that has what Closed is told, or the last.
var resets = [...]reset{
	{"stalled", []error{ErrStalled}},
	{"pin-limit", []error{ErrPinned}},
	{"lagged", []error{ErrLagged}},
	{"idle", []error{ErrIdle}},
	{"deadline", []error{ErrDeadline}},
	{"drained", []error{ErrDrained}},
	{"aborted", []error{ErrAborted}},
	{"file-truncated", []error{ErrFileTruncated}},
	{"by-peer", []error{syscall.ECONNRESET, syscall.EPIPE, syscall.ENOTCONN}},
	{"tcp-timeout", []error{syscall.ETIMEDOUT}},
	{"failed", nil},
}

// NumResets is the number of reasons for which connections are reset.
const NumResets = len(resets)

// ResetName is the name of the i-th of them.
func ResetName(i int) string { return resets[i].name }

// resetFor is which of them an error is.
func resetFor(err error) int {
	i := slices.IndexFunc(resets[:NumResets-1], func(r reset) bool {
		return slices.ContainsFunc(r.errs, func(e error) bool { return errors.Is(err, e) })
	})
	if i < 0 {
		return NumResets - 1
	}
	return i
}
