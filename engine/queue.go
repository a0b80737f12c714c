package engine

import (
	"slices"

	"sluice/bufreg"
	"sluice/zc"
)

// item is one piece of a send queue: memory, or what is left of a file.
type item struct {
	buf  bufreg.Buffer // the unsent view, with one reference; zero for a file
	file *fileItem
	// writable says that the lease is the engine's own and has room after the view, for
	// Write and for file reads.
	writable bool
	// filling says that a read into the room after the view is in flight, or of the file into
	// the page cache: the item and those behind it are not sent before it ends.
	filling bool
	// fileReason is why a file's bytes were read into the buffer; 0: to go by zero-copy, or none were.
	fileReason zc.Reason
	// sharedAt is when memory was queued that had other owners then; 0: it had none, or has been copied since.
	sharedAt int64
}

// inQueues is what a queue, or all of a loop's, hold.
type inQueues struct {
	bytes  int64 // of memory and of files
	memory int64 // of memory
}

// sendQueue is a connection's output in order. The first inFlight items belong to the send
// that is in flight: they are not changed before its completion.
type sendQueue struct {
	items    []item // items[head:] are queued
	head     int
	inFlight int
	files    int
	inQueues
	total *inQueues // of the loop
}

func (q *sendQueue) len() int { return len(q.items) - q.head }

func (q *sendQueue) at(i int) *item { return &q.items[q.head+i] }

// last is the newest item if it may be appended to, or nil.
func (q *sendQueue) last() *item {
	if n := q.len(); n > q.inFlight {
		return q.at(n - 1)
	}
	return nil
}

func (q *sendQueue) push(it item) {
	if len(q.items) == cap(q.items) && q.head > 0 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, it)
	q.account(&it, 1)
}

// insert puts an item before position i. It takes the room that a removed item left, or the
// queue would grow with every piece of a file until the file is sent.
func (q *sendQueue) insert(i int, it item) {
	if q.head > 0 {
		copy(q.items[q.head-1:], q.items[q.head:q.head+i])
		q.head--
		q.items[q.head+i] = it
	} else {
		q.items = slices.Insert(q.items, i, it)
	}
	q.account(&it, 1)
}

func (q *sendQueue) remove(i int) {
	q.account(q.at(i), -1)
	if i == 0 {
		q.items[q.head] = item{}
		if q.head++; q.head == len(q.items) {
			q.items, q.head = q.items[:0], 0
		}
		return
	}
	q.items = slices.Delete(q.items, q.head+i, q.head+i+1)
}

func (q *sendQueue) account(it *item, sign int64) {
	if it.file != nil {
		q.files += int(sign)
		q.count(sign*it.file.left, 0)
		return
	}
	n := sign * int64(it.buf.Len())
	q.count(n, n)
}

// count adds to what is queued: so many bytes, of which so many are memory.
func (q *sendQueue) count(bytes, memory int64) {
	q.bytes += bytes
	q.memory += memory
	q.total.bytes += bytes
	q.total.memory += memory
}

// shrink drops the first n bytes of the memory item at the head, which has more.
func (q *sendQueue) shrink(n int) {
	it := q.at(0)
	it.buf = it.buf.View(n, it.buf.Len()-n)
	q.count(-int64(n), -int64(n))
}

// extend lengthens a memory item by n bytes that were written behind its view.
func (q *sendQueue) extend(it *item, n int) {
	it.buf = it.buf.Extend(n)
	q.count(int64(n), int64(n))
}

// extendFile lengthens the newest item by n bytes of f from off, if that is where it ends, also while a part of
// it is on its way. It reports whether it could.
func (q *sendQueue) extendFile(f *File, off, n int64) bool {
	if q.len() == 0 {
		return false
	}
	it := q.at(q.len() - 1).file
	if it == nil || it.f != f || it.off+it.left != off {
		return false
	}
	it.left += n
	q.count(n, 0)
	it.chosen = false // its size was a part of that
	return true
}

// fileRead moves n bytes of a file from "left" to what the caller does with them.
func (q *sendQueue) fileRead(f *fileItem, n int64) {
	f.off += n
	f.left -= n
	q.count(-n, 0)
}

// firstShared is the position of the first item of shared memory, or -1: it is the one that was queued first.
func (q *sendQueue) firstShared() int {
	for i := range q.len() {
		if q.at(i).sharedAt != 0 {
			return i
		}
	}
	return -1
}

// lagging is how many items from position i on are of memory that was queued, and shared, at or before a time, and how many
// bytes they have: as many as one buffer holds.
func (q *sendQueue) lagging(i int, before int64) (n, size int) {
	for ; i+n < q.len(); n++ {
		it := q.at(i + n)
		if it.sharedAt == 0 || it.sharedAt > before || size+it.buf.Len() > bufreg.MaxBuffer {
			break
		}
		size += it.buf.Len()
	}
	return n, size
}

// replace puts one item of memory in the place of n others, from position i on, which are of as many bytes.
func (q *sendQueue) replace(i, n int, it item) {
	at := q.head + i
	q.items[at] = it
	q.items = slices.Delete(q.items, at+1, at+n)
}

// firstFile is the position of the first file; looking stops, with false, where enough is
// queued before it to keep the socket busy.
func (q *sendQueue) firstFile() (at int, ok bool) {
	before := 0
	for i := range q.len() {
		it := q.at(i)
		if it.file != nil {
			return i, true
		}
		if before += it.buf.Len(); before >= readAhead {
			break
		}
	}
	return 0, false
}
