package engine

import (
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// A Transition is a change of a rule's group from one phase to another.
type Transition struct {
	Rule   string
	DryRun bool
	Takes  bool              // the rule takes sockets away
	When   []rules.Condition // the rule's; empty: it is about single sockets
	group.Transition
}

// changed takes in which groups of a rule have changed their phase.
func (e *Engine) changed(r *ruleState, c group.Changes, now sock.Instant) {
	if !c.Any() {
		return
	}
	r.noteFiring(now)
	e.disk.groupsChanged = true
	for _, t := range c.Transitions {
		e.plan.Transitions = append(e.plan.Transitions, Transition{Rule: r.Name, DryRun: r.DryRun, Takes: r.Destructive, When: r.When, Transition: t})
	}
	if c.Unlisted > 0 {
		e.note(MoreTransitions, slog.String("rule", r.Name), slog.Int("groups", c.Unlisted))
	}
	if c.Fired == 0 || !r.Grouped {
		return
	}
	if slices.ContainsFunc(r.Then, func(a rules.Action) bool { return a.Kind == rules.Log }) {
		r.history.results[KindResult{rules.Log, Done}] += uint64(c.Fired)
	}
	if r.Touches {
		e.newFiring = true
		e.schedule.Hasten(r.Class, now) // for its sockets
	}
}

// takeGroups takes in what a whole scan counted of a rule's groups.
func (e *Engine) takeGroups(r *ruleState, t *group.Tally, ports *group.Ports, sent, got sock.Instant) {
	c := r.groups.Take(t, ports, sent, got, e.trusted(r.Class))
	e.changed(r, c, got)
	if began, _ := r.full.note(c.Omitted > 0); began {
		e.note(TooManyGroups,
			slog.String("rule", r.Name), slog.Int("groups", group.MaxGroups), slog.Int("sockets_left_out", c.Omitted))
	}
}

// takeCounts takes in what the counters tell of the rules that need nothing else.
func (e *Engine) takeCounts(in CountersRead, asked, now sock.Instant) {
	pressed := e.scans.pressing
	e.scans.pressing = false
	if e.program.CounterInterval == 0 {
		return
	}
	next := now.Add(e.program.CounterInterval)
	if e.program.NeedsPressure && !pressed {
		next = min(next, e.schedule.Sample())
	}
	if in.Pressure != nil {
		e.scans.drops.Take(in.Pressure.ListenDrops, now)
	}
	uncounted, unmeasured := false, rules.Metric("")
	for _, r := range e.rules {
		if !r.Enabled || !r.CounterOnly || r.Whole && !pressed {
			continue
		}
		known := in.OK && in.HasTimeWait
		switch missing := r.unmeasured(in.Pressure); {
		case r.Whole && missing != "":
			known, unmeasured = false, missing
		case r.Whole:
			known = true
			e.changed(r, r.groups.TakeEach(e.measured(r, in.Pressure), asked, now), now)
		case known:
			e.changed(r, r.groups.TakeCount(int(in.TimeWait), asked, now), now)
		default:
			uncounted = true
		}
		if known {
			r.sampled()
		}
		if due := r.groups.NextFiring(); known || due > now {
			next = min(next, max(now, due))
		}
	}
	if began, _ := e.scans.uncounted.note(uncounted); began {
		e.note(NoTimeWaitCount)
	}
	if began, _ := e.scans.unmeasured.note(unmeasured != ""); began && pressed {
		e.note(NotMeasured, slog.String("metric", string(unmeasured)))
	}
	e.schedule.SampleAt(next)
}

// unmeasured returns a metric of a rule about no sockets that is not known, or "".
func (r *ruleState) unmeasured(p *sock.Pressure) rules.Metric {
	for _, m := range []struct {
		rules.Metric
		known bool
	}{
		{rules.ListenDrops, p != nil && p.ListenDrops != nil},
		{rules.Orphans, p != nil && p.HasOrphans},
		{rules.TCPMemory, p != nil && p.HasMemory},
	} {
		if r.Measures(m.Metric) && !m.known {
			return m.Metric
		}
	}
	return ""
}

// measured returns what is measured of each group of a rule about no sockets: of each
// network namespace, or of all together.
func (e *Engine) measured(r *ruleState, p *sock.Pressure) map[group.Key]group.Measured {
	all := make(map[group.Key]group.Measured)
	if len(r.GroupBy) == 0 {
		all[""] = group.Measured{ListenDrops: e.scans.drops.Sum(), Orphans: p.Orphans, TCPMemory: p.Memory}
		return all
	}
	for netns := range p.ListenDrops {
		key := r.By.Append(nil, subject.Of(&sock.Socket{ID: sock.ID{Netns: netns}}))
		all[group.Key(key)] = group.Measured{ListenDrops: e.scans.drops.Of(netns)}
	}
	return all
}

// trusted returns for how long after a scan what fires is acted on.
func (e *Engine) trusted(c match.Class) time.Duration {
	return max(group.Outage, 2*e.schedule.Interval(c))
}

const (
	// maxKept bounds what is kept on disk of the groups of all rules.
	maxKept = 10_000
	// keptEvery is how often that is said to be still so.
	keptEvery = 30 * time.Second
)

// keepGroups has what must outlive a restart kept: whatever has changed, and now and
// then what has not.
func (e *Engine) keepGroups(now sock.Instant) {
	if !e.disk.groupsChanged && now < e.disk.groupsAt || e.fallback && len(e.earlier.groups) > 0 {
		return
	}
	// Those of which people were told come first: a restart tells the first ones one
	// by one. Then come those that fire, and last what is of use for a while only.
	var lists [4][]sock.Group
	for _, r := range e.rules {
		if r.groups == nil {
			continue
		}
		for key, g := range r.groups.All() {
			rank := 3
			switch phase := g.Phase(); {
			case g.Sent():
				rank = 0
			case phase == group.Firing:
				rank = 1
			case phase == group.Pending:
				rank = 2
			case len(g.Alerts) == 0 && g.Acts.Last == 0:
				continue
			}
			if len(lists[rank]) < maxKept {
				lists[rank] = append(lists[rank], r.groups.Kept(key, g))
			}
		}
	}
	kept := []sock.Group{} // nil would be no change
	for _, list := range lists {
		kept = append(kept, list[:min(len(list), maxKept-len(kept))]...)
	}
	e.disk.groupsChanged, e.disk.groupsAt = false, never
	if len(kept) > 0 {
		e.disk.groupsAt = now.Add(keptEvery)
	}
	e.plan.Groups = kept
}
