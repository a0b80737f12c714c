package bench

import (
	"slices"
	"strings"
)

// Sources are where bytes may be before they are sent, with what that means.
var Sources = []About{
	{Hot, "one buffer in memory, sent over and over: it stays in the processor's cache"},
	{Cold, "buffers in memory, walked in order, of a working set several times the last-level cache"},
	{File, "a file in the page cache, as large as the cold working set, walked in order"},
	{Disk, "the same file, not in the page cache: it is read from its disk meanwhile"},
}

// The names of the sources.
const (
	Hot  = "hot"
	Cold = "cold"
	File = "file"
	Disk = "disk"
)

var (
	memory = []string{Hot, Cold}
	files  = []string{File, Disk}
	both   = []string{Hot, Cold, File, Disk}
)

// Mechanism is a way to push bytes into a socket.
type Mechanism struct {
	Subject
	Sources []string // that it takes
	KTLS    bool     // measured on encrypting sockets too
	UDP     bool     // measured with datagrams too
	poller  bool     // a kernel thread works for it, on any processor
}

// The families of mechanisms.
const (
	familyCopy      = "copy"
	familyReference = "by reference"
	familyZeroCopy  = "zero-copy"
	familyEngine    = "engine"
)

// Mechanisms are all that there are, in the order in which they are told of.
var Mechanisms = []Mechanism{
	{Subject: subject("write", familyCopy, "1", "user → socket", "write(2)"), Sources: memory, KTLS: true, UDP: true},
	{Subject: subject("writev", familyCopy, "1", "user → socket, 16 buffers in a call, or 1 MiB", "writev(2)"), Sources: memory, UDP: true},
	{Subject: subject("SEND", familyCopy, "1", "user → socket, by io_uring", "io_uring_prep_send(3)"), Sources: memory, UDP: true},
	{Subject: subject("SEND-SQPOLL", familyCopy, "1", "user → socket, by a kernel thread, whose time counts", "io_uring_setup(2)"), Sources: memory, UDP: true, poller: true},
	{Subject: subject("read+write", familyCopy, "2", "page cache → user, user → socket", "read(2), write(2)"), Sources: files},
	{Subject: subject("mmap+write", familyCopy, "1", "page cache → socket, through a mapping", "mmap(2), write(2)"), Sources: files},
	{Subject: subject("sendfile", familyReference, "0", "the socket refers to pages of the page cache", "sendfile(2)"), Sources: files, KTLS: true},
	{Subject: subject("splice", familyReference, "0", "pages of the page cache go through a pipe to the socket", "splice(2)"), Sources: files},
	{Subject: subject("vmsplice", familyReference, "0", "pages of user memory go through a pipe to the socket; nothing tells when they are free", "vmsplice(2), splice(2)"), Sources: memory},
	{Subject: subject("tee", familyReference, "0", "one stream to two sockets: its pages are in two pipes; bytes to both count", "tee(2), splice(2), vmsplice(2)"), Sources: both},
	{Subject: subject("MSG_ZEROCOPY", familyZeroCopy, "0", "pages of user memory are pinned for each send; notifications are read from the error queue", "Documentation/networking/msg_zerocopy.rst"), Sources: memory, UDP: true},
	{Subject: subject("SEND_ZC", familyZeroCopy, "0", "pages of user memory are pinned for each send, by io_uring", "io_uring_prep_send_zc(3)"), Sources: memory, UDP: true},
	{Subject: subject("SEND_ZC-registered", familyZeroCopy, "0", "memory that is pinned for good, by io_uring", "io_uring_prep_send_zc_fixed(3), io_uring_register_buffers(3)"), Sources: memory, UDP: true},
	{Subject: subject("SENDMSG_ZC-gathered", familyZeroCopy, "0", "16 buffers in a send, or 1 MiB, of memory that is pinned for good", "io_uring_prep_sendmsg_zc_fixed(3)"), Sources: memory, UDP: true},
	{Subject: subject("SEND_ZC-SQPOLL", familyZeroCopy, "0", "memory that is pinned for good, by a kernel thread, whose time counts", "io_uring_setup(2)"), Sources: memory, UDP: true, poller: true},
	{Subject: Subject{Name: "engine", Family: familyEngine, Copies: "0–2", How: "this project's engine as it comes: it learns whether to copy, gathers up to 16 buffers or 1 MiB in a send, and reads files or hands them to sendfile", Reference: "docs/ARCHITECTURE.md"}, Sources: both, KTLS: true},
}

func subject(name, family, copies, how, reference string) Subject {
	return Subject{Name: name, Family: family, Copies: copies, How: how, Reference: reference}
}

// MechanismNamed finds one by its name, in any case.
func MechanismNamed(name string) (Mechanism, bool) {
	i := slices.IndexFunc(Mechanisms, func(m Mechanism) bool { return strings.EqualFold(m.Name, name) })
	if i < 0 {
		return Mechanism{}, false
	}
	return Mechanisms[i], true
}

// maxDatagram is the largest datagram measured: the whole pages of the largest that UDP over IPv4
// takes, which is 65,507 bytes (RFC 768, RFC 791).
const maxDatagram = 60 << 10

// datagrams says why this way from this source cannot be measured with UDP; nil: it can.
func (m *Mechanism) datagrams(source string) error {
	switch {
	case !slices.Contains(memory, source):
		return &Refusal{"datagrams are measured from memory alone"}
	case m.Family == familyEngine:
		return &Refusal{"the engine sends TCP"}
	case !m.UDP:
		return &Refusal{"it is a way to send streams"}
	}
	return nil
}

// DefaultSizes are 1 KiB to 4 MiB in powers of four.
var DefaultSizes = []int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20}

// MinSize and MaxSize bound a buffer, whose size is a power of two: below it is all call, and past
// it nothing changes any more.
const (
	MinSize = 64
	MaxSize = 16 << 20
)
