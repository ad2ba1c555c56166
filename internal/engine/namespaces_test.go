package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func inNetns(inode uint32) func(*sim.Socket) {
	return func(s *sim.Socket) { s.ID.Netns = inode }
}

// TestNamespaces: sockets of several network namespaces are watched beside each other,
// though their addresses are the same; those of one that is gone are forgotten.
func TestNamespaces(t *testing.T) {
	b := newBench(t)
	b.add(1, 0, inNetns(7), keepsAlive)
	b.add(2, 5*time.Second, inNetns(8), keepsAlive, seenEntering)
	b.add(3, 0, inNetns(9), keepsAlive)
	b.rule(set(killing("r")))
	b.until(3 * time.Second)
	if n := b.e.Watched(); n != 3 {
		t.Fatalf("%d are watched, want 3", n)
	}
	delete(b.sockets, 3) // with its namespace
	b.until(6 * time.Second)
	b.want("5s r kill done 2")
	if n := b.e.Watched(); n != 1 {
		t.Errorf("%d are watched, want one", n)
	}
	b.until(20 * time.Second)
	b.want("5s r kill done 2", "10s r kill done 1")
	if n := len(b.memories); n != 0 {
		t.Errorf("%d are on disk, want none", n)
	}
}

// TestPortUseOfNamespaces: the usage of a group is that of its fullest path in any
// namespace.
func TestPortUseOfNamespaces(t *testing.T) {
	b := newBench(t)
	ports := portsOf(ssfilter.PortRange{First: 10000, Last: 10009})
	ports[7], ports[8] = ports[0], ports[0]
	delete(ports, 0)
	b.count = CountersRead{OK: true, Ports: ports}
	for i := range uint64(9) {
		netns := 7 + uint32(i%3) // 9 is not known
		b.add(i+1, time.Minute, inNetns(netns), func(s *sim.Socket) { s.ID.SPort = [2]byte{10000 >> 8, byte(10000&0xff + i/3)} })
	}
	b.add(10, time.Minute, inNetns(8), func(s *sim.Socket) { s.ID.SPort = [2]byte{10000 >> 8, 10000&0xff + 8} })
	r := above(0, func(r *rules.Rule) {
		r.When, r.For = []rules.Condition{{Metric: rules.PortUsage, Op: rules.GreaterEqual, Number: 40}}, 0
	})
	b.rule(eachSecond(r))
	b.until(time.Second)
	b.want("0s r alert 0 dport=80 count 10", "0s r firing dport=80 count 10")
	if a := b.alarms["r alert 0 dport=80"]; a.PortUsage != 40 {
		t.Errorf("%v%% are used, want 40%%", a.PortUsage)
	}
}
