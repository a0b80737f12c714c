package bench

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// counted is a server that answers with a body of n bytes, or with a status, and knows its connections.
func counted(t *testing.T, body int, status int) (addr string, count func() int) {
	var mu sync.Mutex
	idle := map[net.Conn]bool{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write(make([]byte, body))
	}))
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if delete(idle, c); state == http.StateIdle {
			idle[c] = true
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(idle)
	}
}

func TestIdleClientsHoldTheirConnections(t *testing.T) {
	addr, count := counted(t, scaleBody, http.StatusOK)
	cpu, _ := Processors()
	_, end, err := helper(t.Context(), "idle", idleJob{Addr: addr, Path: "/", Size: scaleBody, Conns: 20, CPU: cpu})
	if err != nil {
		t.Fatal(err)
	}
	become(t, count, 20)
	time.Sleep(50 * time.Millisecond)
	become(t, count, 20)
	if err := end(); err != nil {
		t.Error(err)
	}
	become(t, count, 0)
}

// become waits until there are n.
func become(t *testing.T, count func() int, n int) {
	t.Helper()
	for end := time.Now().Add(patience); count() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are idle, want %d", count(), n)
		}
	}
}

func TestIdleClientsSayWhatTheServerDidWrong(t *testing.T) {
	cpu, _ := Processors()
	lost, _ := counted(t, scaleBody, http.StatusNotFound)
	short, _ := counted(t, scaleBody-1, http.StatusOK)
	for addr, what := range map[string]string{lost: "404", short: "1023", "127.0.0.1:1": "refused"} {
		_, _, err := helper(t.Context(), "idle", idleJob{Addr: addr, Path: "/", Size: scaleBody, Conns: 3, CPU: cpu})
		if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "1 of 3") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A child dies with the thread that started it, and threads end with the goroutines that are locked to them.
func TestAHelperOutlivesTheThreadsOfOthers(t *testing.T) {
	_, peer := Processors()
	for range 10 {
		_, end, err := helper(t.Context(), "sink", sinkJob{CPUs: []int{peer}})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { runtime.LockOSThread() })
		}
		all.Wait()
		time.Sleep(5 * time.Millisecond)
		if err := end(); err != nil {
			t.Fatalf("it ended before it was told: %v", err)
		}
	}
}

func TestTwoLoopsStreamSideBySide(t *testing.T) {
	cpus := AllowedCPUs()
	one, err := streamed(t, streamJob{Conns: 4, Size: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	two, err := streamed(t, streamJob{CPUs: []int{cpus[len(cpus)-1], cpus[0]}, Conns: 4, Size: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for n, s := range []Sample{one, two} {
		if s.Bytes == 0 || s.Ops != s.Bytes>>16 || s.Allocs > 20 || s.CPU > float64(n+1)*s.Seconds*1.2 {
			t.Errorf("%d loops: %+v", n+1, s)
		}
	}
}

func TestMemoryIsRead(t *testing.T) {
	m, err := lookAtMemory(os.Getpid())
	if err != nil || m.Process < 1<<20 || m.Kernel < 1<<20 {
		t.Errorf("%+v, %v", m, err)
	}
	before := m.Process
	held := make([]byte, 64<<20)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	if m, err = lookAtMemory(os.Getpid()); err != nil || m.Process-before < 60<<20 {
		t.Errorf("64 MiB more are %d, %v", m.Process-before, err)
	}
	runtime.KeepAlive(held)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	with, err := sockets(os.Getpid())
	ln.Close()
	without, err2 := sockets(os.Getpid())
	if err != nil || err2 != nil || with != without+1 {
		t.Errorf("%d sockets with one more than %d: %v, %v", with, without, err, err2)
	}
}
