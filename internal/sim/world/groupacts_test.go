package world_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// groupJudge holds actions on groups to what a rule says of them.
type groupJudge struct {
	rand     *rand.Rand                // of its own: worlds without such actions stay as they are
	done     map[string]ranFor         // by action and group
	last     map[string]sock.Instant   // when the process of a group was signalled
	set      map[string]sock.Instant   // what is set, and when its group fired
	underWay map[string]bool           // by rule
	signals  map[string][]sock.Instant // by rule
	run      int                       // the present one began after that
}

// ranFor is when an action was done, and for which firing.
type ranFor struct{ at, fired sock.Instant }

func newGroupJudge(seed uint64) groupJudge {
	return groupJudge{
		rand: rand.New(rand.NewPCG(seed, 0x9709)), done: make(map[string]ranFor), last: make(map[string]sock.Instant), set: make(map[string]sock.Instant),
		underWay: make(map[string]bool), signals: make(map[string][]sock.Instant),
	}
}

// actions gives some of the rules about groups actions on those.
func (g *groupJudge) actions(r *rules.Rule) {
	upTo := func(d time.Duration) time.Duration { return time.Duration(g.rand.Int64N(int64(d))) + 1 }
	if len(r.When) == 0 || g.rand.IntN(3) == 0 {
		return
	}
	r.Cooldown = upTo(30 * time.Second)
	if g.rand.IntN(3) == 0 { // else few rules may signal
		r.GroupBy = []rules.GroupKey{rules.ByPID}
	}
	for range 1 + g.rand.IntN(3) {
		a := rules.Action{Kind: rules.Exec, Exec: &rules.ExecOptions{Timeout: upTo(5 * time.Second)}}
		if g.rand.IntN(2) == 0 {
			a.After = upTo(20 * time.Second)
		}
		r.Then = append([]rules.Action{a}, r.Then...) // the last one is the kill
	}
	if g.rand.IntN(2) == 0 {
		r.Then = append([]rules.Action{{Kind: rules.Sysctl, Sysctls: []rules.Setting{{Name: "net.ipv4.tcp_fin_timeout", Value: "15"}}}}, r.Then...)
	}
	if slices.Contains(r.GroupBy, rules.ByPID) {
		for i := range 1 + g.rand.IntN(2) {
			a := rules.Action{Kind: rules.Signal, Signal: &rules.SignalOptions{Signal: rules.Signals[i]}, Limit: signalLimit, After: time.Duration(i) * upTo(10*time.Second)}
			r.Then = append([]rules.Action{a}, r.Then...)
		}
	}
}

// begin begins a run. If it knows when processes started, and the one before did not, or the
// other way round, the groups of their pids are others.
func (g *groupJudge) begin(run int) {
	if (run-g.run)%2 != 0 {
		clear(g.done)
		clear(g.last)
	}
	g.run = run
}

// signalLimit is that of all rules, so that it stays the same when they change.
var signalLimit = rules.Limit{N: 1, Per: 20 * time.Second}

// checkSignal holds a signal that was sent to its limit.
func (w *judge) checkSignal(a *engine.GroupAction) {
	w.tally.Signals++
	sent := w.groups.signals[a.Rule]
	if n := len(sent); n >= signalLimit.N && a.At.Sub(sent[n-signalLimit.N]) < signalLimit.Per {
		w.failf("%s signals %v after it did before", a.Rule, a.At.Sub(sent[n-signalLimit.N]))
	}
	w.groups.signals[a.Rule] = append(sent, a.At)
	w.groups.last[groupName(a.Rule, a.Group)] = a.At
}

// heardGroup takes in what became of an action on a group.
func (w *judge) heardGroup(a *engine.GroupAction) {
	name := groupName(a.Rule, a.Group)
	w.Logf("%s %s %s: %s %s", a.Rule, a.Kind(), a.Result, name, a.Reason)
	switch a.Result {
	case engine.Would:
		w.tally.GroupWould++
		if !a.DryRun || !w.firing[name] {
			w.failf("a dry run that is none, or of a group that does not fire: %s", name)
		}
		return
	case engine.Held:
		if paused := w.Paused() && !a.DryRun; paused != (a.Reason == match.Paused) || !paused && a.Action.Limit.Per == 0 {
			w.failf("held back without a reason: %s", name)
		}
		return
	case engine.Changed:
		w.tally.GroupChanged++
		delete(w.groups.done, w.eachName(a)) // it was not done after all
	case engine.Done, engine.Failed, engine.Gone:
		w.tally.GroupDone++
	}
	if a.Undo {
		return
	}
	if a.Result == engine.Done && a.Kind() == rules.Sysctl {
		w.checkSet(a)
	}
	if a.Result == engine.Done && a.Kind() == rules.Signal {
		w.checkSignal(a)
	}
	w.groups.underWay[a.Rule] = false
}

// forget forgets what was done for rules that say something else by now: their groups begin
// anew, and no cooldown with them.
func (g *groupJudge) forget(before, after *rules.Set) {
	for i := range before.Rules {
		r := &before.Rules[i]
		same := func(s rules.Rule) bool { return s.Name == r.Name && s.Sum == r.Sum }
		if !slices.ContainsFunc(after.Rules, same) {
			maps.DeleteFunc(g.done, func(each string, _ ranFor) bool { return strings.HasPrefix(each, r.Name+"[") })
		}
	}
}

// eachName tells an action of a rule on a group from others.
func (w *judge) eachName(a *engine.GroupAction) string {
	return fmt.Sprint(groupName(a.Rule, a.Group), a.Kind(), a.Action.After)
}

// checkSet notes that a setting stands for a group.
func (w *judge) checkSet(a *engine.GroupAction) {
	w.tally.Sets++
	w.groups.set[setName(a)] = a.Fired
}

func setName(a *engine.GroupAction) string { return groupName(a.Rule, a.Group) + sim.Text(a.Fired) }

// Undoes holds it to the truth that a setting is put back.
func (w *judge) Undoes(a *engine.GroupAction) {
	r, name := w.ruleOf(a.Rule), setName(a)
	w.Logf("%s puts back %s for %s", a.Rule, a.Kind(), name)
	if _, set := w.groups.set[name]; !set {
		w.failf("what was not set is put back: %s", name)
	}
	delete(w.groups.set, name)
	changed := r == nil || w.Ruled == w.Now
	if w.firing[groupName(a.Rule, a.Group)] && !changed && !w.Stopping() && a.Decided >= w.Ruled && r.Enabled {
		w.failf("put back while its group fires: %s", name)
	}
}

// checkStanding holds it to the truth that nothing stays set without a reason.
func (w *judge) checkStanding() {
	for name := range w.groups.set {
		w.failf("still set at the end: %s", name)
	}
}

// Runs holds the beginning of an action on a group to the truth.
func (w *judge) Runs(a *engine.GroupAction) {
	g, r, name := &w.groups, w.ruleOf(a.Rule), groupName(a.Rule, a.Group)
	w.Logf("%s runs %s for %s", a.Rule, a.Kind(), name)
	each := w.eachName(a)
	before := g.done[each]
	switch {
	case r == nil || !r.Enabled || r.DryRun || a.DryRun:
		w.failf("%s acts on a group, and is not in force", a.Rule)
	case !w.firing[name]:
		w.failf("an action on a group that does not fire: %s", name)
	case w.Now < a.Fired.Add(a.Action.After):
		w.failf("an action on %s comes %v after it fired at %s, too early", name, w.Now.Sub(a.Fired), sim.Text(a.Fired))
	case a.Kind() == rules.Signal && g.last[name] != 0 && w.Now.Sub(g.last[name]) < r.For:
		w.failf("a signal to %s before its condition has held for %v anew", name, r.For)
	case g.underWay[a.Rule]:
		w.failf("two actions of %s on groups at once", a.Rule)
	case before.at != 0 && before.fired != a.Fired && w.Calm && a.Decided < before.at.Add(r.Cooldown):
		w.failf("an action on %s within its cooldown", name)
	}
	g.underWay[a.Rule] = true
	g.done[each] = ranFor{a.Decided, a.Fired}
}
