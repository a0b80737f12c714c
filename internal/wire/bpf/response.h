// SPDX-License-Identifier: GPL-2.0
// Where a response ends: its header, and what that says of the length of its body.
#pragma once

#include "packet.h"

#define CRLFCRLF 0x0d0a0d0a

const volatile char field[16] = "content-length:";

struct scan {
	__u8 *bytes;
	struct flow *flow;
	__u32 used; // bytes of the segment up to the end of the header; 0: it goes on
};

// scan_byte looks at the next byte of a header. The field's name is matched from the beginning of a
// line on: flow->matched is 1 there, and 1 more for each byte that fits.
static long scan_byte(__u32 i, struct scan *s)
{
	struct flow *f = s->flow;
	if (i >= HEADER_MAX)
		return 1;
	__u8 c = s->bytes[i];
	f->crlf = f->crlf << 8 | c;
	if (f->crlf == CRLFCRLF) {
		s->used = i + 1;
		return 1;
	}
	if (f->in_number) {
		if (c >= '0' && c <= '9') {
			f->length = f->length * 10 + (c - '0');
			f->has_length = 1;
		} else if (c == '\r') {
			f->in_number = 0;
		}
		return 0;
	}
	if (c == '\n') {
		f->matched = 1;
		return 0;
	}
	__u32 m = f->matched & 15;
	if (!m)
		return 0;
	if (c >= 'A' && c <= 'Z')
		c += 'a' - 'A';
	f->matched = c == field[m - 1] ? m + 1 : 0;
	if (f->matched == sizeof(field)) {
		f->in_number = 1;
		f->matched = 0;
	}
	return 0;
}

// same_as_known says whether a header begins with all the bytes of the known one.
static __always_inline int same_as_known(__u8 *bytes, struct known *known)
{
	__u64 *a = (void *)bytes, *b = (void *)known->bytes;
	__u32 words = known->header / 8, i;

	for (i = 0; i < HEADER_MAX / 8 && i < words; i++)
		if (a[i] != b[i])
			return 0;
	for (i = 0; i < 8; i++) {
		__u32 at = words * 8 + i;
		if (at < known->header && at < HEADER_MAX && bytes[at] != known->bytes[at])
			return 0;
	}
	return 1;
}

// scan_header reads a segment that is the next one of a response's header, and sets flow->want when
// the header has ended. A header that it does not understand is counted, and its client waits for ever.
static __always_inline void scan_header(struct __sk_buff *skb, struct flow *f, struct segment *s, struct counters *n)
{
	struct scratch *scratch = ONLY(scratches);
	struct known *known = ONLY(known_header);
	__u32 len;

	if (!scratch || !known || !s->len)
		return;
	len = known->header;
	if (!f->header && len && len <= HEADER_MAX && len <= s->len &&
	    !bpf_skb_load_bytes(skb, s->payload, scratch->bytes, len) && same_as_known(scratch->bytes, known)) {
		f->want = known->want;
		return;
	}
	len = s->len > HEADER_MAX ? HEADER_MAX : s->len;
	if (bpf_skb_load_bytes(skb, s->payload, scratch->bytes, len))
		return;
	__u8 *b = scratch->bytes; // "HTTP/1.1 200"
	__u32 first = !f->header, ok = b[9] == '2' && b[10] == '0' && b[11] == '0';
	if (first && !ok)
		n->refused++;
	struct scan scan = {.bytes = scratch->bytes, .flow = f};
	bpf_loop(len, scan_byte, &scan, 0);
	f->parse_at += s->len;
	f->header += scan.used ? scan.used : s->len;
	if (scan.used && f->has_length) {
		f->want = f->header + f->length;
		len = scan.used;
		if (first && ok && len <= HEADER_MAX && !bpf_skb_load_bytes(skb, s->payload, known->bytes, len)) {
			known->header = len;
			known->want = f->want;
		}
	} else if (scan.used || s->len > HEADER_MAX) {
		f->want = ~0ULL;
		n->unparsed++;
	}
}

// expect prepares for a response that begins at seq.
static __always_inline void expect(struct flow *f, __u32 seq)
{
	f->start = f->parse_at = seq;
	f->crlf = 0;
	f->matched = f->in_number = f->has_length = 0;
	f->length = f->header = f->want = f->got = 0;
}

// bucket is the place of a time in the histogram: 16 to each power of two, so that one is
// at most 6 % wide.
static __always_inline __u32 bucket(__u64 ns)
{
	if (ns < 16)
		return ns;
	__u32 top = 0;
	for (int bits = 32; bits; bits /= 2) // clang 14 never ends on __builtin_clzll
		if (ns >> (top + bits))
			top += bits;
	return ((top - 3) << 4 | (ns >> (top - 4) & 15)) & (BUCKETS - 1);
}

static __always_inline void responded(__u64 ns)
{
	struct latencies *l = ONLY(response_times);
	if (l)
		l->n[bucket(ns)]++;
}
