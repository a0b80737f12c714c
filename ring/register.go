package ring

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"
)

// Iovec is struct iovec.
type Iovec struct {
	Base uintptr
	Len  uint64
}

// RegisterBuffers pins mem for use with [SQE.FixedBuffer], as one registered buffer for
// each element; element i gets index i. Pinned pages count against RLIMIT_MEMLOCK unless
// the process has CAP_IPC_LOCK. Each element may be at most 1 GiB, and there may be
// 16,384 (io_uring_register(2)).
func (r *Ring) RegisterBuffers(mem [][]byte) error {
	if len(mem) == 0 || len(mem) > maxRegisteredBufCount {
		return fmt.Errorf("register %d buffers: there may be 1 to %d", len(mem), maxRegisteredBufCount)
	}
	iov := make([]Iovec, len(mem))
	total := 0
	for i, m := range mem {
		if len(m) == 0 || len(m) > maxRegisteredBuffer {
			return fmt.Errorf("register buffer %d of %d bytes: there may be 1 to %d", i, len(m), maxRegisteredBuffer)
		}
		iov[i] = Iovec{uintptr(unsafe.Pointer(&m[0])), uint64(len(m))}
		total += len(m)
	}
	if _, errno := register(r.fd, RegisterBuffers, unsafe.Pointer(&iov[0]), uint32(len(iov))); errno != 0 {
		return setupError(fmt.Sprintf("register %d buffers of %d bytes together", len(mem), total), errno)
	}
	return nil
}

// UnregisterBuffers drops the registration; pages stay pinned while a request uses them.
// Before 6.13 the call waits for outstanding notifications.
func (r *Ring) UnregisterBuffers() error {
	return r.simpleRegister("unregister buffers", UnregisterBuffers)
}

// CloneBuffers takes over the buffers that src has registered, without pinning or charging
// them again (6.13). If src is used on another thread, it must be made with [Config.Shared]
// and be left alone meanwhile: the kernel refuses to clone from another thread's
// single-issuer ring (6.18, and stable kernels that took commit 2f076a453f75).
func (r *Ring) CloneBuffers(src *Ring) error {
	arg := cloneBuffers{SrcFD: uint32(src.fd)}
	_, errno := register(r.fd, RegisterCloneBuffers, unsafe.Pointer(&arg), 1)
	if errno == syscall.EINVAL {
		return &UnsupportedError{Feature: "cloning registered buffers", Since: "6.13"}
	}
	if errno == syscall.EEXIST {
		return fmt.Errorf("clone registered buffers: %w: the source is another thread's, make it with Config.Shared", errno)
	}
	if errno != 0 {
		return setupError("clone registered buffers", errno)
	}
	return nil
}

// RegisterDirect makes a table of n empty slots for direct descriptors (5.19).
func (r *Ring) RegisterDirect(n uint32) error {
	arg := rsrcRegister{Nr: n, Flags: registerFilesSparse}
	if _, errno := register(r.fd, RegisterFiles2, unsafe.Pointer(&arg), uint32(unsafe.Sizeof(arg))); errno != 0 {
		return setupError(fmt.Sprintf("register %d direct descriptors", n), errno)
	}
	return nil
}

// SetDirect puts fd into slot; -1 empties it. The caller still owns fd.
func (r *Ring) SetDirect(slot uint32, fd int) error {
	f := int32(fd)
	arg := rsrcUpdate{Offset: slot, Data: uint64(uintptr(unsafe.Pointer(&f)))}
	_, errno := registerPinned(r.fd, RegisterFilesUpdate, unsafe.Pointer(&arg), 1, unsafe.Pointer(&f))
	if errno != 0 {
		return setupError(fmt.Sprintf("set direct descriptor %d", slot), errno)
	}
	return nil
}

// UnregisterDirect drops the table; each file closes when its last request ends.
func (r *Ring) UnregisterDirect() error {
	return r.simpleRegister("unregister direct descriptors", UnregisterFiles)
}

func (r *Ring) simpleRegister(what string, op uint32) error {
	if _, errno := register(r.fd, op, nil, 0); errno != 0 {
		return setupError(what, errno)
	}
	return nil
}

func (r *Ring) registerProbe(p *probe) syscall.Errno {
	_, errno := register(r.fd, RegisterProbe, unsafe.Pointer(p), uint32(len(p.Ops)))
	return errno
}

// registerRingFD registers the ring with the calling thread and returns its index.
func (r *Ring) registerRingFD() (int, error) {
	arg := rsrcUpdate{Offset: ^uint32(0), Data: uint64(r.fd)}
	n, errno := register(r.fd, RegisterRingFDs, unsafe.Pointer(&arg), 1)
	if errno != 0 || n != 1 {
		return 0, errors.Join(errno, fmt.Errorf("registered %d of 1 rings", n))
	}
	return int(arg.Offset), nil
}

// unregisterRingFD gives back the index that registerRingFD got, on the same thread.
func (r *Ring) unregisterRingFD() error {
	arg := rsrcUpdate{Offset: uint32(r.enterFD)}
	if _, errno := register(r.fd, UnregisterRingFDs, unsafe.Pointer(&arg), 1); errno != 0 {
		return setupError("unregister the ring from its thread", errno)
	}
	return nil
}
