// limit: what the raw io_uring interface costs, with no library between: the lower bound that the
// other subjects are compared with. Nothing but system calls and <linux/io_uring.h>.
//
//   limit -listen HOST:PORT -work echo   [-size N]              serve until killed
//   limit -listen HOST:PORT -work stream -size N -mode send|zc|zcfix
//   limit -connect HOST:PORT -size N -seconds S [-warm W] -mode zcfix|zc|send|write|sendfile
//
// The last dials out, streams, and prints one line of JSON about the S seconds after W seconds of
// warm-up: bytes that the socket took, CPU seconds of this process (getrusage), seconds, and the
// zero-copy notifications that said "zero-copied" and "copied". HOST is numeric; IPv6 in brackets.
//
// Modes: send is IORING_OP_SEND; zc IORING_OP_SEND_ZC; zcfix the same from registered memory; write
// and sendfile are the system calls, without a ring. Streams send from SOURCE bytes in turn.
//
// Linux 6.1 (DEFER_TASKRUN); usage reports 6.2.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Since 6.2; headers may be older than the kernel.
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3)
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif

enum {
	SQ_ENTRIES = 1024,
	CQ_ENTRIES = 8192,         // a receive of every connection, and two completions of every zero-copy send
	MAX_FD = 4096,             // descriptors, of which each connection is one
	MAX_NOTIFS = CQ_ENTRIES / 2, // unreaped notifications, so that none overflows the queue
	BUFFERS = 4096,            // provided for receives: more than connections
	BUFFER_SIZE = 2048,        // the largest message that is echoed is 1 KiB
	GROUP = 1,
	SOURCE = 64 << 20,         // bytes that a stream sends from: larger than the caches
};

enum { ACCEPT = 1, RECV, SEND };
enum mode { MODE_SEND, MODE_ZC, MODE_ZCFIX, MODE_WRITE, MODE_SENDFILE };

static void die(const char *what)
{
	fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void usage(void)
{
	fprintf(stderr, "limit: -listen HOST:PORT -work echo|stream -size N -mode send|zc|zcfix, or\n"
			"       -connect HOST:PORT -size N -seconds S -warm W -mode zcfix|zc|send|write|sendfile\n");
	exit(2);
}

// user_data is kind, buffer and descriptor.
static uint64_t tag(unsigned kind, unsigned buffer, int fd) { return (uint64_t)kind << 48 | (uint64_t)buffer << 32 | (unsigned)fd; }
static unsigned tag_kind(uint64_t t) { return t >> 48; }
static unsigned tag_buffer(uint64_t t) { return t >> 32 & 0xffff; }
static int tag_fd(uint64_t t) { return (int)(t & 0xffffffff); }

// ring

static struct {
	int fd, registered;
	unsigned *sq_head, *sq_tail, *cq_head, *cq_tail;
	unsigned sq_mask, cq_mask, tail; // tail: of what is prepared
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
} ring;

static void ring_open(void)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE, .cq_entries = CQ_ENTRIES };
	ring.fd = syscall(__NR_io_uring_setup, SQ_ENTRIES, &p);
	if (ring.fd < 0)
		die("io_uring_setup with DEFER_TASKRUN (Linux 6.1)");
	size_t sq = p.sq_off.array + p.sq_entries * sizeof(unsigned), cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	char *m = mmap(NULL, sq > cq ? sq : cq, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	ring.sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	if (m == MAP_FAILED || ring.sqes == MAP_FAILED)
		die("mmap of the ring");
	ring.sq_head = (unsigned *)(m + p.sq_off.head);
	ring.sq_tail = (unsigned *)(m + p.sq_off.tail);
	ring.sq_mask = p.sq_entries - 1;
	ring.cq_head = (unsigned *)(m + p.cq_off.head);
	ring.cq_tail = (unsigned *)(m + p.cq_off.tail);
	ring.cq_mask = p.cq_entries - 1;
	ring.cqes = (struct io_uring_cqe *)(m + p.cq_off.cqes);
	unsigned *array = (unsigned *)(m + p.sq_off.array);
	for (unsigned i = 0; i < p.sq_entries; i++)
		array[i] = i;
	// By its number in the ring's own table the ring needs no look-up of the descriptor.
	struct io_uring_rsrc_update u = { .offset = -1U, .data = ring.fd };
	ring.registered = -1;
	if (syscall(__NR_io_uring_register, ring.fd, IORING_REGISTER_RING_FDS, &u, 1) == 1)
		ring.registered = u.offset;
}

static void ring_enter(unsigned wait)
{
	unsigned n = ring.tail - *ring.sq_tail, flags = IORING_ENTER_GETEVENTS;
	__atomic_store_n(ring.sq_tail, ring.tail, __ATOMIC_RELEASE);
	if (ring.registered >= 0)
		flags |= IORING_ENTER_REGISTERED_RING;
	if (syscall(__NR_io_uring_enter, ring.registered >= 0 ? ring.registered : ring.fd, n, wait, flags, NULL, 0) < 0 && errno != EINTR)
		die("io_uring_enter");
}

static struct io_uring_sqe *ring_sqe(unsigned op, int fd, uint64_t user_data)
{
	if (ring.tail - __atomic_load_n(ring.sq_head, __ATOMIC_ACQUIRE) > ring.sq_mask)
		ring_enter(0);
	struct io_uring_sqe *s = &ring.sqes[ring.tail++ & ring.sq_mask];
	memset(s, 0, sizeof *s);
	s->opcode = op;
	s->fd = fd;
	s->user_data = user_data;
	return s;
}

// buffers for receives

static struct io_uring_buf_ring *provided;
static char *received; // BUFFERS of BUFFER_SIZE
static unsigned short provided_tail;

static void provide(unsigned id)
{
	struct io_uring_buf *b = &provided->bufs[provided_tail++ & (BUFFERS - 1)];
	b->addr = (uintptr_t)received + (size_t)id * BUFFER_SIZE;
	b->len = BUFFER_SIZE;
	b->bid = id;
}

static void publish(void) { __atomic_store_n(&provided->tail, provided_tail, __ATOMIC_RELEASE); }

static void *map(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	madvise(p, n, MADV_NOHUGEPAGE); // a zero-copy send is charged by its offset in a huge page
	return p;
}

static void buffers_open(void)
{
	provided = map(BUFFERS * sizeof(struct io_uring_buf));
	received = map((size_t)BUFFERS * BUFFER_SIZE);
	struct io_uring_buf_reg r = { .ring_addr = (uintptr_t)provided, .ring_entries = BUFFERS, .bgid = GROUP };
	if (syscall(__NR_io_uring_register, ring.fd, IORING_REGISTER_PBUF_RING, &r, 1) < 0)
		die("register a buffer ring (Linux 5.19)");
	for (unsigned i = 0; i < BUFFERS; i++)
		provide(i);
	publish();
}

// sockets

static int open_socket(const char *address, int listening)
{
	char host[64];
	const char *colon = strrchr(address, ':');
	if (!colon || (size_t)(colon - address) >= sizeof host)
		usage();
	memcpy(host, address, colon - address);
	host[colon - address] = 0;
	char *h = host;
	if (*h == '[') {
		h++;
		h[strcspn(h, "]")] = 0;
	}
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV }, *a;
	int e = getaddrinfo(h, colon + 1, &hints, &a);
	if (e) {
		fprintf(stderr, "limit: address %s: %s\n", address, gai_strerror(e));
		exit(1);
	}
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); // accepted sockets inherit it
	if (listening) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 4096))
			die(address);
	} else if (connect(fd, a->ai_addr, a->ai_addrlen)) {
		die(address);
	}
	freeaddrinfo(a);
	return fd;
}

static void arm_accept(int listener)
{
	ring_sqe(IORING_OP_ACCEPT, listener, tag(ACCEPT, 0, listener))->ioprio = IORING_ACCEPT_MULTISHOT;
}

// accepted takes a completion of the accept and returns a connection.
static int accepted(const struct io_uring_cqe *c)
{
	if (c->res < 0) {
		errno = -c->res;
		die("accept");
	}
	if (c->res >= MAX_FD) {
		fprintf(stderr, "limit: more than %d descriptors\n", MAX_FD);
		exit(1);
	}
	if (!(c->flags & IORING_CQE_F_MORE))
		arm_accept(tag_fd(c->user_data));
	return c->res;
}

// echo: what arrives leaves from the buffer that it arrived in, which goes back to the kernel when
// the send has completed. Two sends of a connection may be in flight. They stay in order because a
// client with one message outstanding leaves room in the socket, so each completes as it is submitted.

static void arm_recv(int fd)
{
	struct io_uring_sqe *s = ring_sqe(IORING_OP_RECV, fd, tag(RECV, 0, fd));
	s->ioprio = IORING_RECV_MULTISHOT;
	s->flags = IOSQE_BUFFER_SELECT;
	s->buf_group = GROUP;
}

static void echo_completion(const struct io_uring_cqe *c, unsigned *want)
{
	int fd = tag_fd(c->user_data);
	unsigned buffer;
	switch (tag_kind(c->user_data)) {
	case ACCEPT:
		arm_recv(accepted(c));
		break;
	case RECV:
		if (c->res > 0) {
			buffer = c->flags >> IORING_CQE_BUFFER_SHIFT;
			want[buffer] = c->res;
			struct io_uring_sqe *s = ring_sqe(IORING_OP_SEND, fd, tag(SEND, buffer, fd));
			s->addr = (uintptr_t)received + (size_t)buffer * BUFFER_SIZE;
			s->len = c->res;
			s->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
		}
		if (c->flags & IORING_CQE_F_MORE)
			break;
		if (c->res > 0 || c->res == -ENOBUFS)
			arm_recv(fd);
		else
			close(fd);
		break;
	case SEND:
		buffer = tag_buffer(c->user_data);
		if (c->res >= 0 && (unsigned)c->res != want[buffer]) {
			fprintf(stderr, "limit: a send of %u bytes sent %d\n", want[buffer], c->res);
			exit(1);
		}
		provide(buffer); // an error is the connection's end, of which the receive tells too
		break;
	}
}

static void echo(int listener)
{
	static unsigned want[BUFFERS];
	ring_open();
	buffers_open();
	arm_accept(listener);
	for (;;) {
		ring_enter(1);
		unsigned head = *ring.cq_head, tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
		for (; head != tail; head++)
			echo_completion(&ring.cqes[head & ring.cq_mask], want);
		__atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
		publish();
	}
}

// stream: each connection has one message in flight; the next follows its completion, and does not
// wait for its notification.

static struct {
	char *memory;
	unsigned size, offset, length; // length: of whole messages in memory
	enum mode mode;
	int dialled; // its one connection's end is an error
	int waiting[MAX_FD], waiters; // connections that wait for notifications
	uint64_t bytes, zero_copied, copied, notifs; // notifs: outstanding
} stream;

static void stream_open(unsigned size, enum mode mode)
{
	stream.size = size;
	stream.mode = mode;
	stream.length = SOURCE - SOURCE % size;
	stream.memory = map(SOURCE);
	for (unsigned i = 0; i < SOURCE; i++) {
		unsigned k = i % size; // the same in every message; the client knows it
		stream.memory[i] = (char)(k * 7 + (k >> 8) * 3 + (k >> 16));
	}
}

static unsigned stream_next(void)
{
	unsigned at = stream.offset;
	stream.offset += stream.size;
	if (stream.offset >= stream.length)
		stream.offset = 0;
	return at;
}

static void stream_send(int fd)
{
	if (stream.notifs >= MAX_NOTIFS) {
		stream.waiting[stream.waiters++] = fd;
		return;
	}
	struct io_uring_sqe *s = ring_sqe(stream.mode == MODE_SEND ? IORING_OP_SEND : IORING_OP_SEND_ZC, fd, tag(SEND, 0, fd));
	s->addr = (uintptr_t)stream.memory + stream_next();
	s->len = stream.size;
	s->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
	if (stream.mode != MODE_SEND)
		s->ioprio = IORING_SEND_ZC_REPORT_USAGE;
	if (stream.mode == MODE_ZCFIX)
		s->ioprio |= IORING_RECVSEND_FIXED_BUF;
}

static void stream_completion(const struct io_uring_cqe *c)
{
	int fd = tag_fd(c->user_data);
	if (tag_kind(c->user_data) == ACCEPT) {
		stream_send(accepted(c));
		return;
	}
	if (c->flags & IORING_CQE_F_NOTIF) {
		if ((unsigned)c->res & IORING_NOTIF_USAGE_ZC_COPIED)
			stream.copied++;
		else
			stream.zero_copied++;
		stream.notifs--;
		if (stream.waiters)
			stream_send(stream.waiting[--stream.waiters]);
		return;
	}
	if (c->flags & IORING_CQE_F_MORE)
		stream.notifs++;
	// MSG_WAITALL: short only where the connection ends.
	int ended = c->res == -EPIPE || c->res == -ECONNRESET || (c->res >= 0 && (unsigned)c->res < stream.size);
	if (c->res < 0 && (!ended || stream.dialled)) {
		errno = -c->res;
		die("send");
	}
	if (ended) {
		close(fd);
		if (stream.dialled) {
			fprintf(stderr, "limit: the peer ended the connection: a send of %u bytes sent %d\n", stream.size, c->res);
			exit(1);
		}
		return;
	}
	stream.bytes += c->res;
	stream_send(fd);
}

static void stream_turn(void)
{
	ring_enter(1);
	unsigned head = *ring.cq_head, tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
	for (; head != tail; head++)
		stream_completion(&ring.cqes[head & ring.cq_mask]);
	__atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
}

static void stream_ring(void)
{
	ring_open();
	struct iovec v = { stream.memory, SOURCE };
	if (stream.mode == MODE_ZCFIX && syscall(__NR_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &v, 1) < 0)
		die("register buffers (RLIMIT_MEMLOCK, or CAP_IPC_LOCK)");
}

// dialled out

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(void)
{
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

static int source_file(void)
{
	const char *dir = getenv("TMPDIR");
	char name[4096];
	snprintf(name, sizeof name, "%s/limitXXXXXX", dir ? dir : "/tmp");
	int fd = mkstemp(name);
	if (fd < 0)
		die(name);
	unlink(name);
	for (unsigned n = 0; n < stream.length;) {
		ssize_t r = write(fd, stream.memory + n, stream.length - n);
		if (r <= 0)
			die("write the file to send");
		n += r;
	}
	return fd;
}

// stream_call sends one message by write or sendfile.
static void stream_call(int fd, int file)
{
	off_t at = stream_next();
	for (size_t left = stream.size; left;) {
		ssize_t r = stream.mode == MODE_WRITE ? write(fd, stream.memory + at, left) : sendfile(fd, file, &at, left);
		if (r <= 0)
			die(stream.mode == MODE_WRITE ? "write" : "sendfile");
		if (stream.mode == MODE_WRITE)
			at += r;
		left -= r;
		stream.bytes += r;
	}
}

static void dial(const char *address, double warm, double seconds)
{
	int fd = open_socket(address, 0), uring = stream.mode < MODE_WRITE, file = stream.mode == MODE_SENDFILE ? source_file() : -1;
	stream.dialled = 1;
	if (uring) {
		stream_ring();
		stream_send(fd);
	}
	double until = now() + warm, t0 = 0, c0 = 0;
	uint64_t b0 = 0, z0 = 0, n0 = 0;
	for (int measuring = 0;; ) {
		if (uring) {
			stream_turn();
		} else {
			stream_call(fd, file);
		}
		double t = now();
		if (t < until)
			continue;
		if (measuring) {
			printf("{\"bytes\": %lu, \"cpu_seconds\": %.6f, \"seconds\": %.6f, \"zero_copied\": %lu, \"copied\": %lu}\n",
			       (unsigned long)(stream.bytes - b0), cpu() - c0, t - t0, (unsigned long)(stream.zero_copied - z0), (unsigned long)(stream.copied - n0));
			return;
		}
		measuring = 1;
		t0 = now(), c0 = cpu(), b0 = stream.bytes, z0 = stream.zero_copied, n0 = stream.copied;
		until = t0 + seconds;
	}
}

int main(int argc, char **argv)
{
	const char *names[] = { "send", "zc", "zcfix", "write", "sendfile" };
	const char *at = NULL, *to = NULL, *work = "stream";
	enum mode mode = MODE_SEND;
	double seconds = 3, warm = 0.5;
	long size = 65536;
	for (int i = 1; i < argc; i += 2) {
		if (i + 1 == argc)
			usage();
		const char *flag = argv[i], *value = argv[i + 1];
		if (!strcmp(flag, "-listen")) {
			at = value;
		} else if (!strcmp(flag, "-connect")) {
			to = value;
		} else if (!strcmp(flag, "-work")) {
			work = value;
		} else if (!strcmp(flag, "-size")) {
			size = atol(value);
		} else if (!strcmp(flag, "-seconds")) {
			seconds = atof(value);
		} else if (!strcmp(flag, "-warm")) {
			warm = atof(value);
		} else if (!strcmp(flag, "-mode")) {
			for (mode = MODE_SEND; mode <= MODE_SENDFILE && strcmp(value, names[mode]);)
				mode++;
			if (mode > MODE_SENDFILE)
				usage();
		} else {
			usage();
		}
	}
	signal(SIGPIPE, SIG_IGN); // write and sendfile: EPIPE says more
	if (!at == !to || size < 1 || size > SOURCE || seconds <= 0 || warm < 0)
		usage();
	if (at && !strcmp(work, "echo")) {
		echo(open_socket(at, 1));
	} else if (!strcmp(work, "stream") && (to || mode < MODE_WRITE)) {
		stream_open(size, mode);
		if (to) {
			dial(to, warm, seconds);
			return 0;
		}
		int listener = open_socket(at, 1);
		stream_ring();
		arm_accept(listener);
		for (;;)
			stream_turn();
	}
	usage();
}
