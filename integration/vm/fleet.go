//go:build linux

package main

import (
	"slices"
	"strings"
)

// fleet is the kernels that tests run on: one without SEND_ZC, the oldest long-term one with
// it, those of Debian 13 and of the newest long-term one, and the newest.
var fleet = []string{"5.10", "6.1", "6.12", "6.18", "7.2"}

// program is a test binary.
type program struct {
	name string
	pkg  string // below the module
	run  string // as for go test; "": every test
}

var programs = []program{
	{name: "ring", pkg: "ring"},
	{name: "bufreg", pkg: "bufreg"},
	{name: "zc", pkg: "zc"},
	// What hangs on the kernel. The whole of it takes minutes under emulation.
	{name: "engine", pkg: "engine", run: "^Test(MixedStreams|Header|Automatic|ASocketThat|SocketsThat|FilesOfEverySize|AStretchOfAFile|" +
		"APeerThatResets|APeerThatVanishes|EchoUnder|UsedUpReceive|InputLimit|Accepting|MaxConns|AbortResets|CloseWaits|LingerDoes)"},
	{name: "kernels", pkg: "integration/kernels"},
}

// file is the built program's name, guestPath where the guest has it.
func (p program) file() string      { return p.name + ".test" }
func (p program) guestPath() string { return "/" + p.file() }

// command is what the guest runs. A test that hangs is ended with the stacks of its
// goroutines; -deadline is for a kernel that does.
func (p program) command(series, run string) []string {
	args := []string{p.guestPath(), "-test.v=test2json", "-test.timeout=3m"}
	if run == "" {
		run = p.run
	}
	if run != "" {
		args = append(args, "-test.run="+run)
	}
	var skip []string
	for _, x := range leftOutOf(p.name, series) {
		skip = append(skip, x.test)
	}
	if len(skip) > 0 {
		args = append(args, "-test.skip="+strings.Join(skip, "|"))
	}
	return args
}

// exclusion is a test that is left out. Tests that skip themselves for want of a feature are
// not here.
type exclusion struct {
	program string
	test    string   // as for -test.skip: a pattern for each part of the name; "": the program
	kernels []string // series; nil: all
	why     string
}

func (x *exclusion) on(series string) bool {
	return x.kernels == nil || slices.Contains(x.kernels, series)
}

// leftOutOf returns what of a program does not run on a kernel. If nothing of it does, that is
// one exclusion.
func leftOutOf(program, series string) (out []*exclusion) {
	for i := range leftOut {
		x := &leftOut[i]
		switch {
		case x.program != program || !x.on(series):
		case x.test == "":
			return []*exclusion{x}
		default:
			out = append(out, x)
		}
	}
	return out
}

// programsOn returns those of the programs that run on a kernel.
func programsOn(series string, chosen []program) []program {
	return slices.DeleteFunc(slices.Clone(chosen), func(p program) bool {
		x := leftOutOf(p.name, series)
		return len(x) == 1 && x[0].test == ""
	})
}

// emulated is the reason of tests that take a moment of quiet for an end: an emulated
// processor takes longer for an acknowledgement.
const emulated = "takes 10 ms without room for a full socket, which emulation is too slow for"

// leftOut is every test that does not run in a guest, and why.
var leftOut = []exclusion{
	{"ring", "", []string{"5.10"}, "the package's tests need 6.0; what it does on older kernels is seen in kernels"},
	{"engine", "", []string{"5.10"}, "an engine needs 6.0"},

	{"ring", "TestCancelledSendWithoutProgressIsECANCELED", nil, emulated},
	{"ring", "TestResetEndsABlockedSend", nil, emulated},
	{"ring", "TestSendToFullNonblockingSocketWaitsForRoom", nil, emulated},
	{"ring", "TestDontWaitTurnsAFullSocketIntoEAGAIN", nil, emulated},

	{"ring", "TestFailedSendPromisesANotificationIffOneFollows/unknown_flag", []string{"6.1"}, "6.1 refuses an unknown flag before it promises a notification"},
	{"ring", "TestEveryRungOfTheLadderWorks/^0x1(3080|1082)$", []string{"6.1"}, "rungs with NO_SQARRAY need 6.6"},
	{"ring", "TestFailedSendPromisesANotificationIffOneFollows/stale_field", []string{"7.2"}, "7.2 does not look at addr3 of a send"},
	{"ring", "TestStaleFieldTurnsASendIntoEINVAL", []string{"7.2"}, "7.2 does not look at addr3 of a send"},
	{"ring", "TestSendOnNonblockingSocketWaits/SENDMSG_ZC_registered", []string{"6.18", "7.2"},
		"kernel: after 128 polls a send goes to a worker thread, where one from registered vectors ends short"},

	{"engine", "TestMixedStreamsArriveByEveryRoute/zero-copy_from_16_KiB", []string{"6.1", "6.12"}, "expects gathers from registered buffers, of 6.15"},
	{"engine", "TestHeaderAndBodyAreOneSendFromFixedVectors", []string{"6.1", "6.12"}, "expects gathers from registered buffers, of 6.15"},
	{"engine", "TestInputLimitStopsThePeerUntilTheHandlerConsumes", []string{"6.1"}, "6.1 receives for another turn before a cancelled receive ends"},
}
