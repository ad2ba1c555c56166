package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// A property that is put into the table is one by which a rule groups, alerts, kills
// and remembers, without another change.
func TestNewProperty(t *testing.T) {
	before := subject.Properties
	t.Cleanup(func() { subject.Properties = before })
	subject.Properties = append(slices.Clone(before), subject.Property{
		Name: "dports",
		Append: func(b []byte, s subject.Subject) []byte {
			return fmt.Appendf(b, "%d0-%d9", s.Dst.Port()/10, s.Dst.Port()/10)
		},
		Text: func(value []byte) string { return string(value) },
	})
	b := newBench(t)
	for i := range byte(6) {
		b.add(uint64(1+i), time.Minute, func(s *sim.Socket) { s.ID.DPort[1] = 80 + i/4*20 + i })
	}
	rule := set(above(3, kills, func(r *rules.Rule) { r.GroupBy = []rules.GroupKey{"dports", rules.ByState} }))
	b.rule(rule)
	b.until(time.Minute)
	if n := len(b.sockets); n != 2 || b.sockets[5] == nil || b.sockets[6] == nil {
		t.Errorf("%d sockets are left, want the two of the group that does not fire: %v", n, b.events)
	}
	b.want("0s r pending dports=80-89 state=close-wait count 4", "10s r firing dports=80-89 state=close-wait count 4",
		"10s r kill done 1", "10s r kill done 2", "10s r kill done 3", "10s r kill done 4", "11s r quiet dports=80-89 state=close-wait count 0")

	after := newBench(t)
	after.step(Restored{Groups: []sock.Group{{
		Key:        sock.GroupKey("\x0580-89\x08"),
		GroupFacts: sock.GroupFacts{Rule: sock.RuleSum(rule.Rules[0].Sum), Holding: 1, Firing: 1, Known: b.now},
	}}})
	after.now = b.now
	after.rule(rule)
	if g := after.e.Overview(after.now).Rules[0].Groups; len(g) != 1 || len(g[0].Group) != 2 || g[0].Group[0].Value != "80-89" {
		t.Errorf("restored: %+v", g)
	}
}
