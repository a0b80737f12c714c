package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Machine is what a run was measured on.
type Machine struct {
	Kernel    string `json:"kernel"` // release
	Arch      string `json:"arch"`
	CPU       string `json:"cpu"`  // model
	CPUs      int    `json:"cpus"` // that this process may use
	LastCache int    `json:"lastCache"`
	Memory    int64  `json:"memory"`            // bytes
	Virtual   bool   `json:"virtual,omitempty"` // a hypervisor is underneath
	// IRQTime says that the kernel charges interrupts to nobody (CONFIG_IRQ_TIME_ACCOUNTING), so that
	// they are added to what a process used.
	IRQTime bool `json:"irqTime"`
	// Congestion is TCP's congestion control over loopback (net.ipv4.tcp_congestion_control): bbr paces there too, and
	// figures spread more. A wire has its own.
	Congestion string `json:"congestion,omitempty"`
	Go         string `json:"go"`
}

// LookAtMachine describes this machine. What cannot be read is left empty.
func LookAtMachine() Machine {
	m := Machine{Kernel: kernelRelease(), Arch: runtime.GOARCH, CPUs: len(AllowedCPUs()), LastCache: lastCache(), IRQTime: irqTimeApart(), Go: runtime.Version()}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	m.CPU = procField(cpuinfo, "model name")
	m.Virtual = strings.Contains(" "+procField(cpuinfo, "flags")+" ", " hypervisor ")
	congestion, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	m.Congestion = strings.TrimSpace(string(congestion))
	meminfo, _ := os.ReadFile("/proc/meminfo")
	kib, _ := strconv.ParseInt(strings.TrimSuffix(procField(meminfo, "MemTotal"), " kB"), 10, 64)
	m.Memory = kib << 10
	return m
}

func (m Machine) String() string {
	virtual := ""
	if m.Virtual {
		virtual = " (virtual)"
	}
	tcp := ""
	if m.Congestion != "" {
		tcp = ", TCP " + m.Congestion
	}
	return fmt.Sprintf("%s, %d processors%s, last-level cache %s, %d GiB; Linux %s %s%s; %s",
		m.CPU, m.CPUs, virtual, FormatSize(m.LastCache), (m.Memory+1<<29)>>30, m.Kernel, m.Arch, tcp, m.Go)
}

// procField is the value of the first "name : value" line.
func procField(text []byte, name string) string {
	for line := range bytes.Lines(text) {
		k, v, ok := bytes.Cut(line, []byte(":"))
		if ok && string(bytes.TrimSpace(k)) == name {
			return string(bytes.TrimSpace(v))
		}
	}
	return ""
}

// lastCache is the size of the largest cache that the first processor has, by sysfs; 0 where
// that says nothing.
func lastCache() (largest int) {
	sizes, _ := filepath.Glob("/sys/devices/system/cpu/cpu0/cache/index*/size")
	for _, name := range sizes {
		b, _ := os.ReadFile(name)
		kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(string(b)), "K"))
		if err == nil {
			largest = max(largest, kib<<10)
		}
	}
	return largest
}

const (
	// coldCaches is how many last-level caches a cold working set fills: walked in order, a part
	// of it is evicted long before its turn comes again, also where others share the cache less.
	coldCaches = 4
	// minCold serves machines that do not tell; maxCold bounds what filling it takes on large ones.
	minCold, maxCold = 128 << 20, 1 << 30
)

// ColdSize is the bytes of a working set that no cache of the machine holds, a multiple of MaxSize.
func (m Machine) ColdSize() int {
	return (min(max(coldCaches*m.LastCache, minCold), maxCold) + MaxSize - 1) &^ (MaxSize - 1)
}

// siblings lists the processors that share a core with cpu, itself included.
func siblings(cpu int) map[int]bool {
	b, err := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu))
	if err != nil {
		return map[int]bool{cpu: true}
	}
	return parseCPUList(strings.TrimSpace(string(b)))
}

// parseCPUList reads what sysfs writes: 0-3,8.
func parseCPUList(s string) map[int]bool {
	cpus := map[int]bool{}
	for _, part := range strings.Split(s, ",") {
		var first, last int
		if n, _ := fmt.Sscanf(part, "%d-%d", &first, &last); n == 1 {
			last = first
		}
		for c := first; c <= last; c++ {
			cpus[c] = true
		}
	}
	return cpus
}

// Processors picks one for what is measured and one for its peer, on another core where there is
// one. The measured one is the last: interrupts tend to go to the first.
func Processors() (measured, peer int) {
	cpus := AllowedCPUs()
	measured, peer = cpus[len(cpus)-1], cpus[0]
	same := siblings(measured)
	for _, c := range cpus {
		if !same[c] {
			return measured, c
		}
	}
	return measured, peer
}

// cores are the processors that this process may use, those of a core together.
func cores() (all [][]int) {
	seen := map[int]bool{}
	cpus := AllowedCPUs()
	for _, c := range cpus {
		if seen[c] {
			continue
		}
		var core []int
		same := siblings(c)
		for _, other := range cpus {
			if other == c || same[other] {
				core = append(core, other)
				seen[other] = true
			}
		}
		all = append(all, core)
	}
	return all
}

// spread lists the processors of cores in the order in which loops should have them: one of each core before the second
// of any, and the last core's first, since interrupts tend to go to the first.
func spread(cores [][]int) (cpus []int) {
	for i, more := 0, true; more; i++ {
		more = false
		for c := len(cores) - 1; c >= 0; c-- {
			if i < len(cores[c]) {
				cpus = append(cpus, cores[c][i])
				more = true
			}
		}
	}
	return cpus
}

// split gives a load the first half of the cores, and loops the others. A single core's processors are
// split, and a single processor is both's.
func split(cores [][]int) (loops, load []int) {
	if len(cores) == 1 {
		cpus := cores[0]
		half := len(cpus) / 2
		return cpus[half:], cpus[:max(1, half)]
	}
	half := len(cores) / 2
	return spread(cores[half:]), spread(cores[:half])
}

// IdleShare watches all processors for a moment and returns the share of time that they idled.
func IdleShare() float64 {
	const moment = 250 * time.Millisecond
	idle0, all0 := idleTicks()
	time.Sleep(moment)
	idle1, all1 := idleTicks()
	if all1 == all0 {
		return 1 // not Linux, or too short for its clock
	}
	return float64(idle1-idle0) / float64(all1-all0)
}

// idleTicks reads the first line of /proc/stat (proc_stat(5)).
func idleTicks() (idle, all uint64) {
	for i, v := range statLine("cpu") {
		if i == 3 || i == 4 { // idle, iowait
			idle += v
		}
		if i < 8 { // guest time is part of user time
			all += v
		}
	}
	return idle, all
}

// softirqColumn is where a processor's line of /proc/stat has soft interrupts.
const softirqColumn = 6

// statLine is the numbers of the line of /proc/stat that begins with name, in 1/100 s.
func statLine(name string) (ticks []uint64) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) == 0 || fields[0] != name {
			continue
		}
		for _, v := range fields[1:] {
			n, _ := strconv.ParseUint(v, 10, 64)
			ticks = append(ticks, n)
		}
		break
	}
	return ticks
}
