package engine

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestPortUse counts ports of 10000 to 10019 on two paths. What the kernel does is
// in a test of the daemon's.
func TestPortUse(t *testing.T) {
	twenty := ssfilter.PortRange{First: 10000, Last: 10019}
	from := func(peer uint16, ports ...uint16) (all []sock.Socket) {
		for _, p := range ports {
			s := sock.Socket{Conn: ssfilter.Conn{
				State: ssfilter.Established, Autobound: ssfilter.True,
				Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), p), Dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), peer),
			}}
			s.ID.Cookie = uint64(peer)<<16 | uint64(p)
			all = append(all, s)
		}
		return all
	}
	as := func(all []sock.Socket, state ssfilter.State, autobound ssfilter.Tri) []sock.Socket {
		for i := range all {
			all[i].State, all[i].Autobound = state, autobound
		}
		return all
	}
	join := func(lists ...[]sock.Socket) (all []sock.Socket) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	evens := []uint16{10000, 10002, 10004, 10006, 10008, 10010, 10012, 10014, 10016, 10018}
	for _, test := range []struct {
		name    string
		free    []ssfilter.PortRange // twenty, if absent
		sockets []sock.Socket
		a, b    float64 // of the paths to ports 1 and 2, in percent
	}{
		{name: "chosen by connect", sockets: join(from(1, 10000, 10002), from(2, 10000)), a: 10, b: 5},
		{name: "of the other parity", sockets: join(from(1, 10001, 10003), from(2, 10000)), a: 10, b: 15},
		{name: "of the other parity, and shared", sockets: join(from(1, 10001, 10003), from(2, 10001)), a: 10, b: 10},
		{name: "of the other parity, once its own is used up", sockets: join(from(1, append(evens, 10001, 10003)...), from(2, 10000)), a: 60, b: 5},
		{name: "its own parity used up by others", sockets: join(from(1, evens...), from(2, 10001)), a: 55, b: 5},
		{name: "named", sockets: join(as(from(1, 10000, 10002), ssfilter.Established, ssfilter.False), from(2, 10004)), a: 10, b: 15},
		{name: "named by two", sockets: join(as(from(1, 10000), ssfilter.Established, ssfilter.False), as(from(2, 10000), ssfilter.Established, ssfilter.False)), a: 5, b: 5},
		{name: "listening", sockets: join(as(from(0, 10000), ssfilter.Listening, ssfilter.True), from(1, 10002), from(2, 10002)), a: 10, b: 10},
		{name: "bound, and not connected", sockets: join(as(from(0, 10001), ssfilter.BoundInactive, ssfilter.True), from(1, 10002), from(2, 10002)), a: 10, b: 10},
		{name: "accepted on a listener's port", sockets: join(from(1, 10000), as(from(0, 10000), ssfilter.Listening, ssfilter.True), from(2, 10002)), a: 5, b: 10},
		{name: "time-wait is like any", sockets: join(as(from(1, 10001, 10002), ssfilter.TimeWait, ssfilter.True), from(2, 10000)), a: 10, b: 10},
		{name: "where the kernel does not tell what is named", sockets: join(as(from(1, 10001, 10002), ssfilter.Established, ssfilter.Unknown), from(2, 10000)), a: 10, b: 10},
		{
			name: "the first port is reserved, and the parity stays", free: []ssfilter.PortRange{{First: 10001, Last: 10016}, {First: 10019, Last: 10019}},
			sockets: join(from(1, 10001, 10002, 10017), from(2, 10004)), a: 100 * 2. / 17, b: 100 * 2. / 17,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := set(above(0, func(r *rules.Rule) {
				r.When = []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 0}}
				r.Match, r.For = []rules.Match{{States: ssfilter.Connected}}, 0
			}))
			e := New(Config{})
			e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
			p := e.Step(benchStart, CountersRead{OK: true, Ports: portsOf(twenty, test.free...)})
			f := p.Scan.Begin(benchStart)
			for i := range test.sockets {
				f.Take(&test.sockets[i], benchStart)
			}
			e.Step(benchStart, ScanDone{Result: f, Sent: benchStart})
			want := map[string]float64{"1": test.a, "2": test.b}
			for _, g := range e.Overview(benchStart).Rules[0].Groups {
				peer := g.Group[0].Value
				if fmt.Sprintf("%.6f", g.PortUsage) != fmt.Sprintf("%.6f", want[peer]) {
					t.Errorf("towards port %s %v%%, want %v%%", peer, g.PortUsage, want[peer])
				}
				delete(want, peer)
			}
			if len(want) > 0 {
				t.Errorf("nothing is measured of %v", want)
			}
		})
	}
}

// TestPortUseBeyondTheFilter: a rule about one peer counts what is bound for another,
// also while there is no connection to its own.
func TestPortUseBeyondTheFilter(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Ports: tenPorts}
	b.useTenPorts(bindsPort, func(s *sim.Socket) { s.State = ssfilter.Established })
	b.rule(eachSecond(above(0, func(r *rules.Rule) {
		r.When, r.For = []rules.Condition{{Metric: rules.PortUsage, Op: rules.GreaterEqual, Number: 100}}, 0
		r.Match, r.GroupBy = []rules.Match{{States: ssfilter.Of(ssfilter.Established), Where: port(81)}}, nil
	})))
	b.until(2 * time.Second)
	b.want("0s r alert 0 count 0", "0s r firing count 0")
	if n := b.e.Watched(); n != 0 {
		t.Errorf("%d sockets of others are watched", n)
	}
}
