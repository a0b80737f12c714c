// Command loopback measures uringserve beside nginx and lighttpd on this machine: one
// server at a time on one processor, the client on another, rounds interleaved.
//
//	make bench-loopback
//	go run ./integration/loopback -rounds 5 -seconds 3
//
// Over loopback the kernel copies zero-copy sends, so this compares servers, not zero-copy:
// requests a second for small bodies, bytes a second for large ones. Bodies up to 64 KiB are
// fetched by wrk; larger ones by a client of its own with large reads, because wrk reads
// 8 KiB at a time and becomes what is measured.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	serverCPU = "0"
	clientCPU = "1"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds; medians are printed")
	seconds := flag.Int("seconds", 3, "length of one measurement")
	conns := flag.Int("conns", 64, "keep-alive connections")
	sizes := flag.String("sizes", "1024,16384,1048576", "body sizes in bytes")
	only := flag.String("only", "", "measure only these servers, comma-separated")
	binary := flag.String("uringserve", "bin/uringserve", "the program")
	fetch := flag.String("fetch", "", "be the client: fetch this URL for the given time")
	flag.Parse()
	if *fetch != "" {
		if err := client(*fetch, *conns, time.Duration(*seconds)*time.Second); err != nil {
			log.Fatal(err)
		}
		return
	}
	if err := run(*rounds, *seconds, *conns, *sizes, *only, *binary); err != nil {
		log.Fatal(err)
	}
}

// server is a program under test.
type server struct {
	name string
	port int
	argv []string
	pid  int // of the process that does the work
	cmd  *exec.Cmd
}

func run(rounds, seconds, conns int, sizes, only, binary string) error {
	for _, p := range []string{"nginx", "lighttpd", "wrk", "taskset"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: apt-get install nginx-light lighttpd wrk util-linux", err)
		}
	}
	dir, err := os.MkdirTemp("", "loopback")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	var bodies []int
	for _, s := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		bodies = append(bodies, n)
		if err := os.WriteFile(filepath.Join(dir, "f"+s), make([]byte, n), 0o644); err != nil {
			return err
		}
	}
	servers, err := configure(dir, binary)
	if err != nil {
		return err
	}
	for _, s := range servers {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		if err := s.start(); err != nil {
			return err
		}
		defer s.stop()
	}
	servers = slices.DeleteFunc(servers, func(s *server) bool { return s.cmd == nil })
	fmt.Printf("%d connections, %d rounds of %d s, server on CPU %s, client on CPU %s\n", conns, rounds, seconds, serverCPU, clientCPU)
	for _, size := range bodies {
		results := make(map[string][]sample)
		for range rounds {
			for _, s := range servers {
				r, err := s.measure(size, conns, seconds)
				if err != nil {
					return fmt.Errorf("%s, %d bytes: %w", s.name, size, err)
				}
				results[s.name] = append(results[s.name], r)
			}
		}
		report(size, servers, results)
	}
	return nil
}

// configure writes the peers' configuration: each at its best settings for small and large
// files, one worker, sendfile.
func configure(dir, binary string) ([]*server, error) {
	write := func(name, text string) (string, error) {
		path := filepath.Join(dir, name)
		return path, os.WriteFile(path, []byte(text), 0o644)
	}
	var servers []*server
	for i, nopush := range []string{"on", "off"} {
		port := 18081 + i
		conf, err := write("nginx-"+nopush, fmt.Sprintf(`worker_processes 1; daemon off; pid %[1]s/pid%[2]d; error_log %[1]s/log%[2]d;
events { worker_connections 4096; }
http {
	access_log off; sendfile on; tcp_nopush %[3]s; keepalive_requests 1000000000; open_file_cache max=1000;
	client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	server { listen 127.0.0.1:%[2]d; root %[1]s; }
}
`, dir, port, nopush))
		if err != nil {
			return nil, err
		}
		servers = append(servers, &server{name: "nginx, nopush " + nopush, port: port, argv: []string{"nginx", "-p", dir, "-c", conf}})
	}
	conf, err := write("lighttpd", fmt.Sprintf(`server.document-root = "%s"
server.bind = "127.0.0.1"
server.port = 18083
server.max-keep-alive-requests = 1000000000
server.max-connections = 4096
server.network-backend = "sendfile"
`, dir))
	if err != nil {
		return nil, err
	}
	return append(servers,
		&server{name: "lighttpd", port: 18083, argv: []string{"lighttpd", "-D", "-f", conf}},
		&server{name: "uringserve", port: 18084, argv: []string{binary, "serve", dir, "--listen", "127.0.0.1:18084", "--loops", "1", "--cpus", serverCPU}},
	), nil
}

func (s *server) start() error {
	s.cmd = exec.Command("taskset", append([]string{"-c", serverCPU}, s.argv...)...)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.pid = s.cmd.Process.Pid
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			c.Close()
			break
		}
		if time.Since(began) > 10*time.Second {
			return fmt.Errorf("%s does not listen: %w", s.name, err)
		}
	}
	// nginx's worker is a child of what was started.
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid)); err == nil {
		if f := strings.Fields(string(b)); len(f) > 0 {
			s.pid, err = strconv.Atoi(f[0])
			return err
		}
	}
	return nil
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	_ = s.cmd.Wait()
}

// sample is one measurement.
type sample struct {
	rate float64 // responses a second
	cpu  float64 // µs of the server's processor for each
}

var wrkTotal = regexp.MustCompile(`(\d+) requests in`)

func (s *server) measure(size, conns, seconds int) (sample, error) {
	url := fmt.Sprintf("http://127.0.0.1:%d/f%d", s.port, size)
	client := []string{"wrk", "-t1", "-c" + strconv.Itoa(conns), "-d" + strconv.Itoa(seconds) + "s", url}
	if size > 64<<10 {
		self, err := os.Executable()
		if err != nil {
			return sample{}, err
		}
		client = []string{self, "-fetch", url, "-conns", strconv.Itoa(conns), "-seconds", strconv.Itoa(seconds)}
	}
	before, began := cpuTime(s.pid), time.Now()
	out, err := exec.Command("taskset", append([]string{"-c", clientCPU}, client...)...).CombinedOutput()
	took, used := time.Since(began), cpuTime(s.pid)-before
	if err != nil {
		return sample{}, fmt.Errorf("%v: %w: %s", client, err, out)
	}
	m := wrkTotal.FindSubmatch(out)
	if m == nil || strings.Contains(string(out), "Non-2xx") {
		return sample{}, fmt.Errorf("client printed: %s", out)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || n == 0 {
		return sample{}, errors.Join(err, fmt.Errorf("client printed: %s", out))
	}
	return sample{n / took.Seconds(), used.Seconds() * 1e6 / n}, nil
}

// cpuTime is what all threads of a process have used.
func cpuTime(pid int) (d time.Duration) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		if f := strings.Fields(string(b)); len(f) > 0 {
			n, _ := strconv.ParseInt(f[0], 10, 64)
			d += time.Duration(n)
		}
	}
	return d
}

func report(size int, servers []*server, results map[string][]sample) {
	median := func(name string, of func(sample) float64) (mid, low, high float64) {
		var v []float64
		for _, s := range results[name] {
			v = append(v, of(s))
		}
		slices.Sort(v)
		return v[len(v)/2], v[0], v[len(v)-1]
	}
	rate := func(s sample) float64 { return s.rate }
	best := 0.0
	for _, s := range servers {
		if r, _, _ := median(s.name, rate); s.name != "uringserve" {
			best = max(best, r)
		}
	}
	fmt.Printf("\n%d bytes\n| server | responses/s, median (min–max) | GB/s | server CPU µs each | of the best peer |\n|---|---|---|---|---|\n", size)
	for _, s := range servers {
		r, low, high := median(s.name, rate)
		cpu, _, _ := median(s.name, func(s sample) float64 { return s.cpu })
		fmt.Printf("| %s | %.0f (%.0f–%.0f) | %.2f | %.2f | %.2f |\n", s.name, r, low, high, r*float64(size)/1e9, cpu, r/max(best, 1))
	}
}

// client fetches url over and over on each of conns connections, with large reads, and
// prints how many responses it got in the words that wrk uses.
func client(url string, conns int, d time.Duration) error {
	var n atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, conns)
	stop := time.Now().Add(d)
	for range conns {
		all.Go(func() {
			if err := fetcher(url, stop, &n); err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	fmt.Printf("%d requests in %v\n", n.Load(), d)
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func fetcher(url string, stop time.Time, n *atomic.Int64) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", req.URL.Host)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	in := bufio.NewReaderSize(c, 4096)
	for time.Now().Before(stop) {
		if err := req.Write(c); err != nil {
			return err
		}
		resp, err := http.ReadResponse(in, req)
		if err != nil {
			return err
		}
		left := resp.ContentLength
		for left > 0 {
			// Past what came with the header, bufio reads straight into a larger buffer.
			k, err := in.Read(buf[:min(int64(len(buf)), left)])
			if left -= int64(k); err != nil {
				return err
			}
		}
		if resp.StatusCode != http.StatusOK || left < 0 {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		n.Add(1)
	}
	return nil
}
