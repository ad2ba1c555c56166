package match

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// place is a match by its rule's number and its own.
type place struct{ rule, match int }

// placesOf are those that the index tries and finds.
func placesOf(x *index, s *sock.Socket) (places []place) {
	for r, m := range x.Candidates(subject.Of(s)) {
		places = append(places, place{r.Position, slices.IndexFunc(r.Match, func(o rules.Match) bool { return o.IdleFor == m.IdleFor })})
	}
	return places
}

// size is how many entries the index has.
func (p *portIndex) size() (n int) {
	for port := range 1 << 16 {
		n += len(p.at(uint16(port)))
	}
	return n
}

// oneByOne tries every match.
func oneByOne(rs []Rule, s *sock.Socket) (places []place) {
	for i := range rs {
		for j := range rs[i].Match {
			if rs[i].Enabled && Lasts(&rs[i].Match[j], subject.Of(s)) != ssfilter.False {
				places = append(places, place{i, j})
			}
		}
	}
	return places
}

// TestIndexIsNoShortcut holds what is found by index to what is found by trying
// every match, of random rules and sockets, for indexes with and without room.
func TestIndexIsNoShortcut(t *testing.T) {
	ports := rapid.OneOf(rapid.SampledFrom([]uint16{0, 1, 22, 80, 81, 443, 5432, 65534, 65535}), rapid.Uint16())
	ranges := rapid.Custom(func(t *rapid.T) ssfilter.PortRange {
		r := ssfilter.PortRange{First: ports.Draw(t, "first"), Last: ports.Draw(t, "last")}
		if rapid.Bool().Draw(t, "single") {
			r.Last = r.First
		}
		return r
	})
	sides := rapid.SampledFrom([]ssfilter.Side{ssfilter.Src, ssfilter.Dst})
	states := rapid.SampledFrom([]ssfilter.State{ssfilter.Established, ssfilter.CloseWait, ssfilter.TimeWait})
	hosts := rapid.SampledFrom([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")})
	var expr func(t *rapid.T, depth int) ssfilter.Expr
	expr = func(t *rapid.T, depth int) ssfilter.Expr {
		kind := rapid.IntRange(0, 6).Draw(t, "kind")
		if depth == 0 {
			kind = min(kind, 3)
		}
		several := func() []ssfilter.Expr {
			xs := make([]ssfilter.Expr, rapid.IntRange(0, 3).Draw(t, "of"))
			for i := range xs {
				xs[i] = expr(t, depth-1)
			}
			return xs
		}
		switch kind {
		case 0, 1:
			return ssfilter.Ports(sides.Draw(t, "side"), rapid.SliceOfN(ranges, 0, 5).Draw(t, "ranges")...)
		case 2:
			return ssfilter.Hosts(sides.Draw(t, "side"), netip.PrefixFrom(hosts.Draw(t, "host"), 32))
		case 3:
			return ssfilter.Autobound()
		case 4:
			return ssfilter.Not(expr(t, depth-1))
		case 5:
			return ssfilter.And(several()...)
		default:
			return ssfilter.Or(several()...)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var set rules.Set
		for range rapid.IntRange(0, 12).Draw(t, "rules") {
			r := rules.Rule{Enabled: rapid.IntRange(0, 5).Draw(t, "enabled") > 0}
			for n := range rapid.IntRange(1, 3).Draw(t, "matches") {
				r.Match = append(r.Match, rules.Match{States: ssfilter.Of(states.Draw(t, "state"), states.Draw(t, "state")), Where: expr(t, 3), IdleFor: time.Duration(n)})
			}
			set.Rules = append(set.Rules, r)
		}
		p := Compile(&set)
		room := rapid.OneOf(rapid.IntRange(0, 20*widest), rapid.Just(indexSize)).Draw(t, "room")
		x := newIndex(p.Rules, room)
		if n := x.byPort[0].size() + x.byPort[1].size(); n > room {
			t.Fatalf("the index has %d entries by port, and may have %d", n, room)
		}
		for range 20 {
			s := sock.Socket{Conn: ssfilter.Conn{
				State:     states.Draw(t, "state"),
				Src:       netip.AddrPortFrom(hosts.Draw(t, "src"), ports.Draw(t, "sport")),
				Dst:       netip.AddrPortFrom(hosts.Draw(t, "dst"), ports.Draw(t, "dport")),
				Autobound: rapid.SampledFrom([]ssfilter.Tri{ssfilter.False, ssfilter.Unknown, ssfilter.True}).Draw(t, "autobound"),
			}}
			for _, end := range []struct {
				side ssfilter.Side
				port uint16
			}{{ssfilter.Src, s.Src.Port()}, {ssfilter.Dst, s.Dst.Port()}} {
				for _, n := range x.byPort[end.side].at(end.port) {
					_, ranges, _, _ := portsOf(x.entries[n].match.Where)
					if !slices.ContainsFunc(ranges, func(r ssfilter.PortRange) bool { return r.First <= end.port && end.port <= r.Last }) {
						t.Fatalf("tried for the port %d: %v", end.port, x.entries[n].match.Where)
					}
				}
			}
			want := oneByOne(p.Rules, &s)
			if diff := cmp.Diff(want, placesOf(x, &s), cmp.AllowUnexported(place{})); diff != "" {
				t.Fatalf("found for %v (-one by one +by index):\n%s", s.Conn, diff)
			}
			if q := p.Queries[1<<NumClasses-1]; len(want) > 0 && (!q.States.Has(s.State) || q.Where != nil && q.Where.Eval(&s.Conn) == ssfilter.False) {
				t.Fatalf("a look for %s, %v does not ask for %v", q.States, q.Where, s.Conn)
			}
		}
	})
}

// TestQueryOfManyRules shows that a scan for many rules asks for their ports
// alone, and for all that only the kernel can tell; and that no socket escapes it.
func TestQueryOfManyRules(t *testing.T) {
	many := func(n int, more ...ssfilter.Expr) sock.Query {
		var set rules.Set
		add := func(state ssfilter.State, x ssfilter.Expr) {
			set.Rules = append(set.Rules, rules.Rule{Enabled: true, Match: []rules.Match{{States: ssfilter.Of(state), Where: x}}})
		}
		for i := range n {
			one := ssfilter.PortRange{First: uint16(1000 + i), Last: uint16(1000 + i)}
			peer := ssfilter.Hosts(ssfilter.Dst, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
			add(ssfilter.CloseWait, ssfilter.And(ssfilter.Ports(ssfilter.Dst, one), peer))
		}
		for _, x := range more {
			add(ssfilter.LastAck, x)
		}
		return Compile(&set).Queries[1<<Cheap]
	}
	ports := func(n uint16) ssfilter.Expr {
		return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: 1000, Last: 999 + n})
	}
	peer := ssfilter.Hosts(ssfilter.Src, netip.MustParsePrefix("10.9.9.9/32"))
	seven := ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: 7, Last: 7})
	automatic := ssfilter.And(ssfilter.Autobound(), seven)
	tests := []struct {
		name string
		got  sock.Query
		want ssfilter.Expr
	}{
		{"many", many(maxFullMatches + 1), ports(maxFullMatches + 1)},
		{"and an address", many(maxFullMatches, peer), ssfilter.Or(ports(maxFullMatches), peer)},
		{"and autobound", many(maxFullMatches, automatic), ssfilter.And(ssfilter.Or(ports(maxFullMatches), seven), tellsAutobound)},
		{"and everything", many(maxFullMatches, nil), nil},
		{"and everything, of which something is autobound", many(maxFullMatches, nil, automatic), tellsAutobound},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := func(x ssfilter.Expr) string {
				if x == nil {
					return "every socket"
				}
				return x.String()
			}
			if diff := cmp.Diff(text(test.want), text(test.got.Where)); diff != "" {
				t.Errorf("asks for (-want +got):\n%s", diff)
			}
		})
	}
	if few := many(maxFullMatches); !strings.Contains(few.Where.String(), "dst 10.0.0.7") {
		t.Errorf("a look for %d rules does not ask for the peers: %s", maxFullMatches, few.Where)
	}
}

// TestIndexIsBounded shows that rules which all name wide, overlapping ranges
// take no more memory than an index may, and that the narrow ones stay in it.
func TestIndexIsBounded(t *testing.T) {
	var set rules.Set
	add := func(first, last uint16) {
		where := ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: first, Last: last})
		set.Rules = append(set.Rules, rules.Rule{Enabled: true, Match: []rules.Match{{States: ssfilter.AllStates, Where: where}}})
	}
	for i := range uint16(1000) {
		add(1+i, 5000+i)
		add(62000+i, 62000+i)
	}
	p := Compile(&set)
	if n := p.index.byPort[ssfilter.Dst].size(); n > indexSize || n < indexSize/4 {
		t.Errorf("%d entries by port, want %d or less", n, indexSize)
	}
	if n := len(p.index.rest); n == 0 || n >= 1000 || slices.ContainsFunc(p.index.rest, func(i int32) bool { return i%2 == 1 }) {
		t.Errorf("%d matches are tried for every socket, want some of the wide ones: %v", n, p.index.rest)
	}
}

// closeWaits makes sockets in CLOSE_WAIT with random ports.
func closeWaits(n int) []sock.Socket {
	rng := rand.New(rand.NewPCG(1, 2))
	sockets := make([]sock.Socket, n)
	addr := netip.MustParseAddr("10.1.2.3")
	for i := range sockets {
		s := &sockets[i]
		s.State, s.ID.Cookie = ssfilter.CloseWait, uint64(i+1)
		s.Src = netip.AddrPortFrom(addr, uint16(32768+rng.IntN(28000)))
		s.Dst = netip.AddrPortFrom(addr, uint16(1+rng.IntN(20000)))
		s.Info.Has = 1<<8 - 1
	}
	return sockets
}

// BenchmarkMatch matches 100,000 sockets against rules, by index and one by one.
func BenchmarkMatch(b *testing.B) {
	const many = 100_000
	sockets := closeWaits(many)
	rng := rand.New(rand.NewPCG(3, 4))
	somePort := func() ssfilter.PortRange {
		port := uint16(1 + rng.IntN(20000))
		return ssfilter.PortRange{First: port, Last: port}
	}
	ruleFor := func(where ssfilter.Expr) rules.Rule {
		return rules.Rule{Enabled: true, Match: []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: time.Minute, Where: where}}}
	}
	var byPort, byBoth, mixed, longList rules.Set
	for i := range 1000 {
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)
		byPort.Rules = append(byPort.Rules, ruleFor(ssfilter.Ports(ssfilter.Dst, somePort())))
		byBoth.Rules = append(byBoth.Rules, ruleFor(ssfilter.And(ssfilter.Ports(ssfilter.Dst, somePort()), ssfilter.Hosts(ssfilter.Dst, network))))
		if i%100 == 0 {
			mixed.Rules = append(mixed.Rules, ruleFor(ssfilter.Hosts(ssfilter.Dst, network)))
		} else {
			mixed.Rules = append(mixed.Rules, ruleFor(ssfilter.Ports(ssfilter.Dst, somePort())))
		}
	}
	var list []ssfilter.PortRange
	for range 5000 {
		list = append(list, somePort())
	}
	longList.Rules = append(longList.Rules, ruleFor(ssfilter.Ports(ssfilter.Dst, list...)))
	for _, test := range []struct {
		name string
		set  *rules.Set
	}{
		{"1000 rules of a port", &byPort},
		{"1000 rules of a port and a network", &byBoth},
		{"990 rules of a port, 10 of a network", &mixed},
		{"1 rule of 5000 ports", &longList},
	} {
		p := Compile(test.set)
		b.Run(fmt.Sprintf("%s/indexed", test.name), func(b *testing.B) {
			b.ReportAllocs()
			found := 0
			for b.Loop() {
				for i := range sockets {
					for range p.index.Candidates(subject.Of(&sockets[i])) {
						found++
					}
				}
			}
			perSocket(b, many, found)
		})
		b.Run(fmt.Sprintf("%s/one by one", test.name), func(b *testing.B) {
			b.ReportAllocs()
			found := 0
			for b.Loop() {
				for i := range sockets {
					for j := range p.Rules {
						r := &p.Rules[j]
						for k := range r.Match {
							if r.Enabled && Lasts(&r.Match[k], subject.Of(&sockets[i])) != ssfilter.False {
								found++
							}
						}
					}
				}
			}
			perSocket(b, many, found)
		})
	}
}

func perSocket(b *testing.B, sockets, found int) {
	if found == 0 {
		b.Error("nothing was found")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*sockets), "ns/socket")
}
