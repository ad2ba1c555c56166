package daemon_test

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// bound is the time bound of most tests' rules.
const bound = 2 * time.Second

const (
	leaked     = "rules: [{name: leak, match: {state: close-wait, in_state_for: 2s}, then: kill}]\n"
	leakedLong = "rules: [{name: leak, match: {state: close-wait, in_state_for: 4s}, then: kill}]\n"
)

// Exactly the sockets of the rules die, none before its time.
func TestWhoDies(t *testing.T) {
	t.Parallel()
	const (
		plain     = 5432
		other     = 5433
		halfOpen  = 6001 // peers in FIN_WAIT2
		deadPeer  = 6002
		idle      = 6003
		excluded  = 6004
		subflows  = 6005
		quietRead = 6006
	)
	const text = often + `
rules:
  - name: close-wait
    match:
      - {state: close-wait, sport: [22, 5432, 6002, 6004, 6006], in_state_for: 2s}
      - {state: close-wait, dport: 5432, in_state_for: 2s}
    exclude: {sport: 6004}
    then: [kill]
  - {name: time-wait, match: {state: time-wait, sport: 5432, in_state_for: 2s}, then: kill}
  - {name: fin-wait-2, match: {state: fin-wait-2, dport: 6001, idle_for: 2s}, then: kill}
  - {name: dead-peer, match: {state: established, dport: 6002, stalled_for: 2s}, then: kill}
  - {name: idle, match: {state: established, sport: [6003, 6005], idle_for: 2s}, then: kill}
`
	tests := []struct {
		name string
		// make makes the socket; one that is spared is in a state, and meant to stay there.
		make  func(w *world) stuck
		state uint8
	}{
		{"accepted, IPv4", func(w *world) stuck {
			return w.leak(w.listen(nstest.V4, plain))
		}, 0},
		{"accepted, IPv6", func(w *world) stuck {
			return w.leak(w.listen(nstest.V6, plain))
		}, 0},
		{"IPv4-mapped, connected", func(w *world) stuck {
			l := w.listen(netip.MustParseAddr("::ffff:127.0.0.2"), plain)
			p := w.pair(l)
			return w.hangUp(p.Client, p.Server.Close)
		}, 0},
		{"keepalives on both ends", func(w *world) stuck {
			p := w.pair(w.listen(netip.MustParseAddr("127.0.0.3"), plain))
			check(w, p.Client.Keepalive())
			check(w, p.Server.Keepalive())
			return w.hangUp(p.Server, p.Client.CloseWrite)
		}, 0},
		{"with data that nobody reads", func(w *world) stuck {
			p := w.pair(w.listen(nstest.V4, quietRead))
			check(w, p.Client.Send(1000))
			return w.hangUp(p.Server, p.Client.Close)
		}, 0},
		{"TIME_WAIT", func(w *world) stuck {
			p := w.pair(w.listen(netip.MustParseAddr("127.0.0.4"), plain))
			check(w, p.Server.CloseWrite())
			check(w, p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
			s := stuck{-1, must(p.Server.Cookie())(w), w.options.Now()}
			check(w, p.Client.Close())
			check(w, p.Server.Close())
			return s
		}, 0},
		{"FIN_WAIT2 with a descriptor", func(w *world) stuck {
			p := w.pair(w.listen(nstest.V4, halfOpen))
			s := stuck{p.Client, must(p.Client.Cookie())(w), w.options.Now()}
			check(w, p.Client.CloseWrite())
			check(w, p.Client.Await(unix.BPF_TCP_FIN_WAIT2))
			return s
		}, 0},
		{"FIN_WAIT2 without", func(w *world) stuck {
			p := w.pair(w.listen(nstest.V6, halfOpen))
			s := stuck{-1, must(p.Client.Cookie())(w), w.options.Now()}
			check(w, p.Client.Close())
			return s
		}, 0},
		{"a dead peer", func(w *world) stuck {
			p := w.pair(w.listen(nstest.V4, deadPeer))
			check(w, p.Server.Deafen())
			s := stuck{p.Client, must(p.Client.Cookie())(w), w.options.Now()}
			check(w, p.Client.Send(1000))
			return s
		}, 0},
		{"idle", func(w *world) stuck {
			p := w.pair(w.listen(nstest.V4, idle))
			s := stuck{p.Server, must(p.Server.Cookie())(w), w.options.Now()}
			check(w, p.Client.Send(1000))
			check(w, p.Server.Receive(1000))
			return s
		}, 0},

		{"another port", func(w *world) stuck {
			return w.leak(w.listen(nstest.V4, other))
		}, unix.BPF_TCP_CLOSE_WAIT},
		{"excluded", func(w *world) stuck {
			return w.leak(w.listen(nstest.V4, excluded))
		}, unix.BPF_TCP_CLOSE_WAIT},
		{"protected", func(w *world) stuck {
			return w.leak(w.listen(nstest.V4, 22))
		}, unix.BPF_TCP_CLOSE_WAIT},
		{"a listener on the rule's port", func(w *world) stuck {
			l := w.listen(netip.MustParseAddr("127.0.0.5"), plain)
			return stuck{l, must(l.Cookie())(w), w.options.Now()}
		}, unix.BPF_TCP_LISTEN},
		{"half-closed, and sending", func(w *world) stuck {
			p := w.pair(w.listen(netip.MustParseAddr("127.0.0.6"), plain))
			s := w.hangUp(p.Server, p.Client.CloseWrite)
			w.chat(p.Server, p.Client)
			return s
		}, unix.BPF_TCP_CLOSE_WAIT},
		{"half-closed, with something left to send", func(w *world) stuck {
			p := w.pair(w.listen(netip.MustParseAddr("127.0.0.7"), deadPeer))
			s := w.hangUp(p.Server, p.Client.CloseWrite)
			check(w, p.Client.Deafen())
			check(w, p.Server.Send(1000))
			return s
		}, unix.BPF_TCP_CLOSE_WAIT},
		{"established, and talking", func(w *world) stuck {
			p := w.pair(w.listen(nstest.V6, idle))
			w.chat(p.Client, p.Server)
			return stuck{p.Server, must(p.Server.Cookie())(w), w.options.Now()}
		}, unix.BPF_TCP_ESTABLISHED},
		{"established, and heard", func(w *world) stuck {
			p := w.pair(w.listen(nstest.V6, deadPeer))
			w.chat(p.Client, p.Server)
			return stuck{p.Client, must(p.Client.Cookie())(w), w.options.Now()}
		}, unix.BPF_TCP_ESTABLISHED},
		{"an MPTCP subflow", func(w *world) stuck {
			l := must(nstest.ListenAt(netip.AddrPortFrom(nstest.V4, subflows), unix.IPPROTO_MPTCP))(w)
			w.closeLater(l)
			client := must(nstest.New(nstest.V4, unix.IPPROTO_MPTCP))(w)
			w.closeLater(client)
			check(w, client.Connect(must(l.Local())(w)))
			server := must(l.Accept())(w)
			w.closeLater(server)
			// The subflow, not the MPTCP socket, has the cookie that counts.
			subflow := func(s *sock.Socket) bool {
				return s.MPTCP && s.Src.Port() == subflows && s.State == ssfilter.Established
			}
			return stuck{-1, w.cookie(subflow), w.options.Now()}
		}, 0xff},
		{"in an accept queue", func(w *world) stuck {
			l := w.listen(netip.MustParseAddr("127.0.0.8"), plain)
			client := must(nstest.Connect(must(l.Local())(w)))(w)
			from := must(client.Local())(w)
			check(w, client.Close())
			return stuck{-1, w.cookie(func(s *sock.Socket) bool { return s.Dst == from }), w.options.Now()}
		}, 0xff},
	}

	w := newWorld(t)
	w.watch(text)
	made := make([]stuck, len(tests))
	for i := range tests {
		made[i] = tests[i].make(w)
	}
	// The last to fall due: when it dies, all others have had their turn.
	last := w.leak(w.listen(netip.MustParseAddr("127.0.0.9"), plain))
	w.dies(last, bound)
	for i := range tests {
		t.Run(tests[i].name, func(t *testing.T) {
			w := w.in(t)
			switch tests[i].state {
			case 0:
				t.Logf("killed %v after its time", w.dies(made[i], bound).Round(time.Millisecond))
			default:
				w.lives(made[i], tests[i].state)
			}
		})
	}
	if n, want := w.kills(), 11; n != want {
		t.Errorf("%d sockets were killed, want %d", n, want)
	}
}

// A connection that was made anew has a time of its own, though its socket has
// the cookie and the addresses of the old one.
func TestReconnected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.listen(nstest.V4, 5432)
	s, server, to := w.boundPair(l)
	w.watch(often + leakedLong)
	first := w.hangUp(s, server.Close)
	w.reach(first.since.Add(bound))

	check(t, s.Disconnect())
	check(t, s.Connect(to))
	server = must(l.Accept())(t)
	second := w.hangUp(s, server.Close)
	if second.cookie != first.cookie {
		t.Fatalf("the socket has cookie %d now, and had %d", second.cookie, first.cookie)
	}
	w.dies(second, 2*bound)
}

// So does one that has the addresses of one that has ended.
func TestReusedAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.listen(nstest.V4, 5432)
	connect := func() stuck {
		s := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
		w.closeLater(s)
		check(t, s.Bind(netip.AddrPortFrom(nstest.V4, 5433)))
		check(t, s.Connect(must(l.Local())(t)))
		return w.hangUp(s, must(l.Accept())(t).Close)
	}
	w.watch(often + leakedLong)
	first := connect()
	w.reach(first.since.Add(bound))
	check(t, first.Abort())
	second := connect()
	w.dies(second, 2*bound)
	if told := w.killed(first.cookie); len(told) > 0 {
		t.Errorf("the kernel was told to destroy a socket that had ended")
	}
}

// A request whose client half-closes is in close-wait while a busy server has not
// accepted it. Its time begins when the server does.
func TestAccepted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, match string
		closes      bool
	}{
		{"close-wait", "{state: close-wait, sport: 5432, in_state_for: 2s}", true},
		{"established", "{state: established, sport: 5432, idle_for: 2s}", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := w.listen(nstest.V4, 5432)
			var shown atomic.Int32 // scans that were over while it waited
			w.scan = func(k kernel, q sock.Query, each func(*sock.Socket, sock.Instant)) error {
				waits := false
				defer func() {
					if waits {
						shown.Add(1)
					}
				}()
				return k.Scan(q, func(s *sock.Socket, got sock.Instant) {
					waits = waits || s.Inode == 0 && s.Src.Port() == 5432 && s.State != ssfilter.Listening
					each(s, got)
				})
			}
			w.watch(often + "rules: [{name: r, match: " + test.match + ", then: kill}]\n")
			client := must(nstest.Connect(must(l.Local())(t)))(t)
			w.closeLater(client)
			if test.closes {
				check(t, client.CloseWrite())
			}
			w.reach(w.options.Now().Add(2 * bound))
			w.until("scan that shows it", func() bool { return shown.Load() > 1 })
			accepted := w.options.Now()
			s := must(l.Accept())(t)
			w.closeLater(s)
			w.dies(stuck{Socket: s, cookie: must(s.Cookie())(t), since: accepted}, bound)
		})
	}
}

// What the watchdog itself holds, and what no process holds, is not touched.
func TestSparedByHolder(t *testing.T) {
	t.Parallel()
	for name, find := range map[string]func(map[uint32]struct{}) (holders.Found, error){
		"its own": func(inodes map[uint32]struct{}) (holders.Found, error) { return holders.Find("/proc", inodes) },
		"held by the kernel": func(map[uint32]struct{}) (holders.Found, error) {
			return holders.Found{Complete: true}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := w.listen(nstest.V4, 5432)
			spared := must(w.leak(l).Inode())(t)
			w.options.FindHolders = func(inodes map[uint32]struct{}) (holders.Found, error) {
				found, err := findElsewhere(inodes)
				truth, _ := find(inodes)
				found.Complete = truth.Complete
				delete(found.Holders, spared)
				if holders, ok := truth.Holders[spared]; ok {
					found.Holders[spared] = holders
				}
				return found, err
			}
			w.watch(often + leaked)
			w.dies(w.leak(l), bound)
			if n := w.kills(); n != 1 {
				t.Errorf("%d sockets were killed, want only the one that another process holds", n)
			}
		})
	}
}

// Many sockets fall due at as many instants, and none dies before its own.
func TestManyDeadlines(t *testing.T) {
	const n = 1000
	w := newWorld(t)
	l := w.listen(nstest.V4, 5432)
	pairs := make([]nstest.Pair, n)
	for i := range pairs {
		pairs[i] = w.pair(l)
	}
	w.watch(often + "rules: [{name: leak, match: {state: close-wait, in_state_for: 3s}, then: {kill: {limit: 2000/1m}}}]\n")
	made := make([]stuck, n)
	for i, p := range pairs {
		made[i] = w.hangUp(p.Server, p.Client.Close)
		w.reach(made[i].since.Add(2 * time.Millisecond))
	}
	w.until("last kill", func() bool { return len(w.killed(made[n-1].cookie)) > 0 })
	late := make([]time.Duration, n)
	for i := range made {
		late[i] = w.dies(made[i], 3*time.Second)
	}
	slices.Sort(late)
	t.Logf("killed after their time: half within %v, 99 of 100 within %v, all within %v", late[n/2], late[n*99/100], late[n-1])
}
