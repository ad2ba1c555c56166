package main

import (
	"net/netip"
	"testing"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestHalves: every socket is in one half, and of those of a busy server or client
// neither has much more than the other.
func TestHalves(t *testing.T) {
	all := sock.Query{States: ssfilter.AllStates}
	two, ok := halves(all)
	if !ok {
		t.Fatal("all sockets are not split")
	}
	first := func(sport, dport int) bool {
		var c ssfilter.Conn
		c.Src = netip.AddrPortFrom(netip.IPv6Loopback(), uint16(sport))
		c.Dst = netip.AddrPortFrom(netip.IPv6Loopback(), uint16(dport))
		a, b := two[0].Where.Eval(&c), two[1].Where.Eval(&c)
		if a == ssfilter.Unknown || b != a.Not() {
			t.Fatalf("from port %d to %d: %v and %v", sport, dport, a, b)
		}
		return a == ssfilter.True
	}
	ephemeral := map[string][2]int{"Linux": {32768, 60999}, "IANA": {49152, 65535}, "wide": {1024, 65535}}
	for _, well := range []int{0, 80, 443, 8191, 8192, 40000, 65535} {
		for name, ports := range ephemeral {
			var server, client int
			for port := ports[0]; port <= ports[1]; port++ {
				if first(well, port) {
					server++
				}
				if first(port, well) {
					client++
				}
			}
			for _, n := range []int{server, client} {
				if share := float64(n) / float64(ports[1]-ports[0]+1); share < 0.4 || share > 0.6 {
					t.Errorf("port %d and those of %s: %.0f %% are in the first half", well, name, 100*share)
				}
			}
		}
	}
}

func TestHalvesOfWhatIsFew(t *testing.T) {
	where, err := ssfilter.ParseExpr("sport = :443")
	if err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]sock.Query{
		"a filter":   {States: ssfilter.AllStates, Where: where},
		"close-wait": {States: ssfilter.Of(ssfilter.CloseWait)},
		"bound":      {States: ssfilter.AllStates | ssfilter.Of(ssfilter.BoundInactive)},
	} {
		if _, ok := halves(q); ok {
			t.Errorf("%s: is split", name)
		}
	}
}
