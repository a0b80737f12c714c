package bench

import (
	_ "embed"
	"html/template"
	"os"
	"strings"
	"time"
)

//go:embed report.html
var reportText string

var reportPage = template.Must(template.New("report").Funcs(template.FuncMap{
	"value": FormatValue,
	"size":  FormatSize,
}).Parse(reportText))

// page is what the template is given.
type page struct {
	*Result
	Title    string
	Sections []section
	Missing  []absent
	Styles   map[string]style
	Copies   map[string]string // empty: of no subject it is known
	Intro    string
}

// section is a place with its figures.
type section struct {
	About
	Comparisons []Comparison
	Figures     []drawn
}

type drawn struct {
	Figure
	Plot     template.HTML
	Relative template.HTML // the same in proportion to one row; empty: there is none
}

// titles of the parts' pages.
var titles = map[string]string{
	"mechanisms": "What it costs to push bytes out of this machine",
	"calibrate":  "Where zero-copy pays on this machine",
	"scale":      "What more loops and more connections do on this machine",
	"server":     "uringserve beside the web servers of this machine",
}

// intros say what is to be seen on the parts' pages.
var intros = map[string]string{
	"mechanisms": "Less is better everywhere: processor seconds, of user and kernel, to send a gigabyte (10⁹ bytes).",
	"calibrate":  "Less is better everywhere: processor seconds, of user and kernel, to send a gigabyte (10⁹ bytes).",
	"scale":      "Loops stream, each on a processor of its own; a server of one loop answers more and more connections; and some of them fall silent.",
	"server":     "Each server has one processor to itself, and its load comes from another one.",
}

// WriteReport writes a page that needs nothing else.
func (r *Result) WriteReport(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := reportPage.Execute(f, r.page()); err != nil {
		return err
	}
	return f.Close()
}

func (r *Result) page() page {
	p := page{Result: r, Title: titles[r.Part], Intro: intros[r.Part], Styles: styles(r.Subjects), Copies: map[string]string{}}
	for _, s := range r.Subjects {
		if s.Copies != "" {
			p.Copies[s.Name] = s.Copies
		}
	}
	for _, about := range r.Places {
		s := section{About: about}
		for _, c := range r.Comparisons() {
			if c.Place == about.Name {
				s.Comparisons = append(s.Comparisons, c)
			}
		}
		p.Sections = append(p.Sections, s)
	}
	figures := r.Figures()
	p.Missing = missing(figures)
	for _, f := range figures {
		if f.Reason() != "" {
			continue
		}
		for i := range p.Sections {
			if p.Sections[i].Name == f.Place {
				d := drawn{Figure: f, Plot: f.SVG(p.Styles)}
				if f.row(f.Base) != nil {
					relative := f
					relative.Table = f.over(f.Base)
					d.Relative = relative.SVG(p.Styles)
				}
				p.Sections[i].Figures = append(p.Sections[i].Figures, d)
			}
		}
	}
	return p
}

// When is when the run began.
func (p page) When() string { return p.Began.Format("2 January 2006, 15:04 MST") }

// Took is how long it ran.
func (p page) Took() time.Duration {
	return time.Duration(p.Seconds * float64(time.Second)).Round(time.Second)
}

// WindowText is the length of a sample.
func (p page) WindowText() time.Duration { return time.Duration(p.Window * float64(time.Second)) }

// Commandline is what the run was started with.
func (p page) Commandline() string { return strings.Join(p.Command, " ") }
