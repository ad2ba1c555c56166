/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Which TCP sockets are in the wanted states, and since when. */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* What is told of a socket in a wanted state. */
struct entry {
	__u64 entered;	     /* CLOCK_MONOTONIC in ns; 0: not known */
	__u64 netns_cookie;  /* 0: this kernel does not tell */
	__u64 acked, received; /* bytes, when it entered */
	__u8 src[16], dst[16];
	__u32 iface;
	__be16 sport, dport;
	__u8 family, state;
	__u8 pad[6];
};

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

/* bpf_get_netns_cookie() can be had. The verifier does not look at a branch that a constant
 * rules out. */
const volatile bool has_netns_cookie = 1;

static __always_inline void put(__u64 cookie, const struct entry *e)
{
	if (bpf_map_update_elem(&entries, &cookie, e, BPF_ANY))
		__sync_fetch_and_add(&lost, 1);
}

static __always_inline void take_out(__u64 cookie)
{
	long err = bpf_map_delete_elem(&entries, &cookie);
	if (err && err != -ENOENT)
		__sync_fetch_and_add(&lost, 1);
}

static __always_inline void enter(struct bpf_sock_ops *ctx, __u32 state)
{
	struct entry e = {};
	e.entered = bpf_ktime_get_ns();
	if (has_netns_cookie)
		e.netns_cookie = bpf_get_netns_cookie(ctx);
	e.acked = ctx->bytes_acked;
	e.received = ctx->bytes_received;
	struct bpf_sock *sk = ctx->sk;
	if (sk)
		e.iface = sk->bound_dev_if;
	e.sport = bpf_htons(ctx->local_port);
	e.dport = ctx->remote_port >> 16;
	e.family = ctx->family;
	e.state = state;
	if (e.family == AF_INET6) {
		__u32 *src = (__u32 *)e.src, *dst = (__u32 *)e.dst;
		src[0] = ctx->local_ip6[0];
		src[1] = ctx->local_ip6[1];
		src[2] = ctx->local_ip6[2];
		src[3] = ctx->local_ip6[3];
		dst[0] = ctx->remote_ip6[0];
		dst[1] = ctx->remote_ip6[1];
		dst[2] = ctx->remote_ip6[2];
		dst[3] = ctx->remote_ip6[3];
	} else {
		*(__u32 *)e.src = ctx->local_ip4;
		*(__u32 *)e.dst = ctx->remote_ip4;
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
	e.family = c->skc_family;
	e.state = c->skc_state;
	e.acked = tp->bytes_acked;
	e.received = tp->bytes_received;
	e.iface = c->skc_bound_dev_if;
	e.sport = bpf_htons(c->skc_num);
	e.dport = c->skc_dport;
	if (e.family == AF_INET6) {
		*(__u64 *)&e.src[0] = *(__u64 *)&c->skc_v6_rcv_saddr.in6_u.u6_addr8[0];
		*(__u64 *)&e.src[8] = *(__u64 *)&c->skc_v6_rcv_saddr.in6_u.u6_addr8[8];
		*(__u64 *)&e.dst[0] = *(__u64 *)&c->skc_v6_daddr.in6_u.u6_addr8[0];
		*(__u64 *)&e.dst[8] = *(__u64 *)&c->skc_v6_daddr.in6_u.u6_addr8[8];
	} else {
		*(__u32 *)e.src = c->skc_rcv_saddr;
		*(__u32 *)e.dst = c->skc_daddr;
	}
	struct net *net = c->skc_net.net;
	if (net)
		e.netns_cookie = net->net_cookie;
	put(cookie, &e);
}

/* flag_older has follow called back for the connections of the opener's network namespace
 * that have no flag: they began before it was attached, or another program took the flag.
 * The kernel holds the lock of a socket while it is visited, so no event comes between. For
 * each connection that it flags it writes a 0, and for each that refuses a negative errno. */
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
	if (!err && !had) {
		value |= BPF_SOCK_OPS_STATE_CB_FLAG;
		err = bpf_setsockopt(tp, IPPROTO_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &value, sizeof(value));
	}
	if (err || !had)
		bpf_seq_write(ctx->meta->seq, &err, sizeof(err));
	if (err)
		return 0;

	/* Without the flag events were missed, and what the table has of the socket, if
	 * anything, is not to be believed. With it, the table is right but for what it lacks
	 * because it was not wanted, or what another watchdog's program flagged before. */
	__u64 cookie = bpf_get_socket_cookie(tp);
	struct entry *known = bpf_map_lookup_elem(&entries, &cookie);
	if (had && known && known->state == c->skc_state)
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
