package engine

import (
	"slices"

	"github.com/sockdog/sockdog/internal/engine/acting"
	"github.com/sockdog/sockdog/internal/engine/alerting"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// ruleState is all that is known of one rule. Whatever concerns a rule points
// here. A reload keeps the pointer where the rule says what it said; where it
// does not, the old state is marked as replaced, and nothing but its history is
// used again.
type ruleState struct {
	*match.Rule                  // what the rule says
	history      *history        // what is known by its name
	groups       *group.Set      // nil: it has none
	alerts       *alerting.State // about those
	acting       *acting.State   // on those as a whole; nil: the rule has no such action
	actsUnderWay int             // of those
	firstAlert   int             // of its actions; -1: it has none
	due          int             // sockets that are due and match, of a rule about single sockets that alerts
	firing       firing
	full         failureStreak // of scans that found more groups than there is room for
	recounted    sock.Instant  // when a scan was counted for it that had waited for a walk
	unseen       failureStreak // of scans after which nobody could tell who holds some sockets
	stats        ruleStats     // of the last whole scan
	counted      bool          // there was one
	held         processCount  // who holds what matches in full, by that
	canaries     map[canaryKey]*canary
	troubles     troubles
	untold       bool // it was said that nobody can tell what it does to programs
	replaced     bool
}

// history is what is known of a rule by its name: it goes on while the rule
// changes, and while it is away, so that a reload neither resets a counter nor
// gives a rule a second helping of its limit.
type history struct {
	name        string       // empty until a rule of that name is in force
	own, dryOwn limit.Window // of the limit
	unseen      limit.Window // of the part of it that counts for programs that nobody can watch
	real, dry   throttle
	shares      map[shareKey]*share
	leaks       map[spin.Process]*leakage
	descriptors Descriptors
	results     Results
	skips       map[match.Reason]uint64 // how often something kept the rule from acting, by what
	unsure      bool                    // something was left alone that protect may mean: who holds it cannot be told
	ended       int                     // programs that ended during their canaries, one after the other
	stop        *sock.RuleStop          // see ruleState.stopped; nil: it has not stopped itself
}

// sampled notes that the groups of the rule have taken in a sample.
func (r *ruleState) sampled() {
	r.alerts.Sampled()
	if r.acting != nil {
		r.acting.Changed()
	}
}

// historyOf returns what is known under a rule's id, which is new where nothing is.
func (e *Engine) historyOf(id uint64) *history {
	h := e.histories[id]
	if h == nil {
		h = &history{results: make(Results), skips: make(map[match.Reason]uint64)}
		h.real = newThrottle(&h.own, &e.limit, false)
		h.dry = newThrottle(&h.dryOwn, &e.dryLimit, true)
		e.histories[id] = h
	}
	return h
}

// limitOf returns the limit of what a rule does to sockets: one that keeps to those of all its
// actions, which share it. It is zero where there is none.
func limitOf(r *match.Rule) (most rules.Limit) {
	for _, a := range r.Then {
		switch {
		case !a.Kind.Destructive || a.Kind.On != rules.OnSocket:
		case most.Per == 0:
			most = a.Limit
		default:
			most = rules.Limit{N: min(most.N, a.Limit.N), Per: max(most.Per, a.Limit.Per)}
		}
	}
	return most
}

// limitNames are the limits of a rule's throttle, in its order.
var limitNames = []match.Reason{match.RuleLimit, match.LimitOfAll}

// newThrottle returns that of a rule, with a window of its own and that of all rules.
func newThrottle(own, all *limit.Window, dry bool) throttle {
	return throttle{Throttle: limit.Throttle{own, all}, names: limitNames, dry: dry}
}

// replaceRules puts the rules of a program in force. What was done, said and
// found for a rule stays as long as the rule says the same.
func (e *Engine) replaceRules(p *match.Program, now sock.Instant) {
	before := make(map[string]*ruleState, len(e.rules))
	for _, rs := range e.rules {
		before[rs.Name] = rs
	}
	after := make([]*ruleState, len(p.Rules))
	for i := range p.Rules {
		r := &p.Rules[i]
		rs := before[r.Name]
		if rs != nil && rs.Sum == r.Sum {
			delete(before, r.Name)
			rs.Rule = r
			if rs.groups != nil {
				rs.groups.Recompiled(r)
				rs.alerts.Recompiled(r)
				if rs.acting != nil {
					rs.acting.Recompiled(r)
				}
			}
		} else {
			rs = &ruleState{Rule: r, history: e.historyOf(r.ID), stats: noStats, firstAlert: slices.IndexFunc(r.Then, func(a rules.Action) bool { return a.Kind == rules.Alert })}
			rs.history.name = r.Name
		}
		after[i] = rs
		if most := limitOf(r); most.Per > 0 {
			rs.history.own.Limit, rs.history.dryOwn.Limit = most, most
			rs.history.unseen.Limit = rules.Limit{N: max(1, most.N/unseenShare), Per: most.Per}
		}
	}
	for _, rs := range after {
		if !e.fallback {
			e.forgetStop(rs)
		}
		rs.brake()
	}
	for _, rs := range e.rules {
		if before[rs.Name] == rs {
			e.retire(rs, now)
		}
	}
	e.rules = after
	e.limit.Limit, e.dryLimit.Limit = p.Settings.Limit, p.Settings.Limit
	for _, h := range e.histories {
		for _, t := range []*throttle{&h.real, &h.dry} {
			t.queue, t.within, t.trials = e.newWaitQueue(), nil, 0
			for _, w := range t.Throttle {
				w.Ungrant()
			}
		}
		h.unseen.Ungrant()
		for _, x := range h.shares {
			x.Ungrant()
		}
	}
	for _, rs := range e.rules {
		if rs.groups != nil || !rs.Enabled || !rs.Grouped && !rs.Alerts {
			continue
		}
		rs.groups = group.NewSet(rs.Rule)
		next := never
		for _, k := range e.earlier.groups[sock.RuleSum(rs.Sum)] {
			if rs.groups.Restore(&k, now) {
				next = now
			}
		}
		rs.alerts = alerting.New(rs.Rule, rs.groups, next)
		if slices.ContainsFunc(rs.Then, func(a rules.Action) bool { return a.Kind.OncePerFiring() }) {
			rs.acting = acting.New(rs.Rule, rs.groups)
		}
		rs.firing.on = rs.groups.Firing() > 0
	}
	if !e.fallback {
		e.disk.groupsChanged = e.disk.groupsChanged || len(e.earlier.groups) > 0 // some may be of rules that are no more
		e.earlier.groups = nil
	}
}

// retire ends the alarms of a rule that is in force no more.
func (e *Engine) retire(rs *ruleState, now sock.Instant) {
	rs.replaced = true
	e.endProblems(rs, now)
	if rs.groups == nil {
		return
	}
	if !rs.DryRun {
		e.resolveAlerts(rs, now)
	}
	e.disk.groupsChanged = true
}
