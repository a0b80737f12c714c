// SPDX-License-Identifier: GPL-2.0
// Reading the engine's packets and writing the peer's.
#pragma once

#include "state.h"
#include <bpf/bpf_endian.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#define FIN 1
#define SYN 2
#define RST 4
#define PSH 8
#define ACK 16

#define TICK_PROTO 0x88b5 // IEEE 802 local experimental: the frame that makes the tick
#define WINDOW 0xffff     // with WINDOW_SCALE 1 GiB - 16 KiB: never what limits the sender
#define WINDOW_SCALE 14   // the largest (RFC 7323, section 2.3)
#define SYN_OPTIONS 12

#define IP_HLEN (config.ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr))
#define HEADERS (ETH_HLEN + IP_HLEN + sizeof(struct tcphdr)) // of what the peer sends, but for a SYN's options

struct segment {
	struct key key;
	__u32 seq, ack;
	__u32 flags;
	__u32 payload; // offset
	__u32 len;     // of the payload
};

static __always_inline struct tcphdr *tcp_of(void *data)
{
	return data + ETH_HLEN + IP_HLEN;
}

static __always_inline __u32 flags_of(struct tcphdr *tcp)
{
	return ((__u8 *)tcp)[13];
}

// parse reads the headers of an engine's packet. Lengths come from the skb: a packet of more than
// 64 KiB has none in its IP header. It fails for everything but TCP.
static __always_inline int parse(struct __sk_buff *skb, struct segment *s)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct tcphdr *tcp;

	if (config.ipv6) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IPV6))
			return -1;
		if (ip->nexthdr == IPPROTO_HOPOPTS) {
			// a jumbo payload option (RFC 2675), in which BIG TCP puts its length
			__u8 *hop = (void *)tcp;
			tcp = (void *)(hop + 8);
			if ((void *)(tcp + 1) > end || hop[0] != IPPROTO_TCP || hop[1] != 0)
				return -1;
		} else if (ip->nexthdr != IPPROTO_TCP) {
			return -1;
		}
		s->key.peer = ip->daddr.s6_addr32[3];
	} else {
		struct iphdr *ip = data + ETH_HLEN;
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) ||
		    ip->protocol != IPPROTO_TCP || ip->ihl != 5)
			return -1;
		s->key.peer = ip->daddr;
	}
	s->key.peer_port = tcp->dest;
	s->key.local_port = tcp->source;
	s->seq = bpf_ntohl(tcp->seq);
	s->ack = bpf_ntohl(tcp->ack_seq);
	s->flags = flags_of(tcp);
	s->payload = (void *)tcp - data + (((__u8 *)tcp)[12] >> 4) * 4;
	s->len = skb->len - s->payload;
	return 0;
}

// fill_in gives a BIG TCP packet over IPv4 a length, which is 0 in its header (Linux 6.3): the
// reject rule answers no packet that is shorter than its own header.
static __always_inline void fill_in(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;

	if (!config.ipv6 && (void *)(ip + 1) <= end && !ip->tot_len)
		ip->tot_len = 0xffff;
}

static __always_inline __u16 ip_checksum(struct iphdr *ip)
{
	__u16 *word = (void *)ip;
	__u32 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline void write_tcp(struct tcphdr *tcp, __u32 seq, __u32 ack, __u32 flags)
{
	tcp->seq = bpf_htonl(seq);
	tcp->ack_seq = bpf_htonl(ack);
	((__u8 *)tcp)[13] = flags;
	tcp->window = bpf_htons(WINDOW);
}

// emit makes of any small packet one from the peer, with the request behind its header if asked.
// TCP's checksum is left alone. The kernel does not look at it in a packet of its own that waits for a card to
// fill it in (CHECKSUM_PARTIAL), as the engine's do and resets over IPv4; what has a real one, resets over IPv6 and
// the tick's frame, is marked as verified by bpf_csum_level.
static __always_inline int emit(struct __sk_buff *skb, struct key *to, __u32 seq, __u32 ack, __u32 flags, __u32 request)
{
	__u32 options = flags & SYN ? SYN_OPTIONS : 0;
	__u32 body = options;

	if (request)
		body = config.request > REQUEST_MAX ? REQUEST_MAX : config.request;
	if (skb->len != HEADERS + body && bpf_skb_change_tail(skb, HEADERS + body, 0))
		return -1;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct tcphdr *tcp = tcp_of(data);
	if (data + HEADERS > end)
		return -1;
	for (int i = 0; i < ETH_ALEN; i++)
		eth->h_dest[i] = eth->h_source[i] = config.mac[i];
	if (config.ipv6) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		*(__be32 *)ip = bpf_htonl(6 << 28);
		ip->payload_len = bpf_htons(sizeof(*tcp) + body);
		ip->nexthdr = IPPROTO_TCP;
		ip->hop_limit = 64;
		for (int i = 0; i < 16; i++) {
			ip->saddr.s6_addr[i] = config.peers[i];
			ip->daddr.s6_addr[i] = config.local[i];
		}
		ip->saddr.s6_addr32[3] = to->peer;
		eth->h_proto = bpf_htons(ETH_P_IPV6);
	} else {
		struct iphdr *ip = data + ETH_HLEN;
		__u8 *local = (void *)&ip->daddr;
		*(__u8 *)ip = 0x45;
		ip->tos = 0;
		ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*tcp) + body);
		ip->id = 0;
		ip->frag_off = bpf_htons(0x4000); // do not fragment
		ip->ttl = 64;
		ip->protocol = IPPROTO_TCP;
		ip->check = 0;
		ip->saddr = to->peer;
		for (int i = 0; i < 4; i++)
			local[i] = config.local[12 + i];
		ip->check = ip_checksum(ip);
		eth->h_proto = bpf_htons(ETH_P_IP);
	}
	tcp->source = to->peer_port;
	tcp->dest = to->local_port;
	tcp->urg_ptr = 0;
	((__u8 *)tcp)[12] = (sizeof(*tcp) + options) / 4 << 4;
	write_tcp(tcp, seq, ack, flags);
	if (options) {
		__u8 *o = data + HEADERS;
		if ((void *)(o + SYN_OPTIONS) > end)
			return -1;
		o[0] = 2, o[1] = 4, o[2] = config.mss >> 8, o[3] = config.mss;
		o[4] = config.sack ? 4 : 1, o[5] = config.sack ? 2 : 1; // permitted, or padding
		o[6] = 1, o[7] = 3, o[8] = 3, o[9] = WINDOW_SCALE;
		o[10] = 1, o[11] = 1;
	} else if (body) {
		struct request *r = ONLY(requests);
		if (!r || bpf_skb_store_bytes(skb, HEADERS, r->text, body, 0))
			return -1;
	}
	return 0;
}
