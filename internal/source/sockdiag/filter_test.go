package sockdiag

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// ranges are those from the first to the second, the third to the fourth, and so
// on.
func ranges(bounds ...uint16) (list []ssfilter.PortRange) {
	for b := range slices.Chunk(bounds, 2) {
		list = append(list, ssfilter.PortRange{First: b[0], Last: b[1]})
	}
	return list
}

func TestCoarse(t *testing.T) {
	tests := map[string]struct {
		ranges []ssfilter.PortRange
		n      int
		want   []ssfilter.PortRange
	}{
		"none":        {nil, 2, nil},
		"few":         {ranges(1, 2, 4, 4), 2, ranges(1, 2, 4, 4)},
		"one over":    {ranges(1, 2, 4, 4, 9, 10), 2, ranges(1, 4, 9, 10)},
		"all in one":  {ranges(1, 2, 4, 4, 9, 10), 1, ranges(1, 10)},
		"wide middle": {ranges(0, 0, 2, 2, 65533, 65533, 65535, 65535), 2, ranges(0, 2, 65533, 65535)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, coarse(tt.ranges, tt.n)); diff != "" {
				t.Errorf("ranges (-want +got):\n%s", diff)
			}
		})
	}
}

// What the kernel is told instead of an expression holds wherever that does, and
// always fits.
func TestPortsOfAlwaysFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(side ssfilter.Side) ssfilter.Expr {
			var ranges []ssfilter.PortRange
			first := rapid.IntRange(0, 1000).Draw(t, "first")
			step := rapid.IntRange(3, 40).Draw(t, "step")
			for range rapid.IntRange(1, 2000).Draw(t, "n") {
				if first+1 > 65535 {
					break
				}
				ranges = append(ranges, ssfilter.PortRange{First: uint16(first), Last: uint16(first + 1)})
				first += step
			}
			return ssfilter.Ports(side, ranges...)
		}
		x := ssfilter.And(draw(ssfilter.Src), draw(ssfilter.Dst))
		weaker := portsOf(x)
		if _, err := ssfilter.Compile(ssfilter.And(ssfilter.Not(ssfilter.Autobound()), weaker), nil); err != nil {
			t.Fatalf("%v: %v", weaker, err)
		}
		port := rapid.Uint16()
		conn := ssfilter.Conn{
			Src: netip.AddrPortFrom(nstest.V4, port.Draw(t, "sport")),
			Dst: netip.AddrPortFrom(nstest.V4, port.Draw(t, "dport")),
		}
		if x.Eval(&conn) == ssfilter.True && weaker.Eval(&conn) != ssfilter.True {
			t.Fatalf("%+v is lost", conn)
		}
	})
}

// The kernel's word counts where it took the expression, and only there.
func TestKernelsWordCounts(t *testing.T) {
	mark := func(m uint32) []byte { return attribute(inetDiagMark, native.AppendUint32(nil, m)) }
	tests := map[string]struct {
		where      string
		attributes [][]byte
		taken      bool // with the expression in the kernel
		refused    bool // without
	}{
		"mark told":              {"fwmark = 5", [][]byte{mark(5)}, true, true},
		"another mark told":      {"fwmark = 5", [][]byte{mark(6)}, false, false},
		"mark not told":          {"fwmark = 5", nil, true, false},
		"not that mark":          {"not fwmark = 5", nil, true, false},
		"device without a name":  {"dev dev7", nil, true, false},
		"not that device":        {"not dev dev8", nil, true, false},
		"device by index":        {"dev 7", nil, true, true},
		"another by index":       {"dev 8", nil, false, false},
		"cgroup not told":        {"cgroup /a", nil, true, false},
		"port":                   {"sport = :1", nil, true, true},
		"another port":           {"sport = :2", nil, false, false},
		"port, and mark unknown": {"sport = :1 or fwmark = 5", nil, true, true},
	}
	for name, tt := range tests {
		for _, refuses := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, refused %v", name, refuses), func(t *testing.T) {
				l := &refusingLink{refuse: func(_ uint16, filter []byte) unix.Errno {
					if refuses && filter != nil {
						return unix.EINVAL
					}
					return 0
				}, attributes: tt.attributes}
				c, err := open(func() sock.Instant { return 1 }, nil, func() (link, error) { return nameless{l}, nil })
				check(t, err)
				seen := must(ports(c, sock.Query{States: closeWaits.States, Where: expr(t, tt.where)}))(t)
				want := tt.taken
				if refuses {
					want = tt.refused
				}
				if (len(seen) == 1) != want {
					t.Errorf("saw %v, want it: %v", seen, want)
				}
			})
		}
	}
}

// nameless is a link whose devices have been deleted since.
type nameless struct{ *refusingLink }

func (nameless) deviceNames(uint32) (name, altNames string) { return "", "" }

// Any of 5,000 ports: the program would be too large, but what is far from all of
// them is not sent.
func TestFiveThousandPorts(t *testing.T) {
	for name, perFamily := range forms {
		t.Run(name, func(t *testing.T) {
			c := openKernel(t)
			c.perFamily = perFamily
			var wanted []ssfilter.PortRange
			for port := uint16(10001); port < 20001; port += 2 {
				wanted = append(wanted, ssfilter.PortRange{First: port, Last: port})
			}
			var want []uint16
			const listeners = 60
			for i := range uint16(listeners) {
				at := netip.AddrPortFrom(nstest.V4, 10000+i*307) // up to 28113, every other one odd
				l := must(nstest.ListenAt(at, unix.IPPROTO_TCP))(t)
				defer l.Close()
				p := pair(t, l)
				defer p.Close()
				if at.Port()%2 == 1 && at.Port() < 20001 {
					want = append(want, at.Port())
				}
			}
			s := &spy{link: c.link}
			c.link = s
			var got []uint16
			q := sock.Query{States: ssfilter.Of(ssfilter.Established), Where: ssfilter.Ports(ssfilter.Dst, wanted...)}
			for _, s := range scan(t, c, q) {
				got = append(got, s.Dst.Port())
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
			if c.InUserSpace() != "the filter is too large for the kernel" {
				t.Errorf("in user space because %q", c.InUserSpace())
			}
			if s.sockets < len(want) || s.sockets > listeners*2/3 {
				t.Errorf("the kernel sent %d sockets of %d, want the %d and few others", s.sockets, 2*listeners, len(want))
			}
		})
	}
}

// forms are those of the request, by what Conn.perFamily says.
var forms = map[string]bool{"one walk": false, "a walk of each family": true}

// Whether the kernel chose the port it tells by bytecode only.
func TestAutobound(t *testing.T) {
	for name, perFamily := range forms {
		t.Run(name, func(t *testing.T) {
			c := openKernel(t)
			c.perFamily = perFamily
			l := listen(t, nstest.V4) // with the port 0
			at := must(l.Local())(t)
			bound := must(nstest.ListenAt(netip.AddrPortFrom(nstest.V6, 5000), unix.IPPROTO_TCP))(t)
			defer bound.Close()
			p := pair(t, l)
			defer p.Close()
			chosen := must(nstest.New(nstest.V4, unix.IPPROTO_TCP))(t)
			check(t, chosen.Bind(netip.AddrPortFrom(nstest.V4, 5001)))
			check(t, chosen.Connect(at))
			peer := must(l.Accept())(t)
			check(t, chosen.Close())
			check(t, peer.Close()) // chosen is a minisocket

			cookies := map[uint64]string{
				must(l.Cookie())(t):        "listener",
				must(bound.Cookie())(t):    "bound listener",
				must(p.Client.Cookie())(t): "client",
				must(p.Server.Cookie())(t): "server",
			}
			wait := only(t, c, ssfilter.TimeWait)
			if wait.Autobound != ssfilter.Unknown {
				t.Errorf("autobound is %v, and nobody asked", wait.Autobound)
			}
			cookies[wait.ID.Cookie] = "minisocket"

			const auto, by = ssfilter.True, ssfilter.False
			all := map[string]ssfilter.Tri{"listener": auto, "bound listener": by, "client": auto, "server": auto, "minisocket": auto}
			of := func(names ...string) map[string]ssfilter.Tri {
				some := make(map[string]ssfilter.Tri)
				for _, name := range names {
					some[name] = all[name]
				}
				return some
			}
			tests := map[string]struct {
				where ssfilter.Expr
				want  map[string]ssfilter.Tri
				why   string
			}{
				"autobound":       {expr(t, "autobound"), of("listener", "client", "server", "minisocket"), ""},
				"not":             {expr(t, "not autobound"), of("bound listener"), ""},
				"either":          {expr(t, "autobound or sport = :5000"), all, ""},
				"both":            {expr(t, "autobound and sport = :5000"), of(), ""},
				"and a port":      {expr(t, "autobound and sport = :5001"), of("minisocket"), ""},
				"an address":      {expr(t, "not autobound or dst 127.0.0.1"), of("bound listener", "client", "server", "minisocket"), ""},
				"too large":       {ssfilter.Or(ssfilter.Not(ssfilter.Autobound()), manyPorts), of("bound listener"), "the filter is too large for the kernel"},
				"too large, auto": {ssfilter.And(ssfilter.Autobound(), ssfilter.Not(manyPorts)), of("listener", "client", "server", "minisocket"), "the filter is too large for the kernel"},
			}
			for name, tt := range tests {
				t.Run(name, func(t *testing.T) {
					got := make(map[string]ssfilter.Tri)
					check(t, c.Scan(sock.Query{States: ssfilter.AllStates, Where: tt.where}, func(s *sock.Socket, _ sock.Instant) {
						name := cookies[s.ID.Cookie]
						if _, twice := got[name]; twice {
							t.Errorf("%s is there twice", name)
						}
						got[name] = s.Autobound
					}))
					if diff := cmp.Diff(tt.want, got); diff != "" {
						t.Errorf("sockets (-want +got):\n%s", diff)
					}
					if c.InUserSpace() != tt.why {
						t.Errorf("in user space because %q, want %q", c.InUserSpace(), tt.why)
					}
				})
			}
			if a := ask(t, c, wait.ID); a.Socket.Autobound != ssfilter.Unknown {
				t.Errorf("an answer says that autobound is %v", a.Socket.Autobound)
			}
		})
	}
}
