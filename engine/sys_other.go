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

func sysEventFD() (int, error) { return -1, ring.ErrUnsupported }

func sysWake(int) {}

func sysClose(int) {}

func sysDup(int) (int, error) { return -1, ring.ErrUnsupported }

func sysShutdownWrite(int) error { return ring.ErrUnsupported }

func sysResetOnClose(int) {}

func sysSendfile(int, int, int64, int) (int, syscall.Errno) { return 0, syscall.ENOSYS }

func sysBytesAcked(int) (acked uint64, held bool) { return 0, false }

func sysSocketFacts(int) (local, noZC bool) { return false, true }

func sysTuneListener(int, time.Duration) error { return ring.ErrUnsupported }

func sysTuneConn(int, time.Duration) error { return ring.ErrUnsupported }

func sysReusePort(_, _ string, _ syscall.RawConn) error { return ring.ErrUnsupported }

func sysPinThread(int) error { return ring.ErrUnsupported }

func mapMemory(int) ([]byte, error) { return nil, ring.ErrUnsupported }

func unmapMemory([]byte) {}
