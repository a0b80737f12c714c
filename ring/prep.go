package ring

// Each Prep method fills an entry from Ring.SQE, which is zeroed. They set neither
// UserData nor Flags beyond what the operation needs: the caller owns identity.

// PrepNop prepares IORING_OP_NOP.
func (e *SQE) PrepNop() { e.Opcode = OpNop }

// PrepSend prepares send(2) of n bytes at addr.
func (e *SQE) PrepSend(fd int, addr uintptr, n uint32, msgFlags uint32) {
	e.Opcode, e.FD, e.Addr, e.Len, e.OpFlags = OpSend, int32(fd), uint64(addr), n, msgFlags
}

// PrepSendMsg prepares sendmsg(2). msghdr and all it points at must stay until the
// completion.
func (e *SQE) PrepSendMsg(fd int, msghdr uintptr, msgFlags uint32) {
	e.Opcode, e.FD, e.Addr, e.Len, e.OpFlags = OpSendMsg, int32(fd), uint64(msghdr), 1, msgFlags
}

// PrepSendZC prepares a zero-copy send (6.0). The bytes must not change until the
// notification, or until a completion without [CQEMore]. ioprio takes
// [SendZCReportUsage] (6.2).
func (e *SQE) PrepSendZC(fd int, addr uintptr, n uint32, msgFlags uint32, ioprio uint16) {
	e.PrepSend(fd, addr, n, msgFlags)
	e.Opcode, e.IoPrio = OpSendZC, ioprio
}

// PrepSendMsgZC prepares a gathered zero-copy send (6.1). msghdr and iovec are read until
// the completion, the bytes until the notification.
func (e *SQE) PrepSendMsgZC(fd int, msghdr uintptr, msgFlags uint32, ioprio uint16) {
	e.PrepSendMsg(fd, msghdr, msgFlags)
	e.Opcode, e.IoPrio = OpSendMsgZC, ioprio
}

// FixedBuffer says that the payload lies inside registered buffer index. SEND_ZC takes it
// since 6.0, SENDMSG_ZC since 6.15 (all vectors inside that one buffer), READ_FIXED always.
func (e *SQE) FixedBuffer(index uint16) {
	e.BufIndex = index
	if e.Opcode != OpReadFixed {
		e.IoPrio |= RecvSendFixedBuf
	}
}

// PrepRecvMultishot prepares a receive that posts a completion for every arrival, into
// buffers of provided ring group, until it ends with a completion without [CQEMore]:
// 0 at the peer's end of stream, -ENOBUFS when the group is empty (6.0).
func (e *SQE) PrepRecvMultishot(fd int, group uint16) {
	e.Opcode, e.FD, e.IoPrio, e.Flags, e.BufIndex = OpRecv, int32(fd), RecvMultishot, SQEBufferSelect, group
}

// PrepRecvSelect prepares one receive of at most n bytes into a buffer of provided ring group.
func (e *SQE) PrepRecvSelect(fd int, group uint16, n uint32) {
	e.Opcode, e.FD, e.Flags, e.BufIndex, e.Len = OpRecv, int32(fd), SQEBufferSelect, group, n
}

// PrepAccept prepares one accept(2).
func (e *SQE) PrepAccept(fd int, sockFlags uint32) {
	e.Opcode, e.FD, e.OpFlags = OpAccept, int32(fd), sockFlags
}

// PrepAcceptMultishot prepares an accept that posts a completion for every connection,
// until it ends with a completion without [CQEMore] (5.19). sockFlags are SOCK_NONBLOCK
// and SOCK_CLOEXEC; the latter must be off for direct descriptors.
func (e *SQE) PrepAcceptMultishot(fd int, sockFlags uint32) {
	e.PrepAccept(fd, sockFlags)
	e.IoPrio = AcceptMultishot
}

// IntoDirect has an accept put the new socket into the ring's table of direct
// descriptors, at any free slot; Res is then the slot.
func (e *SQE) IntoDirect() { e.FileIndex = -1 } // IORING_FILE_INDEX_ALLOC

// Direct says that FD is a slot in the ring's table of direct descriptors.
func (e *SQE) Direct() { e.Flags |= SQEFixedFile }

// PrepCloseDirect closes a direct descriptor.
func (e *SQE) PrepCloseDirect(slot uint32) { e.Opcode, e.FileIndex = OpClose, int32(slot+1) }

// PrepReadFixed prepares a read at off into n bytes at addr, inside registered buffer index.
func (e *SQE) PrepReadFixed(fd int, addr uintptr, n uint32, off int64, index uint16) {
	e.Opcode, e.FD, e.Addr, e.Len, e.Off, e.BufIndex = OpReadFixed, int32(fd), uint64(addr), n, uint64(off), index
}

// PrepRead prepares a read at off into n bytes at addr.
func (e *SQE) PrepRead(fd int, addr uintptr, n uint32, off int64) {
	e.Opcode, e.FD, e.Addr, e.Len, e.Off = OpRead, int32(fd), uint64(addr), n, uint64(off)
}

// PrepPoll prepares one poll(2) for events.
func (e *SQE) PrepPoll(fd int, events uint32) {
	e.Opcode, e.FD, e.OpFlags = OpPollAdd, int32(fd), events
}

// PrepPollMultishot prepares a poll that posts a completion at every edge (5.13).
func (e *SQE) PrepPollMultishot(fd int, events uint32) {
	e.PrepPoll(fd, events)
	e.Len = PollAddMulti
}

// PrepCancel prepares the cancellation of the requests with this user data. Res is 0 or
// their count, -ENOENT when there is none, -EALREADY when it is under way.
func (e *SQE) PrepCancel(userData uint64, flags uint32) {
	e.Opcode, e.FD, e.Addr, e.OpFlags = OpAsyncCancel, -1, userData, flags
}

// PrepCancelFD prepares the cancellation of every request on fd (5.19). A zero-copy send
// that has completed is not found: its notification cannot be cancelled.
func (e *SQE) PrepCancelFD(fd int) {
	e.Opcode, e.FD, e.OpFlags = OpAsyncCancel, int32(fd), CancelFD|CancelAll
}

// PrepTimeout prepares a relative timeout. ts must stay until submission is done.
func (e *SQE) PrepTimeout(ts uintptr) {
	e.Opcode, e.FD, e.Addr, e.Len = OpTimeout, -1, uint64(ts), 1
}

// PrepMsgRing prepares a completion in another ring, with this result and user data (5.18).
func (e *SQE) PrepMsgRing(ringFD int, res uint32, userData uint64) {
	e.Opcode, e.FD, e.Len, e.Off, e.Addr = OpMsgRing, int32(ringFD), res, userData, msgRingData
}
