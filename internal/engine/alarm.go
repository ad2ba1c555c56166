package engine

import (
	"cmp"
	"maps"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Alarm is an alert that fires, or has ended. It is said again with fresh
// numbers while it fires, and once when it ends.
type Alert struct {
	Rule     string
	About    string                       // the rule's description
	Labels   map[string]string            // the rule's
	When     []rules.Condition            // the rule's; empty: it is about single sockets
	Action   int                          // which of the rule's
	Options  *rules.AlertOptions          // what that says
	Group    []subject.Label              // in the order of group_by; empty: all sockets of the rule
	Others   int                          // the alarm stands for so many groups that are not told one by one; 0: for Group
	Measured                              // by the last sample; with Others, Count is that of all of them
	Peak     int                          // the highest Count since it fires
	Nobodys  bool                         // its sockets belong to no process: they are in TIME_WAIT
	Examples []Example                    // some of the sockets, by the last sample that had any
	Takes    bool                         // the rule takes sockets away
	Done     map[Result]uint64            // what became of what it would take, since DoneFrom
	ByOthers map[string]map[Result]uint64 // and of what other rules, by name, would of the sockets that it is about
	DoneFrom sock.Instant                 // when the rule began to fire; 0: that was before this run
	Since    sock.Instant                 // the condition has held since
	Over     sock.Instant                 // the group fired until then, and the alarm went on by keep_firing_for; 0: it fires, or ended with its rule
	Started  sock.Instant                 // the alarm fires since
	Ended    sock.Instant                 // it fired until then; 0: it does
}

// mostAlarms is how many groups of a rule alert one by one.
const mostAlarms = 100

// Example is one of the sockets that an alarm is about.
type Example struct {
	Peer    ssfilter.Endpoint
	Inode   uint32        // 0: it has none
	Holders []sock.Holder // as far as the engine knows them
	key     sock.Key
}

// mostExamples is how many an alarm has.
const mostExamples = 64

// alarm is an alert that was begun.
type alarm struct {
	action         int
	since, started sock.Instant
	told           bool // by itself, and not among the others
}

// alert counts the sockets that an alert of a rule about single sockets is for.
func (e *Engine) alert(t *tracked, r *ruleState, action int, due bool) {
	switch m := e.marked(t, r, action); {
	case due && m == nil:
		e.mark(t, r, action, false)
		r.alerted(action, 1)
	case !due && m != nil:
		e.unmark(t, r, action)
		r.alerted(action, -1)
	}
}

// alerted counts by the first alert of the rule: they are all for the same sockets.
func (r *ruleState) alerted(action, by int) {
	if action != slices.IndexFunc(r.Then, func(a rules.Action) bool { return a.Kind == rules.Alert }) {
		return
	}
	rg := r.groups
	rg.sockets += by
	rg.fresh = rg.fresh || rg.sockets == 0 || rg.sockets == by
}

// unalert takes t out of what it was counted for.
func (e *Engine) unalert(t *tracked) {
	for _, m := range e.recordOf(t).marks {
		if m.rule.Then[m.action].Kind == rules.Alert {
			m.rule.alerted(m.action, -1)
		}
	}
}

// single has the one group of a rule about single sockets fire while any is due.
func (e *Engine) single(r *ruleState, now sock.Instant) {
	rg := r.groups
	g := rg.groups[""]
	if g == nil {
		if rg.sockets == 0 {
			return
		}
		g = newGroup()
		rg.add("", g)
	}
	from, since := g.phase(), g.holding
	g.Measured, g.known = Measured{Count: rg.sockets}, now
	if oldest := r.stats.oldest; rg.sockets > 0 && oldest != never {
		g.Oldest = now.Sub(oldest)
	}
	if rg.sockets > 0 {
		g.examples = e.alerting(r)
		g.peak = max(g.peak, rg.sockets)
	}
	switch {
	case rg.sockets > 0 && g.firing == never:
		g.holding, g.firing, g.ended, g.peak = now, now, never, rg.sockets
		since = now
	case rg.sockets == 0 && g.firing != never:
		g.holding, g.firing, g.ended = never, never, now
	default:
		return
	}
	rg.account(from, g.phase())
	r.began(now)
	e.turned = true
	e.turn(r.Rule, "", g, from, since)
}

// began notes what the rule had done when it begins to fire.
func (r *ruleState) began(now sock.Instant) {
	rg := r.groups
	if firing := rg.in[Firing] > 0; firing != rg.firing {
		rg.firing = firing
		if firing {
			rg.began, rg.before, rg.byOthers = now, r.done(), nil
		}
	}
}

// done is what became so far of what the rule would take away.
func (r *ruleState) done() map[Result]uint64 {
	if !r.Destructive {
		return nil
	}
	done := make(map[Result]uint64)
	for o, n := range r.history.results {
		if o.kind.Destructive && o.result != Held { // which became something else since
			done[o.result] += n
		}
	}
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
		rg := r.groups
		if rg == nil || !r.Alerts || r.history == a.of.history {
			continue
		}
		if stands, _ := r.Decide(&rules.Action{Kind: rules.Alert}, &times, &a.Socket, 0, a.Decided, true); stands != match.Due {
			continue
		}
		if rg.byOthers == nil {
			rg.byOthers = make(map[string]map[Result]uint64)
		}
		if rg.byOthers[a.Rule] == nil {
			rg.byOthers[a.Rule] = make(map[Result]uint64)
		}
		rg.byOthers[a.Rule][result]++
	}
}

// alerting are some of the sockets that a rule about single sockets alerts of.
func (e *Engine) alerting(r *ruleState) []Example {
	first := slices.IndexFunc(r.Then, func(a rules.Action) bool { return a.Kind == rules.Alert })
	var some []Example
	for t := range e.tracks.all() {
		if len(some) == mostExamples {
			break
		}
		if e.marked(t, r, first) != nil {
			id := e.tracks.id(t)
			some = append(some, Example{Peer: id.Peer(), Inode: t.Inode, key: e.tracks.key(t)})
		}
	}
	return some
}

// identify puts to the examples of a group what the engine knows of who holds
// them: once they are taken away, nobody may.
func (e *Engine) identify(g *group) {
	own := false
	for i := range g.examples {
		x := &g.examples[i]
		t := e.tracks.get(x.key)
		if x.Holders != nil || t == nil || t.holders == nil || t.holders.Processes == nil || t.Inode != x.Inode {
			continue
		}
		if !own {
			own = true
			g.examples = slices.Clone(g.examples) // others read what was told before
		}
		g.examples[i].Holders = t.holders.Processes
	}
}

// sound says which alerts fire now, and which have ended.
func (e *Engine) sound(now sock.Instant) {
	for _, r := range e.rules {
		rg := r.groups
		if rg == nil || !rg.fresh && now < rg.next {
			continue
		}
		if !r.Grouped && rg.fresh {
			e.single(r, now)
		}
		fresh, told := rg.fresh, len(e.plan.Alerts)
		rg.fresh, rg.next = false, never
		for j := range r.Then {
			if r.Then[j].Kind == rules.Alert && !r.DryRun { // a dry run sends nothing
				e.soundFor(r, j, fresh, now)
			}
		}
		r.addDone(e.plan.Alerts[told:])
	}
}

// addDone says in alarms what was done.
func (r *ruleState) addDone(alarms []Alert) {
	if len(alarms) == 0 {
		return
	}
	rg, done := r.groups, r.done()
	for result, n := range rg.before {
		done[result] -= n
	}
	byOthers := make(map[string]map[Result]uint64, len(rg.byOthers)) // the alarms are read while it goes on
	for name, results := range rg.byOthers {
		byOthers[name] = maps.Clone(results)
	}
	for i := range alarms {
		a := &alarms[i]
		a.Takes, a.Done, a.ByOthers, a.DoneFrom = r.Destructive, done, byOthers, rg.began
	}
}

// firstAlarm is when the next alert begins or ends by time alone.
func (e *Engine) firstAlarm() sock.Instant {
	first := never
	for _, r := range e.rules {
		if r.groups != nil {
			first = min(first, r.groups.next)
		}
	}
	return first
}

// candidate is an alarm about a group that is not told yet.
type candidate struct {
	id groupID
	g  *group
	a  *alarm
}

// earlier orders candidates by when they began to fire.
func earlier(a, b candidate) int {
	if a.a.started != b.a.started {
		return cmp.Compare(a.a.started, b.a.started)
	}
	return cmp.Compare(a.id, b.id)
}

// soundFor says how it stands with one alert of a rule; fresh: there are new
// numbers to say.
func (e *Engine) soundFor(r *ruleState, action int, fresh bool, now sock.Instant) {
	rg := r.groups
	var first []candidate
	told, others := 0, 0
	var all Measured // of those that are not told one by one
	sum := alarm{action: action, since: never, started: now}
	for id, g := range rg.groups {
		a := alarmOf(g.alarms, action)
		if a == nil && g.firing != never && rg.scanned != 0 { // what an earlier run saw may be over
			start := g.firing.Add(r.Then[action].After)
			if start > now {
				rg.next = min(rg.next, start)
				continue
			}
			g.alarms = append(g.alarms, alarm{action: action, started: start})
			a = &g.alarms[len(g.alarms)-1]
		}
		if a == nil {
			continue
		}
		if g.firing != never {
			a.since = g.holding
		} else {
			end := g.ended.Add(r.Then[action].Alert.KeepFiringFor)
			if end <= now {
				if a.told {
					e.tellOf(a, r.Rule, id, g, end)
				}
				rg.forget(id, g, action)
				e.turned = true
				continue
			}
			rg.next = min(rg.next, end)
		}
		if !a.told {
			others++
			all.Count += g.Count
			all.Oldest = max(all.Oldest, g.Oldest)
			sum.since = min(sum.since, a.since)
			first = keepLeast(first, mostAlarms, candidate{id, g, a}, earlier)
			continue
		}
		told++
		if fresh {
			e.tellOf(a, r.Rule, id, g, 0)
		}
	}
	for _, c := range first[:min(mostAlarms-told, len(first))] {
		c.a.told = true
		r.history.results[outcome{rules.Alert, Done}]++
		others--
		all.Count -= c.g.Count
		e.tellOf(c.a, r.Rule, c.id, c.g, 0)
	}
	e.soundOthers(r, sum, others, all, fresh)
}

// soundOthers says how it stands with the groups that are not told one by one.
func (e *Engine) soundOthers(r *ruleState, sum alarm, n int, all Measured, fresh bool) {
	rg := r.groups
	before := alarmOf(rg.others, sum.action)
	switch {
	case n > 0 && before == nil && rg.scanned == 0: // begins with the first scan
	case n > 0 && before == nil:
		rg.others = append(rg.others, sum)
		r.history.results[outcome{rules.Alert, Done}]++
		e.plan.Alerts = append(e.plan.Alerts, sum.ofOthers(r.Rule, n, all, 0))
	case n > 0:
		before.since = sum.since
		if fresh {
			e.plan.Alerts = append(e.plan.Alerts, before.ofOthers(r.Rule, n, all, 0))
		}
	case before != nil:
		e.plan.Alerts = append(e.plan.Alerts, before.ofOthers(r.Rule, 1, all, sum.started))
		rg.others = slices.DeleteFunc(rg.others, func(a alarm) bool { return a.action == sum.action })
	}
}

// silence ends the alarms of a rule that is in force no more.
func (e *Engine) silence(r *ruleState, now sock.Instant) {
	rg, told := r.groups, len(e.plan.Alerts)
	for id, g := range rg.groups {
		for i := range g.alarms {
			if g.alarms[i].told {
				e.tellOf(&g.alarms[i], r.Rule, id, g, now)
			}
		}
	}
	for i := range rg.others {
		e.plan.Alerts = append(e.plan.Alerts, rg.others[i].ofOthers(r.Rule, 1, Measured{}, now))
	}
	r.addDone(e.plan.Alerts[told:])
}

// forget ends an alert about a group, and with it perhaps what there is to
// remember of that.
func (rg *ruleGroups) forget(id groupID, g *group, action int) {
	g.alarms = slices.DeleteFunc(g.alarms, func(a alarm) bool { return a.action == action })
	if len(g.alarms) == 0 && g.phase() == Quiet && g.Growth == 0 {
		delete(rg.groups, id)
	}
}

func alarmOf(alarms []alarm, action int) *alarm {
	for i := range alarms {
		if alarms[i].action == action {
			return &alarms[i]
		}
	}
	return nil
}

// tellOf says how an alarm about a group stands; ended 0: it fires.
func (e *Engine) tellOf(a *alarm, r *match.Rule, id groupID, g *group, ended sock.Instant) {
	e.identify(g)
	said := a.about(r, g.Measured, ended)
	said.Group, said.Peak, said.Examples = id.labels(r.By), g.peak, g.examples
	if g.firing == never && g.ended != never {
		said.Over = g.ended
	}
	e.plan.Alerts = append(e.plan.Alerts, said)
}

// ofOthers is what the alarm says of so many groups.
func (a *alarm) ofOthers(r *match.Rule, n int, all Measured, ended sock.Instant) Alert {
	said := a.about(r, all, ended)
	said.Others = n
	return said
}

func (a *alarm) about(r *match.Rule, m Measured, ended sock.Instant) Alert {
	return Alert{
		Rule: r.Name, About: r.Description, Labels: r.Labels, When: r.When, Action: a.action, Options: r.Then[a.action].Alert,
		Measured: m, Nobodys: r.OnlyTimeWait(), Since: a.since, Started: a.started, Ended: ended,
	}
}
