package engine

import (
	"maps"
	"time"

	"github.com/sockdog/sockdog/internal/engine/alerting"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Alert is an alert that fires, or has ended. It is said again with fresh
// numbers while it fires, and once when it ends.
type Alert struct {
	alerting.Alert
	Rule     string
	About    string              // the rule's description
	Labels   map[string]string   // the rule's
	When     []rules.Condition   // the rule's; empty: it is about single sockets
	Options  *rules.AlertOptions // what the action says
	Nobodys  bool                // its sockets belong to no process: they are in TIME_WAIT
	Takes    bool                // the rule takes sockets away
	Done     Results             // what became of what it would take, since DoneFrom
	ByOthers map[string]Results  // and of what other rules, by name, would of the sockets that it is about
	DoneFrom sock.Instant        // when the rule began to fire; 0: that was before this run
}

// firing is what was done since a rule fires.
type firing struct {
	on       bool
	since    sock.Instant       // 0: in an earlier run
	before   Results            // what had been done then
	byOthers map[string]Results // what other rules did to its sockets since, by their names
}

// setDue counts a socket that the alerts of a rule about single sockets are for, or
// no more. They are all for the same sockets: the first one has the mark.
func (e *Engine) setDue(t *tracked, r *ruleState, due bool) {
	switch m := e.marked(t, r, r.firstAlert); {
	case due && m == nil:
		e.mark(t, r, r.firstAlert, false)
		r.countDue(1)
	case !due && m != nil:
		e.unmark(t, r, r.firstAlert)
		r.countDue(-1)
	}
}

func (r *ruleState) countDue(by int) {
	r.due += by
	if r.due == 0 || r.due == by {
		r.alerts.Sampled()
	}
}

// unsetDue takes t out of what it was counted for.
func (e *Engine) unsetDue(t *tracked) {
	for _, m := range e.recordOf(t).marks {
		if m.action == m.rule.firstAlert {
			m.rule.countDue(-1)
		}
	}
}

// takeDue has the one group of a rule about single sockets fire while any is due.
func (e *Engine) takeDue(r *ruleState, now sock.Instant) {
	var oldest time.Duration
	var examples []group.Example
	if r.due > 0 {
		if r.stats.oldest != never {
			oldest = now.Sub(r.stats.oldest)
		}
		examples = e.examplesOf(r)
	}
	e.changed(r, r.groups.TakeDue(r.due, oldest, examples, now), now)
}

// examplesOf returns some of the sockets that a rule about single sockets alerts of.
func (e *Engine) examplesOf(r *ruleState) (some []group.Example) {
	for t := range e.tracks.all() {
		if len(some) == group.MaxExamples {
			break
		}
		if e.marked(t, r, r.firstAlert) != nil {
			id := e.tracks.id(t)
			some = append(some, group.Example{Peer: id.Peer(), Inode: t.Inode, Key: e.tracks.key(t)})
		}
	}
	return some
}

// identify puts to the examples of a group what the engine knows of who holds
// them: once they are taken away, nobody may.
func (e *Engine) identify(g *group.Group) {
	g.Examples = withHolders(g.Examples, func(x *group.Example) []sock.Holder {
		if t := e.tracks.get(x.Key); t != nil && t.Inode == x.Inode {
			return t.heldBy()
		}
		if h := e.holders.cache.of(x.Key.Cookie, x.Inode); h != nil {
			return h.Processes
		}
		return nil
	})
}

// noteFiring notes what the rule had done when it begins to fire.
func (r *ruleState) noteFiring(now sock.Instant) {
	if on := r.groups.Firing() > 0; on != r.firing.on {
		r.firing.on = on
		if on {
			r.firing = firing{on: true, since: now, before: r.done()}
		}
	}
}

// done returns what became so far of what the rule would take away.
func (r *ruleState) done() Results {
	done := maps.Clone(r.history.results)
	maps.DeleteFunc(done, func(k KindResult, _ uint64) bool {
		return !k.Kind.Destructive || k.Result == Held // which became something else since
	})
	return done
}

// credit counts what a rule did to a socket for the alerts of other rules that are
// about it, too: whoever reads that it is there wants to know that it is taken care of.
func (e *Engine) credit(a *Action, result Result) {
	t := e.tracks.get(a.Socket.ID.Key())
	if t == nil || !a.Kind.Destructive || result == Held { // which becomes something else
		return
	}
	times := t.Times()
	for _, r := range e.rules {
		if r.groups == nil || !r.Alerts || r.history == a.of.history {
			continue
		}
		if decision, _ := r.Decide(&rules.Action{Kind: rules.Alert}, &times, t.subject(&a.Socket), 0, a.Decided, true); decision != match.Due {
			continue
		}
		if r.firing.byOthers == nil {
			r.firing.byOthers = make(map[string]Results)
		}
		if r.firing.byOthers[a.Rule] == nil {
			r.firing.byOthers[a.Rule] = make(Results)
		}
		r.firing.byOthers[a.Rule][KindResult{a.Kind, result}]++
	}
}

// updateAlerts says which alerts fire now, and which have ended.
func (e *Engine) updateAlerts(now sock.Instant) {
	for _, r := range e.rules {
		if r.groups == nil || !r.alerts.Pending(now) {
			continue
		}
		if !r.Grouped && r.alerts.Fresh() {
			e.takeDue(r, now)
		}
		u := r.alerts.Update(now, e.identify)
		if u.Began > 0 {
			r.history.results[KindResult{rules.Alert, Done}] += uint64(u.Began)
		}
		e.disk.groupsChanged = e.disk.groupsChanged || u.Ended
		e.reportAlerts(r, u.Alerts)
	}
}

// resolveAlerts ends the alerts of a rule that is in force no more.
func (e *Engine) resolveAlerts(r *ruleState, now sock.Instant) {
	e.reportAlerts(r, r.alerts.Resolve(now, e.identify))
}

// reportAlerts says how alerts of a rule stand, and what was done meanwhile.
func (e *Engine) reportAlerts(r *ruleState, alerts []alerting.Alert) {
	if len(alerts) == 0 {
		return
	}
	done := r.done()
	for k, n := range r.firing.before {
		done[k] -= n
	}
	byOthers := make(map[string]Results, len(r.firing.byOthers)) // the alerts are read while it goes on
	for name, results := range r.firing.byOthers {
		byOthers[name] = maps.Clone(results)
	}
	for _, a := range alerts {
		e.plan.Alerts = append(e.plan.Alerts, Alert{
			Alert: a, Rule: r.Name, About: r.Description, Labels: r.Labels, When: r.When, Options: r.Then[a.Action].Alert,
			Nobodys: r.OnlyTimeWait(), Takes: r.Destructive, Done: done, ByOthers: byOthers, DoneFrom: r.firing.since,
		})
	}
}

// nextAlert returns when the next alert begins or ends by time alone.
func (e *Engine) nextAlert() sock.Instant {
	first := never
	for _, r := range e.rules {
		if r.groups != nil {
			first = min(first, r.alerts.Next())
		}
	}
	return first
}
