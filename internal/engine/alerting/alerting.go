// Package alerting decides which alerts of a rule fire and which have ended, by how
// its groups stand. It knows neither what an alert says nor who receives it.
package alerting

import (
	"cmp"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Alert says how one alert of a rule stands: it fires, or has ended.
type Alert struct {
	Action         int             // which of the rule's
	Group          []subject.Label // in the order of group_by
	Overflow       int             // it stands for so many groups that do not alert one by one; 0: for Group
	group.Measured                 // by the last sample; with Overflow, Count is that of all of them
	Peak           int             // the highest Count since it fires
	Examples       []group.Example
	Since          sock.Instant // the condition has held since
	Over           sock.Instant // the group fired until then, and the alert went on by keep_firing_for; 0: it fires, or ended with its rule
	Started        sock.Instant // the alert fires since
	Ended          sock.Instant // it fired until then; 0: it fires
	New            bool         // it is said for the first time
}

// State is what is remembered of the alerts of one rule, beside what its groups
// remember of theirs.
type State struct {
	rule     *match.Rule
	groups   *group.Set
	fresh    bool          // a sample has come since the last update
	next     sock.Instant  // when an alert begins or ends by time alone
	overflow []group.Alert // about the groups that do not alert one by one
}

// New returns the state of a rule's alerts, which are about these groups. Those that
// go on from an earlier run may have to end before the first sample.
func New(r *match.Rule, groups *group.Set, next sock.Instant) *State {
	return &State{rule: r, groups: groups, next: next}
}

// Recompiled takes over the rule as a reload has compiled it anew.
func (st *State) Recompiled(r *match.Rule) { st.rule = r }

// Sampled notes that the groups have taken in a sample.
func (st *State) Sampled() { st.fresh = true }

// Fresh reports whether a sample has come since the last update.
func (st *State) Fresh() bool { return st.fresh }

// Pending reports whether there is something to update.
func (st *State) Pending(now sock.Instant) bool { return st.fresh || now >= st.next }

// Next returns when an alert begins or ends by time alone.
func (st *State) Next() sock.Instant { return st.next }

// Update is what an update says.
type Update struct {
	Alerts []Alert
	Began  int  // alerts that have begun
	Ended  bool // an alert about a group has
}

// Update says which alerts fire now, and which have ended. An alert that fires is
// said again with every sample. identify completes the examples of a group before
// they are said.
func (st *State) Update(now sock.Instant, identify func(*group.Group)) (u Update) {
	fresh := st.fresh
	st.fresh, st.next = false, sock.Never
	for j := range st.rule.Then {
		if st.rule.Then[j].Kind == rules.Alert && !st.rule.DryRun { // a dry run sends nothing
			st.update(&u, j, fresh, now, identify)
		}
	}
	slices.SortStableFunc(u.Alerts, inOrder)
	return u
}

// inOrder puts alerts that fire behind those that have ended, whose labels they may have:
// a pid is given away.
func inOrder(a, b Alert) int {
	return cmp.Or(cmp.Compare(b.Ended, a.Ended), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Overflow, b.Overflow), subject.Compare(a.Group, b.Group))
}

// candidate is an alert about a group that is not sent yet.
type candidate struct {
	key group.Key
	g   *group.Group
	a   *group.Alert
}

// earlier orders candidates by when they began to fire.
func earlier(a, b candidate) int {
	return cmp.Or(cmp.Compare(a.a.Started, b.a.Started), cmp.Compare(a.key, b.key))
}

// update says how it stands with one alert of the rule; fresh: there are new numbers
// to say.
func (st *State) update(u *Update, action int, fresh bool, now sock.Instant, identify func(*group.Group)) {
	say := func(key group.Key, g *group.Group, a *group.Alert, ended sock.Instant) {
		identify(g)
		u.Alerts = append(u.Alerts, st.alert(key, g, a, ended))
	}
	var first []candidate
	sent, overflow := 0, 0
	var all group.Measured // of the overflow
	sum := group.Alert{Action: action, Since: sock.Never, Started: now}
	for key, g := range st.groups.All() {
		a := st.begin(g, action, now)
		if a == nil {
			continue
		}
		if g.Firing != sock.Never {
			a.Since = g.Holding
		} else {
			end := g.Ended.Add(st.rule.Then[action].Alert.KeepFiringFor)
			if end <= now {
				if a.Sent {
					say(key, g, a, end)
				}
				st.groups.EndAlert(key, g, action)
				u.Ended = true
				continue
			}
			st.next = min(st.next, end)
		}
		if !a.Sent {
			overflow++
			all.Count += g.Count
			all.Oldest = max(all.Oldest, g.Oldest)
			sum.Since = min(sum.Since, a.Since)
			first = group.KeepLeast(first, group.MaxAlerts, candidate{key, g, a}, earlier)
			continue
		}
		sent++
		if fresh {
			say(key, g, a, 0)
		}
	}
	for _, c := range first[:min(group.MaxAlerts-sent, len(first))] {
		c.a.Sent = true
		u.Began++
		overflow--
		all.Count -= c.g.Count
		say(c.key, c.g, c.a, 0)
		u.Alerts[len(u.Alerts)-1].New = true
	}
	st.updateOverflow(u, sum, overflow, all, fresh)
}

// begin returns the alert about a group, which begins now if it is time for that; nil:
// there is none.
func (st *State) begin(g *group.Group, action int, now sock.Instant) *group.Alert {
	if a := find(g.Alerts, action); a != nil {
		return a
	}
	if g.Firing == sock.Never || st.groups.NeverScanned() { // what an earlier run saw may be over
		return nil
	}
	start := g.Firing.Add(st.rule.Then[action].After)
	if start > now {
		st.next = min(st.next, start)
		return nil
	}
	g.Alerts = append(g.Alerts, group.Alert{Action: action, Started: start})
	return &g.Alerts[len(g.Alerts)-1]
}

// updateOverflow says how it stands with the groups that do not alert one by one.
func (st *State) updateOverflow(u *Update, sum group.Alert, n int, all group.Measured, fresh bool) {
	say := func(a *group.Alert, n int, m group.Measured, ended sock.Instant) {
		u.Alerts = append(u.Alerts, Alert{Action: a.Action, Overflow: n, Measured: m, Since: a.Since, Started: a.Started, Ended: ended})
	}
	before := find(st.overflow, sum.Action)
	switch {
	case n > 0 && before == nil && st.groups.NeverScanned(): // begins with the first scan
	case n > 0 && before == nil:
		st.overflow = append(st.overflow, sum)
		u.Began++
		say(&sum, n, all, 0)
	case n > 0:
		before.Since = sum.Since
		if fresh {
			say(before, n, all, 0)
		}
	case before != nil:
		say(before, 1, all, sum.Started)
		st.overflow = slices.DeleteFunc(st.overflow, func(a group.Alert) bool { return a.Action == sum.Action })
	}
}

// Resolve ends the alerts of a rule that is in force no more.
func (st *State) Resolve(now sock.Instant, identify func(*group.Group)) (alerts []Alert) {
	for key, g := range st.groups.All() {
		for i := range g.Alerts {
			if g.Alerts[i].Sent {
				identify(g)
				alerts = append(alerts, st.alert(key, g, &g.Alerts[i], now))
			}
		}
	}
	for _, a := range st.overflow {
		alerts = append(alerts, Alert{Action: a.Action, Overflow: 1, Since: a.Since, Started: a.Started, Ended: now})
	}
	slices.SortStableFunc(alerts, inOrder)
	return alerts
}

func find(alerts []group.Alert, action int) *group.Alert {
	for i := range alerts {
		if alerts[i].Action == action {
			return &alerts[i]
		}
	}
	return nil
}

// alert says how an alert about a group stands; ended 0: it fires.
func (st *State) alert(key group.Key, g *group.Group, a *group.Alert, ended sock.Instant) Alert {
	said := Alert{
		Action: a.Action, Group: st.groups.Labels(key), Measured: g.Measured, Peak: g.Peak, Examples: g.Examples,
		Since: a.Since, Started: a.Started, Ended: ended,
	}
	if g.Firing == sock.Never && g.Ended != sock.Never {
		said.Over = g.Ended
	}
	return said
}
