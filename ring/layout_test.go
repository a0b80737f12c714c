package ring

import (
	"testing"
	"unsafe"
)

// Offsets as include/uapi/linux/io_uring.h has them on every architecture, and
// include/linux/socket.h (struct user_msghdr) on 64-bit ones. The package itself pins the
// sizes, at compile time.
func TestLayoutsAreTheKernels(t *testing.T) {
	var (
		sqe   SQE
		cqe   CQE
		p     params
		sq    sqOffsets
		cq    cqOffsets
		wait  geteventsArg
		ts    Timespec
		op    probeOp
		pr    probe
		res   rsrcRegister
		upd   rsrcUpdate
		clone cloneBuffers
		reg   bufReg
		b     buf
		m     msghdr
		iov   Iovec
	)
	for _, f := range []struct {
		name      string
		got, want uintptr
	}{
		{"io_uring_sqe.opcode", unsafe.Offsetof(sqe.Opcode), 0},
		{"io_uring_sqe.flags", unsafe.Offsetof(sqe.Flags), 1},
		{"io_uring_sqe.ioprio", unsafe.Offsetof(sqe.IoPrio), 2},
		{"io_uring_sqe.fd", unsafe.Offsetof(sqe.FD), 4},
		{"io_uring_sqe.off", unsafe.Offsetof(sqe.Off), 8},
		{"io_uring_sqe.addr", unsafe.Offsetof(sqe.Addr), 16},
		{"io_uring_sqe.len", unsafe.Offsetof(sqe.Len), 24},
		{"io_uring_sqe.rw_flags", unsafe.Offsetof(sqe.OpFlags), 28},
		{"io_uring_sqe.user_data", unsafe.Offsetof(sqe.UserData), 32},
		{"io_uring_sqe.buf_index", unsafe.Offsetof(sqe.BufIndex), 40},
		{"io_uring_sqe.personality", unsafe.Offsetof(sqe.Personality), 42},
		{"io_uring_sqe.file_index", unsafe.Offsetof(sqe.FileIndex), 44},
		{"io_uring_sqe.addr3", unsafe.Offsetof(sqe.Addr3), 48},

		{"io_uring_cqe.user_data", unsafe.Offsetof(cqe.UserData), 0},
		{"io_uring_cqe.res", unsafe.Offsetof(cqe.Res), 8},
		{"io_uring_cqe.flags", unsafe.Offsetof(cqe.Flags), 12},

		{"io_uring_params.sq_entries", unsafe.Offsetof(p.SQEntries), 0},
		{"io_uring_params.cq_entries", unsafe.Offsetof(p.CQEntries), 4},
		{"io_uring_params.flags", unsafe.Offsetof(p.Flags), 8},
		{"io_uring_params.sq_thread_cpu", unsafe.Offsetof(p.SQThreadCPU), 12},
		{"io_uring_params.sq_thread_idle", unsafe.Offsetof(p.SQThreadIdle), 16},
		{"io_uring_params.features", unsafe.Offsetof(p.Features), 20},
		{"io_uring_params.wq_fd", unsafe.Offsetof(p.WQFd), 24},
		{"io_uring_params.sq_off", unsafe.Offsetof(p.SQ), 40},
		{"io_uring_params.cq_off", unsafe.Offsetof(p.CQ), 80},

		{"io_sqring_offsets.head", unsafe.Offsetof(sq.Head), 0},
		{"io_sqring_offsets.tail", unsafe.Offsetof(sq.Tail), 4},
		{"io_sqring_offsets.ring_mask", unsafe.Offsetof(sq.RingMask), 8},
		{"io_sqring_offsets.ring_entries", unsafe.Offsetof(sq.RingEntries), 12},
		{"io_sqring_offsets.flags", unsafe.Offsetof(sq.Flags), 16},
		{"io_sqring_offsets.dropped", unsafe.Offsetof(sq.Dropped), 20},
		{"io_sqring_offsets.array", unsafe.Offsetof(sq.Array), 24},
		{"io_sqring_offsets.user_addr", unsafe.Offsetof(sq.UserAddr), 32},

		{"io_cqring_offsets.head", unsafe.Offsetof(cq.Head), 0},
		{"io_cqring_offsets.tail", unsafe.Offsetof(cq.Tail), 4},
		{"io_cqring_offsets.ring_mask", unsafe.Offsetof(cq.RingMask), 8},
		{"io_cqring_offsets.ring_entries", unsafe.Offsetof(cq.RingEntries), 12},
		{"io_cqring_offsets.overflow", unsafe.Offsetof(cq.Overflow), 16},
		{"io_cqring_offsets.cqes", unsafe.Offsetof(cq.CQEs), 20},
		{"io_cqring_offsets.flags", unsafe.Offsetof(cq.Flags), 24},
		{"io_cqring_offsets.user_addr", unsafe.Offsetof(cq.UserAddr), 32},

		{"io_uring_getevents_arg.sigmask", unsafe.Offsetof(wait.SigMask), 0},
		{"io_uring_getevents_arg.sigmask_sz", unsafe.Offsetof(wait.SigMaskSize), 8},
		{"io_uring_getevents_arg.min_wait_usec", unsafe.Offsetof(wait.MinWaitUsec), 12},
		{"io_uring_getevents_arg.ts", unsafe.Offsetof(wait.Ts), 16},

		{"__kernel_timespec.tv_sec", unsafe.Offsetof(ts.Sec), 0},
		{"__kernel_timespec.tv_nsec", unsafe.Offsetof(ts.Nsec), 8},

		{"io_uring_probe_op.op", unsafe.Offsetof(op.Op), 0},
		{"io_uring_probe_op.flags", unsafe.Offsetof(op.Flags), 2},
		{"io_uring_probe.last_op", unsafe.Offsetof(pr.LastOp), 0},
		{"io_uring_probe.ops_len", unsafe.Offsetof(pr.OpsLen), 1},
		{"io_uring_probe.ops", unsafe.Offsetof(pr.Ops), 16},

		{"io_uring_rsrc_register.nr", unsafe.Offsetof(res.Nr), 0},
		{"io_uring_rsrc_register.flags", unsafe.Offsetof(res.Flags), 4},
		{"io_uring_rsrc_register.data", unsafe.Offsetof(res.Data), 16},
		{"io_uring_rsrc_register.tags", unsafe.Offsetof(res.Tags), 24},
		{"io_uring_rsrc_update.offset", unsafe.Offsetof(upd.Offset), 0},
		{"io_uring_rsrc_update.data", unsafe.Offsetof(upd.Data), 8},

		{"io_uring_clone_buffers.src_fd", unsafe.Offsetof(clone.SrcFD), 0},
		{"io_uring_clone_buffers.flags", unsafe.Offsetof(clone.Flags), 4},
		{"io_uring_clone_buffers.src_off", unsafe.Offsetof(clone.SrcOff), 8},
		{"io_uring_clone_buffers.dst_off", unsafe.Offsetof(clone.DstOff), 12},
		{"io_uring_clone_buffers.nr", unsafe.Offsetof(clone.Nr), 16},

		{"io_uring_buf_reg.ring_addr", unsafe.Offsetof(reg.RingAddr), 0},
		{"io_uring_buf_reg.ring_entries", unsafe.Offsetof(reg.RingEntries), 8},
		{"io_uring_buf_reg.bgid", unsafe.Offsetof(reg.BGID), 12},
		{"io_uring_buf_reg.flags", unsafe.Offsetof(reg.Flags), 14},
		{"io_uring_buf.addr", unsafe.Offsetof(b.Addr), 0},
		{"io_uring_buf.len", unsafe.Offsetof(b.Len), 8},
		{"io_uring_buf.bid", unsafe.Offsetof(b.BID), 12},
		{"io_uring_buf_ring.tail", unsafe.Offsetof(b.Tail), 14},

		{"user_msghdr.msg_name", unsafe.Offsetof(m.Name), 0},
		{"user_msghdr.msg_namelen", unsafe.Offsetof(m.NameLen), 8},
		{"user_msghdr.msg_iov", unsafe.Offsetof(m.Iov), 16},
		{"user_msghdr.msg_iovlen", unsafe.Offsetof(m.IovLen), 24},
		{"user_msghdr.msg_control", unsafe.Offsetof(m.Control), 32},
		{"user_msghdr.msg_controllen", unsafe.Offsetof(m.ControlLen), 40},
		{"user_msghdr.msg_flags", unsafe.Offsetof(m.Flags), 48},
		{"iovec.iov_base", unsafe.Offsetof(iov.Base), 0},
		{"iovec.iov_len", unsafe.Offsetof(iov.Len), 8},
	} {
		if f.got != f.want {
			t.Errorf("%s is at %d, want %d", f.name, f.got, f.want)
		}
	}
}

// Constants that are not exported, so that no other module can compare them.
func TestUnexportedConstantsAreTheKernels(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"IORING_CQE_BUFFER_SHIFT", cqeBufferShift, 16},
		{"IORING_OFF_SQ_RING", offSQRing, 0},
		{"IORING_OFF_SQES", offSQEs, 0x10000000},
		{"IORING_RSRC_REGISTER_SPARSE", registerFilesSparse, 1},
		{"IO_URING_OP_SUPPORTED", opSupported, 1},
		{"IORING_MSG_DATA", msgRingData, 0},
		{"IORING_MAX_REG_BUFFERS", maxRegisteredBufCount, 16384},
		{"longest registered buffer", maxRegisteredBuffer, 1 << 30},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
}

func TestMsghdrNamesItsVectors(t *testing.T) {
	mem := make([]byte, MsghdrSize(2))
	m := NewMsghdr(mem)
	for range 2 { // Reset leaves nothing of the first use
		m.Reset()
		m.Append(0x1000, 10)
		m.Append(0x2000, 20)
		h := (*msghdr)(unsafe.Pointer(&mem[0]))
		if m.Addr() != uintptr(unsafe.Pointer(&mem[0])) || h.Iov != m.Addr()+unsafe.Sizeof(*h) {
			t.Fatalf("header at %#x, vectors at %#x", m.Addr(), h.Iov)
		}
		if want := (msghdr{Iov: h.Iov, IovLen: 2}); *h != want {
			t.Fatalf("header %+v, want %+v", *h, want)
		}
		if m.iov[0] != (Iovec{0x1000, 10}) || m.iov[1] != (Iovec{0x2000, 20}) {
			t.Fatalf("vectors %+v", m.iov)
		}
		h.Control, h.Flags, h.Name = 1, 2, 3 // what another use might leave
	}
}

func TestMsghdrRefusesAVectorTooMany(t *testing.T) {
	m := NewMsghdr(make([]byte, MsghdrSize(1)))
	m.Reset()
	m.Append(0x1000, 1)
	defer func() {
		if recover() == nil {
			t.Error("a second vector fits into room for one")
		}
	}()
	m.Append(0x2000, 1)
}

func TestCompletionFlagsAreToldApart(t *testing.T) {
	for _, c := range []struct {
		cqe                        CQE
		more, notification, copied bool
	}{
		{cqe: CQE{Res: 100, Flags: CQEMore}, more: true},
		{cqe: CQE{Res: -1 << 31, Flags: CQENotif}, notification: true, copied: true},
		{cqe: CQE{Res: 0, Flags: CQENotif}, notification: true},
		{cqe: CQE{Res: 5, Flags: CQEBuffer | CQESockNonEmpty}},
	} {
		if c.cqe.More() != c.more || c.cqe.Notification() != c.notification || c.cqe.Copied() != c.copied {
			t.Errorf("%+v: more %v, notification %v, copied %v", c.cqe, c.cqe.More(), c.cqe.Notification(), c.cqe.Copied())
		}
	}
	if c := (CQE{Flags: 0xfffe<<16 | CQEBuffer | CQEMore}); c.BufferID() != 0xfffe {
		t.Errorf("buffer id %#x", c.BufferID())
	}
}
