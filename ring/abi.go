package ring

import "unsafe"

// SQE is struct io_uring_sqe: 64 bytes, one request. Fields that the kernel overlays
// in unions carry the name of their commonest use.
// Source: include/uapi/linux/io_uring.h.
type SQE struct {
	Opcode      uint8
	Flags       uint8  // SQE* flags
	IoPrio      uint16 // Recv*, Send* and Accept* flags for socket operations
	FD          int32
	Off         uint64 // also addr2
	Addr        uint64
	Len         uint32
	OpFlags     uint32 // msg_flags, poll events, accept flags, cancel flags, …
	UserData    uint64
	BufIndex    uint16 // also buf_group
	Personality uint16
	FileIndex   int32 // also splice_fd_in
	Addr3       uint64
	_           uint64
}

// CQE is struct io_uring_cqe: 16 bytes, one completion.
type CQE struct {
	UserData uint64
	Res      int32 // result, or a negated errno
	Flags    uint32
}

// BufferID is the provided buffer that a completion used; it means something only
// when [CQEBuffer] is set.
func (c *CQE) BufferID() uint16 { return uint16(c.Flags >> cqeBufferShift) }

// More reports whether this request will post further completions.
func (c *CQE) More() bool { return c.Flags&CQEMore != 0 }

// Notification reports whether this is the second completion of a zero-copy send,
// the one that gives the buffer back. Look at it before the sign of Res: a usage
// report sets bit 31 (6.2).
func (c *CQE) Notification() bool { return c.Flags&CQENotif != 0 }

// Copied reports whether a notification says that the kernel copied the data after
// all. It means something only when the send asked for [SendZCReportUsage] and its
// completion had Res > 0; sends below one skb that coalesce are reported as copied
// falsely since 6.10.
func (c *CQE) Copied() bool { return uint32(c.Res)&NotifUsageZCCopied != 0 }

type sqOffsets struct {
	Head, Tail, RingMask, RingEntries, Flags, Dropped, Array, _ uint32
	UserAddr                                                    uint64
}

type cqOffsets struct {
	Head, Tail, RingMask, RingEntries, Overflow, CQEs, Flags, _ uint32
	UserAddr                                                    uint64
}

// params is struct io_uring_params.
type params struct {
	SQEntries, CQEntries, Flags, SQThreadCPU, SQThreadIdle, Features, WQFd uint32
	_                                                                      [3]uint32
	SQ                                                                     sqOffsets
	CQ                                                                     cqOffsets
}

// geteventsArg is struct io_uring_getevents_arg.
type geteventsArg struct {
	SigMask     uint64
	SigMaskSize uint32
	MinWaitUsec uint32
	Ts          uint64
}

// Timespec is struct __kernel_timespec.
type Timespec struct{ Sec, Nsec int64 }

// probeOp is struct io_uring_probe_op.
type probeOp struct {
	Op, _ uint8
	Flags uint16
	_     uint32
}

// probe is struct io_uring_probe with room for every opcode there can be.
type probe struct {
	LastOp, OpsLen uint8
	_              uint16
	_              [3]uint32
	Ops            [256]probeOp
}

// rsrcRegister is struct io_uring_rsrc_register.
type rsrcRegister struct {
	Nr, Flags  uint32
	_          uint64
	Data, Tags uint64
}

// rsrcUpdate is struct io_uring_rsrc_update; RegisterRingFDs uses it too.
type rsrcUpdate struct {
	Offset, _ uint32
	Data      uint64
}

// cloneBuffers is struct io_uring_clone_buffers.
type cloneBuffers struct {
	SrcFD, Flags, SrcOff, DstOff, Nr uint32
	_                                [3]uint32
}

// bufReg is struct io_uring_buf_reg.
type bufReg struct {
	RingAddr    uint64
	RingEntries uint32
	BGID, Flags uint16
	_           [3]uint64
}

// buf is struct io_uring_buf. In the first entry of a ring Tail is the ring's tail.
type buf struct {
	Addr uint64
	Len  uint32
	BID  uint16
	Tail uint16
}

// Each line fails to compile when a layout drifts from the kernel's.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(SQE{})-64]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.FD)-4]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.Off)-8]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.Addr)-16]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.Len)-24]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.OpFlags)-28]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.UserData)-32]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.BufIndex)-40]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.FileIndex)-44]
	_ = [1]struct{}{}[unsafe.Offsetof(SQE{}.Addr3)-48]
	_ = [1]struct{}{}[unsafe.Sizeof(CQE{})-16]
	_ = [1]struct{}{}[unsafe.Offsetof(CQE{}.Res)-8]
	_ = [1]struct{}{}[unsafe.Sizeof(params{})-120]
	_ = [1]struct{}{}[unsafe.Offsetof(params{}.SQ)-40]
	_ = [1]struct{}{}[unsafe.Offsetof(params{}.CQ)-80]
	_ = [1]struct{}{}[unsafe.Sizeof(geteventsArg{})-24]
	_ = [1]struct{}{}[unsafe.Sizeof(Timespec{})-16]
	_ = [1]struct{}{}[unsafe.Sizeof(probe{})-16-256*8]
	_ = [1]struct{}{}[unsafe.Sizeof(rsrcRegister{})-32]
	_ = [1]struct{}{}[unsafe.Sizeof(rsrcUpdate{})-16]
	_ = [1]struct{}{}[unsafe.Sizeof(cloneBuffers{})-32]
	_ = [1]struct{}{}[unsafe.Sizeof(bufReg{})-40]
	_ = [1]struct{}{}[unsafe.Sizeof(buf{})-16]
)

// Opcodes (enum io_uring_op), those that the project uses.
const (
	OpNop         = 0
	OpReadFixed   = 4
	OpPollAdd     = 6
	OpSendMsg     = 9
	OpTimeout     = 11
	OpAccept      = 13
	OpAsyncCancel = 14
	OpClose       = 19
	OpRead        = 22
	OpSend        = 26
	OpRecv        = 27
	OpMsgRing     = 40
	OpSendZC      = 47
	OpSendMsgZC   = 48
)

// SQE.Flags.
const (
	SQEFixedFile      = 1 << 0
	SQEIODrain        = 1 << 1
	SQEIOLink         = 1 << 2
	SQEIOHardLink     = 1 << 3
	SQEAsync          = 1 << 4
	SQEBufferSelect   = 1 << 5
	SQECQESkipSuccess = 1 << 6
)

// SQE.IoPrio of SEND*, RECV* and ACCEPT.
const (
	RecvSendPollFirst = 1 << 0
	RecvMultishot     = 1 << 1
	RecvSendFixedBuf  = 1 << 2
	SendZCReportUsage = 1 << 3
	RecvSendBundle    = 1 << 4
	SendVectorized    = 1 << 5
	AcceptMultishot   = 1 << 0
)

// SQE.Len of POLL_ADD.
const PollAddMulti = 1 << 0

// SQE.OpFlags of ASYNC_CANCEL.
const (
	CancelAll     = 1 << 0
	CancelFD      = 1 << 1
	CancelAny     = 1 << 2
	CancelFDFixed = 1 << 3
)

// FileIndexAlloc asks ACCEPT for any free direct descriptor.
const FileIndexAlloc = ^uint32(0)

// CQE.Flags.
const (
	CQEBuffer       = 1 << 0
	CQEMore         = 1 << 1
	CQESockNonEmpty = 1 << 2
	CQENotif        = 1 << 3

	cqeBufferShift = 16
)

// NotifUsageZCCopied is the bit of a notification's Res that says "copied".
const NotifUsageZCCopied = 1 << 31

// io_uring_setup flags.
const (
	SetupIOPoll       = 1 << 0
	SetupSQPoll       = 1 << 1
	SetupSQAff        = 1 << 2
	SetupCQSize       = 1 << 3
	SetupClamp        = 1 << 4
	SetupAttachWQ     = 1 << 5
	SetupRDisabled    = 1 << 6
	SetupSubmitAll    = 1 << 7
	SetupCoopTaskrun  = 1 << 8
	SetupTaskrunFlag  = 1 << 9
	SetupSQE128       = 1 << 10
	SetupCQE32        = 1 << 11
	SetupSingleIssuer = 1 << 12
	SetupDeferTaskrun = 1 << 13
	SetupNoMmap       = 1 << 14
	SetupRegFDOnly    = 1 << 15
	SetupNoSQArray    = 1 << 16
)

// io_uring_enter flags.
const (
	EnterGetEvents      = 1 << 0
	EnterSQWakeup       = 1 << 1
	EnterSQWait         = 1 << 2
	EnterExtArg         = 1 << 3
	EnterRegisteredRing = 1 << 4
)

// Features that io_uring_setup returns.
const (
	FeatSingleMmap     = 1 << 0
	FeatNoDrop         = 1 << 1
	FeatSQPollNonFixed = 1 << 7
	FeatExtArg         = 1 << 8
)

// Flags in the submission ring.
const (
	SQNeedWakeup = 1 << 0
	SQCQOverflow = 1 << 1
	SQTaskrun    = 1 << 2
)

// Offsets for mmap.
const (
	offSQRing = 0
	offSQEs   = 0x10000000
)

// io_uring_register opcodes.
const (
	RegisterBuffers       = 0
	UnregisterBuffers     = 1
	RegisterFiles         = 2
	UnregisterFiles       = 3
	RegisterFilesUpdate   = 6
	RegisterProbe         = 8
	RegisterFiles2        = 13
	RegisterRingFDs       = 20
	UnregisterRingFDs     = 21
	RegisterPbufRing      = 22
	UnregisterPbufRing    = 23
	RegisterCloneBuffers  = 30
	registerFilesSparse   = 1 << 0 // IORING_RSRC_REGISTER_SPARSE
	opSupported           = 1 << 0 // IO_URING_OP_SUPPORTED
	msgRingData           = 0      // IORING_MSG_DATA
	maxRegisteredBuffer   = 1 << 30
	maxRegisteredBufCount = 1 << 14
)
