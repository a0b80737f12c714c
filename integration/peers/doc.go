// Command peers compares the engine with other ways to serve TCP from one core: gnet, netpoll, the
// standard library, giouring, and a C program on the raw io_uring interface as the limit. It is a module
// of its own, so that the product depends on none of them. Linux only, without root; in this directory:
//
//	go run .                                        # everything: 18 cells, about half an hour
//	go run . -only echo/64/ -rounds 9 -seconds 1    # some; see -h
//	go run . -json result.json                      # with all samples
//	go run . -smoke                                 # every cell once, contents compared
//
// The host's congestion control applies, and is printed. bbr adds the cost of pacing; without:
//
//	go build . && sudo unshare -n sh -c 'ip link set lo up && echo reno >/proc/sys/net/ipv4/tcp_congestion_control && ./peers'
//
// # What is measured
//
//   - Echo: each connection has one message outstanding, of 64 bytes or 1 KiB. Every answer is compared.
//   - Stream: the server pushes messages of 16 KiB to 1 MiB as fast as the sockets take them, from 64 MiB of
//     memory in turn. The client discards them in the kernel (MSG_TRUNC); -smoke compares every byte.
//
// A server is a process of its own for each measurement, pinned to the first processor that may be used; the
// client, pinned to the second, is one thread on epoll and the same for all. Subjects take turns inside each
// round and begin with another in each, a quarter of each measurement is warm-up before it, and medians are printed
// with the least and the greatest.
//
// The figure that counts is the server's CPU for a message, or for a GB: the clock of its process, with
// all threads, and that of its processor's ksoftirqd, which must be otherwise idle. What a server sends over loopback is also
// received at its expense; what the client sends, at the client's. "Server busy" and "client busy" say who was the
// limit of the rate: where the client is at 100 %, compare the CPU and not the rate.
//
// # What is not
//
// There is no network card. Over loopback zero-copy sends are copied like all others, but when their segments
// are received; with many connections the client's processor does most of that (the server is 2 % busy then, the client 80 %,
// and little arrives): the CPU of limit-zc is no gain, see its rate. With streams that outgrow the caches memory bandwidth is the limit, which a virtual
// machine shares with its neighbours: the spread says how much.
//
// # Settings
//
// Each subject has what is best for it on one core, by side-by-side runs of echo at 64 and 1,000 connections
// (medians of several runs, which did not all agree: the spread was larger than most differences):
//
//   - sluice: one loop, GOMAXPROCS 2, so that the waiting loop's P is not taken at once (the engine's advice). Echo is
//     examples/echo; a stream is examples/stream: leased buffers, at most 1 MiB or two messages queued. Policy adaptive:
//     over loopback it copies. No idle timeout, as the others have none.
//   - gnet v2.9.0: one event loop that also accepts (ReusePort), LockOSThread, ReadBufferCap 64 KiB, TCP_NODELAY, GOMAXPROCS 2.
//     Without LockOSThread, with GOMAXPROCS 1 or edge-triggered it was equal or dearer in most runs. It does not say when a full socket has
//     room again: how streams are paced is said in gnet_linux.go.
//   - netpoll v0.7.2: one poller, GOMAXPROCS 1. Echo handlers run on the poller (Config.Runner): in three runs of four a tenth or more cheaper than in its goroutine pool.
//     Streams block in Flush, in the pool's goroutines; WriteBinary refers to the message and does not copy it.
//   - net: a goroutine for each connection, GOMAXPROCS 1: 2 had five times the p99.
//   - giouring: one thread, multishot accept and receive into a buffer ring, SINGLE_ISSUER and DEFER_TASKRUN, a registered
//     ring, GOMAXPROCS 2. It is a program of its own (giouring/), built by go with a linker flag when the comparison begins.
//   - limit: the same in C (limit/limit.c, compiled by cc when the comparison begins), sends from the buffer that a message was received in;
//     streams by SEND, a message at a time. Nothing gathers there: where sluice puts several messages into one send it can be below the limit.
//   - limit-zc: the limit's streams by SEND_ZC from registered memory.
//
// Where cc or go is missing their subjects are left out, and the output says so.
package main
