package engine

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/acting"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// MaxGroupActs is how many actions on groups can be under way at once, of each rule one.
	MaxGroupActs = 32
	// mostSaid is how many actions on groups a dry run says at once.
	mostSaid = 100
	// groupRetry is when an action on a group that was not done after all is tried again.
	groupRetry = time.Minute
)

// GroupAction is one action of one rule on one of its groups: to be done, or decided.
type GroupAction struct {
	Rule   string
	Action *rules.Action
	Result Result // empty in a plan's Intend and ActOn
	DryRun bool
	Undo   bool         // what it did is put back
	Reason match.Reason // why it is not done after all; empty: there is nothing to add
	Err    error        // why it failed
	Found  string       // what the action itself has to say of what it did

	Group []subject.Label
	group.Measured
	When    []rules.Condition
	Fired   sock.Instant // the group has fired since
	Netns   uint32       // the network namespace that the group is of; 0: group_by does not say
	Process sock.Holder  // that the group is of: PID and Start; none: group_by does not say

	Decided sock.Instant
	Window  time.Duration // how long it counts against a limit; 0: against none
	Seq     uint64        // of the record of its intent
	At      sock.Instant  // when it was done, or was not; 0: nothing was tried

	rule    *match.Rule   // what it was decided by
	protect []rules.Match // and what it must not touch

	before group.Acts // what was done about the group before

	of     *ruleState
	key    group.Key
	action int
}

// Limit is the name under which it counts against the limits of its rule.
func (a *GroupAction) Limit() string { return limitName(a.Rule, a.Kind()) }

func limitName(rule string, kind *rules.Kind) string { return rule + "/" + kind.Name }

// Kind is the action's kind.
func (a *GroupAction) Kind() *rules.Kind { return a.Action.Kind }

// GroupIntended says that the record of an intent that a plan asked for is written.
type GroupIntended struct{ Act GroupAction }

// GroupActed says how an action ended that a plan asked for.
type GroupActed struct {
	Act     GroupAction
	Err     error        // nil: it is done
	Gone    bool         // there was nothing left to do it to
	Changed match.Reason // why nothing was done, where the last look before it showed something else
	Found   string
	At      sock.Instant
}

// GroupUndone says that what an action on a group did was put back, or why not.
type GroupUndone struct {
	Act   GroupAction
	Err   error
	Found string
	At    sock.Instant
}

// groupActs are the actions on groups that are under way.
type groupActs struct {
	underWay int
	standing []GroupAction // done, and to be put back once their groups fire no more
	undoing  int           // those that are being put back
}

// undoOver has put back what was done for groups that fire no more, or of rules that are in
// force no more; all of it when the watchdog ends.
func (e *Engine) undoOver() {
	g := &e.groupActs
	g.standing = slices.DeleteFunc(g.standing, func(a GroupAction) bool {
		of := a.of.groups.Group(a.key)
		if !e.stopping && !a.of.replaced && of != nil && of.Firing == a.Fired {
			return false
		}
		a.Undo, a.Result, a.Err, a.Found, a.Seq, a.Window = true, "", nil, "", 0, 0
		g.undoing++
		e.plan.Undo = append(e.plan.Undo, a)
		return true
	})
}

func (in GroupUndone) apply(e *Engine, _ sock.Instant) {
	e.groupActs.undoing--
	a := in.Act
	a.At, a.Err, a.Found = in.At, in.Err, in.Found
	a.Result = Done
	if a.Err != nil {
		a.Result = Failed
		a.of.history.results[KindResult{a.Kind(), Failed}]++
	}
	e.plan.ReportGroups = append(e.plan.ReportGroups, a)
}

// actOnGroups decides which actions on groups are to be done.
func (e *Engine) actOnGroups(now sock.Instant) {
	for _, r := range e.rules {
		if r.acting == nil || !r.acting.Pending(now) {
			continue
		}
		if e.Paused() && !r.DryRun && r.stopped() == nil {
			e.holdOnGroups(r, now)
			continue
		}
		if !e.mayActOnGroups(r) {
			continue
		}
		e.holdOnGroups(r, now)
		most := 1
		if r.DryRun {
			most = mostSaid
		}
		due, stale := r.acting.Due(now, e.trusted(r.Class), most, func(_ *group.Group, action int) sock.Instant { return e.freeFor(r, action, now) })
		if stale {
			e.schedule.Hasten(r.Class, now) // for its groups
		}
		for _, d := range due {
			if at := e.freeFor(r, d.Action, now); at > now { // those before it have taken what there was
				r.acting.Wait(at)
				continue
			}
			e.actOn(r, d, now)
		}
	}
}

// holdOnGroups says once of the next action of the rule on a group, when it is due and held back,
// by what; those behind it wait with it.
func (e *Engine) holdOnGroups(r *ruleState, now sock.Instant) {
	held, any := make([]match.Reason, len(r.Then)), false
	for i := range r.Then {
		if r.Then[i].Kind.OncePerFiring() {
			held[i] = e.heldOnGroups(r, i, now)
			any = any || held[i] != ""
		}
	}
	if !any {
		return
	}
	unsaid := func(g *group.Group, action int) sock.Instant {
		if g.Acts.Held&^g.Acts.Done != 0 || held[action] == "" {
			return sock.Never
		}
		return now
	}
	due, _ := r.acting.Due(now, e.trusted(r.Class), mostSaid, unsaid)
	for _, d := range due {
		d.Group.Acts.Held |= r.acting.Bit(d.Action)
		a := e.groupAction(r, d, now)
		a.Reason = held[d.Action]
		r.history.skips[a.Reason]++
		e.reportGroup(a, Held)
	}
}

// heldOnGroups is what holds an action of the rule on groups back now; empty: nothing does.
func (e *Engine) heldOnGroups(r *ruleState, action int, now sock.Instant) match.Reason {
	if e.Paused() && !r.DryRun {
		return match.Paused
	}
	return fullOf(e.groupThrottle(r, &r.Then[action], r.DryRun), limitNames, now)
}

// letGroupsGo has the actions on groups decided anew that a pause held back.
func (e *Engine) letGroupsGo() {
	for _, r := range e.rules {
		if r.acting == nil {
			continue
		}
		for _, g := range r.groups.All() {
			g.Acts.Held = 0
		}
		r.acting.Changed()
	}
}

// mayActOnGroups reports whether an action of the rule on a group may begin.
func (e *Engine) mayActOnGroups(r *ruleState) bool {
	shut := !r.DryRun && (e.Paused() || r.stopped() != nil)
	return r.actsUnderWay == 0 && e.groupActs.underWay < MaxGroupActs && !shut
}

// groupThrottle is what limits an action of a rule on groups: that of all rules is for what is
// destructive. Nil: nothing does.
func (e *Engine) groupThrottle(r *ruleState, a *rules.Action, dry bool) limit.Throttle {
	if a.Limit.Per == 0 {
		return nil
	}
	t := e.historyOf(sock.RuleSum(limitName(r.Name, a.Kind))).throttle(dry).Throttle
	t[0].Limit = a.Limit
	if !a.Kind.Destructive {
		return t[:1]
	}
	return t
}

// freeFor returns from when on a limit lets an action of the rule be done.
func (e *Engine) freeFor(r *ruleState, action int, now sock.Instant) sock.Instant {
	h := e.groupThrottle(r, &r.Then[action], r.DryRun)
	if h.Room(now) > 0 {
		return now
	}
	return min(h.RoomAt(now), now.Add(retryAfter)) // what others have under way may come to nothing
}

// actOn has an action on a group done, or said.
func (e *Engine) actOn(r *ruleState, d acting.Due, now sock.Instant) {
	a := e.groupAction(r, d, now)
	a.before = d.Group.Acts
	d.Group.Acts.Note(r.acting.Bit(d.Action), a.Kind().On == rules.OnProcess, now)
	e.disk.groupsChanged = true
	if a.Kind().On == rules.OnProcess && a.Process.PID == 0 {
		a.Reason = match.NoHolder
		e.reportGroup(a, Changed)
		return
	}
	limits := e.groupThrottle(r, a.Action, a.DryRun)
	limits.Begin()
	if limits != nil {
		a.Window = e.program.Settings.Limit.Per + restoreSlack
		for i := range r.Then { // whose limits count it, too
			if other := &r.Then[i]; other.Kind == a.Kind() {
				a.Window = max(a.Window, other.Limit.Per+restoreSlack)
			}
		}
	}
	if a.DryRun {
		limits.End(now)
		e.reportGroup(a, Would)
		return
	}
	r.actsUnderWay++
	e.groupActs.underWay++
	e.plan.Intend = append(e.plan.Intend, a)
}

// groupAction describes an action of a rule on a group.
func (e *Engine) groupAction(r *ruleState, d acting.Due, now sock.Instant) GroupAction {
	return GroupAction{
		rule: r.Rule, protect: e.program.Protect, of: r, key: d.Key, action: d.Action, Rule: r.Name, Action: &r.Then[d.Action], DryRun: r.DryRun,
		Group: r.groups.Labels(d.Key), Measured: d.Group.Measured, When: r.When, Fired: d.Group.Firing,
		Netns: r.By.Netns(string(d.Key)), Process: r.By.Process(string(d.Key)), Decided: now,
	}
}

// reportGroup reports an action on a group that is decided.
func (e *Engine) reportGroup(a GroupAction, result Result) {
	a.Result = result
	a.of.history.results[KindResult{a.Kind(), result}]++
	e.plan.ReportGroups = append(e.plan.ReportGroups, a)
}

func (in GroupIntended) apply(e *Engine, now sock.Instant) {
	a := in.Act
	if why := e.groupStands(&a, now); why != "" {
		GroupActed{Act: a, Changed: why, At: now}.apply(e, now)
		return
	}
	e.plan.ActOn = append(e.plan.ActOn, a)
}

// groupStands says why an action on a group must not be done any more, or "": the record of
// the intent was written since it was decided, which a slow disk draws out.
func (e *Engine) groupStands(a *GroupAction, now sock.Instant) match.Reason {
	switch {
	case e.stopping:
		return match.Stopping
	case e.Paused():
		return match.Paused
	case a.of.stopped() != nil:
		return match.RuleStopped
	case a.of.replaced:
		return match.NewRules
	}
	if g := a.of.groups.FiringGroup(a.key, now, e.trusted(a.of.Class)); g == nil || g.Firing != a.Fired {
		return match.GroupEnded
	}
	return ""
}

func (in GroupActed) apply(e *Engine, now sock.Instant) {
	a, r := in.Act, in.Act.of
	r.actsUnderWay--
	e.groupActs.underWay--
	a.At, a.Err, a.Found, a.Reason = in.At, in.Err, in.Found, in.Changed
	limits, tried := e.groupThrottle(r, a.Action, false), in.Changed == "" && !in.Gone
	if tried && (in.Err == nil || !a.Kind().Destructive) { // a program that fails has run
		limits.End(in.At)
	} else {
		limits.Cancel()
	}
	if r.acting != nil {
		r.acting.Changed()
	}
	switch {
	case in.Changed != "":
		// What is protected stays so, as far as anybody can say.
		if g := r.groups.Group(a.key); g != nil && g.Firing == a.Fired && in.Changed != match.Protected {
			g.Acts.Unnote(r.acting.Bit(a.action), &a.before, now.Add(groupRetry))
			e.disk.groupsChanged = true
		}
		e.reportGroup(a, Changed)
	case in.Gone:
		e.reportGroup(a, Gone)
	case in.Err != nil:
		e.reportGroup(a, Failed)
	default:
		e.reportGroup(a, Done)
		if a.Kind().Reverts {
			e.groupActs.standing = append(e.groupActs.standing, a)
		}
	}
}

// nextGroupAct returns when an action on a group falls due by time alone.
func (e *Engine) nextGroupAct() sock.Instant {
	first := never
	for _, r := range e.rules {
		if r.acting == nil {
			continue
		}
		if held := e.Paused() && r.stopped() == nil; held || e.mayActOnGroups(r) { // else something else comes first
			first = min(first, r.acting.Next())
		}
	}
	return first
}
