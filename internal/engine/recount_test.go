package engine

import (
	"net/netip"
	"testing"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestRecount: a process is signalled only if what it holds right before meets the rule, and
// nothing that it holds is protected.
func TestRecount(t *testing.T) {
	self := sock.Holder{PID: 7, Start: 70}
	older := sock.Holder{PID: 5, Start: 50}
	closeWait := func(port uint16) sock.Socket {
		return sock.Socket{Conn: ssfilter.Conn{State: ssfilter.CloseWait, Dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port)}}
	}
	established := closeWait(5432)
	established.State = ssfilter.Established
	for _, test := range []struct {
		name    string
		sockets []sock.Socket
		holders []sock.Holder
		want    match.Reason
	}{
		{"as many", []sock.Socket{closeWait(5432), closeWait(5432)}, []sock.Holder{self}, ""},
		{"too few", []sock.Socket{closeWait(5432)}, []sock.Holder{self}, match.GroupEnded},
		{"none", nil, []sock.Holder{self}, match.Unmatched},
		{"in another state", []sock.Socket{established, established}, []sock.Holder{self}, match.Unmatched},
		{"one is protected", []sock.Socket{closeWait(5432), closeWait(5432), closeWait(22)}, []sock.Holder{self}, match.Protected},
		{"one is excluded", []sock.Socket{closeWait(5432), closeWait(80)}, []sock.Holder{self}, match.GroupEnded},
		{"an older process holds them, too", []sock.Socket{closeWait(5432), closeWait(5432)}, []sock.Holder{self, older}, match.Unmatched},
		{"another of its number", []sock.Socket{closeWait(5432), closeWait(5432)}, []sock.Holder{{PID: 7, Start: 71}}, match.Unmatched},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := func(n uint16) ssfilter.Expr {
				return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: n, Last: n})
			}
			set := &rules.Set{
				Protect: []rules.Match{{States: ssfilter.AllStates, Where: port(22)}},
				Rules: []rules.Rule{{
					Name: "leak", Enabled: true, Match: []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait)}}, Exclude: []rules.Match{{States: ssfilter.AllStates, Where: port(80)}},
					GroupBy: []rules.GroupKey{rules.ByPID}, When: []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 1}},
				}},
			}
			program := match.Compile(set)
			a := GroupAction{rule: &program.Rules[0], protect: program.Protect, When: set.Rules[0].When, Process: self}
			found := &HoldersFound{Holders: map[uint32][]sock.Holder{}, Complete: true}
			c := a.Recount(found)
			for i := range test.sockets {
				s := test.sockets[i]
				s.Inode = uint32(i + 1)
				found.Holders[s.Inode] = test.holders
				c.Take(&s)
			}
			if got := c.Judge(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
