//go:build linux

// Command guest is the init of a guest of integration/vm: it makes the few file systems that
// tests need, loads modules, sets up the network, runs the programs of its Job one after the
// other, reports on the second serial line, and powers off.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/integration/vm/job"
	"sluice/integration/vm/netif"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: only for the guests of integration/vm, as their first process")
		os.Exit(2)
	}
	mountErr := mountAll()
	out := openSerial("/dev/ttyS1")
	if mountErr != nil {
		out.problem(mountErr)
	}
	if err := work(out); err != nil {
		out.problem(err)
	}
	out.drain()
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	panic(err) // the kernel panics too then, which ends the guest
}

func work(out *serial) error {
	text, err := os.ReadFile(job.Path)
	if err != nil {
		return err
	}
	var j job.Job
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("%s: %w", job.Path, err)
	}
	// Tests map more than they touch.
	if err := os.WriteFile("/proc/sys/vm/overcommit_memory", []byte("1"), 0); err != nil {
		return err
	}
	for _, m := range j.Modules {
		if err := loadModule(m); err != nil {
			out.problem(err)
		}
	}
	env, err := setUpNetwork(j.Network)
	if err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	out.event(job.Event{Kind: job.Ready, Text: unix.ByteSliceToString(u.Release[:])})
	go out.beat()
	for _, p := range j.Programs {
		runProgram(out, p, env)
	}
	out.event(job.Event{Kind: job.Done})
	return nil
}

func mountAll() error {
	for _, m := range []struct{ kind, path string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"},
	} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// setUpNetwork turns the interfaces on and returns what programs are told of them.
func setUpNetwork(n job.Network) (env []string, err error) {
	if err := netif.Up("lo", netip.Prefix{}); err != nil { // the kernel gives it its address
		return nil, err
	}
	nic, err := findNIC(n.MAC)
	if err != nil {
		return nil, err
	}
	if err := netif.Up(nic, n.Address); err != nil {
		return nil, err
	}
	return []string{job.EnvNIC + "=" + nic, job.EnvAddress + "=" + n.Address.Addr().String(), job.EnvPeer + "=" + n.Peer.String()}, nil
}

// findNIC waits for the interface: its driver may probe in the background.
func findNIC(mac string) (string, error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		all, err := net.Interfaces()
		if err != nil {
			return "", fmt.Errorf("list the interfaces: %w", err)
		}
		for _, i := range all {
			if strings.EqualFold(i.HardwareAddr.String(), mac) {
				return i.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no interface has the address %s", mac)
}
