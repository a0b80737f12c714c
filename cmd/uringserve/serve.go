package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"sluice/bufreg"
	"sluice/engine"
	"sluice/internal/httpd"
	"sluice/internal/policy"
	"sluice/ring"
	"sluice/zc"
)

// serveFlags is the command line of serve.
type serveFlags struct {
	listen    string
	loops     int
	cpus      []int
	threshold string
	policy    string
	arena     string
	maxPinned string
	admin     string
	explain   bool
	copyOnly  bool
	sqpoll    bool
	recheck   time.Duration
	stall     time.Duration
	pinLimit  time.Duration
	idle      time.Duration
	drain     time.Duration

	host *policy.Host // of the policy file; nil: there is none
}

func serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve DIR",
		Short: "Serve the files below DIR over HTTP/1.1",
		Long: `Serve the files below DIR over HTTP/1.1: GET and HEAD, keep-alive, ranges and conditional
requests, index.html for directories. No request gets out of DIR.

Needs Linux 6.0 or later and permission to use io_uring.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("serve takes one DIR to serve, not %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return serve(cmd.Context(), args[0], f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.listen, "listen", "127.0.0.1:8080", "`address` to listen on")
	fl.IntVar(&f.loops, "loops", 0, "number of loops (default: one for each processor)")
	fl.IntSliceVar(&f.cpus, "cpus", nil, "processors to pin the loops to, for example 0,1 (default: not pinned)")
	fl.StringVar(&f.threshold, "zc-threshold", "auto", "zero-copy from this many `bytes`, on every path; auto: by kernel, and not to peers on this host; off: never")
	fl.StringVar(&f.policy, "policy", "", "`file` of bench calibrate that says where zero-copy pays on this host: with --zc-threshold auto the loops begin there")
	fl.StringVar(&f.arena, "arena", "", "registered memory, for example 256MiB (default 64MiB, or what RLIMIT_MEMLOCK allows)")
	fl.StringVar(&f.maxPinned, "max-pinned", "", "what zero-copy sends may pin until their peers have taken it, for example 48MiB; the rest is copied (default three quarters of the arena)")
	fl.StringVar(&f.admin, "admin", "", "`address` of a server for operators, for example 127.0.0.1:9090: /metrics, /healthz, /pins, /paths (default none)")
	fl.BoolVar(&f.explain, "explain", false, "log a line for each response: bytes by route, reason, and whether they were copied; notification delay")
	fl.BoolVar(&f.copyOnly, "copy-only", false, "run on kernels without SEND_ZC (5.10 to 5.19), without zero-copy")
	fl.BoolVar(&f.sqpoll, "sqpoll", false, "have a kernel thread take submissions: no system calls, one more processor for each loop")
	fl.DurationVar(&f.recheck, "recheck", httpd.DefaultRecheck, "how long a replaced file may still be served from its open descriptor")
	fl.DurationVar(&f.stall, "write-stall", 30*time.Second, "reset a connection whose peer takes no bytes for this long")
	fl.DurationVar(&f.pinLimit, "pin-limit", 0, "reset a connection whose peer takes bytes, but has not taken one zero-copy send after this long (default 10m, or --write-stall if that is longer)")
	fl.DurationVar(&f.idle, "idle", 75*time.Second, "close a connection that is idle for this long")
	fl.DurationVar(&f.drain, "drain", 10*time.Second, "how long connections may finish after SIGINT or SIGTERM; a second signal ends them at once")
	return cmd
}

// config checks the command line.
func (f *serveFlags) config() (c engine.Config, err error) {
	c = engine.Config{
		Loops: f.loops, CPUs: f.cpus, CopyOnly: f.copyOnly, SQPoll: f.sqpoll,
		WriteStall: f.stall, PinLimit: f.pinLimit, IdleTimeout: f.idle, DrainTimeout: f.drain,
	}
	switch {
	case f.listen == "": // to the net package that is any port of every interface
		return c, usageError{errors.New("--listen: use an address, like 127.0.0.1:8080")}
	case f.loops < 0:
		return c, usageError{fmt.Errorf("--loops %d: use 1 or more, or 0 for one for each processor", f.loops)}
	case f.recheck < 0 || f.stall < time.Millisecond || f.idle <= 0 || f.drain < 0:
		return c, usageError{errors.New("--recheck, --write-stall, --idle and --drain take positive times, like 30s")}
	case f.pinLimit != 0 && f.pinLimit < f.stall:
		return c, usageError{fmt.Errorf("--pin-limit %v is shorter than --write-stall %v, after which peers that take nothing are reset: raise it, or lower that", f.pinLimit, f.stall)}
	}
	if c.Loops == 0 {
		c.Loops = runtime.NumCPU()
	}
	if c.Policy, err = parseThreshold(f.threshold); err != nil {
		return c, usageError{err}
	}
	if f.policy != "" {
		if c.Policy, err = f.readPolicy(); err != nil {
			return c, err
		}
	}
	if c.ArenaSize, err = parseSize(f.arena); err != nil {
		return c, usageError{fmt.Errorf("--arena %s: %w", f.arena, err)}
	}
	if c.ArenaSize > bufreg.MaxSize {
		return c, usageError{fmt.Errorf("--arena %s: at most %dGiB can be registered", f.arena, bufreg.MaxSize>>30)}
	}
	if c.MaxPinned, err = parseSize(f.maxPinned); err != nil {
		return c, usageError{fmt.Errorf("--max-pinned %s: %w", f.maxPinned, err)}
	}
	if arena := cmp.Or(c.ArenaSize, bufreg.DefaultSize); c.MaxPinned > arena {
		return c, usageError{fmt.Errorf("--max-pinned %s is more than the arena of %d bytes: lower it, or raise --arena", f.maxPinned, arena)}
	}
	return c, nil
}

func parseThreshold(s string) (zc.Policy, error) {
	switch s {
	case "auto":
		return zc.Policy{}, nil
	case "off":
		return zc.Policy{Mode: zc.Off}, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return zc.Policy{}, fmt.Errorf("--zc-threshold %s: use a number of bytes, auto or off", s)
	}
	return zc.Policy{Mode: zc.Fixed, Threshold: n}, nil
}

// readPolicy reads the policy file, beside which nothing else may say what it says.
func (f *serveFlags) readPolicy() (zc.Policy, error) {
	switch {
	case f.threshold != "auto":
		return zc.Policy{}, usageError{fmt.Errorf("--policy %s and --zc-threshold %s both say when to use zero-copy: use one of them", f.policy, f.threshold)}
	case f.copyOnly:
		return zc.Policy{}, usageError{fmt.Errorf("--policy %s has no effect with --copy-only, which never uses zero-copy: leave one of them out", f.policy)}
	}
	host, err := policy.Read(f.policy)
	if err != nil {
		return zc.Policy{}, err
	}
	f.host = &host
	return host.Policy(), nil
}

// parseSize reads a number of bytes with an optional unit; nothing is 0.
func parseSize(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRight(s, "KMGiB")
	shift, ok := map[string]uint{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "K": 10, "M": 20, "G": 30}[s[len(digits):]]
	n, err := strconv.Atoi(digits)
	if err != nil || !ok || n <= 0 || n > 1<<(62-shift) {
		return 0, errors.New("use a positive number with KiB, MiB or GiB")
	}
	return n << shift, nil
}

func serve(ctx context.Context, dir string, f serveFlags) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	console := zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.RFC3339, NoColor: os.Getenv("NO_COLOR") != "" || !isTerminal(os.Stderr)}
	log := zerolog.New(console).With().Timestamp().Logger()
	// Loops occupy a processor each; lookups and signals need one too.
	if want := cfg.Loops + 1; runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	adm, err := listenAdmin(f.admin)
	if err != nil {
		return err
	}
	defer adm.close()
	files, err := httpd.New(dir, cfg.Loops, f.recheck)
	if err != nil {
		return fmt.Errorf("serve %s: %w", dir, err)
	}
	var explained *explainer
	if f.explain {
		explained = newExplainer(console)
		files.Explain = explained.response
	}
	eng, err := engine.New(cfg)
	if err != nil {
		return errors.Join(explain(err), files.Close())
	}
	// The handlers are in place before the first connection can be accepted.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := eng.Listen("tcp", f.listen, files.Handler)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: choose another address with --listen", err), eng.Shutdown(ctx), files.Close())
	}
	adm.serve(log, eng.Stats)
	if f.host != nil {
		announcePolicy(log, f.policy, *f.host, eng.Caps().Kernel)
	}
	announce(log, eng, ln.Addr().String(), dir)
	<-ctx.Done()
	adm.drain()
	limit, cancel := context.WithTimeout(context.Background(), cfg.DrainTimeout)
	defer cancel()
	// Before the first handler goes, so that no moment is left in which a signal would kill.
	limit, again := signal.NotifyContext(limit, os.Interrupt, syscall.SIGTERM)
	defer again()
	log.Info().Stringer("deadline", cfg.DrainTimeout).Msg("draining; interrupt again to end at once")
	err = errors.Join(eng.Shutdown(limit), files.Close())
	explained.close()
	totals(log, eng.Stats())
	return err
}

// explain adds to an error what can be done about it from the command line.
func explain(err error) error {
	switch {
	case errors.Is(err, ring.ErrMemlock):
		return fmt.Errorf("%w, for example --arena 1MiB", err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("%w; ask for less with --arena", err)
	case errors.Is(err, ring.ErrUnsupported):
		return fmt.Errorf("%w; --copy-only serves without zero-copy, from Linux 5.10 on", err)
	}
	return err
}

// announce says what serves, on what, and which routes are on.
func announce(log zerolog.Logger, eng *engine.Engine, addr, dir string) {
	log.Info().Msgf("serving %s on http://%s/", dir, addr)
	var have, missing []string
	for _, f := range eng.Caps().Features() {
		if f.Have {
			have = append(have, f.Name)
		} else {
			missing = append(missing, fmt.Sprintf("%s (Linux %s)", f.Name, f.Since))
		}
	}
	log.Info().Msgf("loops: %d, arena: %d MiB registered", eng.Loops(), eng.ArenaSize()>>20)
	log.Info().Msgf("kernel %s offers: %s", eng.Caps().Kernel, strings.Join(have, ", "))
	if len(missing) > 0 {
		log.Info().Msgf("kernel lacks: %s", strings.Join(missing, ", "))
	}
	for _, r := range eng.Routes() {
		log.Info().Msgf("route: %s", r)
	}
}

// announcePolicy says where the policy comes from, and what speaks against it.
func announcePolicy(log zerolog.Logger, name string, h policy.Host, kernel string) {
	log.Info().Msgf("policy %s: zero-copy begins at %v bytes, where traffic does not teach otherwise; measured %s", name, h.Threshold, cmp.Or(h.Measured, "at a time that it does not tell"))
	if other := h.OtherKernel(kernel); other != "" {
		log.Warn().Msgf("policy %s: %s", name, other)
	}
}

// totals says what was done.
func totals(log zerolog.Logger, s engine.Stats) {
	log.Info().Msgf("connections: %d accepted, %d closed in order, %d reset, %d accept errors%s", s.Accepted, s.ClosedInOrder, s.Aborted, s.AcceptErrors, resets(s))
	for r := range zc.Route(zc.NumRoutes) {
		t := s.Sends.Total(r)
		log.Info().Msgf("%s: %d bytes in %d sends", r, t.Bytes, t.Sends)
	}
	log.Info().Msgf("zero-copy notifications: %d zero-copied, %d copied by the kernel, %d unknown, %d stray",
		s.Sends.NotifiedZeroCopy, s.Sends.NotifiedCopied, s.Sends.NotifiedUnknown, s.Sends.Stray)
	log.Info().Msgf("errors: %d sends failed, %d bytes undelivered, %d leases refused", s.SendErrors, s.Undelivered, s.NoBuffers)
}

// resets says why connections were reset, if any were.
func resets(s engine.Stats) string {
	var why []string
	for i, n := range s.Resets {
		if n > 0 {
			why = append(why, fmt.Sprintf("%d %s", n, engine.ResetName(i)))
		}
	}
	if len(why) == 0 {
		return ""
	}
	return "; resets: " + strings.Join(why, ", ")
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
