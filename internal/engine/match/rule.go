package match

import (
	"slices"
	"time"

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
	CounterOnly bool   // counters alone tell its groups
	Whole       bool   // and they are about no sockets, but about a network namespace or the host
	Timed       bool   // a match of it has a time bound
	Touches     bool   // it has an action on sockets
	Destructive bool   // and a destructive one
	Alerts      bool   // it has an alert

	MeasuresFDs bool // it measures how many descriptors those use that hold its sockets

	// NeedsHolders: who holds a socket decides whether the rule means it, or in which group.
	// ByHolders: in which group.
	NeedsHolders, ByHolders bool
}

const manyStates = 1<<ssfilter.Established | 1<<ssfilter.TimeWait

// newRule returns the rule that stands at a place in the file.
func newRule(from *rules.Rule, position int) Rule {
	r := Rule{Rule: *from, Position: position, By: subject.KeyOf(from.GroupBy), ID: sock.RuleSum(from.Name), Grouped: len(from.When) > 0}
	r.ByHolders = r.By.NeedsHolders()
	r.MeasuresFDs = r.Measures(rules.FDUsage)
	r.NeedsHolders = r.ByHolders || r.MeasuresFDs
	for _, m := range r.Match {
		r.Timed = r.Timed || IsTimed(&m)
		if m.States&manyStates != 0 {
			r.Class = Expensive
		}
	}
	for _, m := range slices.Concat(r.Match, r.Exclude) {
		named := func(n rules.Netns) bool { return n.Name != "" } // which may be given away
		r.Volatile = r.Volatile || ssfilter.Asks(m.Where).Volatile || slices.ContainsFunc(m.Netns, named) || m.AsksHolders()
		r.NeedsHolders = r.NeedsHolders || m.AsksHolders()
	}
	for _, a := range r.Then {
		r.Touches = r.Touches || a.Kind.On == rules.OnSocket
		r.Destructive = r.Destructive || a.Kind.On == rules.OnSocket && a.Kind.Destructive
		r.Alerts = r.Alerts || a.Kind == rules.Alert
	}
	if r.Measures(rules.PortUsage) {
		r.Class = Expensive
	}
	r.Volatile = r.Volatile || r.ByHolders // a program can pass a socket on
	r.Whole = r.Rule.Whole()
	r.CounterOnly = r.Whole || r.isCounterOnly()
	return r
}

// isCounterOnly reports whether the counter of timewait sockets tells all that the rule
// asks. It counts minisockets in FIN_WAIT2, too, which are as little of a
// program's doing.
func (r *Rule) isCounterOnly() bool {
	asksMore := func(m rules.Match) bool { return m.Where != nil || len(m.Netns)+len(m.Cgroups) > 0 || !bare(&m) }
	other := func(c rules.Condition) bool { return c.Metric != rules.Count }
	return r.Grouped && r.OnlyTimeWait() && !r.Timed && !r.Touches && len(r.GroupBy)+len(r.Exclude) == 0 &&
		!slices.ContainsFunc(r.Match, asksMore) && !slices.ContainsFunc(slices.Concat(r.When, r.Until), other)
}

const (
	// maxCounterInterval is how often a counter is read at least that a rule needs alone:
	// it costs microseconds.
	maxCounterInterval = 5 * time.Second
	// defaultInterval is how often rules without a time bound look for new sockets.
	defaultInterval = 15 * time.Second
)

// interval returns how often the rule wants new sockets to be looked for: a sixteenth of
// its shortest time bound, within 1 s and 30 s.
func (r *Rule) interval() time.Duration {
	shortest := r.For
	for _, m := range r.Match {
		if b := max(m.InStateFor, m.IdleFor, m.StalledFor, m.SilentFor); b > 0 && (shortest == 0 || b < shortest) {
			shortest = b
		}
	}
	interval := defaultInterval
	if shortest > 0 {
		interval = min(max(shortest/16, time.Second), 30*time.Second)
	}
	if r.CounterOnly {
		interval = min(interval, maxCounterInterval)
	}
	return interval
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
	return len(r.Match) > 0 && !slices.ContainsFunc(r.Match, func(m rules.Match) bool { return m.States != 1<<ssfilter.TimeWait })
}

// bare reports whether a match asks for nothing that the program does or sets, but
// for what its filter asks. The network namespace and the cgroup of a socket stay.
func bare(m *rules.Match) bool {
	return m.Unread == nil && m.InBacklog == nil && m.Keepalive == nil && len(m.Verdicts) == 0 && len(m.Users) == 0 && !m.NamesHolders()
}

// UsesPort reports whether the local port of a socket counts for a rule that
// measures their usage: its addresses and ports are meant, whatever its state.
func (r *Rule) UsesPort(s *sock.Socket) bool {
	if !ssfilter.Connected.Has(s.State) {
		return false
	}
	where := func(m rules.Match) ssfilter.Tri {
		holds := ssfilter.True
		if m.Where != nil {
			holds = m.Where.Eval(&s.Conn)
		}
		if len(m.Netns) > 0 {
			holds = min(holds, inNetns(m.Netns, s))
		}
		return holds
	}
	matched := func(m rules.Match) bool { return where(m) == ssfilter.True }
	// What is excluded in one state, or of one user or cgroup, takes up a port all the same.
	excluded := func(m rules.Match) bool {
		return m.States == ssfilter.AllStates && bare(&m) && len(m.Cgroups) == 0 && where(m) != ssfilter.False
	}
	return slices.ContainsFunc(r.Match, matched) && !slices.ContainsFunc(r.Exclude, excluded)
}
