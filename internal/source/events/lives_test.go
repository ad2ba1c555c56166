package events_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestLives has connections live and die in every way at once on two threads. Whenever these
// rest, the table has what sock_diag shows, and nothing else.
func TestLives(t *testing.T) {
	const workers, rounds = 2, 10
	lives := 100_000
	if testing.Short() || slow {
		lives /= 20
	}
	p := attach(t, 65536, events.Covered)
	for name, value := range map[string]string{
		"net.ipv4.ip_local_port_range": "1024 65535", "net.ipv4.tcp_max_tw_buckets": "1000", // else ports run out
		"net.ipv4.tcp_fin_timeout": "5",
	} {
		check(t, nstest.Sysctl(name, value))
	}
	began := now(t)
	here := must(netns.Self())(t)
	defer here.Close()
	people := make([]*population, workers)
	for i := range people {
		seed := rand.Uint64()
		t.Logf("worker %d: seed %d", i, seed)
		people[i] = settle(t, rand.New(rand.NewPCG(seed, 0)))
		defer people[i].die()
	}
	rested := make(map[ssfilter.State]int)
	for range rounds {
		var working sync.WaitGroup
		for _, some := range people {
			working.Go(func() {
				err := here.Do(func() error {
					for range lives / rounds / workers {
						some.live()
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		working.Wait()
		for _, state := range same(t, p.Table(), began) {
			rested[state]++
		}
	}
	t.Logf("in the table at %d rests: %v", rounds, rested)
	if len(rested) != len(events.Covered.States()) && !testing.Short() && !slow {
		t.Error("some state never occurred")
	}
	if lost := must(p.Table().Lost())(t); lost > 0 {
		t.Errorf("%d events were lost", lost)
	}
}

// same compares the table with sock_diag, again until what the kernel does late is done.
func same(t testing.TB, table *events.Table, began sock.Instant) (states []ssfilter.State) {
	t.Helper()
	type row struct {
		ID    sock.ID
		State ssfilter.State
	}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		want, got := make(map[uint64]row), make(map[uint64]row)
		for cookie, s := range scan(t, events.Covered) {
			if !s.Minisocket() {
				s.ID.Netns = 0
				want[cookie] = row{s.ID, s.State}
			}
		}
		for cookie, e := range read(t, table) {
			got[cookie] = row{e.ID, e.State}
			if e.Entered < began || e.Entered > now(t) {
				t.Errorf("entered at %v: %+v", e.Entered, e)
			}
		}
		diff := cmp.Diff(want, got)
		if diff == "" {
			for _, r := range got {
				states = append(states, r.State)
			}
			return states
		}
		if time.Now().After(deadline) {
			t.Fatalf("the table differs from sock_diag (-sock_diag +table):\n%s", diff)
		}
	}
}

// population is what one worker has of sockets. Its errors are the sockets' own, which end in
// every way, and are not looked at.
type population struct {
	*rand.Rand
	listeners []nstest.Socket
	protocols []int
	deaf      netip.AddrPort // what connects here waits
	pairs     []pair
	kept      []nstest.Socket
}

func settle(t testing.TB, r *rand.Rand) *population {
	t.Helper()
	p := &population{Rand: r}
	listen := func(addr netip.Addr, protocol int) error {
		l, err := nstest.ListenAt(netip.AddrPortFrom(addr, 0), protocol)
		if err == nil {
			err = hasten(l)
			p.listeners, p.protocols = append(p.listeners, l), append(p.protocols, protocol)
		}
		return err
	}
	for range 3 {
		for _, addr := range []netip.Addr{nstest.V4, nstest.V6, nstest.Mapped} {
			check(t, listen(addr, unix.IPPROTO_TCP))
		}
	}
	if err := listen(nstest.V4, unix.IPPROTO_MPTCP); err != nil {
		t.Logf("without MPTCP: %v", err)
	}
	l := must(nstest.Listen(nstest.V4))(t)
	check(t, l.Deafen())
	p.deaf = must(l.Local())(t)
	p.kept = append(p.kept, l)
	return p
}

// live begins a connection, has something happen to it, and ends an older one.
func (p *population) live() {
	if p.IntN(50) == 0 {
		if s, err := nstest.New(p.deaf.Addr(), unix.IPPROTO_TCP); err == nil {
			s.BeginConnect(p.deaf)
			p.kept = append(p.kept, s)
		}
	}
	if c, err := p.connect(); err == nil {
		for range p.IntN(4) {
			p.happen(&c)
		}
		p.pairs = append(p.pairs, c)
	}
	if len(p.pairs) > 200 {
		i := p.IntN(len(p.pairs))
		p.end(p.pairs[i])
		p.pairs[i] = p.pairs[len(p.pairs)-1]
		p.pairs = p.pairs[:len(p.pairs)-1]
	}
	if len(p.kept) > 50 {
		i := 1 + p.IntN(len(p.kept)-1)
		p.kept[i].Close()
		p.kept = append(p.kept[:i], p.kept[i+1:]...)
	}
}

func (p *population) connect() (pair, error) {
	i := p.IntN(len(p.listeners))
	at, err := p.listeners[i].Local()
	if err != nil {
		return pair{}, err
	}
	client, err := nstest.New(at.Addr(), p.protocols[i])
	if err != nil {
		return pair{}, err
	}
	return p.join(client, i, at)
}

// join connects a socket to a listener.
func (p *population) join(client nstest.Socket, i int, at netip.AddrPort) (pair, error) {
	err := hasten(client)
	if err == nil {
		err = client.Connect(at)
	}
	var server nstest.Socket
	if err == nil {
		server, err = p.listeners[i].Accept()
	}
	if err != nil {
		client.Close()
		return pair{}, fmt.Errorf("a connection: %w", err)
	}
	return pair{client, server}, nil
}

// hasten bounds how long the socket waits: at the other end of its connection, to be, there
// can be an old socket that is deaf.
func hasten(s nstest.Socket) error {
	wait := unix.NsecToTimeval((50 * time.Millisecond).Nanoseconds())
	return errors.Join(
		unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
	)
}

func (p *population) happen(c *pair) {
	one, other := c.client, c.server
	if p.IntN(2) == 0 {
		one, other = other, one
	}
	switch p.IntN(8) {
	case 0, 1, 2:
		one.CloseWrite()
	case 3:
		one.Send(1 + p.IntN(100))
	case 4:
		one.Disconnect()
	case 5:
		one.Disconnect()
		one.Hear()
		hasten(one)
		at, err := p.listeners[0].Local()
		if err != nil || one.Connect(at) != nil {
			return
		}
		if accepted, err := p.listeners[0].Accept(); err == nil {
			p.kept = append(p.kept, accepted)
		}
	case 6:
		if p.IntN(10) == 0 { // what it sends again takes long
			other.Deafen()
			one.CloseWrite()
		}
	}
}

func (p *population) end(c pair) {
	for range p.IntN(3) {
		p.happen(&c)
	}
	one, other := c.client, c.server
	if p.IntN(2) == 0 {
		one, other = other, one
	}
	for _, s := range []nstest.Socket{one, other} {
		if p.IntN(4) == 0 {
			s.Abort()
		} else {
			s.Close()
		}
	}
}

func (p *population) die() {
	for _, c := range p.pairs {
		p.kept = append(p.kept, c.client, c.server)
	}
	for _, s := range append(p.kept, p.listeners...) {
		s.Close()
	}
}
