/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Which TCP sockets are in the wanted states, and since when. */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* What is told of a socket in a wanted state. It is written in words of 64 bits: where the
 * loader lacks CAP_PERFMON, kernels as old as 5.10 refuse to have one written in parts. */
struct entry {
	__u64 entered;	       /* CLOCK_MONOTONIC in ns; 0: not known */
	__u64 netns_cookie;    /* 0: this kernel does not tell */
	__u64 acked, received; /* bytes, when it entered */
	__u64 src[2], dst[2];
	__u64 iface_ports;  /* u32 iface; be16 sport, dport */
	__u64 family_state; /* u8 family, state */
};

static __always_inline __u64 iface_ports(__u32 iface, __be16 sport, __be16 dport)
{
	return iface | (__u64)sport << 32 | (__u64)dport << 48;
}

static __always_inline __u64 family_state(__u8 family, __u8 state) { return family | state << 8; }

/* Two words of a context, which the kernel lets be read one at a time. */
static __always_inline __u64 two(const volatile __u32 *words) { return words[0] | (__u64)words[1] << 32; }

/* By the cookie, which is unique on the host. Not preallocated: a stuck socket is rare. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct entry);
} entries SEC(".maps");

/* Bits 1 << state. A socket in a wanted state is entered; who leaves a kept one, which is
 * every state that ever was wanted, is taken out. */
volatile struct {
	__u32 wanted, kept;
} states SEC(".data.states");

/* Events that the table could not take, because it was full or the kernel had no memory, or
 * a lock was taken. */
volatile __u64 lost SEC(".data.lost");

static __always_inline void put(__u64 cookie, const struct entry *e)
{
	if (bpf_map_update_elem(&entries, &cookie, e, BPF_ANY))
		__sync_fetch_and_add(&lost, 1);
}

static __always_inline void take_out(__u64 cookie)
{
	/* Before Linux 6.4 the upper half of the result is not to be relied on. */
	int err = bpf_map_delete_elem(&entries, &cookie);
	if (err && err != -ENOENT)
		__sync_fetch_and_add(&lost, 1);
}

/* forget takes out what is left of a socket's connection before: another program took the
 * flag while it was stuck, and it left its state unseen. To look takes no lock. */
static __always_inline void forget(__u64 cookie)
{
	if (bpf_map_lookup_elem(&entries, &cookie))
		take_out(cookie);
}

static __always_inline void enter(struct bpf_sock_ops *ctx, __u32 state)
{
	struct entry e = {};
	e.entered = bpf_ktime_get_ns();
	e.netns_cookie = bpf_get_netns_cookie(ctx); /* the loader makes it 0 where there is no such helper */
	e.acked = ctx->bytes_acked;
	e.received = ctx->bytes_received;
	struct bpf_sock *sk = ctx->sk;
	e.iface_ports = iface_ports(sk ? sk->bound_dev_if : 0, bpf_htons(ctx->local_port), ctx->remote_port >> 16);
	e.family_state = family_state(ctx->family, state);
	if (ctx->family == AF_INET6) {
		e.src[0] = two(&ctx->local_ip6[0]);
		e.src[1] = two(&ctx->local_ip6[2]);
		e.dst[0] = two(&ctx->remote_ip6[0]);
		e.dst[1] = two(&ctx->remote_ip6[2]);
	} else {
		e.src[0] = ctx->local_ip4;
		e.dst[0] = ctx->remote_ip4;
	}
	put(bpf_get_socket_cookie(ctx), &e);
}

/* follow is called back at each change of state of connections that have the flag, which it
 * gives to those that begin. */
SEC("sockops")
int follow(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (states.wanted & 1 << TCP_SYN_SENT)
			enter(ctx, TCP_SYN_SENT);
		else
			forget(bpf_get_socket_cookie(ctx));
		/* fall through */
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		break;
	case BPF_SOCK_OPS_STATE_CB: {
		__u32 from = ctx->args[0] & 31, to = ctx->args[1] & 31;
		/* A socket that connects again has the flag already, and no port yet: it is
		 * entered when it sends the SYN. */
		if (to != TCP_SYN_SENT && states.wanted >> to & 1)
			enter(ctx, to);
		else if (states.kept >> from & 1)
			take_out(bpf_get_socket_cookie(ctx));
	}
	}
	return 1;
}

static __always_inline void enter_older(struct sock_common *c, struct tcp_sock *tp, __u64 cookie)
{
	struct entry e = {};
	e.acked = tp->bytes_acked;
	e.received = tp->bytes_received;
	e.iface_ports = iface_ports(c->skc_bound_dev_if, bpf_htons(c->skc_num), c->skc_dport);
	e.family_state = family_state(c->skc_family, c->skc_state);
	if (c->skc_family == AF_INET6) {
		e.src[0] = *(__u64 *)&c->skc_v6_rcv_saddr.in6_u.u6_addr8[0];
		e.src[1] = *(__u64 *)&c->skc_v6_rcv_saddr.in6_u.u6_addr8[8];
		e.dst[0] = *(__u64 *)&c->skc_v6_daddr.in6_u.u6_addr8[0];
		e.dst[1] = *(__u64 *)&c->skc_v6_daddr.in6_u.u6_addr8[8];
	} else {
		e.src[0] = c->skc_rcv_saddr;
		e.dst[0] = c->skc_daddr;
	}
	struct net *net = c->skc_net.net;
	if (net)
		e.netns_cookie = net->net_cookie;
	put(cookie, &e);
}

/* flag_older has follow called back for the connections of the opener's network namespace
 * that have no flag: they began before it was attached, or another program took the flag.
 * The kernel holds the lock of a socket while it is visited, so no event comes between.
 *
 * It writes a 0 for each connection that it tries to flag, and then the errno, negative, if
 * that is refused. Where the reader's buffer is full, the kernel takes back what was written
 * of this socket, and visits it again: so nothing may be done before it could be written. */
SEC("iter/tcp")
int flag_older(struct bpf_iter__tcp *ctx)
{
	struct sock_common *c = ctx->sk_common;
	if (!c)
		return 0;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(c); /* NULL: a minisocket */
	if (!tp || c->skc_state == TCP_LISTEN)
		return 0;
	int value = 0;
	int err = bpf_getsockopt(tp, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &value, sizeof(value));
	bool had = value & BPF_SOCK_OPS_STATE_CB_FLAG;
	if (!had) {
		int tried = 0;
		if (bpf_seq_write(ctx->meta->seq, &tried, sizeof(tried)))
			return 0;
		value |= BPF_SOCK_OPS_STATE_CB_FLAG;
		if (!err)
			err = bpf_setsockopt(tp, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &value, sizeof(value));
		if (err) {
			bpf_seq_write(ctx->meta->seq, &err, sizeof(err));
			return 0;
		}
	}

	/* Without the flag events were missed, and what the table has of the socket, if
	 * anything, is not to be believed. With it, the table is right but for what it lacks
	 * because it was not wanted, or what another watchdog's program flagged before. */
	__u64 cookie = bpf_get_socket_cookie(tp);
	struct entry *known = bpf_map_lookup_elem(&entries, &cookie);
	if (had && known && known->family_state >> 8 == c->skc_state)
		return 0;
	if (states.wanted >> (c->skc_state & 31) & 1)
		enter_older(c, tp, cookie);
	else if (known)
		take_out(cookie);
	return 0;
}

/* The inodes of the sockets that owners looks for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} asked SEC(".maps");

/* What is told of one descriptor. */
struct owner {
	__u64 inode;
	__u64 start; /* of the process, CLOCK_BOOTTIME in ns */
	__u32 pid, pad;
	char comm[16];
};

/* owners tells which processes hold the sockets, with one pass over the descriptors of all
 * processes of the opener's PID namespace, whatever their network namespace. */
SEC("iter/task_file")
int owners(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct task_struct *task = ctx->task;
	if (!file || !task || !bpf_sock_from_file(file))
		return 0;
	struct inode *inode = file->f_inode;
	if (!inode)
		return 0;
	struct owner o = {};
	o.inode = inode->i_ino;
	if (!bpf_map_lookup_elem(&asked, &o.inode))
		return 0;
	o.pid = task->tgid;
	struct task_struct *leader = task->group_leader;
	if (leader) {
		o.start = leader->start_boottime;
		*(__u64 *)&o.comm[0] = *(__u64 *)&leader->comm[0];
		*(__u64 *)&o.comm[8] = *(__u64 *)&leader->comm[8];
	}
	bpf_seq_write(ctx->meta->seq, &o, sizeof(o));
	return 0;
}
