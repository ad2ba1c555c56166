package match

import (
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Difference is a part of a match that a socket does not meet for certain.
type Difference struct {
	Key     string // as rules have it; "filter" stands for those about addresses and ports, too
	Unknown bool   // whether it does is not known
}

// Differs returns the parts of a match, apart from those about time, that a socket does not
// meet for certain.
func Differs(m *rules.Match, s subject.Subject) (all []Difference) {
	differs := func(key string, holds ssfilter.Tri) {
		if holds != ssfilter.True {
			all = append(all, Difference{key, holds == ssfilter.Unknown})
		}
	}
	differs("state", ssfilter.TriOf(m.States.Has(s.State)))
	if m.Where != nil {
		differs("filter", m.Where.Eval(&s.Conn))
	}
	if len(m.Users) > 0 {
		differs("user", ofUser(m.Users, s.Socket))
	}
	if len(m.Netns) > 0 {
		differs("netns", inNetns(m.Netns, s.Socket))
	}
	if len(m.Cgroups) > 0 {
		differs("cgroup", inCgroup(m.Cgroups, s.Cgroup))
	}
	for _, part := range []struct {
		key  string
		only rules.Match
	}{
		{"process", rules.Match{Processes: m.Processes}}, {"cmdline", rules.Match{Cmdlines: m.Cmdlines}}, {"unit", rules.Match{Units: m.Units}},
		{"container", rules.Match{Containers: m.Containers}}, {"pod", rules.Match{Pods: m.Pods}},
	} {
		if part.only.AsksHolders() {
			differs(part.key, heldByOnly(&part.only, s.Holders))
		}
	}
	differs("unread", AtPresent(&rules.Match{Unread: m.Unread}, s))
	differs("in_backlog", AtPresent(&rules.Match{InBacklog: m.InBacklog}, s))
	differs("keepalive", AtPresent(&rules.Match{Keepalive: m.Keepalive}, s))
	differs("verdict", AtPresent(&rules.Match{Verdicts: m.Verdicts}, s))
	return all
}
