// Package bench measures what pushing bytes out of this machine costs, and tells it so that
// nobody is misled: tables, JSON, and a page with plots.
//
// # Shape
//
// A [Cell] is one thing to measure: its coordinates, a [Key], and a function that takes a
// [Sample]. A [Runner] takes samples of all cells in rounds, so that whatever else the machine
// does is spread over all of them, and leaves an [Outcome] for each: its samples, or why there
// are none. A [Result] is the outcomes of a run with the machine, the command line and what to
// doubt. [Pivot] makes tables of it, which leave as text, JSON or HTML.
//
// What is measured runs in a process of its own, this program executed once more ([Child]):
// so each mechanism's CPU time, memory and namespace are its own, and what it leaks ends with it. So is
// each [Server], and the clients that load it over loopback.
//
// # Places
//
// A [Place] is where bytes are sent to: loopback, or a wire. Tables and plots never mix places,
// because the same mechanism costs different things there; each place says what it is.
//
// # Threads
//
// A Runner is used by one goroutine. Nothing here is for use inside a server.
package bench
