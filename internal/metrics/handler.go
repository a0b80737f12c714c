package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sluice/engine"
)

const (
	// maxScrapes is how many scrapes are answered at a time; more are 503.
	maxScrapes = 4
	// scrapeTimeout is for a loop that is held up, by a disk for example: its scrape is 503.
	scrapeTimeout = 5 * time.Second
)

// Handler answers scrapes with an engine's counters, and with what the Go runtime, the
// process and the build say about themselves.
func Handler(stats func() engine.Stats) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(Collector(stats), collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout})
}
