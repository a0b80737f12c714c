//go:build linux

package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sluice/integration/vm/job"
)

// serial is the line to the host: what programs print, and events on lines of their own. Any
// goroutine may use it.
type serial struct {
	f *os.File

	mu      sync.Mutex
	midLine bool // the last byte did not end a line
}

// openSerial opens a serial line that passes bytes on as they are. Without one there is
// nobody to tell: the console has to do.
func openSerial(path string) *serial {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		return &serial{f: os.Stderr}
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "guest: set up %s: %v\n", path, err)
	}
	return &serial{f: f}
}

// Write passes on what a program prints.
func (s *serial) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(b)
}

func (s *serial) write(b []byte) (int, error) {
	if len(b) > 0 {
		s.midLine = b[len(b)-1] != '\n'
	}
	return s.f.Write(b)
}

func (s *serial) event(e job.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := e.Line()
	if s.midLine {
		line = append([]byte{'\n'}, line...)
	}
	if _, err := s.write(line); err != nil {
		fmt.Fprintln(os.Stderr, "guest: report:", err)
	}
}

// beat tells every second that the guest is alive, except in the middle of a program's line.
func (s *serial) beat() {
	line := job.Event{Kind: job.Alive}.Line()
	for range time.Tick(time.Second) {
		s.mu.Lock()
		if !s.midLine {
			_, _ = s.write(line)
		}
		s.mu.Unlock()
	}
}

func (s *serial) problem(err error) { s.event(job.Event{Kind: job.Problem, Text: err.Error()}) }

// drain waits until everything has left (tcdrain(3)).
func (s *serial) drain() { _ = unix.IoctlSetInt(int(s.f.Fd()), unix.TCSBRK, 1) }
