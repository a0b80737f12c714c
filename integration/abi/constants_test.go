package abi

import (
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pawelgaczynski/giouring"
)

const ringDir = "../../ring"

// known is every exported constant of ring that giouring has, with giouring's value.
var known = map[string]uint64{
	"OpNop":         uint64(giouring.OpNop),
	"OpReadFixed":   uint64(giouring.OpReadFixed),
	"OpPollAdd":     uint64(giouring.OpPollAdd),
	"OpSendMsg":     uint64(giouring.OpSendmsg),
	"OpTimeout":     uint64(giouring.OpTimeout),
	"OpAccept":      uint64(giouring.OpAccept),
	"OpAsyncCancel": uint64(giouring.OpAsyncCancel),
	"OpClose":       uint64(giouring.OpClose),
	"OpRead":        uint64(giouring.OpRead),
	"OpSend":        uint64(giouring.OpSend),
	"OpRecv":        uint64(giouring.OpRecv),
	"OpMsgRing":     uint64(giouring.OpMsgRing),
	"OpSendZC":      uint64(giouring.OpSendZC),
	"OpSendMsgZC":   uint64(giouring.OpSendMsgZC),

	"SQEFixedFile":      uint64(giouring.SqeFixedFile),
	"SQEIODrain":        uint64(giouring.SqeIODrain),
	"SQEIOLink":         uint64(giouring.SqeIOLink),
	"SQEIOHardLink":     uint64(giouring.SqeIOHardlink),
	"SQEAsync":          uint64(giouring.SqeAsync),
	"SQEBufferSelect":   uint64(giouring.SqeBufferSelect),
	"SQECQESkipSuccess": uint64(giouring.SqeCQESkipSuccess),

	"RecvSendPollFirst": uint64(giouring.RecvsendPollFirst),
	"RecvMultishot":     uint64(giouring.RecvMultishot),
	"RecvSendFixedBuf":  uint64(giouring.RecvsendFixedBuf),
	"SendZCReportUsage": uint64(giouring.SendZCReportUsage),
	"AcceptMultishot":   uint64(giouring.AcceptMultishot),

	"PollAddMulti": uint64(giouring.PollAddMulti),

	"CancelAll":     uint64(giouring.AsyncCancelAll),
	"CancelFD":      uint64(giouring.AsyncCancelFd),
	"CancelAny":     uint64(giouring.AsyncCancelAny),
	"CancelFDFixed": uint64(giouring.AsyncCancelFdFixed),

	"FileIndexAlloc": uint64(giouring.FileIndexAlloc),

	"CQEBuffer":       uint64(giouring.CQEFBuffer),
	"CQEMore":         uint64(giouring.CQEFMore),
	"CQESockNonEmpty": uint64(giouring.CQEFSockNonempty),
	"CQENotif":        uint64(giouring.CQEFNotif),

	"NotifUsageZCCopied": uint64(giouring.NotifUsageZCCopied),

	"SetupIOPoll":       uint64(giouring.SetupIOPoll),
	"SetupSQPoll":       uint64(giouring.SetupSQPoll),
	"SetupSQAff":        uint64(giouring.SetupSQAff),
	"SetupCQSize":       uint64(giouring.SetupCQSize),
	"SetupClamp":        uint64(giouring.SetupClamp),
	"SetupAttachWQ":     uint64(giouring.SetupAttachWQ),
	"SetupRDisabled":    uint64(giouring.SetupRDisabled),
	"SetupSubmitAll":    uint64(giouring.SetupSubmitAll),
	"SetupCoopTaskrun":  uint64(giouring.SetupCoopTaskrun),
	"SetupTaskrunFlag":  uint64(giouring.SetupTaskrunFlag),
	"SetupSQE128":       uint64(giouring.SetupSQE128),
	"SetupCQE32":        uint64(giouring.SetupCQE32),
	"SetupSingleIssuer": uint64(giouring.SetupSingleIssuer),
	"SetupDeferTaskrun": uint64(giouring.SetupDeferTaskrun),
	"SetupNoMmap":       uint64(giouring.SetupNoMmap),
	"SetupRegFDOnly":    uint64(giouring.SetupRegisteredFdOnly),

	"EnterGetEvents":      uint64(giouring.EnterGetEvents),
	"EnterSQWakeup":       uint64(giouring.EnterSQWakeup),
	"EnterSQWait":         uint64(giouring.EnterSQWait),
	"EnterExtArg":         uint64(giouring.EnterExtArg),
	"EnterRegisteredRing": uint64(giouring.EnterRegisteredRing),

	"FeatSingleMmap":     uint64(giouring.FeatSingleMMap),
	"FeatNoDrop":         uint64(giouring.FeatNoDrop),
	"FeatExtArg":         uint64(giouring.FeatExtArg),
	"FeatSQPollNonFixed": uint64(giouring.FeatSQPollNonfixed),

	"SQNeedWakeup": uint64(giouring.SQNeedWakeup),
	"SQCQOverflow": uint64(giouring.SQCQOverflow),
	"SQTaskrun":    uint64(giouring.SQTaskrun),

	"RegisterBuffers":     uint64(giouring.RegisterBuffers),
	"UnregisterBuffers":   uint64(giouring.UnregisterBuffers),
	"RegisterFiles":       uint64(giouring.RegisterFiles),
	"UnregisterFiles":     uint64(giouring.UnregisterFiles),
	"RegisterFilesUpdate": uint64(giouring.RegisterFilesUpdate),
	"RegisterProbe":       uint64(giouring.RegisterProbe),
	"RegisterFiles2":      uint64(giouring.RegisterFiles2),
	"RegisterRingFDs":     uint64(giouring.RegisterRingFDs),
	"UnregisterRingFDs":   uint64(giouring.UnregisterRingFDs),
	"RegisterPbufRing":    uint64(giouring.RegisterPbufRing),
	"UnregisterPbufRing":  uint64(giouring.UnregisterPbufRing),
}

// newer is every exported constant of ring that came after giouring (Linux 6.5), with its
// value from include/uapi/linux/io_uring.h.
var newer = map[string]uint64{
	"SetupNoSQArray":       1 << 16, // IORING_SETUP_NO_SQARRAY, 6.6
	"RecvSendBundle":       1 << 4,  // IORING_RECVSEND_BUNDLE, 6.10
	"RegisterCloneBuffers": 30,      // IORING_REGISTER_CLONE_BUFFERS, 6.12
	"SendVectorized":       1 << 5,  // IORING_SEND_VECTORIZED, 6.17
}

// ringConstants evaluates the exported constants of ring's abi.go.
func ringConstants(t *testing.T) map[string]uint64 {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, filepath.Join(ringDir, "abi.go"), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	// The file imports nothing but unsafe, so that it is type-checked by itself.
	pkg, err := (&types.Config{Importer: importer.Default()}).Check("ring", fset, []*ast.File{file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]uint64{}
	for _, name := range pkg.Scope().Names() {
		c, ok := pkg.Scope().Lookup(name).(*types.Const)
		if !ok || !c.Exported() {
			continue
		}
		v, exact := constant.Uint64Val(constant.ToInt(c.Val()))
		if !exact {
			t.Fatalf("%s = %v is no unsigned number", name, c.Val())
		}
		values[name] = v
	}
	return values
}

func TestConstantsAgreeWithGiouring(t *testing.T) {
	for name, got := range ringConstants(t) {
		if want, ok := known[name]; ok && got != want {
			t.Errorf("ring.%s is %#x, giouring has %#x", name, got, want)
		}
	}
}

func TestNewerConstantsAgreeWithTheKernelHeader(t *testing.T) {
	for name, got := range ringConstants(t) {
		if want, ok := newer[name]; ok && got != want {
			t.Errorf("ring.%s is %#x, the header has %#x", name, got, want)
		}
	}
}

func TestEveryConstantIsInExactlyOneTable(t *testing.T) {
	ours := ringConstants(t)
	for name := range ours {
		_, old := known[name]
		_, young := newer[name]
		if old == young {
			t.Errorf("ring.%s: in giouring's table %v, in the table of newer ones %v", name, old, young)
		}
	}
	for _, table := range []map[string]uint64{known, newer} {
		for name := range table {
			if _, ok := ours[name]; !ok {
				t.Errorf("%s is in a table, but not in ring", name)
			}
		}
	}
}

// The tables cover one file, so the constants have to be there.
func TestConstantsAreDeclaredInOneFile(t *testing.T) {
	entries, err := os.ReadDir(ringDir)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || name == "abi.go" {
			continue
		}
		file, err := parser.ParseFile(fset, filepath.Join(ringDir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				for _, ident := range spec.(*ast.ValueSpec).Names {
					if ident.IsExported() {
						t.Errorf("%s declares %s: it belongs into abi.go, to be checked here", name, ident.Name)
					}
				}
			}
		}
	}
}
