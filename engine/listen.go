package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"sluice/ring"
)

// Listener accepts connections on every loop.
type Listener struct {
	eng  *Engine
	addr net.Addr
	per  []*loopListener
}

// loopListener is one loop's listening socket.
type loopListener struct {
	loop       *loop
	id         requestID
	fd         int
	newHandler func(*Conn) Handler
	armed      bool // an accept is in flight
	multishot  bool // it accepts until it is cancelled
	cancelled  bool // it has been
	closing    bool
	ended      chan struct{}
}

// Addr is where the listener listens.
func (ln *Listener) Addr() net.Addr { return ln.addr }

// Close stops accepting. Connections that were accepted stay. It must not be called from a
// handler: it waits for the loops.
func (ln *Listener) Close() {
	for _, ll := range ln.per {
		if ll.loop.post(func() { ll.loop.closeListener(ll) }) {
			select {
			case <-ll.ended:
			case <-ll.loop.done:
			}
		}
	}
}

// Listen accepts TCP connections at addr, as net.Listen does, and gives each a handler.
// newHandler is called on the connection's loop, before anything is received. Each loop has
// its own socket (SO_REUSEPORT), and the kernel spreads connections over them. Any goroutine
// may call it.
func (e *Engine) Listen(network, addr string, newHandler func(*Conn) Handler) (*Listener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, fmt.Errorf("listen on %s %s: the network must be tcp, tcp4 or tcp6", network, addr)
	}
	ln := &Listener{eng: e}
	shared := len(e.loops) > 1
	if shared {
		// SO_REUSEPORT would let a second server of the same user take half of the connections
		// without a word: find out first whether the address is taken.
		first, err := listenSocket(network, addr, false)
		if err != nil {
			return nil, err
		}
		addr = first.Addr().String()
		if err := first.Close(); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
	for _, l := range e.loops {
		fd, bound, err := e.listenFD(network, addr, shared)
		if err != nil {
			ln.Close()
			return nil, err
		}
		ln.addr, addr = bound, bound.String()
		ll := &loopListener{loop: l, fd: fd, newHandler: newHandler, ended: make(chan struct{})}
		ln.per = append(ln.per, ll)
		if !l.post(func() { l.openListener(ll) }) {
			e.sys.Close(fd)
			return nil, fmt.Errorf("listen on %s: %w", addr, ErrClosed)
		}
	}
	return ln, nil
}

func (e *Engine) listenFD(network, addr string, shared bool) (fd int, bound net.Addr, err error) {
	ln, err := listenSocket(network, addr, shared)
	if err != nil {
		return -1, nil, err
	}
	defer ln.Close()
	fd, err = dupFD(ln.(*net.TCPListener))
	if err == nil {
		err = sysTune(fd, e.cfg.WriteStall)
	}
	if err != nil {
		return -1, nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return fd, ln.Addr(), nil
}

// listenSocket listens by the net package, for its names and errors. MPTCP, which it would
// use by default, takes no zero-copy sends.
func listenSocket(network, addr string, shared bool) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	if shared {
		lc.Control = sysReusePort
	}
	return lc.Listen(context.Background(), network, addr)
}

func (l *loop) openListener(ll *loopListener) {
	ll.id = l.listeners.put(ll)
	if l.draining {
		l.closeListener(ll)
		return
	}
	l.armAccept(ll)
}

// armAccept starts accepting, unless the loop is full. One multishot accept may bring as many
// connections in a turn as there are completions: with less room than that, one is accepted
// at a time.
func (l *loop) armAccept(ll *loopListener) {
	room := l.cfg.MaxConns - l.conns.n
	if ll.armed || ll.closing || room <= 0 || l.acceptAt != 0 {
		return
	}
	ll.armed, ll.multishot = true, l.multishot() && room > cqEntries
	e := l.sqe()
	if ll.multishot {
		e.PrepAcceptMultishot(ll.fd, sockFlags)
	} else {
		e.PrepAccept(ll.fd, sockFlags)
	}
	e.UserData = userData(kindAccept, ll.id)
}

// limitAccept ends accepts that could go beyond MaxConns: newcomers wait in the backlog. What
// several listeners of a loop accept in the same turn may exceed it by one each.
func (l *loop) limitAccept() {
	room := l.cfg.MaxConns - l.conns.n
	if room > cqEntries {
		return
	}
	for _, s := range l.listeners.slots {
		if ll := s.v; ll != nil && ll.armed && !ll.cancelled && (ll.multishot || room <= 0) {
			ll.cancelled = true
			l.cancel(userData(kindAccept, ll.id))
		}
	}
}

// accepted takes a completion of an accept.
func (l *loop) accepted(e *ring.CQE) {
	_, id := unpack(e.UserData)
	ll := l.listeners.get(id)
	if ll == nil {
		if e.Res >= 0 {
			l.sys.Close(int(e.Res))
		}
		l.stats.Sends.Stray++
		return
	}
	if !e.More() {
		ll.armed, ll.cancelled = false, false
	}
	switch errno := syscall.Errno(-e.Res); {
	case e.Res >= 0:
		l.adopt(int(e.Res), ll.newHandler)
	case errno == syscall.EMFILE || errno == syscall.ENFILE || errno == syscall.ENOMEM || errno == syscall.ENOBUFS:
		l.stats.AcceptErrors++
		l.acceptAt = l.now + int64(acceptPause)
	case errno == syscall.ECANCELED:
	default: // a connection that ended before it was accepted, and the like
		l.stats.AcceptErrors++
	}
	switch {
	case ll.armed:
	case ll.closing:
		l.endListener(ll)
	default:
		l.armAccept(ll)
	}
}

// resumeAccept accepts again after a connection ended or a pause is over.
func (l *loop) resumeAccept() {
	if l.acceptAt != 0 && l.now < l.acceptAt {
		return
	}
	l.acceptAt = 0
	for _, s := range l.listeners.slots {
		if s.v != nil {
			l.armAccept(s.v)
		}
	}
}

func (l *loop) closeListener(ll *loopListener) {
	if ll.closing {
		return
	}
	ll.closing = true
	if ll.armed {
		l.cancel(userData(kindAccept, ll.id))
	} else {
		l.endListener(ll)
	}
}

func (l *loop) endListener(ll *loopListener) {
	l.sys.Close(ll.fd)
	l.listeners.remove(ll.id)
	close(ll.ended)
}

// Dial connects to addr, as net.Dialer does, and gives the connection to a loop. newHandler is
// called on that loop. Any goroutine may call it.
func (e *Engine) Dial(ctx context.Context, network, addr string, newHandler func(*Conn) Handler) error {
	var d net.Dialer
	d.SetMultipathTCP(false)
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("dial %s %s: the network must be tcp, tcp4 or tcp6", network, addr)
	}
	fd, err := dupFD(tcp)
	if err == nil {
		err = sysTune(fd, e.cfg.WriteStall)
	}
	if err != nil {
		return fmt.Errorf("dial %s: %w", addr, err)
	}
	l := e.loops[int(e.dialed.Add(1))%len(e.loops)]
	if !l.post(func() { l.adopt(fd, newHandler) }) {
		e.sys.Close(fd)
		return fmt.Errorf("dial %s: %w", addr, ErrClosed)
	}
	return nil
}

// dupFD is a descriptor of the socket that the engine owns; the net package closes its own.
func dupFD(s syscall.Conn) (fd int, err error) {
	raw, err := s.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := raw.Control(func(p uintptr) { fd, err = sysDup(int(p)) })
	return fd, errors.Join(cerr, err)
}
