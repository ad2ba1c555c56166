package group

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// onPort is a socket from a port of a namespace to a port of the same peer.
func onPort(netns uint32, from, to uint16) sock.Socket {
	return sock.Socket{ID: sock.ID{Netns: netns}, Conn: ssfilter.Conn{
		State: ssfilter.Established, Autobound: ssfilter.True,
		Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), from), Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), to),
	}}
}

// TestPortsOfNamespaces: a path belongs to one namespace, whose ports are its own; and
// where those are not known, nothing is measured.
func TestPortsOfNamespaces(t *testing.T) {
	whole := func(p ssfilter.PortRange) sock.Ports {
		return sock.Ports{Ephemeral: p, Free: []ssfilter.PortRange{p}}
	}
	thousand := ssfilter.PortRange{First: 10000, Last: 10999}
	u := NewPorts(map[uint32]sock.Ports{1: whole(tenPorts), 2: whole(thousand), 3: whole(thousand), 4: {Ephemeral: thousand}}, 0)
	use := func(netns uint32, n int, named ssfilter.Tri) (path uint32) {
		for i := range n {
			s := onPort(netns, uint16(10000+2*i), 80)
			s.Autobound = named
			path, _ = u.Use(&s)
		}
		return path
	}
	few, many, bound := use(1, 5, ssfilter.True), use(2, 205, ssfilter.True), use(3, 300, ssfilter.False)
	if none := use(4, 5, ssfilter.True) + use(5, 5, ssfilter.True); none != 0 {
		t.Errorf("the paths of a namespace without ports, and of one that is not known, are %d together, want 0", none)
	}
	u.Finish()
	for _, test := range []struct {
		path uint32
		want float64
	}{{few, 50}, {many, 20.5}, {bound, 30}} {
		if got := u.on(test.path); got != test.want {
			t.Errorf("on path %d %v%% are used up, want %v%%", test.path, got, test.want)
		}
	}
	if got := u.beside(); got != 30 {
		t.Errorf("on paths without connections %v%% are used up, want 30%%", got)
	}
	if ranges := len(u.ranges); ranges != 3 {
		t.Errorf("%d ranges are kept for namespaces with three", ranges)
	}
}

// TestFewPortsAndMany: it is all the same whether they are kept one by one.
func TestFewPortsAndMany(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		last := 10000 + uint16(rng.IntN(40))
		known := map[uint32]sock.Ports{0: {Ephemeral: ssfilter.PortRange{First: 10000, Last: last}, Free: []ssfilter.PortRange{{First: 10000, Last: last - min(last-10000, 3)}}}}
		few, many := NewPorts(known, 0), NewPorts(known, 0)
		in := many.spaceOf(0)
		in.ports = make([]portState, in.n)
		paths := make(map[uint32]bool)
		for range rng.IntN(60) {
			s := onPort(0, 9998+uint16(rng.IntN(45)), 80+uint16(rng.IntN(3)))
			s.State = []ssfilter.State{ssfilter.Established, ssfilter.CloseWait, ssfilter.Established, ssfilter.Listening}[rng.IntN(4)]
			s.Autobound = ssfilter.Tri(rng.IntN(3) - 1)
			path, omitted := few.Use(&s)
			if other, also := many.Use(&s); other != path || also != omitted {
				t.Fatalf("path %d or %d", path, other)
			}
			paths[path] = path > 0
		}
		few.Finish()
		many.Finish()
		for path, is := range paths {
			if is && few.on(path) != many.on(path) {
				t.Fatalf("on path %d %v%% or %v%%", path, few.on(path), many.on(path))
			}
		}
		if few.beside() != many.beside() {
			t.Fatalf("beside the paths %v%% or %v%%", few.beside(), many.beside())
		}
	}
}
