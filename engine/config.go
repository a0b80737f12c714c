package engine

import (
	"fmt"
	"runtime"
	"time"

	"sluice/bufreg"
	"sluice/zc"
)

// Config describes an engine. The zero value is ready to use.
type Config struct {
	// Loops is the number of loops. Zero means GOMAXPROCS. GOMAXPROCS should be at least
	// one more than the loops, so that other goroutines run while all loops are busy.
	Loops int
	// CPUs pins loop i to processor CPUs[i % len(CPUs)]. Empty means no pinning.
	CPUs []int
	// ArenaSize is the registered memory in bytes, for all loops together. Zero means 64 MiB,
	// or less where RLIMIT_MEMLOCK does not allow that; a size that is asked for is an error
	// where it is not allowed.
	ArenaSize int
	// HugePages has the arena in huge pages. It pays for streams of leased buffers on devices with BIG TCP, and costs a
	// great deal elsewhere: bufreg.NewHuge says why. Files leave from the page cache, which it does not change.
	HugePages bool
	// Policy says when sends are zero-copy. The zero value decides by kernel and by path.
	Policy zc.Policy
	// CopyOnly permits kernels without SEND_ZC, down to 5.10; no send is zero-copy then.
	CopyOnly bool
	// SQPoll has a kernel thread take submissions: no system call in the steady state, for
	// one more core of each loop.
	SQPoll bool
	// Spin is how long a loop with nothing to do looks again before it sleeps. Zero means
	// not at all: spinning burns a core for some microseconds of latency.
	Spin time.Duration

	// MaxConns limits the connections of each loop; zero means 65,536. At the limit the loop
	// stops accepting: newcomers wait in the listen backlog.
	MaxConns int
	// HighWater is the number of queued bytes above which a connection is Congested. Zero
	// means 1 MiB: enough for the socket to stay busy between two turns.
	HighWater int
	// MaxPinned limits the bytes that zero-copy sends pin until the peer has taken them, for
	// all loops together; each has an equal part. What goes beyond it is copied, or sent by sendfile if it is
	// a file's. Zero means three quarters of the arena.
	MaxPinned int
	// LagAfter is how long a connection may keep memory in its queue that was shared when it was sent, a
	// fan-out's: that had any other reference. However fast or slow its peer is, Laggards says what becomes of a
	// connection that does. It should be well above round-trip times and retransmissions, a second or more on
	// the Internet. Zero means that a connection may keep it for as long as its peer takes something.
	LagAfter time.Duration
	// Laggards is Demote or CutOff.
	Laggards Laggards
	// LowWater is the number of queued bytes below which Writable is called after the
	// connection was congested. Zero means a quarter of HighWater.
	LowWater int
	// MaxQueued limits the bytes of memory in a connection's queue; at the limit Send refuses
	// with ErrBacklogFull. Files do not count: they take no memory before they are read.
	// Zero means 16 MiB.
	MaxQueued int
	// InputLimit is how many received and unconsumed bytes a connection keeps before it stops
	// receiving. Zero means 64 KiB.
	InputLimit int

	// WriteStall is how long queued or pinned bytes may see no progress before the connection
	// is reset. The sockets' TCP_USER_TIMEOUT is twice as long. Zero means 30 s.
	WriteStall time.Duration
	// PressureStall takes the place of a longer WriteStall while connections of the loop wait for
	// memory: those whose peers take nothing have it. Zero means 5 s, some retransmissions.
	PressureStall time.Duration
	// PinLimit is how long one zero-copy send may pin its memory, though its peer takes some of it now and then, before
	// the connection is reset. Zero means ten minutes, or WriteStall if that is longer: a peer that has not taken a
	// MiB, the largest send, in ten minutes, and what was in the socket before it, is slower than 2.5 kB/s.
	PinLimit time.Duration
	// IdleTimeout ends a connection that neither sends nor receives. Zero means 75 s;
	// negative means never.
	IdleTimeout time.Duration
	// Linger is how long a closed connection waits for the peer to close too. Zero means 5 s.
	Linger time.Duration
	// DrainTimeout is how long Run lets connections finish. Zero means 10 s.
	DrainTimeout time.Duration
}

// Laggards is what becomes of connections that hold shared memory for longer than Config.LagAfter.
type Laggards uint8

const (
	// Demote has what the connection has queued of it copied into memory of its own, outside of the arena; where all
	// such copies would be larger than the arena, the connection is reset. What a zero-copy send has given to its
	// socket stays there, until PinLimit or WriteStall.
	Demote Laggards = iota
	// CutOff has the connection reset, and so the memory given back at once: from its queue after LagAfter, and
	// from its socket after as long again.
	CutOff
)

// Limits that are not the user's to set.
const (
	maxLoops = 1024 // CPU_SETSIZE
	// cqEntries is the length of a loop's completion queue: every connection's receive, and two
	// completions for every zero-copy send, may be posted between two turns.
	cqEntries = 8192
	// maxItems bounds a connection's queue: at 48 bytes an item, 768 KiB.
	maxItems = 1 << 14
	// minLag is the least Config.LagAfter: connections with outstanding bytes are asked for progress four times as often.
	minLag = 10 * time.Millisecond
	// maxSegments and maxSendBytes bound one send. An skb has 17 slots, so that a gather of
	// more pieces gains nothing; a send of more bytes than 1 MiB gains nothing either, and
	// would give up its buffers later.
	maxSegments  = 16
	maxSendBytes = 1 << 20
	// maxLinked is how many bytes of zero-copy sends may share skbs. The kernel joins the
	// notifications of sends that do (6.10), so in a stream that never pauses none would come,
	// and one connection would pin the whole arena: MSG_EOR begins a new skb.
	maxLinked = 256 << 10
	// maxSends bounds the sends of a loop between submission and notification; at the limit
	// connections wait for notifications. Each takes about a KiB.
	maxSends = 1 << 16
	// fileChunk is the stretch of a file that is read, or handed to the socket by sendfile, at a
	// time, so that one connection does not hold up a turn; its way is decided anew for each. What
	// sendfile hands over should still be in the processor's cache when the peer reads it: with
	// 1 MiB a response of that size cost a third more over loopback with bbr, and as much with reno.
	fileChunk = 256 << 10
	// pageSize is the smallest that the kernels of this engine have: stretches of files end with one.
	pageSize = 4096
	// mapLimit bounds the files that are mapped, of a process, to send their pages by zero-copy. The page tables of what
	// was sent take 1/512 of it: 32 MiB at most. Beyond it files go by sendfile.
	mapLimit = 16 << 30
	// quickUnmap is the size up to which a file is unmapped at once; of a GiB that takes some 10 ms.
	quickUnmap = 16 << 20
	// residentFor is how long the page cache is taken to hold what it held, or what was sent from it: pages
	// just used are not what goes first. If they do, one read of the disk holds up the loop.
	residentFor = 100 * time.Millisecond
	// readAhead is how much of a file may be in memory and unsent: two chunks, one being sent
	// while the next is read.
	readAhead = 2 * fileChunk
	// directSize is the size from which a file that the page cache does not hold is read around
	// it (O_DIRECT). A stream of this length would take the place of a few thousand small files,
	// which are asked for again sooner than its own first page is.
	directSize = 64 << 20
	// holdBack is the size below which what is queued waits for the read behind it, to leave
	// in the same send: a response's header.
	holdBack = 4 << 10
	// smallFile is the size up to which a file leaves together with the header before it,
	// from one buffer; larger ones go by sendfile where zero-copy is not for them.
	smallFile = 32 << 10
	// heavyBatch is how many bytes a submission may move without the Go scheduler being told:
	// about half a millisecond, for which a garbage collection elsewhere may have to wait.
	heavyBatch = 4 << 20
	// recvBuffers × recvBufferSize is a loop's memory for data that arrives: 2 MiB.
	recvBuffers    = 512
	recvBufferSize = 4096
	// smallHold is what a connection may hold of the arena however short it is: some headers
	// and small files.
	smallHold = 8 << 10
	// readsEnough and readsLately say which connections count as read: more than a peer's kernel
	// takes without its program reading (tcp_rmem starts with 128 KiB), not long ago.
	readsEnough = 1 << 20
	readsLately = 500 * time.Millisecond
	// turnSample is how many turns there are to one whose length is measured.
	turnSample = 64
	// cancelAgain is when the read of an aborting connection is cancelled once more: a worker that
	// was about to begin it does not see the first time.
	cancelAgain = 100 * time.Millisecond
	// acceptPause is how long accepting rests after EMFILE and its like.
	acceptPause = 100 * time.Millisecond
)

func (c Config) withDefaults() (Config, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	dur := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Loops, runtime.GOMAXPROCS(0))
	def(&c.MaxConns, 1<<16)
	def(&c.HighWater, 1<<20)
	def(&c.LowWater, c.HighWater/4)
	def(&c.MaxQueued, 16<<20)
	def(&c.InputLimit, 64<<10)
	dur(&c.WriteStall, 30*time.Second)
	dur(&c.PressureStall, min(5*time.Second, c.WriteStall))
	dur(&c.PinLimit, max(10*time.Minute, c.WriteStall))
	dur(&c.IdleTimeout, 75*time.Second)
	dur(&c.Linger, 5*time.Second)
	dur(&c.DrainTimeout, 10*time.Second)
	switch {
	case c.Loops < 1 || c.Loops > maxLoops:
		return c, fmt.Errorf("%d loops: there may be 1 to %d", c.Loops, maxLoops)
	case c.ArenaSize < 0 || c.ArenaSize > bufreg.MaxSize:
		return c, fmt.Errorf("an arena of %d bytes: it may have 1 to %d", c.ArenaSize, bufreg.MaxSize)
	case c.MaxConns < 1:
		return c, fmt.Errorf("at most %d connections: there must be room for one", c.MaxConns)
	case c.LowWater < 1 || c.HighWater < c.LowWater || c.MaxQueued < c.HighWater:
		return c, fmt.Errorf("low water %d, high water %d, queue limit %d: they must be positive and rise", c.LowWater, c.HighWater, c.MaxQueued)
	case c.InputLimit < recvBufferSize:
		return c, fmt.Errorf("an input limit of %d bytes: it must be at least %d, one receive", c.InputLimit, recvBufferSize)
	case c.MaxPinned < 0:
		return c, fmt.Errorf("at most %d pinned bytes: it cannot be negative", c.MaxPinned)
	case c.LagAfter != 0 && c.LagAfter < minLag || c.Laggards > CutOff:
		return c, fmt.Errorf("laggards of kind %d after %v: use Demote or CutOff, after %v or more, or 0 for never", c.Laggards, c.LagAfter, minLag)
	case c.Laggards == CutOff && c.LagAfter == 0:
		return c, fmt.Errorf("laggards are to be cut off, and LagAfter does not say when: set it")
	case c.WriteStall < time.Millisecond || c.Linger < time.Millisecond || c.DrainTimeout < 0 || c.Spin < 0:
		return c, fmt.Errorf("write stall %v, linger %v, drain %v, spin %v: a time must be positive", c.WriteStall, c.Linger, c.DrainTimeout, c.Spin)
	case c.PressureStall < time.Millisecond || c.PressureStall > c.WriteStall:
		return c, fmt.Errorf("pressure stall %v: it must be positive, and not longer than the write stall of %v", c.PressureStall, c.WriteStall)
	case c.PinLimit < c.WriteStall:
		return c, fmt.Errorf("a pin limit of %v: it cannot be shorter than the write stall of %v, which ends pins of peers that take nothing", c.PinLimit, c.WriteStall)
	}
	return c, c.Policy.Validate()
}
