package bench

import (
	"os/exec"
	"syscall"
)

// isolate keeps a child out of the terminal's reach, whose interrupt is for this process, and
// has it end with this process. The thread that starts it must live as long; Go ends only threads
// that were locked.
func isolate(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
