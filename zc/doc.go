// Package zc is zero-copy sending as pure logic: which route a send takes and why, and
// what each completion of it means. It makes no system call, keeps no time and knows no
// buffer; it takes values and returns values.
//
//   - [Policy.Route] decides between copying and zero-copy, with a [Reason].
//   - [Learner] learns from the loop's cost and from usage reports where zero-copy pays.
//   - [Send] is the life of one send, from submission to the moment that its buffers are
//     free. The engine does what the [Outcome] says, and nothing else.
//   - [Counters] count what was decided.
package zc
