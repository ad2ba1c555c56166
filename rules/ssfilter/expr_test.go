package ssfilter

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestEval(t *testing.T) {
	v4 := Conn{State: Established, Src: netip.MustParseAddrPort("10.0.0.1:5432"), Dst: netip.MustParseAddrPort("192.0.2.7:40000")}
	v6 := Conn{State: CloseWait, Src: netip.MustParseAddrPort("[2001:db8::1]:443"), Dst: netip.MustParseAddrPort("[2001:db8::2]:65535")}
	unread := Conn{State: Established, Src: netip.AddrPortFrom(netip.Addr{}, 22), Dst: netip.AddrPortFrom(netip.Addr{}, 23)}
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

func TestEvalFacts(t *testing.T) {
	bound := Conn{Iface: 2, Device: "eth0", Mark: 0x1f0, HasMark: true, Cgroup: "/a", Autobound: True}
	free := Conn{HasMark: true, Cgroup: "/", Autobound: False}
	unread := Conn{Iface: 2}
	tests := []struct {
		expr                string
		bound, free, unread Tri
	}{
		{"dev = eth0", True, False, Unknown},
		{"dev != eth0", False, True, Unknown},
		{"dev = lo", False, False, Unknown},
		{"dev = 2", True, False, True},
		{"dev = 0", False, True, False},
		{"dev != 0", True, False, True},
		{"fwmark = 0x1f0", True, False, Unknown},
		{"fwmark != 0x1f0", False, True, Unknown},
		{"fwmark = 0", False, True, Unknown},
		{"fwmark = 0xf0/0xff", True, False, Unknown},
		{"fwmark = 0x1f0/0xff", False, False, Unknown}, // as in the kernel: no masked mark has that bit
		{"fwmark = 0/0", True, True, Unknown},
		{"cgroup = /a", True, False, Unknown},
		{"cgroup != /a", False, True, Unknown},
		{"cgroup = /", False, True, Unknown}, // and not what lies below it
		{"autobound", True, False, Unknown},
		{"not autobound", False, True, Unknown},
		{"dev = lo and cgroup = /a", False, False, Unknown},
		{"dev = 2 or cgroup = /a", True, False, True},
		{"dev = 0 and cgroup = /a", False, False, False},
	}
	for _, tt := range tests {
		x, err := ParseExpr(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		got := [3]Tri{x.Eval(&bound), x.Eval(&free), x.Eval(&unread)}
		if want := [3]Tri{tt.bound, tt.free, tt.unread}; got != want {
			t.Errorf("%s: got %v, want %v", tt.expr, got, want)
		}
	}
}

func TestAsked(t *testing.T) {
	tests := []struct {
		expr                string
		autobound, volatile bool
	}{
		{"sport = 1 and not ( dst 10/8 or dport = 2 )", false, false},
		{"cgroup = /a", false, false},
		{"autobound", true, false},
		{"sport = 1 and not ( dst 10/8 or not autobound )", true, false},
		{"dev = lo", false, true},
		{"sport = 1 or not ( dst 10/8 and dev != 3 )", false, true},
		{"not fwmark = 1 autobound", true, true},
	}
	for _, tt := range tests {
		x, err := ParseExpr(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := Asks(x).Autobound; got != tt.autobound {
			t.Errorf("Asks(%v).Autobound = %v", x, got)
		}
		if got := Asks(x).Volatile; got != tt.volatile {
			t.Errorf("Asks(%v).Volatile = %v", x, got)
		}
	}
	if none := Asks(nil); none.Autobound || none.Volatile {
		t.Error("an expression that asks nothing asks")
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

// What sampleNames knows, and a name that it does not.
var (
	sampleDevices = []string{"", "lo", "eth0", "wg-1.2"}
	sampleCgroups = []string{"/gone", "/", "/a", `/a/b\x2dc@1:d.slice`}
	sampleMarks   = []uint32{0, 1, 0xff, 0x1f0, math.MaxUint32}
)

type sampleNames struct{}

func (sampleNames) DeviceIndex(name string) (uint32, bool) {
	i := slices.Index(sampleDevices, name)
	return uint32(i), i > 0
}

func (sampleNames) CgroupID(path string) (uint64, bool) {
	i := slices.Index(sampleCgroups, path)
	return uint64(i) << 33, i > 0
}

// drawFact makes a condition that is not about ports or addresses.
func drawFact(t *rapid.T) sample {
	switch rapid.IntRange(0, 4).Draw(t, "fact") {
	case 0:
		name := rapid.SampledFrom(append(sampleDevices[1:], "gone")).Draw(t, "device")
		return sample{device{name: name}, func(c *Conn) Tri {
			if c.Iface != 0 && c.Device == "" {
				return Unknown
			}
			return TriOf(c.Iface != 0 && c.Device == name)
		}}
	case 1:
		index := rapid.Uint32Range(0, 4).Draw(t, "index")
		return sample{device{index: index}, func(c *Conn) Tri { return TriOf(c.Iface == index) }}
	case 2:
		m := mark{rapid.SampledFrom(sampleMarks).Draw(t, "value"), rapid.SampledFrom(sampleMarks).Draw(t, "mask")}
		return sample{m, func(c *Conn) Tri {
			if !c.HasMark {
				return Unknown
			}
			for bit := range 32 {
				masked := m.mask>>bit&1 == 1 && c.Mark>>bit&1 == 1
				if masked != (m.value>>bit&1 == 1) {
					return False
				}
			}
			return True
		}}
	case 3:
		path := rapid.SampledFrom(sampleCgroups).Draw(t, "cgroup")
		return sample{cgroup(path), func(c *Conn) Tri {
			if c.Cgroup == "" {
				return Unknown
			}
			return TriOf(c.Cgroup == path)
		}}
	}
	return sample{Autobound(), func(c *Conn) Tri { return c.Autobound }}
}

// drawSample makes expressions, with the ports and prefixes given.
func drawSample(ports []uint16, prefixes []netip.Prefix) *rapid.Generator[sample] {
	var draw func(t *rapid.T, depth int) sample
	draw = func(t *rapid.T, depth int) sample {
		kinds := 6
		if depth == 0 {
			kinds = 3
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
			return drawFact(t)
		case 3:
			x := draw(t, depth-1)
			return sample{Not(x.Expr), func(c *Conn) Tri { return x.means(c).Not() }}
		}
		n := rapid.IntRange(1, 4).Draw(t, "n")
		exprs, all := make([]Expr, n), make([]sample, n)
		for i := range n {
			all[i] = draw(t, depth-1)
			exprs[i] = all[i].Expr
		}
		if kind == 4 {
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
	c := Conn{
		State:     Established,
		Src:       netip.AddrPortFrom(src, ports.Draw(t, "sport")),
		Dst:       netip.AddrPortFrom(dst, ports.Draw(t, "dport")),
		Mark:      rapid.SampledFrom(sampleMarks).Draw(t, "mark"),
		HasMark:   true,
		Cgroup:    rapid.SampledFrom(sampleCgroups[1:]).Draw(t, "cgroup"),
		Autobound: TriOf(rapid.Bool().Draw(t, "autobound")),
	}
	if name := rapid.SampledFrom(sampleDevices).Draw(t, "device"); name != "" {
		c.Device = name
		c.Iface, _ = sampleNames{}.DeviceIndex(name)
	}
	return c
}

// forget makes something of c unknown, as the kernel may leave it.
func forget(t *rapid.T, c *Conn) {
	switch rapid.IntRange(0, 9).Draw(t, "unread") {
	case 0:
		c.Src = netip.AddrPortFrom(netip.Addr{}, c.Src.Port())
	case 1:
		c.Device = ""
	case 2:
		c.HasMark = false
	case 3:
		c.Cgroup = ""
	case 4:
		c.Autobound = Unknown
	}
}

func TestNormalFormKeepsTheMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawSample(samplePorts, samplePrefixes).Draw(t, "expr")
		c := drawConn(t)
		forget(t, &c)
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

// evalConn is one for which no condition ends the evaluation early.
var evalConn = Conn{
	State: CloseWait, Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("10.2.3.4:5432"),
	Iface: 2, Device: "eth0", Mark: 0x1f, HasMark: true, Autobound: False, Cgroup: "/kubepods.slice",
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
	facts, err := ParseExpr("dev = eth0 and fwmark = 0x10/0xf0 and not autobound and cgroup = /kubepods.slice")
	if err != nil {
		b.Fatal(err)
	}
	c := &evalConn
	for _, bb := range []struct {
		name string
		expr Expr
	}{
		{"parsed", parsed},
		{"facts", facts},
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
	x, err := ParseExpr("dst 10.0.0.0/8 and ( dport = 5432 or sport = 443 ) and not src [2001:db8::/32]" +
		" and dev = eth0 and fwmark = 0x10/0xf0 and not autobound and cgroup = /kubepods.slice")
	if err != nil {
		t.Fatal(err)
	}
	c := evalConn
	if n := testing.AllocsPerRun(100, func() { x.Eval(&c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if x.Eval(&c) != True {
		t.Error("not every condition was evaluated")
	}
}
