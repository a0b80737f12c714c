package engine

import (
	"fmt"

	"sluice/bufreg"
	"sluice/ring"
	"sluice/zc"
)

// requestKind is what a completion answers.
type requestKind uint8

const (
	kindIgnored requestKind = iota // cancellations: what they cancel answers for itself
	kindWake
	kindAccept
	kindRecv
	kindPoll
	kindRead
	kindSend
)

// requestID names a slot of a table and its generation. A slot that is used again has
// another generation, so a completion that comes late is recognised and dropped.
type requestID struct{ index, gen uint32 }

// genMask: the generation has 24 bits in user_data.
const genMask = 1<<24 - 1

// userData packs kind (8 bits), generation (24) and index (32).
func userData(k requestKind, id requestID) uint64 {
	return uint64(k)<<56 | uint64(id.gen&genMask)<<32 | uint64(id.index)
}

func unpack(ud uint64) (requestKind, requestID) {
	return requestKind(ud >> 56), requestID{index: uint32(ud), gen: uint32(ud>>32) & genMask}
}

// table holds what requests belong to, by index.
type table[T any] struct {
	slots []tableSlot[T]
	free  []uint32
	n     int
}

type tableSlot[T any] struct {
	v   *T
	gen uint32
}

// put stores v in a free slot.
func (t *table[T]) put(v *T) requestID {
	if len(t.free) == 0 {
		t.slots = append(t.slots, tableSlot[T]{})
		t.free = append(t.free, uint32(len(t.slots)-1))
	}
	i := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.slots[i].v = v
	t.n++
	return requestID{i, t.slots[i].gen}
}

// get returns what id names, or nil when it is gone.
func (t *table[T]) get(id requestID) *T {
	if int(id.index) >= len(t.slots) || t.slots[id.index].gen != id.gen {
		return nil
	}
	return t.slots[id.index].v
}

func (t *table[T]) remove(id requestID) {
	s := &t.slots[id.index]
	if s.gen != id.gen || s.v == nil {
		panic(fmt.Sprintf("engine: slot %d of generation %d freed, but it is at %d", id.index, id.gen, s.gen))
	}
	s.v, s.gen = nil, (s.gen+1)&genMask
	t.free = append(t.free, id.index)
	t.n--
}

// sendOp is one send: what the kernel was given and who answers for it. Its buffers are
// the queue's until the completion. From a completion that announces a notification the
// op holds a reference to each, until the notification.
type sendOp struct {
	zc.Send
	id     requestID
	conn   *Conn
	reason zc.Reason
	charge int64 // for the budget
	fresh  bool
	shared bool    // some of its memory had other owners when it was queued
	alone  bool    // no other send of the connection waited for its notification
	trail  uint32  // place among the connection's decisions
	from   uint64  // offset of its first byte in the stream
	began  int64   // when it was submitted
	done   int64   // when it completed
	older  *sendOp // neighbours in the loop's pinList
	newer  *sendOp
	file   *fileItem // whose pages it sends, behind the buffers; until the completion
	segs   int
	bufs   [maxSegments]bufreg.Buffer // the submitted views
	pins   [maxSegments]bufreg.Pin
	msg    ring.Msghdr
}

// sendOps is a loop's supply of sendOps. A freed one is used again first: it is warm.
type sendOps struct {
	table table[sendOp]
	idle  []*sendOp
	made  int
	mem   [][]byte // mappings that the msghdrs lie in
}

// opsChunk is how many ops are made at a time.
const opsChunk = 64

// get returns an op with an id, or nil at the limit of maxSends.
func (s *sendOps) get() (*sendOp, error) {
	if len(s.idle) == 0 {
		if s.made >= maxSends {
			return nil, nil
		}
		if err := s.grow(); err != nil {
			return nil, err
		}
	}
	op := s.idle[len(s.idle)-1]
	s.idle = s.idle[:len(s.idle)-1]
	op.id = s.table.put(op)
	return op, nil
}

func (s *sendOps) grow() error {
	size := (ring.MsghdrSize(maxSegments) + 63) &^ 63 // no two ops share a cache line
	mem, err := mapMemory(opsChunk * size)
	if err != nil {
		return fmt.Errorf("map memory for %d sends: %w", opsChunk, err)
	}
	s.mem = append(s.mem, mem)
	ops := make([]sendOp, opsChunk)
	for i := range ops {
		ops[i].msg = ring.NewMsghdr(mem[i*size : i*size+ring.MsghdrSize(maxSegments)])
		s.idle = append(s.idle, &ops[i])
	}
	s.made += opsChunk
	return nil
}

func (s *sendOps) put(op *sendOp) {
	s.table.remove(op.id)
	clear(op.bufs[:op.segs])
	op.conn, op.file, op.segs, op.shared = nil, nil, 0, false
	s.idle = append(s.idle, op)
}

func (s *sendOps) unmap() {
	for _, m := range s.mem {
		unmapMemory(m)
	}
	s.mem, s.idle = nil, nil
}
