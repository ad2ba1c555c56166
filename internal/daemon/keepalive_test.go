package daemon_test

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// elsewhere runs what it is sent on a thread in a network namespace of its own.
type elsewhere struct {
	do   chan func() error
	done chan error
	tid  int
}

func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	e := &elsewhere{do: make(chan func() error), done: make(chan error)}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not be reused
		e.tid = unix.Gettid()
		e.done <- errors.Join(unix.Unshare(unix.CLONE_NEWNET), nstest.LoopbackUp())
		for do := range e.do {
			e.done <- do()
		}
	}()
	check(t, <-e.done)
	t.Cleanup(func() { close(e.do) })
	return e
}

func (e *elsewhere) run(t *testing.T, do func() error) {
	t.Helper()
	e.do <- do
	check(t, <-e.done)
}

// wire connects this namespace to another by a pair of veth devices.
func (e *elsewhere) wire(t *testing.T, name string, here, there netip.Addr) {
	t.Helper()
	up := func(name string, at netip.Addr) error {
		device, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(nstest.AddAddress(device, netip.PrefixFrom(at, 24)), netlink.LinkSetUp(device))
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer"}
	check(t, netlink.LinkAdd(pair))
	peer := must(netlink.LinkByName("peer"))(t)
	check(t, netlink.LinkSetNsPid(peer, e.tid))
	e.run(t, func() error { return up("peer", there) })
	check(t, up(name, here))
}

// cut has everything that is sent there get lost.
func (e *elsewhere) cut(t *testing.T) {
	t.Helper()
	e.run(t, func() error {
		peer, err := netlink.LinkByName("peer")
		if err == nil {
			err = netlink.LinkSetDown(peer)
		}
		return err
	})
}

// connect makes n connections from here to a listener there.
func (w *world) connect(e *elsewhere, there netip.Addr, n int) []nstest.Pair {
	w.Helper()
	var l nstest.Socket
	e.run(w.T, func() (err error) {
		l, err = nstest.ListenAt(netip.AddrPortFrom(there, 5432), unix.IPPROTO_TCP)
		return err
	})
	defer l.Close()
	pairs := make([]nstest.Pair, n)
	for i := range pairs {
		pairs[i] = must(nstest.NewPair(l))(w)
		w.closeLater(pairs[i].Client)
		w.closeLater(pairs[i].Server)
	}
	return pairs
}

// Of a thousand idle connections, keepalives end those whose peers have vanished, as soon as
// they say, and the others never notice.
func TestKeepaliveEndsTheVanished(t *testing.T) {
	t.Parallel()
	const half = 500
	w := newWorld(t)
	w.reachHolders()
	lost, kept := newElsewhere(t), newElsewhere(t)
	lostHere, lostThere := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
	keptHere, keptThere := netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("10.2.0.2")
	lost.wire(t, "lost", lostHere, lostThere)
	kept.wire(t, "kept", keptHere, keptThere)
	vanished, healthy := w.connect(lost, lostThere, half), w.connect(kept, keptThere, half)
	lost.cut(t)

	w.watch(often + `
rules:
  - name: ask-the-peer
    match: {state: established, dport: 5432, keepalive: false}
    then: [keepalive: {idle: 1s, interval: 1s, count: 2}]
`)
	w.until("keepalives on all of them", func() bool { return w.count("keepalive done") == 2*half })
	set := time.Now() // after the last of them
	for i, p := range vanished {
		if err := p.Client.Await(unix.BPF_TCP_CLOSE); err != nil {
			t.Fatalf("connection %d to who has vanished: %v", i, err)
		}
	}
	const within = 1*time.Second + 2*1*time.Second + time.Second
	if took := time.Since(set); took > within {
		t.Errorf("the last of them ended %v after its keepalives began, want %v", took, within)
	} else {
		t.Logf("%d connections ended within %v", half, took)
	}
	for i, p := range healthy {
		err := errors.Join(p.Client.Send(1), p.Server.Receive(1), p.Server.Send(1), p.Client.Receive(1))
		if err != nil {
			t.Fatalf("healthy connection %d: %v", i, err)
		}
	}
	one := w.lines(func(l line) bool { return l.Action == "keepalive" })[0]
	if one.Via != "holder" || one.Before != "SO_KEEPALIVE=0 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=75 TCP_KEEPCNT=9 TCP_USER_TIMEOUT=0" {
		t.Errorf("a record says %+v", one)
	}
	if n := w.count("keepalive done"); n != 2*half {
		t.Errorf("%d keepalives for %d connections", n, 2*half)
	}
	if n := w.kills(); n != 0 {
		t.Errorf("the kernel was told %d times to destroy", n)
	}
}

// What a program set before stands in the record, and what is armed is left alone where the
// rule says so.
func TestKeepaliveOfTheProgram(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.reachHolders()
	l := w.listen(nstest.V4, 5432)
	own, none := w.pair(l), w.pair(l)
	check(t, own.Client.Keepalive())
	w.watch(often + `
rules:
  - {name: without, match: {state: established, dport: 5432, keepalive: false}, then: [keepalive]}
  - {name: all, match: {state: established, dport: 5432, idle_for: 1s}, then: [keepalive: {user_timeout: 2m}]}
`)
	cookies := map[string]uint64{"own": must(own.Client.Cookie())(t), "none": must(none.Client.Cookie())(t)}
	said := func(name, rule string) (before string) {
		return w.await(fmt.Sprintf("%s of %s", rule, name), func(l line) bool { return l.Cookie == cookies[name] && l.Rule == rule }).Before
	}
	for _, want := range []struct{ name, rule, before string }{
		{"own", "all", "SO_KEEPALIVE=1 TCP_KEEPIDLE=1 TCP_KEEPINTVL=1 TCP_KEEPCNT=9 TCP_USER_TIMEOUT=0"},
		{"none", "without", "SO_KEEPALIVE=0 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=75 TCP_KEEPCNT=9 TCP_USER_TIMEOUT=0"},
		{"none", "all", "SO_KEEPALIVE=1 TCP_KEEPIDLE=60 TCP_KEEPINTVL=10 TCP_KEEPCNT=6 TCP_USER_TIMEOUT=0"},
	} {
		if got := said(want.name, want.rule); got != want.before {
			t.Errorf("%s, by rule %s: before %q, want %q", want.name, want.rule, got, want.before)
		}
	}
	if got := w.results(cookies["own"]); len(got) != 1 {
		t.Errorf("about the socket that has keepalives: %q", got)
	}
	timeout := must(unix.GetsockoptInt(int(own.Client), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT))(t)
	if timeout != 120_000 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms", timeout)
	}
}

// Of connections without keepalives, a rule that turns these on kills what is still idle later:
// by the kernel they have some then, but not of their program's doing.
func TestKeepaliveThenKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.reachHolders()
	l := w.listen(nstest.V4, 5432)
	own, none := w.pair(l), w.pair(l)
	check(t, own.Client.Keepalive())
	cookie, other := must(none.Client.Cookie())(t), must(own.Client.Cookie())(t)
	w.watch(often + `
rules:
  - name: asks-then-kills
    match: {state: established, dport: 5432, keepalive: false, idle_for: 1s}
    then: [keepalive, {kill: {after: 1s, canary: off}}]
`)
	killed := w.await("the kill", func(l line) bool { return l.Cookie == cookie && l.Action == "kill" })
	if killed.Result != "done" || killed.Age < 2 {
		t.Errorf("killed after %v s: %s", killed.Age, killed.Result)
	}
	if got := w.results(cookie); len(got) != 2 {
		t.Errorf("about the socket without keepalives: %q", got)
	}
	if got := w.results(other); len(got) != 0 {
		t.Errorf("about the socket that has keepalives of its program's: %q", got)
	}
}
