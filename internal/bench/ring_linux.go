package bench

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"sluice/ring"
)

// ringWay is one of the ways to send by io_uring.
type ringWay struct {
	zeroCopy   bool
	registered bool // memory
	gather     bool // several buffers in a send
	poller     bool // SQPOLL
}

// ring sends by io_uring: one send in flight, and the next when it has completed, since the bytes of two
// could change places. Notifications are counted when they come; nothing waits for them, because the
// source does not change.
func (s *sending) ring(way ringWay) error {
	caps, err := ring.Probe()
	if err != nil {
		return err
	}
	switch {
	case way.gather:
		err = caps.Require("SENDMSG_ZC", "SENDMSG_ZC from registered buffers")
	case way.zeroCopy:
		err = caps.Require("SEND_ZC")
	}
	if err != nil {
		return err
	}
	fd, err := s.connect()
	if err != nil {
		return err
	}
	r, err := ring.New(ring.Config{SQPoll: way.poller})
	if err != nil {
		return err
	}
	if way.registered {
		if err := r.RegisterBuffers([][]byte{s.mem}); err != nil {
			return err
		}
	}
	var ioprio uint16
	if caps.UsageReport {
		ioprio = ring.SendZCReportUsage
	}
	headers, err := mapPages(ring.MsghdrSize(gatherMost))
	if err != nil {
		return err
	}
	header, vectors := ring.NewMsghdr(headers), s.gathered()
	const flags = unix.MSG_WAITALL | unix.MSG_NOSIGNAL
	return s.loop("send", func() (int, error) {
		e := r.SQE()
		if e == nil {
			return 0, ring.ErrSQFull // impossible: one is in flight
		}
		switch {
		case way.gather:
			header.Reset()
			for range vectors {
				header.Append(s.next(), uint32(s.Size))
			}
			e.PrepSendMsgZC(fd, header.Addr(), flags, ioprio)
		case way.zeroCopy:
			e.PrepSendZC(fd, s.next(), uint32(s.Size), flags, ioprio)
		default:
			e.PrepSend(fd, s.next(), uint32(s.Size), flags)
		}
		if way.registered {
			e.FixedBuffer(0)
		}
		return s.await(r)
	})
}

// await submits, and returns what the send in flight sent.
func (s *sending) await(r *ring.Ring) (int, error) {
	var batch [64]ring.CQE
	if err := r.Submit(); err != nil {
		return 0, err
	}
	for {
		sent := -1
		for n := r.Reap(batch[:]); n > 0; n = r.Reap(batch[:]) {
			for _, c := range batch[:n] {
				switch {
				case c.Notification() && c.Copied():
					s.copied++
				case c.Notification():
					s.zeroCopied++
				case c.Res < 0:
					return 0, fmt.Errorf("completion: %w", syscall.Errno(-c.Res))
				default:
					sent = int(c.Res)
				}
			}
		}
		if sent >= 0 {
			return sent, nil
		}
		if err := r.SubmitAndWait(1, 0); err != nil {
			return 0, err
		}
	}
}
