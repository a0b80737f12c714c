package abi

import (
	"syscall"
	"testing"
	"unsafe"

	"github.com/pawelgaczynski/giouring"

	"sluice/ring"
)

// field is one field's place, ours and theirs.
type field struct {
	name                             string
	offset, theirOffset, size, their uintptr
}

func compare(t *testing.T, size, theirSize uintptr, fields []field) {
	t.Helper()
	if size != theirSize {
		t.Errorf("size %d, want %d", size, theirSize)
	}
	for _, f := range fields {
		if f.offset != f.theirOffset || f.size != f.their {
			t.Errorf("%s: offset %d size %d, want offset %d size %d", f.name, f.offset, f.size, f.theirOffset, f.their)
		}
	}
}

func TestSQELayoutAgreesWithGiouring(t *testing.T) {
	var a ring.SQE
	var b giouring.SubmissionQueueEntry
	compare(t, unsafe.Sizeof(a), unsafe.Sizeof(b), []field{
		{"Opcode", unsafe.Offsetof(a.Opcode), unsafe.Offsetof(b.OpCode), unsafe.Sizeof(a.Opcode), unsafe.Sizeof(b.OpCode)},
		{"Flags", unsafe.Offsetof(a.Flags), unsafe.Offsetof(b.Flags), unsafe.Sizeof(a.Flags), unsafe.Sizeof(b.Flags)},
		{"IoPrio", unsafe.Offsetof(a.IoPrio), unsafe.Offsetof(b.IoPrio), unsafe.Sizeof(a.IoPrio), unsafe.Sizeof(b.IoPrio)},
		{"FD", unsafe.Offsetof(a.FD), unsafe.Offsetof(b.Fd), unsafe.Sizeof(a.FD), unsafe.Sizeof(b.Fd)},
		{"Off", unsafe.Offsetof(a.Off), unsafe.Offsetof(b.Off), unsafe.Sizeof(a.Off), unsafe.Sizeof(b.Off)},
		{"Addr", unsafe.Offsetof(a.Addr), unsafe.Offsetof(b.Addr), unsafe.Sizeof(a.Addr), unsafe.Sizeof(b.Addr)},
		{"Len", unsafe.Offsetof(a.Len), unsafe.Offsetof(b.Len), unsafe.Sizeof(a.Len), unsafe.Sizeof(b.Len)},
		{"OpFlags", unsafe.Offsetof(a.OpFlags), unsafe.Offsetof(b.OpcodeFlags), unsafe.Sizeof(a.OpFlags), unsafe.Sizeof(b.OpcodeFlags)},
		{"UserData", unsafe.Offsetof(a.UserData), unsafe.Offsetof(b.UserData), unsafe.Sizeof(a.UserData), unsafe.Sizeof(b.UserData)},
		{"BufIndex", unsafe.Offsetof(a.BufIndex), unsafe.Offsetof(b.BufIG), unsafe.Sizeof(a.BufIndex), unsafe.Sizeof(b.BufIG)},
		{"Personality", unsafe.Offsetof(a.Personality), unsafe.Offsetof(b.Personality), unsafe.Sizeof(a.Personality), unsafe.Sizeof(b.Personality)},
		{"FileIndex", unsafe.Offsetof(a.FileIndex), unsafe.Offsetof(b.SpliceFdIn), unsafe.Sizeof(a.FileIndex), unsafe.Sizeof(b.SpliceFdIn)},
		{"Addr3", unsafe.Offsetof(a.Addr3), unsafe.Offsetof(b.Addr3), unsafe.Sizeof(a.Addr3), unsafe.Sizeof(b.Addr3)},
	})
}

func TestCQELayoutAgreesWithGiouring(t *testing.T) {
	var a ring.CQE
	var b giouring.CompletionQueueEvent
	compare(t, unsafe.Sizeof(a), unsafe.Sizeof(b), []field{
		{"UserData", unsafe.Offsetof(a.UserData), unsafe.Offsetof(b.UserData), unsafe.Sizeof(a.UserData), unsafe.Sizeof(b.UserData)},
		{"Res", unsafe.Offsetof(a.Res), unsafe.Offsetof(b.Res), unsafe.Sizeof(a.Res), unsafe.Sizeof(b.Res)},
		{"Flags", unsafe.Offsetof(a.Flags), unsafe.Offsetof(b.Flags), unsafe.Sizeof(a.Flags), unsafe.Sizeof(b.Flags)},
	})
}

// giouring passes package syscall's types for these two.

func TestTimespecLayoutAgreesWithSyscall(t *testing.T) {
	var a ring.Timespec
	var b syscall.Timespec
	compare(t, unsafe.Sizeof(a), unsafe.Sizeof(b), []field{
		{"Sec", unsafe.Offsetof(a.Sec), unsafe.Offsetof(b.Sec), unsafe.Sizeof(a.Sec), unsafe.Sizeof(b.Sec)},
		{"Nsec", unsafe.Offsetof(a.Nsec), unsafe.Offsetof(b.Nsec), unsafe.Sizeof(a.Nsec), unsafe.Sizeof(b.Nsec)},
	})
}

func TestIovecLayoutAgreesWithSyscall(t *testing.T) {
	var a ring.Iovec
	var b syscall.Iovec
	compare(t, unsafe.Sizeof(a), unsafe.Sizeof(b), []field{
		{"Base", unsafe.Offsetof(a.Base), unsafe.Offsetof(b.Base), unsafe.Sizeof(a.Base), unsafe.Sizeof(b.Base)},
		{"Len", unsafe.Offsetof(a.Len), unsafe.Offsetof(b.Len), unsafe.Sizeof(a.Len), unsafe.Sizeof(b.Len)},
	})
}
