package match

import (
	"slices"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Rule is one rule and what follows from it.
type Rule struct {
	rules.Rule
	Position    int         // in the file
	By          subject.Key // what group_by names
	Class       Class
	ID          uint64 // sock.RuleSum of its name
	Volatile    bool   // what it does not match now it may match later, in the same state
	Grouped     bool   // it is about groups
	CounterOnly bool   // a counter alone tells its one group
	Timed       bool   // a match of it has a time bound
	Destructive bool   // it has a destructive action
	Alerts      bool   // it has an alert
}

// Scanned reports whether scans are made for the rule.
func (r *Rule) Scanned() bool { return r.Enabled && !r.CounterOnly }

// Measures reports whether a condition of the rule asks for the metric.
func (r *Rule) Measures(m rules.Metric) bool {
	asks := func(c rules.Condition) bool { return c.Metric == m }
	return slices.ContainsFunc(r.When, asks) || slices.ContainsFunc(r.Until, asks)
}

// OnlyTimeWait reports whether the rule is about no other sockets.
func (r *Rule) OnlyTimeWait() bool {
	return !slices.ContainsFunc(r.Match, func(m rules.Match) bool { return m.States != 1<<ssfilter.TimeWait })
}

// bare reports whether a match asks for nothing that the program does or sets, but
// for what its filter asks.
func bare(m *rules.Match) bool {
	return m.Unread == nil && m.InBacklog == nil && len(m.Verdicts) == 0 && len(m.Users) == 0
}

// UsesPort reports whether the local port of a socket counts for a rule that
// measures their usage: its addresses and ports are meant, whatever its state.
func (r *Rule) UsesPort(s *sock.Socket) bool {
	if !ssfilter.Connected.Has(s.State) {
		return false
	}
	where := func(m rules.Match) bool { return m.Where == nil || m.Where.Eval(&s.Conn) == ssfilter.True }
	// What is excluded in one state, or of one user, takes up a port all the same.
	excluded := func(m rules.Match) bool {
		return m.States == ssfilter.AllStates && bare(&m) && m.Where != nil && m.Where.Eval(&s.Conn) != ssfilter.False
	}
	return slices.ContainsFunc(r.Match, where) && !slices.ContainsFunc(r.Exclude, excluded)
}
