package match

import (
	"fmt"
	"strings"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Differs says which keys of a match, apart from those about time, a socket does not meet
// for certain, by their names; "": it meets them all.
func Differs(m *rules.Match, s *sock.Socket, by *subject.Holders) string {
	var keys []string
	differs := func(key string, holds ssfilter.Tri) {
		switch holds {
		case ssfilter.False:
			keys = append(keys, key)
		case ssfilter.Unknown:
			keys = append(keys, key+", which is not known")
		}
	}
	differs("its state is "+s.State.String(), ssfilter.TriOf(m.States.Has(s.State)))
	if m.Where != nil {
		differs("not "+m.Where.String(), m.Where.Eval(&s.Conn))
	}
	if len(m.Users) > 0 {
		differs(fmt.Sprintf("its user is %d", s.UID), ofUser(m.Users, s))
	}
	if len(m.Netns) > 0 {
		differs("its network namespace", inNetns(m.Netns, s))
	}
	if len(m.Cgroups) > 0 {
		differs("its cgroup is "+s.Cgroup, inCgroup(m.Cgroups, s.Cgroup))
	}
	if m.AsksHolders() {
		differs("who holds it", heldByOnly(m, by))
	}
	one := func(only rules.Match) ssfilter.Tri { return AtPresent(&only, subject.Of(s)) }
	differs("its unread bytes", one(rules.Match{Unread: m.Unread}))
	differs("in_backlog", one(rules.Match{InBacklog: m.InBacklog}))
	differs("its keepalive timer", one(rules.Match{Keepalive: m.Keepalive}))
	if v := Verdict(s); len(m.Verdicts) > 0 {
		differs(fmt.Sprintf("its verdict is %q", v), one(rules.Match{Verdicts: m.Verdicts}))
	}
	return strings.Join(keys, ", ")
}
