// Package ring is Linux io_uring by itself: setup, submission, completion,
// registration and capability probes. It knows nothing of buffers' owners or of
// when a send should be zero-copy.
//
// # Shape
//
// [New] maps a ring. [Ring.SQE] hands out the next free submission entry, zeroed;
// one of the Prep methods fills it; [Ring.Submit] or [Ring.SubmitAndWait] tells the
// kernel; [Ring.Reap] copies completions out. [Probe] says what the running kernel
// can do, and every operation that it lacks is an [UnsupportedError] that names the
// kernel which has it.
//
// # Threads
//
// A Ring belongs to the OS thread that created it: lock the goroutine to its thread
// before New and keep it there until Close. The kernel catches only some of what breaks
// this: EEXIST where IORING_SETUP_SINGLE_ISSUER is on (6.0), EBADF or EINVAL where the
// ring's registered index is free on the other thread, and where it is not, the call goes
// to another ring. The thread must outlive its requests: the kernel cancels what an
// exiting thread left in flight. [Config.Shared] makes a ring that belongs to no thread.
//
// # Memory
//
// The kernel reads what an SQE points at after the submitting call has returned:
// msghdr, iovec, timespec, sockaddr and payloads must lie in memory that neither
// moves nor is collected, which on Go means mmap'd memory. Prep methods that take a
// uintptr say so by their type; none of them keeps a Go object alive.
package ring
