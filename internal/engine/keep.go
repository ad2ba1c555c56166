package engine

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// mostKept bounds what is kept on disk of the groups of all rules.
	mostKept = 10_000
	// keptEvery is how often that is said to be still so.
	keptEvery = 30 * time.Second
	// outage is how long nobody may have looked for a condition to have held all the
	// same, as if scans had failed; and for how long what fires is acted on without a
	// scan that shows it.
	outage = 2 * time.Minute
)

// keep has what must outlive a restart kept: whatever has changed, and now and
// then what has not.
func (e *Engine) keep(now sock.Instant) {
	if !e.turned && now < e.keptAt || e.fallback && len(e.revived) > 0 {
		return
	}
	// Those of which people were told come first: a restart tells the first ones one
	// by one. Then come those that fire, and last what is of use for a while only.
	told := []sock.Group{} // nil would be no change
	var firing, pending, ended []sock.Group
	for _, r := range e.rules {
		if r.groups == nil {
			continue
		}
		for id, g := range r.groups.groups {
			list := &ended
			switch phase := g.phase(); {
			case g.told():
				list = &told
			case phase == Firing:
				list = &firing
			case phase == Pending:
				list = &pending
			case len(g.alarms) == 0:
				continue
			}
			if len(*list) < mostKept {
				*list = append(*list, g.kept(r.Rule, id))
			}
		}
	}
	kept := append(append(append(told, firing...), pending...), ended...)
	kept = kept[:min(len(kept), mostKept)]
	e.turned, e.keptAt = false, never
	if len(kept) > 0 {
		e.keptAt = now.Add(keptEvery)
	}
	e.plan.Groups = kept
}

// kept is what is kept of a group.
func (g *group) kept(r *match.Rule, id groupID) sock.Group {
	k := sock.Group{Rule: sock.RuleSum(r.Sum), Key: sock.GroupKey(id), Known: g.known}
	switch {
	case g.firing != never:
		k.Holding, k.Firing = g.holding, g.firing
	case len(g.alarms) > 0: // which counts for more than that it may be pending again
		a := &g.alarms[0]
		k.Holding, k.Firing, k.Ended = a.since, a.started.Add(-r.Then[a.action].After), g.ended
	default:
		k.Holding = g.holding
	}
	k.Fresh = uint64(math.Round(g.Growth * growthOver.Minutes()))
	return k
}

// revive takes over what an earlier run knew of a group.
func (rg *ruleGroups) revive(k *sock.Group, r *match.Rule, now sock.Instant) {
	if max(k.Holding, k.Firing, k.Ended, k.Known) > now {
		return // from a future that never was
	}
	g := newGroup()
	g.known = k.Known
	switch {
	case k.Ended != 0:
		g.ended = k.Ended
	case k.Firing != 0:
		g.holding, g.firing, g.doubted = k.Holding, k.Firing, now.Sub(k.Known) > outage
	case now.Sub(k.Known) <= outage:
		g.holding = k.Holding
	default:
		return
	}
	if k.Fresh > 0 && r.Measures(rules.Growth) {
		g.growing = grown(k.Fresh, k.Known)
		g.Growth = float64(k.Fresh) / growthOver.Minutes() // to be kept again before the first scan
	}
	for j := range r.Then {
		a := &r.Then[j]
		if a.Kind != rules.Alert || k.Firing == 0 || k.Ended != 0 && k.Ended.Add(a.Alert.KeepFiringFor) <= k.Known {
			continue
		}
		if k.Firing.Add(a.After) <= min(g.ended, k.Known) {
			g.alarms = append(g.alarms, alarm{action: j, since: k.Holding, started: k.Firing.Add(a.After), told: len(rg.groups) < mostAlarms})
		}
	}
	if id, ok := r.By.Trim(string(k.Key)); ok && rg.groups[groupID(id)] == nil {
		rg.add(groupID(id), g)
	}
	rg.firing = rg.in[Firing] > 0
	rg.next = now // an alert that goes on may have to end before the first scan
}
