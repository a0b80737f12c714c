// SPDX-License-Identifier: GPL-2.0
// What the programs know: the configuration, which is fixed before they are loaded, the
// connections, and what is counted.
#pragma once

#include <linux/types.h> // before the helpers, which use its types
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#define REQUEST_MAX 1024 // of a request; a path longer than that is not what is measured
#define BUCKETS 1024     // of the histogram, see bucket()
#define RING 256         // boundaries between packets that wait for their acknowledgement
#define HEADER_MAX 1024  // of a response's header in one segment: what a server of files says is 200 to 500

// Constants of one rig. The verifier takes them for known values and leaves out what they rule out.
struct options {
	__u8 mac[8];      // of the engine's interface, for both ends: nobody looks
	__u8 local[16];   // the engine's address, an IPv4 address in the last 4 bytes
	__u8 peers[16];   // the peers' network; a peer's address differs in the last 4 bytes
	__u32 ipv6;       // speak IPv6
	__u32 mss;        // without any options
	__u32 sack;       // offer selective acknowledgement
	__u32 in_flight;  // leave this many bytes unacknowledged
	__u32 granule;    // in_flight in a quarter of RING
	__u32 loss;       // of one packet in this many lose the first segment; not with in_flight
	__u32 request;    // length of the request
	__u32 outstanding; // requests at a time, over all clients
};
const volatile struct options config = {};

volatile __u32 stopped;     // no client sends another request
volatile __u32 asking;      // clients that have sent their first request
volatile __u32 ticks;

struct key {
	__be32 peer; // last 4 bytes of its address
	__be16 peer_port, local_port;
};

// A connection, as the peer sees it. Sequence numbers are of RFC 9293 and wrap.
struct flow {
	struct bpf_spin_lock lock; // a sender's thread that moves to another CPU has its packets come from two
	__u32 end;      // what arrived in order ends here
	__u32 acked;    // newest acknowledgement given
	__u32 next;     // the peer's own next sequence number
	__u32 hole_end; // [end, hole_end) was lost on purpose, if hole
	__u32 ahead;    // and up to here all else arrived
	__u32 fin_at;   // the engine's FIN, if fin
	__u32 packets;
	__u8 hole, fin, closed, client, held;
	__u8 waits; // a client with a request outstanding
	// in_flight: ends of packets not yet acknowledged, oldest at ring[tail % RING]
	__u32 head, tail;
	__u32 seen;   // end when the tick last looked,
	__u32 looked; // and which tick that was
	__u32 ring[RING];
	// a client's response
	__u32 start;     // sequence number at which it begins,
	__u32 parse_at;  // and at which the rest of its header does
	__u32 crlf;      // last four bytes of the header so far
	__u8 matched;    // bytes of "\ncontent-length:" matched, see scan_byte
	__u8 in_number;  // in its value
	__u8 has_length; // its value has a digit
	__u64 length;    // its value
	__u64 header;    // bytes of header so far
	__u64 want;      // of header and body; 0: not known yet
	__u64 got;
	__u64 asked;     // when, ns
};

// What New's caller gets as Totals; the meanings are said there.
struct counters {
	__u64 packets, bytes, acks, opened, finished, requests, responses;
	__u64 repeated, lost, reset, refused, unparsed, stray, failed, largest;
};

// What peer_in has peer_out make of the reset that follows, on the same CPU, before any
// other packet of the wire.
struct answer {
	__u32 wanted;
	__u32 seq, ack, flags;
	__u32 request; // append the request
	__u32 silent;  // no acknowledgement: the client's next request will carry it
	__u32 other;   // another client sends its request too
	__u32 other_seq, other_ack;
	struct key key, other_key;
};

// As many zeros: a value with a lock in it cannot be where a helper copies from.
struct nothing {
	__u64 zeros[(sizeof(struct flow) + 7) / 8];
};

struct latencies {
	__u64 n[BUCKETS];
};

struct request {
	__u8 text[REQUEST_MAX];
};

struct scratch {
	__u8 bytes[HEADER_MAX];
};

// The header that was read last. Most are the same to the byte, until the second of their date is over.
struct known {
	__u64 want;
	__u32 header;
	__u8 bytes[HEADER_MAX] __attribute__((aligned(8)));
};

// Sizes of flows, idle and held are set to the rig's before loading.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct key);
	__type(value, struct flow);
} flows SEC(".maps");

// A flow is too large for the stack: new ones are copied from here.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nothing);
} blank SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct latencies);
} response_times SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct known);
} known_header SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct request);
} requests SEC(".maps");

// Clients without a request, who waited longest first.
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 65536);
	__type(value, struct key);
} idle SEC(".maps");

// Connections with bytes that nobody has acknowledged: the tick looks at them.
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 65536);
	__type(value, struct key);
} held SEC(".maps");

#define ONLY(map) ({ __u32 zero = 0; bpf_map_lookup_elem(&(map), &zero); })

// Sequence numbers wrap (RFC 9293, section 3.4).
static __always_inline int after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}
