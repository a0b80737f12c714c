package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Server is a web server to measure, as it serves files fastest on one processor.
type Server struct {
	Subject
	// Program is the executable, to be found in the PATH or where daemons are; "": this program.
	Program string
	// Package is what Debian calls it.
	Package string
	// config is the text of its configuration file; nil: it takes none.
	config func(site) string
	// args is its command line, without the program.
	args func(site) []string
}

// site is what a server is to serve, and where.
type site struct {
	Host   string // address to listen on
	Port   int
	Root   string // directory of files
	Config string // its configuration file
	State  string // directory for whatever it writes
}

func (s site) addr() string { return fmt.Sprintf("%s:%d", s.Host, s.Port) }

// familyPeer is all servers but our own.
const familyPeer = "peer"

// Servers are all that there are, in the order in which they are told of. Every one of them is one process: so
// its time and memory are of one process, and it ends with the one that started it.
var Servers = []Server{
	nginx("on"),
	nginx("off"),
	{
		Subject: peer("lighttpd", "sendfile, no access log, no end of keep-alive", "https://redmine.lighttpd.net/projects/lighttpd/wiki/Docs_Performance"),
		Program: "lighttpd", Package: "lighttpd",
		config: lighttpdConfig,
		args:   func(s site) []string { return []string{"-D", "-f", s.Config} },
	},
	{
		Subject: peer("Caddy", "file_server, no log, no admin endpoint, HTTP/1.1 alone; GOMAXPROCS 1", "https://caddyserver.com/docs/caddyfile/directives/file_server"),
		Program: "caddy", Package: "caddy",
		config: caddyConfig,
		args:   func(s site) []string { return []string{"run", "--adapter", "caddyfile", "--config", s.Config} },
	},
	{
		Subject: peer("darkhttpd", "no log, no end of keep-alive; it sends by sendfile", "https://unix4lyfe.org/darkhttpd"),
		Program: "darkhttpd", Package: "darkhttpd",
		args: func(s site) []string {
			return []string{s.Root, "--addr", s.Host, "--port", fmt.Sprint(s.Port), "--log", "/dev/null", "--maxconn", fmt.Sprint(MaxConns), "--timeout", "0"}
		},
	},
	{
		Subject: peer("net/http", "http.FileServer of Go, GOMAXPROCS 1; it sends by sendfile", "https://pkg.go.dev/net/http#FileServer"),
		args:    func(s site) []string { return childArgs("fileserver", fileServerJob{Addr: s.addr(), Root: s.Root}) },
	},
	{
		Subject: Subject{Name: Ours, Family: familyEngine, How: "serve --loops 1, all else as it comes", Reference: "docs/ARCHITECTURE.md"},
		args:    func(s site) []string { return []string{"serve", "--loops", "1", "--listen", s.addr(), s.Root} },
	},
}

// Ours is the name of this project's server.
const Ours = "uringserve"

func peer(name, how, reference string) Subject {
	return Subject{Name: name, Family: familyPeer, How: how, Reference: reference}
}

// ServerNamed finds one by its name, in any case.
func ServerNamed(name string) (Server, bool) {
	i := slices.IndexFunc(Servers, func(s Server) bool { return strings.EqualFold(s.Name, name) })
	if i < 0 {
		return Server{}, false
	}
	return Servers[i], true
}

// daemonDirs are where systems keep daemons, which not every user's PATH has.
var daemonDirs = []string{"/usr/sbin", "/usr/local/sbin"}

// find is the path of its executable. A *[Refusal] says that it is not on this machine.
func (s *Server) find() (string, error) {
	if s.Program == "" {
		return self, nil
	}
	if path, err := exec.LookPath(s.Program); err == nil {
		return path, nil
	}
	for _, dir := range daemonDirs {
		if path, err := exec.LookPath(filepath.Join(dir, s.Program)); err == nil {
			return path, nil
		}
	}
	return "", &Refusal{fmt.Sprintf("%s is not on this machine: install %s", s.Program, s.Package)}
}

// command writes its configuration, and is how to start it.
func (s *Server) command(at site) (*exec.Cmd, error) {
	path, err := s.find()
	if err != nil {
		return nil, err
	}
	if s.config != nil {
		if err := os.WriteFile(at.Config, []byte(s.config(at)), 0o600); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(path, s.args(at)...)
	cmd.Dir = at.State
	cmd.Env = append(os.Environ(), "HOME="+at.State, "XDG_DATA_HOME="+at.State, "XDG_CONFIG_HOME="+at.State)
	isolate(cmd)
	return cmd, nil
}

// manyRequests is how many requests a connection may make: more than any sample has.
const manyRequests = 1_000_000_000

// nginx is measured with tcp_nopush on and off: it joins the header to the body, which pays for
// small ones and costs a third of the rate or more for large ones over loopback.
func nginx(nopush string) Server {
	return Server{
		Subject: peer("nginx-nopush-"+nopush, "sendfile, open_file_cache, no access log, no end of keep-alive, one process (master_process off); tcp_nopush "+nopush,
			"https://nginx.org/en/docs/http/ngx_http_core_module.html"),
		Program: "nginx", Package: "nginx",
		config: func(s site) string { return nginxConfig(s, nopush) },
		args:   func(s site) []string { return []string{"-e", "stderr", "-p", s.State, "-c", s.Config} },
	}
}

// nginxConfig has one process do all: with a master the worker is its child, and would live on when that is
// killed.
func nginxConfig(s site, nopush string) string {
	var temp strings.Builder // which it makes at start, used or not
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "\t%s_temp_path %s/%s;\n", kind, s.State, kind)
	}
	return fmt.Sprintf(`daemon off;
master_process off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr crit;
events {
	worker_connections %[2]d;
	use epoll;
	multi_accept on;
}
http {
	access_log off;
	sendfile on;
	tcp_nopush %[3]s;
	keepalive_requests %[4]d;
	open_file_cache max=1000 inactive=1h;
	open_file_cache_valid 1m;
%[5]s	server {
		listen %[6]s backlog=%[2]d;
		root %[7]s;
	}
}
`, s.State, 2*MaxConns, nopush, manyRequests, temp.String(), s.addr(), s.Root)
}

// lighttpdKeepAlive is the most that it can count.
const lighttpdKeepAlive = 65535

func lighttpdConfig(s site) string {
	return fmt.Sprintf(`server.document-root = "%s"
server.bind = "%s"
server.port = %d
server.network-backend = "sendfile"
server.event-handler = "linux-sysepoll"
server.max-keep-alive-requests = %d
server.max-keep-alive-idle = 300
server.max-connections = %d
server.max-fds = %d
server.listen-backlog = %d
`, s.Root, s.Host, s.Port, lighttpdKeepAlive, MaxConns, 2*MaxConns+64, MaxConns)
}

func caddyConfig(s site) string {
	return fmt.Sprintf(`{
	admin off
	auto_https off
	log {
		output discard
	}
	servers {
		protocols h1
	}
}
http://:%d {
	bind %s
	root * %s
	file_server
}
`, s.Port, s.Host, s.Root)
}
