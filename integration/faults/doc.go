// Package faults shows the engine and the file server on the running kernel while the world
// around them fails: networks that swallow packets, sockets that hold next to nothing, peers
// that reset or crawl by the hundred, memory that is used up, and ten thousand connections that
// do nothing. What survives must have received every byte; what ends must leave nothing behind.
//
// Both run inside the test's process, so that leases, pins, descriptors and goroutines can be
// counted. What only a process of its own can show, as limits of a user, signals and exit
// status, is in integration/serve.
package faults
