package ssfilter

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestEval(t *testing.T) {
	v4 := Conn{Established, netip.MustParseAddrPort("10.0.0.1:5432"), netip.MustParseAddrPort("192.0.2.7:40000")}
	v6 := Conn{CloseWait, netip.MustParseAddrPort("[2001:db8::1]:443"), netip.MustParseAddrPort("[2001:db8::2]:65535")}
	unread := Conn{Established, netip.AddrPortFrom(netip.Addr{}, 22), netip.AddrPortFrom(netip.Addr{}, 23)}
	tests := []struct {
		expr            string
		v4, v6, unknown Tri
	}{
		{"sport = 5432", True, False, False},
		{"dport = 5432", False, False, False},
		{"sport != 5432", False, True, True},
		{"sport >= 5432", True, False, False},
		{"sport > 5432", False, False, False},
		{"sport <= 5432", True, True, True},
		{"sport < 5432", False, True, True},
		{"dport >= 40000 and dport <= 65535", True, True, False},
		{"dport = *", True, True, True},
		{"dport != *", False, False, False},
		{"dport > 65535", False, False, False},
		{"src 10.0.0.0/8", True, False, Unknown},
		{"not src 10.0.0.0/8", False, True, Unknown},
		{"src 10.0.0.2", False, False, Unknown},
		{"src 10.0.0.1:5432", True, False, False},
		{"src 10.0.0.1:22", False, False, Unknown},
		{"dst [2001:db8::/32]", False, True, Unknown},
		{"src inet:*", True, False, Unknown},
		{"src inet6:*", False, True, Unknown},
		{"src [::/0]", False, True, Unknown},
		{"src [::ffff:10.0.0.1]", True, False, Unknown},
		{"src *", True, True, Unknown},
		{"src 10.0.0.1 and dport = 40000", True, False, False},
		{"src 10.0.0.1 and sport = 22", False, False, Unknown},
		{"src 10.0.0.1 or sport = 22", True, False, True},
		{"not (src 10.0.0.1 or sport = 443)", False, False, Unknown},
	}
	for _, tt := range tests {
		x, err := ParseExpr(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		got := [3]Tri{x.Eval(&v4), x.Eval(&v6), x.Eval(&unread)}
		if want := [3]Tri{tt.v4, tt.v6, tt.unknown}; got != want {
			t.Errorf("%s: got %v, want %v", tt.expr, got, want)
		}
	}
}

func TestNilHoldsForEverySocket(t *testing.T) {
	x := Ports(Dst, PortRange{22, 22})
	tests := []struct {
		name      string
		got, want Expr
	}{
		{"and of nothing", And(), nil},
		{"and of nil", And(nil, x, nil), x},
		{"or of nothing", Or(), never},
		{"or of nil", Or(x, nil), nil},
		{"not nil", Not(nil), never},
		{"not not nil", Not(Not(x)), x},
		{"no ports", Ports(Src), never},
		{"a range backwards", Ports(Src, PortRange{2, 1}), never},
		{"no hosts", Hosts(Dst), never},
		{"no valid host", Hosts(Dst, netip.Prefix{}), never},
	}
	for _, tt := range tests {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

func TestConstructorsKeepNothingOfTheCaller(t *testing.T) {
	ranges := []PortRange{{22, 22}, {80, 80}}
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}
	x := Ports(Src, ranges...)
	y := Hosts(Src, prefixes...)
	both := []Expr{x, y}
	z := And(both...)
	before := fmt.Sprint(x, y, z)
	ranges[0], prefixes[0], both[0] = PortRange{1, 1}, prefixes[1], y
	And(z, Ports(Src, PortRange{22, 22})) // intersects, but in a new list
	Or(Or(x, y), Ports(Src, PortRange{1, 1}), Hosts(Src, netip.MustParsePrefix("::/0")))
	if after := fmt.Sprint(x, y, z); after != before {
		t.Errorf("was %s\nis  %s", before, after)
	}
}

// sample is an expression with the meaning that it was made to have, worked out
// without any of the package's normal forms.
type sample struct {
	Expr
	means func(*Conn) Tri
}

var samplePorts = []uint16{0, 1, 2, 22, 23, 24, 443, 5000, 5999, 6000, 65534, 65535}

var samplePrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16"),
	netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("127.0.0.0/31"),
	netip.MustParsePrefix("::/0"), netip.MustParsePrefix("::/80"), netip.MustParsePrefix("::/95"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("2001:db8::/33"), netip.MustParsePrefix("2001:db8::7/128"),
}

var sampleAddrs = []netip.Addr{
	netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("127.0.0.1"),
	netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("::"), netip.MustParseAddr("::1"),
	netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("2001:db8:8000::7"), netip.MustParseAddr("ffff::"),
}

// drawSample makes expressions from the ports and prefixes given.
func drawSample(ports []uint16, prefixes []netip.Prefix) *rapid.Generator[sample] {
	var draw func(t *rapid.T, depth int) sample
	draw = func(t *rapid.T, depth int) sample {
		kinds := 5
		if depth == 0 {
			kinds = 2
		}
		kind := rapid.IntRange(0, kinds-1).Draw(t, "kind")
		side := rapid.SampledFrom([]Side{Src, Dst}).Draw(t, "side")
		switch kind {
		case 0:
			ranges := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) PortRange {
				from := rapid.SampledFrom(ports).Draw(t, "from")
				if rapid.Bool().Draw(t, "one") {
					return PortRange{from, from}
				}
				return PortRange{from, rapid.SampledFrom(ports).Draw(t, "to")}
			}), 0, 6).Draw(t, "ranges")
			return sample{Ports(side, ranges...), func(c *Conn) Tri {
				return TriOf(slices.ContainsFunc(ranges, func(r PortRange) bool {
					port := side.of(c).Port()
					return r.First <= port && port <= r.Last
				}))
			}}
		case 1:
			in := rapid.SliceOfN(rapid.SampledFrom(prefixes), 1, 4).Draw(t, "prefixes")
			return sample{Hosts(side, in...), func(c *Conn) Tri {
				addr := side.of(c).Addr()
				if !addr.IsValid() {
					return Unknown
				}
				return TriOf(slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(addr) }))
			}}
		case 2:
			x := draw(t, depth-1)
			return sample{Not(x.Expr), func(c *Conn) Tri { return x.means(c).Not() }}
		}
		n := rapid.IntRange(1, 4).Draw(t, "n")
		exprs, all := make([]Expr, n), make([]sample, n)
		for i := range n {
			all[i] = draw(t, depth-1)
			exprs[i] = all[i].Expr
		}
		if kind == 3 {
			return sample{And(exprs...), func(c *Conn) Tri {
				result := True
				for _, x := range all {
					result = min(result, x.means(c))
				}
				return result
			}}
		}
		return sample{Or(exprs...), func(c *Conn) Tri {
			result := False
			for _, x := range all {
				result = max(result, x.means(c))
			}
			return result
		}}
	}
	return rapid.Custom(func(t *rapid.T) sample { return draw(t, 3) })
}

func drawConn(t *rapid.T) Conn {
	addrs := rapid.SampledFrom(sampleAddrs)
	ports := rapid.SampledFrom(samplePorts)
	src := addrs.Draw(t, "src")
	dst := addrs.Filter(func(a netip.Addr) bool { return a.Is4() == src.Is4() }).Draw(t, "dst")
	return Conn{Established, netip.AddrPortFrom(src, ports.Draw(t, "sport")), netip.AddrPortFrom(dst, ports.Draw(t, "dport"))}
}

func TestNormalFormKeepsTheMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawSample(samplePorts, samplePrefixes).Draw(t, "expr")
		c := drawConn(t)
		if rapid.IntRange(0, 9).Draw(t, "unread") == 0 {
			c.Src = netip.AddrPortFrom(netip.Addr{}, c.Src.Port())
		}
		if got, want := x.Eval(&c), x.means(&c); got != want {
			t.Fatalf("%v of %v: got %v, want %v", x.Expr, c, got, want)
		}
	})
}

func TestParseReadsWhatStringPrints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawSample(samplePorts, samplePrefixes).Draw(t, "expr").Expr
		y, err := ParseExpr(x.String())
		if err != nil {
			t.Fatalf("%v: %v", x, err)
		}
		if !reflect.DeepEqual(x, y) {
			t.Fatalf("%v became %v", x, y)
		}
	})
}

func BenchmarkEval(b *testing.B) {
	var many []PortRange
	for port := range uint16(5000) {
		many = append(many, PortRange{2 * port, 2 * port})
	}
	var nets []netip.Prefix
	for i := range 1000 {
		nets = append(nets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 25))
	}
	parsed, err := ParseExpr("dst 10.0.0.0/8 and ( dport = 5432 or sport = 443 ) and not src [2001:db8::/32]")
	if err != nil {
		b.Fatal(err)
	}
	c := &Conn{CloseWait, netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("10.2.3.4:5432")}
	for _, bb := range []struct {
		name string
		expr Expr
	}{
		{"parsed", parsed},
		{"5000 ports", Ports(Dst, many...)},
		{"1000 prefixes", Hosts(Dst, nets...)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bb.expr.Eval(c)
			}
		})
	}
}

func TestEvalDoesNotAllocate(t *testing.T) {
	x, err := ParseExpr("dst 10.0.0.0/8 and ( dport = 5432 or sport = 443 ) and not src [2001:db8::/32]")
	if err != nil {
		t.Fatal(err)
	}
	c := &Conn{CloseWait, netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("10.2.3.4:5432")}
	if n := testing.AllocsPerRun(100, func() { x.Eval(c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
