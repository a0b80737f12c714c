package ring

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
)

// Caps is what the running kernel can do. Opcodes are asked for, everything else is
// tried once: versions are not looked at, because distributions backport.
type Caps struct {
	Kernel string // release, as in uname -r

	SetupFlags      uint32 // the setup flags that New gets
	RegisteredRing  bool   // io_uring_enter by registered index (5.18)
	AcceptMultishot bool   // 5.19
	BufRing         bool   // provided-buffer rings (5.19)
	RecvMultishot   bool   // 6.0
	SendZC          bool   // 6.0
	SendMsgZC       bool   // 6.1
	UsageReport     bool   // notifications say whether data was copied (6.2)
	CloneBuffers    bool   // one registration serves many rings (6.13)
	FixedVectors    bool   // SENDMSG_ZC from a registered buffer (6.15)
}

// Feature is one capability: its name, the first release that has it by upstream's
// history, and whether this kernel has it.
type Feature struct {
	Name  string
	Since string
	Have  bool
}

// Features lists the capabilities in the order of the releases that brought them.
func (c *Caps) Features() []Feature {
	return []Feature{
		{"registered ring", "5.18", c.RegisteredRing},
		{"multishot accept", "5.19", c.AcceptMultishot},
		{"provided-buffer rings", "5.19", c.BufRing},
		{"multishot receive", "6.0", c.RecvMultishot},
		{"SEND_ZC", "6.0", c.SendZC},
		{"SENDMSG_ZC", "6.1", c.SendMsgZC},
		{"deferred task work", "6.1", c.SetupFlags&SetupDeferTaskrun != 0},
		{"zero-copy usage reports", "6.2", c.UsageReport},
		{"no submission array", "6.6", c.SetupFlags&SetupNoSQArray != 0},
		{"cloned buffer registration", "6.13", c.CloneBuffers},
		{"SENDMSG_ZC from registered buffers", "6.15", c.FixedVectors},
	}
}

// Require returns an [UnsupportedError] for the first of the named features that is
// missing. An unknown name is a bug in the caller and panics.
func (c *Caps) Require(names ...string) error {
	for _, name := range names {
		if f := c.feature(name); !f.Have {
			return &UnsupportedError{Feature: f.Name, Since: f.Since}
		}
	}
	return nil
}

func (c *Caps) feature(name string) Feature {
	for _, f := range c.Features() {
		if f.Name == name {
			return f
		}
	}
	panic(fmt.Sprintf("ring: no feature is called %q", name))
}

// Probe finds out what the kernel can do, once for the process; later calls return the
// first result. Any goroutine may call it.
var Probe = sync.OnceValues(probeKernel)

func probeKernel() (*Caps, error) {
	// The probing thread must be the ring's own from setup to close.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := New(Config{Entries: 8})
	if err != nil {
		return nil, fmt.Errorf("probe io_uring: %w", err)
	}
	defer r.Close()
	ops, err := r.opcodes()
	if err != nil {
		return nil, fmt.Errorf("probe io_uring: %w", err)
	}
	c := &Caps{
		Kernel:         kernelRelease(),
		SetupFlags:     r.setup &^ (SetupCQSize | SetupClamp),
		RegisteredRing: r.enterFlags&EnterRegisteredRing != 0,
		SendZC:         ops[OpSendZC],
		SendMsgZC:      ops[OpSendMsgZC],
	}
	if _, err := r.NewBufRing(0, 1, 64); err == nil {
		c.BufRing = true
	}
	pair, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("probe io_uring: socketpair: %w", err)
	}
	p := prober{r: r, pair: pair}
	defer func() {
		for _, fd := range p.pair {
			_ = closeFD(fd)
		}
	}()
	if err := p.probe(c); err != nil {
		return nil, fmt.Errorf("probe io_uring: %w", err)
	}
	return c, nil
}

// opcodes asks which operations the kernel knows (5.6).
func (r *Ring) opcodes() (have [256]bool, err error) {
	p := new(probe)
	if errno := r.registerProbe(p); errno != 0 {
		return have, setupError("ask for the supported operations", errno)
	}
	for _, op := range p.Ops[:p.OpsLen] {
		have[op.Op] = op.Flags&opSupported != 0
	}
	return have, nil
}

// prober tries requests on a pair of unix sockets: the kernel's checks of a request's
// shape (EINVAL) come before its check that the socket takes zero-copy, which unix
// sockets never do (EOPNOTSUPP). So no network is needed, and nothing is sent.
type prober struct {
	r    *Ring
	pair [2]int
	id   uint64
}

func (p *prober) probe(c *Caps) error {
	mem, err := mapAnonymous(4096)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer unmap(mem)
	if err := p.r.RegisterBuffers([][]byte{mem}); err != nil {
		return err
	}
	if c.SendZC {
		c.UsageReport, err = p.accepts(func(e *SQE) {
			e.PrepSendZC(p.pair[0], addressOf(mem), 1, 0, SendZCReportUsage)
		}, syscall.EOPNOTSUPP)
		if err != nil {
			return err
		}
	}
	if c.SendMsgZC {
		m := NewMsghdr(mem[:MsghdrSize(1)])
		m.Reset()
		m.Append(addressOf(mem[2048:]), 1)
		c.FixedVectors, err = p.accepts(func(e *SQE) {
			e.PrepSendMsgZC(p.pair[0], m.Addr(), 0, 0)
			e.FixedBuffer(0)
		}, syscall.EOPNOTSUPP)
		if err != nil {
			return err
		}
	}
	// An accept on what does not listen: EINVAL from the socket as well as from a kernel that
	// does not know the flag, so multishot accept is told by a sibling of the same release.
	c.AcceptMultishot = c.BufRing
	if c.BufRing {
		// The peer is shut down first, so that the receive ends at once: with 0 where
		// multishot is known, with EINVAL where it is not.
		if err := shutdownWrite(p.pair[1]); err != nil {
			return err
		}
		c.RecvMultishot, err = p.accepts(func(e *SQE) { e.PrepRecvMultishot(p.pair[0], 0) }, 0)
		if err != nil {
			return err
		}
	}
	c.CloneBuffers, err = p.clones()
	return err
}

// accepts submits one request and reports whether the kernel took its shape: it must
// then end with want, and otherwise with EINVAL.
func (p *prober) accepts(prep func(*SQE), want syscall.Errno) (bool, error) {
	p.id++
	e := p.r.SQE()
	prep(e)
	e.UserData = p.id
	op, got, have := e.Opcode, syscall.Errno(0), false
	for pending := 1; pending > 0; {
		if err := p.r.SubmitAndWait(1, 0); err != nil {
			return false, err
		}
		var cqe [1]CQE
		for p.r.Reap(cqe[:]) == 1 {
			if cqe[0].UserData != p.id {
				continue // a notification of an earlier try
			}
			if !have {
				have, got = true, syscall.Errno(-min(cqe[0].Res, 0))
			}
			if !cqe[0].More() {
				pending--
			}
		}
	}
	switch got {
	case want:
		return true, nil
	case syscall.EINVAL:
		return false, nil
	}
	return false, fmt.Errorf("trial of opcode %d ended with %w, expected %w or %w", op, got, want, syscall.EINVAL)
}

func (p *prober) clones() (bool, error) {
	other, err := New(Config{Entries: 1})
	if err != nil {
		return false, err
	}
	defer other.Close()
	switch err := other.CloneBuffers(p.r); {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrUnsupported):
		return false, nil
	default:
		return false, err
	}
}
