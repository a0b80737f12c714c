// SPDX-License-Identifier: GPL-2.0
// The far end of the wire: acknowledges every TCP segment without touching its payload.
//
//	engine's namespace                     peers' namespace
//	TCP socket -> wire0 (veth) ==========> wire1 ingress: peer_in, then nftables "reject with tcp reset"
//	              wire0        <========== wire1 egress:  peer_out <- the reset, a new packet of 54 bytes
//
// No program of this type can make a packet. Resets are the cheapest that the kernel makes for it: the
// reject rule drops the data packet as any receiver would, which tells a zero-copy sender that its pages
// were not copied, and sends a reset, of which peer_out makes the acknowledgement that peer_in has left in
// answers. Packets without data are small, and turned round in place.
//
// All of that runs in the softirq at the end of the sender's own transmission, on its CPU, so that one
// CPU is the whole cost of one sender and there is no wake-up in it.
#include "response.h"
#include <linux/pkt_cls.h>

#define FIRST 0x10000000u // a peer's first sequence number

// reply makes the packet an answer and sends it back.
static __always_inline int reply(struct __sk_buff *skb, struct key *k, __u32 seq, __u32 ack, __u32 flags, __u32 request)
{
	if (emit(skb, k, seq, ack, flags, request))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

// arrived takes a segment's payload and FIN into account and returns how many bytes have now
// arrived in order. Nothing is lost but on purpose, so whatever is missing before a segment is still on its
// way from another CPU. The caller holds the lock.
static __always_inline __u64 arrived(struct flow *f, struct segment *s, struct counters *n)
{
	__u32 end = s->seq + s->len, was = f->end;

	if (s->len)
		f->packets++;
	if (s->flags & FIN) {
		f->fin = 1;
		f->fin_at = end;
	}
	if (f->hole) {
		if (after(end, f->ahead))
			f->ahead = end;
		else if (s->len)
			n->repeated++;
		if (!after(s->seq, f->end) && after(end, f->end)) {
			f->hole = after(f->hole_end, end);
			f->end = f->hole ? end : f->ahead;
		}
	} else if (after(end, f->end)) {
		if (config.loss && f->packets % config.loss == 0 && s->seq == f->end && s->len > config.mss) {
			f->hole = 1;
			f->hole_end = s->seq + config.mss;
			f->ahead = end;
			n->lost++;
		} else {
			f->end = end;
		}
	} else if (s->len) {
		n->repeated++;
	}
	__u32 got = f->end - was;
	if (f->fin && f->end == f->fin_at && !f->hole)
		f->end++; // a FIN takes a sequence number
	return got;
}

// finish returns the FIN flag if it is time for the peer's own, and takes its sequence number.
static __always_inline __u32 finish(struct flow *f, struct counters *n)
{
	if (!f->fin || f->closed || f->end != f->fin_at + 1)
		return 0;
	f->closed = 1;
	f->next++;
	n->finished++;
	return FIN;
}

// acknowledge returns how far to acknowledge when some bytes are to stay in flight, which is at the end of a
// packet, as a receiver would, because an acknowledgement of half a packet has the sender cut it. When
// three quarters of the ring are taken, small packets are acknowledged together, so that the rest is enough
// for all that is in flight. The caller holds the lock.
static __always_inline __u32 acknowledge(struct flow *f, __u64 got)
{
	__u32 head = f->head, tail = f->tail, ack = f->acked;

	if (got && (head - tail < RING * 3 / 4 || f->end - f->ring[(head - 1) & (RING - 1)] >= config.granule)) {
		f->ring[head & (RING - 1)] = f->end;
		f->head = ++head;
	}
	for (int i = 0; i < 8 && tail != head; i++) {
		__u32 at = f->ring[tail & (RING - 1)];
		if (after(at, ack)) {
			if (f->end - at < config.in_flight)
				break;
			ack = at;
		}
		tail++;
	}
	f->tail = tail;
	return ack;
}

// opened answers the SYN of an engine that dials, or the SYN-ACK of one that serves.
static __always_inline int opened(struct __sk_buff *skb, struct segment *s, struct counters *n)
{
	struct flow *f = bpf_map_lookup_elem(&flows, &s->key);
	__u32 client = s->flags & ACK;

	if (f && f->end == s->seq + 1) { // once more, and nothing since
		if (!client)
			return reply(skb, &s->key, FIRST, f->end, SYN | ACK, 0);
		if (!f->waits)
			return reply(skb, &s->key, f->next, f->end, ACK, 0);
		// the server's backlog was full and the request was dropped with our ACK
		return reply(skb, &s->key, f->next - config.request, f->end, ACK | PSH, 1);
	}
	struct nothing *zeros = ONLY(blank);
	if (!zeros || bpf_map_update_elem(&flows, &s->key, zeros, BPF_ANY) || !(f = bpf_map_lookup_elem(&flows, &s->key))) {
		n->failed++;
		return TC_ACT_SHOT;
	}
	n->opened++;
	f->end = f->acked = f->seen = s->seq + 1;
	if (!client) {
		f->next = FIRST + 1;
		return reply(skb, &s->key, FIRST, f->end, SYN | ACK, 0);
	}
	__u32 seq = s->ack, asks = !stopped && __sync_fetch_and_add(&asking, 1) < config.outstanding;
	f->client = 1;
	f->waits = asks;
	f->next = seq;
	f->asked = bpf_ktime_get_ns();
	expect(f, f->end);
	if (asks) {
		n->requests++;
		f->next += config.request;
	} else if (bpf_map_push_elem(&idle, &s->key, 0)) {
		n->failed++;
	}
	return reply(skb, &s->key, seq, f->end, asks ? ACK | PSH : ACK, asks);
}

// next_request has a client that has its whole response make room for the one that has waited longest,
// which is itself if all have requests outstanding.
static __always_inline void next_request(struct flow *f, struct segment *s, struct answer *a, struct counters *n)
{
	__u64 now = bpf_ktime_get_ns();
	struct flow *g = 0;

	n->responses++;
	responded(now - f->asked);
	f->waits = 0;
	if (!f->fin && bpf_map_push_elem(&idle, &s->key, 0))
		n->failed++;
	if (stopped)
		return;
	for (int i = 0; i < 8; i++) { // more than that are not closed by the server from one request to the next
		if (bpf_map_pop_elem(&idle, &a->other_key))
			return;
		g = bpf_map_lookup_elem(&flows, &a->other_key);
		if (g && !g->fin)
			break;
		g = 0;
	}
	if (!g)
		return;
	n->requests++;
	g->asked = now;
	g->waits = 1;
	if (g == f) {
		a->request = 1;
		a->flags |= PSH;
	} else {
		a->other = 1;
		a->other_seq = g->next;
		a->other_ack = g->acked = g->end;
		a->silent = s->len <= config.mss && !(a->flags & FIN);
	}
	g->next += config.request;
}

// data takes a segment with payload, and leaves in answers what is to be said to it.
static __always_inline int data(struct __sk_buff *skb, struct segment *s, struct flow *f, struct answer *a, struct counters *n)
{
	// A header is read in order; a client waits for one until want is known.
	__u32 header = f->client && !f->want && s->seq == f->parse_at;
	__u32 whole = 0, hold = 0, silent = 0;

	fill_in(skb);
	n->packets++;
	if (s->len > n->largest)
		n->largest = s->len;
	bpf_spin_lock(&f->lock);
	__u32 end = f->end;
	__u64 got = arrived(f, s, n);
	f->got += got;
	if (header && (!f->hole || f->end != end)) { // else it is what was lost just now
		bpf_spin_unlock(&f->lock);
		scan_header(skb, f, s, n);
		bpf_spin_lock(&f->lock);
	}
	a->seq = f->next;
	a->flags = ACK | finish(f, n);
	a->ack = f->end;
	if (f->want && f->got >= f->want) {
		whole = 1;
		expect(f, f->start + f->want);
	} else if (config.in_flight && !f->closed) {
		a->ack = acknowledge(f, got);
		silent = got && a->ack == f->acked;
		hold = !f->held && a->ack != f->end;
		if (hold)
			f->held = 1;
	}
	if (a->ack == f->end)
		f->tail = f->head;
	f->acked = a->ack;
	bpf_spin_unlock(&f->lock);

	n->bytes += got;
	a->wanted = !silent;
	a->key = s->key;
	a->request = a->silent = a->other = 0;
	if (whole)
		next_request(f, s, a, n);
	if (hold && bpf_map_push_elem(&held, &s->key, 0))
		n->failed++;
	return silent ? TC_ACT_SHOT : TC_ACT_OK; // OK: on to the reject rule
}

SEC("tcx/ingress")
int peer_in(struct __sk_buff *skb)
{
	struct counters *n = ONLY(counted);
	struct answer *a = ONLY(answers);
	struct segment s = {};

	if (!n || !a)
		return TC_ACT_SHOT;
	if (parse(skb, &s))
		return TC_ACT_SHOT; // multicast of IPv6 above all
	if (s.flags & SYN)
		return opened(skb, &s, n);
	struct flow *f = bpf_map_lookup_elem(&flows, &s.key);
	if (!f) {
		n->stray++;
		return TC_ACT_SHOT;
	}
	if (s.flags & RST) {
		n->reset++;
		bpf_map_delete_elem(&flows, &s.key);
		return TC_ACT_SHOT;
	}
	if (s.len)
		return data(skb, &s, f, a, n);
	if (s.flags & FIN) {
		bpf_spin_lock(&f->lock);
		arrived(f, &s, n);
		__u32 seq = f->next, flags = ACK | finish(f, n), ack = f->acked = f->end;
		bpf_spin_unlock(&f->lock);
		return reply(skb, &s.key, seq, ack, flags, 0);
	}
	if (f->closed && s.ack == f->next) // of our FIN
		bpf_map_delete_elem(&flows, &s.key);
	else if (s.seq == f->end - 1) // a probe of keep-alive (RFC 9293, section 3.8.4)
		return reply(skb, &s.key, f->next, f->end, ACK, 0);
	return TC_ACT_SHOT;
}

struct release {
	struct __sk_buff *skb;
	struct counters *counters;
	__u32 tick;
};

// release_one acknowledges the rest of a connection that has sent nothing since the previous tick. One
// that has goes to the end of the queue, and the tick is over when it comes to one that it has put there.
static long release_one(__u32 i, struct release *r)
{
	struct key key;
	if (bpf_map_pop_elem(&held, &key))
		return 1;
	struct flow *f = bpf_map_lookup_elem(&flows, &key);
	if (!f)
		return 0;
	bpf_spin_lock(&f->lock);
	__u32 over = f->looked == r->tick, idle = f->seen == f->end && !over, rest = f->acked != f->end;
	__u32 ack = f->end, seq = f->next;
	f->looked = r->tick;
	f->seen = f->end;
	f->held = rest && !idle;
	__u32 again = f->held;
	if (rest && idle) {
		f->acked = f->end;
		f->tail = f->head;
	}
	bpf_spin_unlock(&f->lock);
	if (again && bpf_map_push_elem(&held, &key, 0))
		r->counters->failed++;
	if (rest && idle && !emit(r->skb, &key, seq, ack, ACK, 0) && !bpf_clone_redirect(r->skb, r->skb->ifindex, 0))
		r->counters->acks++;
	return over;
}

// tick is the wire's only clock. It looks at TICK_MAX connections at most, and goes on with the next ones.
#define TICK_MAX 1024
static __always_inline void tick(struct __sk_buff *skb, struct counters *n)
{
	struct release r = {.skb = skb, .counters = n, .tick = __sync_fetch_and_add(&ticks, 1) + 1};
	bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	bpf_loop(TICK_MAX, release_one, &r, 0);
}

SEC("tcx/egress")
int peer_out(struct __sk_buff *skb)
{
	struct counters *n = ONLY(counted);
	struct answer *a = ONLY(answers);
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct tcphdr *tcp = tcp_of(data);

	if (!n || !a)
		return TC_ACT_SHOT;
	if ((void *)(eth + 1) <= end && eth->h_proto == bpf_htons(TICK_PROTO)) {
		tick(skb, n);
		return TC_ACT_SHOT;
	}
	if ((void *)(tcp + 1) > end || !(flags_of(tcp) & RST))
		return TC_ACT_OK; // a SYN that was injected, or what peer_in or tick has made
	if (!a->wanted)
		return TC_ACT_SHOT;
	a->wanted = 0;
	if (config.ipv6)
		bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	if (a->other) {
		struct key key = a->key, other = a->other_key;
		__u32 seq = a->seq, ack = a->ack, flags = a->flags, silent = a->silent;
		if (emit(skb, &other, a->other_seq, a->other_ack, ACK | PSH, 1))
			return TC_ACT_SHOT;
		if (silent)
			return TC_ACT_OK;
		if (bpf_clone_redirect(skb, skb->ifindex, 0) || emit(skb, &key, seq, ack, flags, 0))
			return TC_ACT_SHOT;
	} else if (a->request) {
		if (emit(skb, &a->key, a->seq, a->ack, a->flags, 1))
			return TC_ACT_SHOT;
	} else {
		write_tcp(tcp, a->seq, a->ack, a->flags); // addresses and ports are those of a reset: ours
	}
	n->acks++;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
