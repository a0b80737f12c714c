package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Result is a run: what JSON and the page are made of.
type Result struct {
	Part     string    `json:"part"` // mechanisms, server, scale
	Command  []string  `json:"command"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Rounds   int       `json:"rounds"`
	Window   float64   `json:"window"`         // seconds of one sample
	Cold     int       `json:"cold,omitempty"` // bytes of the cold working set
	Machine  Machine   `json:"machine"`
	Places   []About   `json:"places"`
	Subjects []Subject `json:"subjects"`
	Outcomes []Outcome `json:"outcomes"`
	Warnings []string  `json:"warnings,omitempty"`
}

// About is what a place, or a source, is, in a sentence.
type About struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Subject is something that is measured.
type Subject struct {
	Name string `json:"name"`
	// Family groups subjects that work alike, for the eye.
	Family string `json:"family"`
	// Copies is how often the processor copies each byte on its way from the source to the device:
	// a number, or a range where that is decided on the way; "" where it is not known.
	Copies string `json:"copies,omitempty"`
	// How says what is done, and where the copies are.
	How string `json:"how"`
	// Reference is where the behaviour is documented.
	Reference string `json:"reference,omitempty"`
}

// Failed lists the outcomes whose measurement failed. What was refused did not fail.
func (r *Result) Failed() (failed []Outcome) {
	for _, o := range r.Outcomes {
		if o.Error != "" {
			failed = append(failed, o)
		}
	}
	return failed
}

// WriteJSON writes the run to a file.
func (r *Result) WriteJSON(name string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// Write prints the run: the machine, tables, what to doubt.
func (r *Result) Write(w io.Writer, spread bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s; %d rounds of %v\n", r.Machine, r.Began.Format("2006-01-02 15:04"), r.Rounds, time.Duration(r.Window*float64(time.Second)))
	for _, p := range r.Places {
		fmt.Fprintf(&b, "%s: %s\n", p.Name, p.Text)
	}
	b.WriteString("Medians; the best of a column has a star. A GB is 10⁹ bytes.\n")
	comparisons := r.Comparisons()
	for _, c := range comparisons {
		b.WriteByte('\n')
		c.write(&b, spread)
	}
	figures := r.Figures()
	if comparisons != nil {
		figures = nil // they are of the same, for the page
	}
	for _, f := range figures {
		if f.Reason() != "" {
			continue
		}
		b.WriteByte('\n')
		f.write(&b, r.Subjects, spread)
		for _, s := range f.Findings {
			fmt.Fprintf(&b, "  → %s\n", s)
		}
	}
	for i, m := range missing(figures) {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "not measured: %s: %s\n", strings.Join(m.Titles, "; "), m.Why)
	}
	for i, text := range r.Warnings {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "warning: %s\n", text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
