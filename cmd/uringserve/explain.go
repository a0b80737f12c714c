package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/rs/zerolog/diode"

	"sluice/engine"
	"sluice/internal/httpd"
	"sluice/zc"
)

const (
	// maxUnwritten is how many lines may wait for a slow standard error. The loops never do:
	// beyond it lines are lost, and counted.
	maxUnwritten = 4096
	// maxPathLogged bounds the path in a line, in bytes.
	maxPathLogged = 512
)

// explainer logs a line for each response. The nil explainer is off.
type explainer struct {
	log    zerolog.Logger
	writer diode.Writer
}

// newExplainer writes its lines to out, through a queue.
func newExplainer(out zerolog.ConsoleWriter) *explainer {
	out.FieldsOrder = []string{"method", "path", "status", "bytes", "of", "ways", "delay", "took", "peer", "why"}
	direct := zerolog.New(out).With().Timestamp().Logger()
	w := diode.NewWriter(struct{ io.Writer }{out}, maxUnwritten, 0, func(missed int) { // without out's Close
		direct.Warn().Int("lines", missed).Msg("responses are not explained: standard error is too slow")
	})
	return &explainer{log: zerolog.New(w).With().Timestamp().Logger(), writer: w}
}

// response is called on the loops. What the client sent goes into fields, which the console
// writer quotes: a line stays one line, and one that is forged is seen to be.
func (x *explainer) response(r httpd.Response) {
	line, whole := x.log.Info(), "response"
	if !r.Whole() {
		line, whole = x.log.Warn(), "response cut off"
	}
	line.Str("method", short(r.Method)).Str("path", short(r.Path)).Int("status", r.Status).
		Int64("bytes", r.Sent()).Int64("of", r.Size).Str("ways", ways(r.Ways)).
		Str("delay", milliseconds(r.Delay)).Str("took", milliseconds(r.Took)).
		Stringer("peer", r.Peer)
	if r.Err != nil {
		line.Str("why", r.Err.Error())
	}
	line.Msg(whole)
}

// close writes what is queued.
func (x *explainer) close() {
	if x != nil {
		_ = x.writer.Close()
	}
}

// ways lists bytes, route, reason and what became of the bytes.
func ways(all []engine.Way) string {
	var b strings.Builder
	for i, w := range all {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d %v %v %s", w.Bytes, w.Route, w.Reason, fate(w))
	}
	return b.String()
}

// fate says copied or not, also where it follows from the route.
func fate(w engine.Way) string {
	switch {
	case w.Fate != engine.ByRoute:
		return w.Fate.String()
	case w.Route == zc.Copy:
		return "copied"
	}
	return "from-page-cache"
}

// milliseconds is one unit for all lines, so that they can be sorted.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.3fms", float64(d.Nanoseconds())/1e6)
}

func short(s string) string {
	if len(s) > maxPathLogged {
		return s[:maxPathLogged] + "…"
	}
	return s
}
