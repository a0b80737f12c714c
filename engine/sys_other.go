//go:build !linux

package engine

import (
	"syscall"
	"time"

	"sluice/ring"
)

// Other systems have no io_uring: New fails before any of this is reached.

const (
	msgNoSignal = 0
	msgWaitAll  = 0
	msgMore     = 0
	msgEOR      = 0
	pollIn      = 0
	pollOut     = 0
	sockFlags   = 0
)

func sysDup(int) (int, error) { return -1, ring.ErrUnsupported }

func sysTune(int, time.Duration) error { return ring.ErrUnsupported }

func sysReusePort(_, _ string, _ syscall.RawConn) error { return ring.ErrUnsupported }

func sysOpenDirect(int) (direct int, align int64) { return -1, 0 }

func sysClose(int) error { return ring.ErrUnsupported }

func sysPinThread(int) error { return ring.ErrUnsupported }

func mapMemory(int) ([]byte, error) { return nil, ring.ErrUnsupported }

func unmapMemory([]byte) {}
