// Package simring is a simulated kernel for the engine: rings, sockets, files and peers whose
// every choice comes from one seeded source, in simulated time, on one goroutine.
//
// # What it is for
//
// Serious bugs in engines like this one are orders of completions that nobody had tried.
// Here a notification comes as late as the kernel permits, in any order, a send is cut
// short at any byte, an error carries a notification or not, an enter fails, a wake-up falls
// into every gap; millions of steps cost seconds, and a seed replays one exactly.
//
// # What it checks by itself
//
// The memory of a send is read, as the kernel may, at times of the simulation's choosing
// until its last completion, and compared with what was submitted: memory that was recycled
// early shows at once, and wrong bytes reach the simulated peer besides. A request that
// the real kernel would refuse, a descriptor that is not open, a read into memory that is not
// registered, are violations too. See [World.Violation].
//
// # Shape
//
// A [World] is the kernel and everything behind it. It implements kernel.System; the rings
// that it makes implement kernel.Ring. [World.Step] lets one thing happen outside of
// the loops. A loop that would sleep returns instead, and [World.Runnable] says when its ring
// would have woken it: a wake-up that was lost shows as a loop that is not runnable with
// work in its inbox.
// [World.Punctual] is the time in which no loop is ever late, for oracles of how long
// something may wait.
package simring
