// Package engine is the network layer on io_uring: loops, listeners, connections, and the
// way of a payload from a connection's send queue to the socket and of its buffers back.
//
// # Shape
//
// An [Engine] has one loop for each core it may use. A loop is a goroutine locked to its
// thread, with a ring, a cache of registered memory and the connections that it accepted.
// A turn of the loop is: posted functions, completions, handlers, timers, sends, and one
// io_uring_enter for all of it.
//
//	down:  Conn.Send → queue.go → submit.go (zc.Policy.Route) → SQE
//	up:    CQE → complete.go (zc.Send) → queue.go → Handler
//
// # Threads
//
// A [Conn] and its [Handler] belong to their loop: the handler's methods are called on the
// loop's goroutine, one at a time, and may call any method of the Conn. From other
// goroutines only [Conn.Post] may be called. A handler must not block: it holds up
// every connection of its loop.
//
// # What holds
//
//   - A buffer given to Send is read by the kernel until the engine releases it, which only
//     complete.go does.
//   - One send of a connection is in flight at a time, so bytes leave in order; a short one
//     resumes at the exact byte.
//   - Every connection has a deadline while bytes of it are queued or pinned, and each pin has one; past it
//     the connection is reset, which is what makes the kernel let go of the pages. pins.go has the ladder.
//   - One buffer may be sent to any number of connections. [Config.LagAfter] says how long the slowest may keep it.
//   - Everything is bounded, see [Config]; at a limit the caller gets an error or a false, and
//     a call of Writable when it may go on.
package engine
