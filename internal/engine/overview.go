package engine

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/schedule"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Overview is how things stand, for those who watch the watchdog.
type Overview struct {
	Rules []RuleOverview // in the order of the file

	schedule.Overview
	Failing      bool               // scans fail, and not just one did
	Capabilities match.Capabilities // as it is known by now
	WalkHangs    bool               // a walk through /proc takes long
	Spins        []spin.Spin        // what the kills of rules have done to holders
}

// failingAfter is how many scans that failed, one soon after the other, are more than a
// table that changed too fast during one.
const failingAfter = 2

// Never is a time that does not pass.
const Never = time.Duration(math.MaxInt64)

// RuleOverview is what one rule holds.
type RuleOverview struct {
	Name, Description string
	Enabled, DryRun   bool

	Sockets    int // that match in full, by the last whole scan
	Candidates int // that match in all but their age
	// HeldBy is who holds those that match in full, as far as it is known: the ten processes
	// that hold the most, and then the rest. None are named where only a counter was read.
	HeldBy   []ProcessSockets
	InNetns  []NetnsSockets // where those are, if several network namespaces are watched: the ten with the most, and then the rest
	Oldest   time.Duration  // of those, the longest in its state; 0: there is none
	FirstDue time.Duration  // until the first of those matches in full that do not yet; Never: none will
	Held     int            // that a limit holds back now

	Stopped *sock.RuleStop // nil: it has not stopped itself

	Unseen bool // they are not counted: who holds some of them cannot be seen
	Blind  bool // the rule decides nothing, since who holds its sockets cannot be seen

	When            []rules.Condition // empty: the rule is about single sockets
	Firing, Pending int               // groups
	Groups          []group.Overview  // those firing, those pending and then those nearest to it: at most 20

	Results     Results                 // of its actions since the start: for each of its kinds Done at least
	Descriptors Descriptors             // of the sockets that it had killed, since the start
	Leakers     []Leaker                // whose leaks come back often after they were healed
	HeldBack    map[match.Reason]uint64 // how often what kept it from acting, since the start
}

// Overview says how things stand.
func (e *Engine) Overview(now sock.Instant) Overview {
	o := Overview{
		Rules: make([]RuleOverview, len(e.rules)), Overview: e.schedule.Overview(),
		Failing: e.scans.failing.bad >= failingAfter, Capabilities: e.capabilities, WalkHangs: e.walks.Hangs(), Spins: e.usages.All(),
	}
	for i, r := range e.rules {
		o.Rules[i] = r.overview(now)
		o.Rules[i].Blind = e.blind(r)
	}
	return o
}

// blind reports whether the rule decides nothing, since who holds its sockets cannot be seen: by
// its last count, or by all that fell due since the start.
func (e *Engine) blind(r *ruleState) bool {
	switch {
	case !r.Enabled:
		return false
	case r.unseen.on && (r.Grouped || r.stats.sockets == 0):
		return true
	case r.history.skips[match.HoldersUnknown] == 0 && !(r.history.unsure && e.program.ProtectNeedsHolders):
		return false
	}
	asks := func(a rules.Action) bool { return a.Kind.Destructive && e.holdersDecideFor(r.Rule, &a) }
	for k, n := range r.history.results {
		if k.Kind.Destructive && n > 0 {
			return false
		}
	}
	return slices.ContainsFunc(r.Then, asks)
}

// overview is what the rule holds.
func (r *ruleState) overview(now sock.Instant) RuleOverview {
	v := RuleOverview{
		Name: r.Name, Description: r.Description, Enabled: r.Enabled, DryRun: r.DryRun, When: r.When,
		Sockets: int(r.stats.sockets), Candidates: int(r.stats.candidates),
		Unseen: r.unseen.on, Held: r.history.real.waiting() + r.history.dry.waiting(), Stopped: r.stopped(), Descriptors: r.history.descriptors, Leakers: r.history.leakers(now), FirstDue: Never,
		Results: make(Results), HeldBack: maps.Clone(r.history.skips),
	}
	// What is held back matches in full; it may have come to do so after the last scan.
	v.Sockets = max(v.Sockets, min(v.Held, v.Candidates))
	if next := r.stats.next; next != never {
		v.FirstDue = max(0, next.Sub(now))
	}
	if oldest := r.stats.oldest; oldest != never {
		v.Oldest = now.Sub(oldest)
	}
	for _, a := range r.Then {
		v.Results[KindResult{a.Kind, Done}] = 0
	}
	for k, n := range r.history.results {
		if _, has := v.Results[KindResult{k.Kind, Done}]; has {
			v.Results[k] = n
		}
	}
	if rg := r.groups; rg != nil && r.Grouped {
		v.Firing, v.Pending, v.Groups = rg.Firing(), rg.Pending(), rg.Overview()
		if r.CounterOnly && len(v.Groups) > 0 {
			v.Sockets = v.Groups[0].Count
			v.Candidates = v.Sockets
		}
	} else if rg != nil {
		v.Firing = rg.Firing()
	}
	if !r.CounterOnly {
		v.HeldBy, v.InNetns = r.held.most(v.Sockets), r.stats.netns.most()
	}
	return v
}
