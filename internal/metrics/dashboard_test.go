//go:build linux

package metrics

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"sluice/engine"
)

// dashboard is what the tests look at of Grafana's file.
type dashboard struct {
	Panels []struct {
		Title, Type, Description string
		Targets                  []struct{ Expr, LegendFormat string }
	}
	Templating struct {
		List []struct {
			Type  string
			Query any
		}
	}
}

func readDashboard(tb testing.TB) (d dashboard) {
	tb.Helper()
	raw, err := os.ReadFile("../../ops/grafana/sluice.json")
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		tb.Fatal(err)
	}
	return d
}

// exported is everything that the handler exports, by name.
func exported(tb testing.TB) map[string]*dto.MetricFamily {
	tb.Helper()
	w := httptest.NewRecorder()
	Handler(func() engine.Stats { return engine.Stats{} }).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(w.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return families
}

// labelsOf is the names of the labels of a metric.
func labelsOf(f *dto.MetricFamily) (names []string) {
	for _, l := range f.GetMetric()[0].GetLabel() {
		names = append(names, l.GetName())
	}
	return names
}

var (
	promRate     = regexp.MustCompile(`\b(?:rate|increase)\(([a-z]\w*)`)
	promBy       = regexp.MustCompile(`\b(?:by|ignoring|group_left) *\(([^)]*)\)`)
	promMatchers = regexp.MustCompile(`\{([^}]*)\}`)
	promMatcher  = regexp.MustCompile(`(\w+) *(?:=~|!=|!~|=) *"[^"]*"`)
	promRange    = regexp.MustCompile(`\[[^\]]*\]`)
	promFunction = regexp.MustCompile(`\w+ *\(`)
	promName     = regexp.MustCompile(`\b[a-zA-Z_]\w*`)
	legendLabel  = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// query is what a PromQL expression, of those that the dashboard uses, names.
type query struct {
	metrics []string
	rates   []string // of those, in a rate
	grouped []string // labels that the result has, and those that are ignored
	matched []string // labels in selectors
}

func parse(expr string) (q query) {
	for _, m := range promRate.FindAllStringSubmatch(expr, -1) {
		q.rates = append(q.rates, m[1])
	}
	for _, m := range promBy.FindAllStringSubmatch(expr, -1) {
		q.grouped = append(q.grouped, promName.FindAllString(m[1], -1)...)
	}
	for _, m := range promMatchers.FindAllStringSubmatch(expr, -1) {
		for _, l := range promMatcher.FindAllStringSubmatch(m[1], -1) {
			q.matched = append(q.matched, l[1])
		}
	}
	for _, r := range []*regexp.Regexp{promBy, promMatchers, promRange, promFunction} {
		expr = r.ReplaceAllString(expr, " ")
	}
	for _, name := range promName.FindAllString(expr, -1) {
		if name != "e9" { // of 1e9
			q.metrics = append(q.metrics, name)
		}
	}
	return q
}

// family finds the metric that a name in a query belongs to: of a histogram there are three.
func family(all map[string]*dto.MetricFamily, name string) *dto.MetricFamily {
	if f := all[name]; f != nil {
		return f
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && all[base].GetType() == dto.MetricType_HISTOGRAM {
			return all[base]
		}
	}
	return nil
}

// Every name and label that a panel asks for is exported, counters are looked at by their rate and
// levels are not.
func TestTheDashboardAsksForWhatIsExported(t *testing.T) {
	all := exported(t)
	// Prometheus adds the first two to everything, the buckets of a histogram have the third.
	common := []string{"job", "instance", "le"}
	for _, p := range readDashboard(t).Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s: nothing is shown", p.Title)
		}
		for _, target := range p.Targets {
			q := parse(target.Expr)
			if len(q.metrics) == 0 || strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") {
				t.Errorf("%s: %s is no query", p.Title, target.Expr)
			}
			known := slices.Clone(common)
			for _, name := range q.metrics {
				f := family(all, name)
				if f == nil {
					t.Errorf("%s: %s is not exported", p.Title, name)
					continue
				}
				known = append(known, labelsOf(f)...)
				if cumulative := f.GetType() != dto.MetricType_GAUGE; cumulative != slices.Contains(q.rates, name) {
					t.Errorf("%s: %s is a %v, in a rate: %t", p.Title, name, f.GetType(), !cumulative)
				}
			}
			for _, l := range append(q.grouped, q.matched...) {
				if !slices.Contains(known, l) {
					t.Errorf("%s: no metric of %s has a label %s", p.Title, target.Expr, l)
				}
			}
			for _, l := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !slices.Contains(q.grouped, l[1]) {
					t.Errorf("%s: the legend's %s is not in the result of %s", p.Title, l[1], target.Expr)
				}
			}
		}
	}
}

// unshown are the metrics that no panel shows: none.
var unshown = map[string]bool{}

func TestTheDashboardShowsEverything(t *testing.T) {
	shown := map[string]bool{}
	all := exported(t)
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			for _, name := range parse(target.Expr).metrics {
				shown[family(all, name).GetName()] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(name, "sluice_") && shown[name] == unshown[name] {
			t.Errorf("%s: shown: %t", name, shown[name])
		}
	}
}

func TestTheDashboardsChoicesAreExported(t *testing.T) {
	all, found := exported(t), 0
	for _, v := range readDashboard(t).Templating.List {
		if v.Type != "query" {
			continue
		}
		q, _ := v.Query.(map[string]any)["query"].(string)
		inner, ok := strings.CutPrefix(q, "label_values(")
		name := promName.FindString(inner)
		if !ok || all[name] == nil {
			t.Errorf("%q asks for %s, which is not exported", q, name)
		}
		found++
	}
	if found != 2 {
		t.Errorf("%d choices, want those of job and instance", found)
	}
}

// TestTheManualListsEveryMetric keeps docs/OPERATING.md to what there is.
func TestTheManualListsEveryMetric(t *testing.T) {
	raw, err := os.ReadFile("../../docs/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`(sluice_\\w+)").FindAllStringSubmatch(string(raw), -1) {
		listed[m[1]] = true
	}
	all := exported(t)
	for name := range listed {
		if all[name] == nil {
			t.Errorf("%s is listed and not exported", name)
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "sluice_") && !listed[name] {
			t.Errorf("%s is not listed", name)
		}
	}
}
