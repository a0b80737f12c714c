package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"sluice/internal/wire"
)

// ServerPlan is what a run of the servers covers.
type ServerPlan struct {
	Places  []*ServerPlace
	Servers []Server
	Sizes   []int // bytes of a body
	Conns   []int // keep-alive connections, each with a request under way
	Window  time.Duration
	Dir     string // of the files that are served; empty: for temporary files

	root, state string      // directories: of the files, and below which servers write
	checked     map[Key]int // length of the header of responses whose body was found right
}

// The limits of a plan, and what it is by default. A body of MaxBody takes a connection some 10 ms; more shows
// nothing new. MaxConns is what the clients' one thread can wait for without being all that is measured.
const (
	MinBody, MaxBody = 1 << 10, 64 << 20
	MaxConns         = 4096
)

var (
	DefaultBodies = []int{1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 64 << 20}
	DefaultConns  = []int{1, 16, 64, 256}
)

// ServerPlace is where the clients of a server are.
type ServerPlace struct {
	About
	measure func(context.Context, *serverRun) (Sample, error)
}

// ServerLoopback has clients on this host.
func ServerLoopback() *ServerPlace {
	return &ServerPlace{About{LoopbackName, "Keep-alive clients on this host, on another processor: a process of one thread, which checks each response's status and length and discards its body without a copy. " +
		"The kernel copies zero-copy sends here; files handed over by reference are never copied, because these clients do not read them. " +
		"Half of TCP's work for a connection is done by whoever sends, on his processor."}, func(ctx context.Context, r *serverRun) (Sample, error) { return r.overLoopback(ctx) }}
}

// ServerWire has simulated clients beyond a wire; see package wire. It needs root, and makes one now to find out
// whether this machine can.
func ServerWire(name string, options wire.Options) (*ServerPlace, error) {
	rig, err := wire.New(options)
	if err != nil {
		return nil, err
	}
	if err := rig.Close(); err != nil {
		return nil, err
	}
	packet := "64 KiB"
	if options.GSO != 0 {
		packet = FormatSize(options.GSO)
	}
	return &ServerPlace{About{name, "Keep-alive clients that an eBPF program simulates beyond a pair of interfaces: they acknowledge every packet at once, touch no body, and ask again when a response is complete. " +
		"Zero-copy sends are not copied, and only the server is measured: the clients' work, a fixed price for each packet and response, runs on its processor and is in every figure alike. " +
		"Packets are of up to " + packet + ". There is no card, and no round-trip time."},
		func(ctx context.Context, r *serverRun) (Sample, error) { return r.overWire(ctx, options) }}, nil
}

// serverRun is one server, size and number of connections at a place.
type serverRun struct {
	Key
	plan         *ServerPlan
	server       Server
	file         servedFile
	warm, window time.Duration
	cpu, peer    int // processors of the server, and of its clients
	irqTime      bool
}

// servedFile is what is fetched.
type servedFile struct {
	path string
	size int
	sum  [sha256.Size]byte
}

// minServerWarm is how long a server is asked before it is measured: it is a new process for each sample, whose caches are
// empty, and which may have to learn what sends are cheapest.
const minServerWarm = 100 * time.Millisecond

// fileServerJob is the work of a child that serves files by net/http.
type fileServerJob struct {
	Addr string
	Root string
}

// Cells lists what is to be measured, all servers of one size and number of connections in a row, and makes the
// files. The caller calls done at the end.
func (p *ServerPlan) Cells(m Machine) (cells []Cell, done func(), err error) {
	if err := raiseLimit(); err != nil {
		return nil, nil, fmt.Errorf("raise the limit of open files: %w", err)
	}
	dir, err := os.MkdirTemp(p.Dir, "uringserve-bench-")
	if err != nil {
		return nil, nil, err
	}
	done = func() { os.RemoveAll(dir) }
	p.root, p.state, p.checked = filepath.Join(dir, "root"), filepath.Join(dir, "state"), map[Key]int{}
	for _, d := range []string{p.root, p.state} {
		if err := os.Mkdir(d, 0o700); err != nil {
			done()
			return nil, nil, err
		}
	}
	files := map[int]servedFile{}
	for _, size := range p.Sizes {
		if files[size], err = makeServed(p.root, size); err != nil {
			done()
			return nil, nil, fmt.Errorf("make a file of %s to serve: %w", FormatSize(size), err)
		}
	}
	cpu, peer := Processors()
	for _, place := range p.Places {
		for _, size := range p.Sizes {
			for _, conns := range p.Conns {
				for _, server := range p.Servers {
					r := &serverRun{
						Key:  Key{Subject: server.Name, Place: place.Name, Size: size, Conns: conns},
						plan: p, server: server, file: files[size],
						warm: max(p.Window/2, minServerWarm), window: p.Window, cpu: cpu, peer: peer, irqTime: m.IRQTime,
					}
					cells = append(cells, Cell{r.Key, func(ctx context.Context) (Sample, error) {
						if _, err := r.server.find(); err != nil {
							return Sample{}, err
						}
						return place.measure(ctx, r)
					}})
				}
			}
		}
	}
	return cells, done, nil
}

// makeServed writes a file that no part of is like another, so that a wrong piece of it is noticed.
func makeServed(root string, size int) (file servedFile, err error) {
	file = servedFile{path: fmt.Sprintf("/%d", size), size: size}
	f, err := os.Create(filepath.Join(root, file.path))
	if err != nil {
		return file, err
	}
	defer f.Close()
	sum := sha256.New()
	var seed [32]byte
	if _, err := io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8(seed), int64(size)); err != nil {
		return file, err
	}
	sum.Sum(file.sum[:0])
	return file, f.Close()
}
