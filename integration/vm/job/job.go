// Package job is what the host and the guest of integration/vm tell each other: the host
// puts a Job into the guest's file system, and the guest reports Events on a serial line,
// between the lines that the programs print.
package job

import (
	"bytes"
	"encoding/json"
	"net/netip"
)

// Path is where the guest finds its Job.
const Path = "/job.json"

// CommandPath is where the guest has a command of this name.
func CommandPath(name string) string { return "/" + name }

// Environment variables of the guest's programs.
const (
	EnvNIC     = "VM_NIC"     // the interface towards the host
	EnvAddress = "VM_ADDRESS" // the guest's address on it
	EnvPeer    = "VM_PEER"    // address and port of the host's peer; see package peer
)

// Job is what a guest has to do before it powers off.
type Job struct {
	Modules  []string // files, each after those it depends on
	Network  Network
	Programs []Program // run one after the other
}

// Network is the guest's interface.
type Network struct {
	MAC     string
	Address netip.Prefix
	Peer    netip.AddrPort
}

// Program is a program and its arguments.
type Program struct {
	Name string
	Args []string // from the path on
}

// Kind is what an Event tells.
type Kind string

const (
	Ready   Kind = "ready"   // the guest is up; Text is its kernel's release
	Alive   Kind = "alive"   // every second from then on
	Begin   Kind = "begin"   // of the program Name
	End     Kind = "end"     // of the program Name, with Code after Seconds
	Problem Kind = "problem" // Text went wrong in the guest itself
	Done    Kind = "done"    // every program has ended, the guest powers off
)

// Event is a report of the guest.
type Event struct {
	Kind    Kind
	Name    string  `json:",omitempty"`
	Text    string  `json:",omitempty"`
	Code    int     `json:",omitempty"` // exit status, or 128 and the signal's number
	Seconds float64 `json:",omitempty"`
}

// mark begins the line of an event. It is ASCII's group separator, which no test prints.
const mark = "\x1dvm "

// Line is the event as a line of the serial line, with its end.
func (e Event) Line() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return append(append([]byte(mark), b...), '\n')
}

// ParseEvent reads a line, and reports false for one that a program printed.
func ParseEvent(line []byte) (e Event, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	if !ok || json.Unmarshal(rest, &e) != nil {
		return Event{}, false
	}
	return e, true
}
