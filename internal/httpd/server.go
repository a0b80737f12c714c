package httpd

import (
	"fmt"
	"os"
	"time"

	"sluice/engine"
)

// Limits.
const (
	// maxHead is the size of a request line with its header fields, in bytes; more is 431.
	// Browsers send under 4 KiB, mostly cookies.
	maxHead = 16 << 10
	// headTimeout is how long a request's head may take from its first byte.
	headTimeout = 20 * time.Second
	// maxOpen is how many open files each loop keeps; the descriptor limit may lower it.
	maxOpen = 1024
	// maxOpening is how many files are being opened at a time, over all loops.
	maxOpening = 64
)

// DefaultRecheck is how long an open file is taken to be what its name says.
const DefaultRecheck = time.Second

// Server serves the files below a directory. Make one with New.
type Server struct {
	// Explain, if it is set before the first connection, is called on the connection's loop when
	// a response has left, or will not. Without it responses pay nothing for it.
	Explain func(Response)

	root        *os.Root
	recheck     time.Duration
	headTimeout time.Duration
	shards      []*shard
	opening     chan struct{}                // one token for each file being opened
	now         func(*engine.Conn) time.Time // the time of a connection's loop
}

// New opens dir, which no request gets out of: neither by .. nor by a symbolic link. Each of
// the engine's loops serves from its own shard. recheck is how long a replaced file may
// still be served from its open descriptor; zero looks at every request.
func New(dir string, loops int, recheck time.Duration) (*Server, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{root: root, recheck: recheck, headTimeout: headTimeout, opening: make(chan struct{}, maxOpening), now: (*engine.Conn).Now}
	for range loops {
		s.shards = append(s.shards, newShard(s, max(1, min(maxOpen, descriptorLimit()/(4*loops)))))
	}
	return s, nil
}

// Handler makes the handler of a new connection.
func (s *Server) Handler(c *engine.Conn) engine.Handler {
	return &conn{shard: s.shards[c.Loop()], ec: c}
}

// Close closes the directory and every file that is kept open. The engine must have stopped.
func (s *Server) Close() error {
	for _, sh := range s.shards {
		sh.files.Purge()
	}
	return s.root.Close()
}
