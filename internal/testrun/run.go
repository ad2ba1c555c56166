// Package testrun runs unit tests of rules: an engine watches the sockets that a test
// describes, in simulated time, and what it does is compared with what the test expects.
package testrun

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim/runner"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

// Result is what came of a test.
type Result struct {
	Case     *ruletest.Case
	Failures []Failure // none: it passed
}

// Failure is one thing that is not as the test has it.
type Failure struct {
	Line     int    // of what was expected; of the test, where nothing was
	Expected string // "": it was not
	Happened string
	Why      []string // what stood against it
}

// grace is how late an act may be by default. What is seen coming is not late; of what is
// due when it is first seen, the CPU usage of the holders is sampled for a second before.
const grace = 2 * time.Second

// happening is something that happened.
type happening struct {
	at     time.Duration
	rule   string
	kind   *rules.Kind
	result string
	socket int // in the test; -1: it is about a group
	group  map[string]string
	act    *runner.Act // nil: it is about a group
	told   bool        // it was expected
}

// trial is a test that runs.
type trial struct {
	set      *rules.Set
	test     *ruletest.Case
	world    *world
	run      *runner.Run
	happened []happening
	failures []Failure

	acts, groupActs, alerts, transitions int // of the run's, that are in happened
}

// Run runs a test of the rules.
func Run(set *rules.Set, c *ruletest.Case) Result {
	w := newWorld(c, set)
	t := &trial{set: set, test: c, world: w}
	t.run = runner.New(set, w.table, start, runner.Tick, w.known)
	end := c.Until
	for _, check := range t.checks() {
		t.until(check.at)
		check.do()
		end = max(end, check.at)
	}
	t.until(end)
	t.rest()
	slices.SortStableFunc(t.failures, func(a, b Failure) int { return cmp.Compare(a.Line, b.Line) })
	return Result{c, t.failures}
}

// check is to be made at an instant.
type check struct {
	at time.Duration
	do func()
}

// checks are what the test expects, each when it can be told, the first to begin with. Of
// acts, those whose time is over first take theirs: so each finds one, if any order has
// each find one.
func (t *trial) checks() (all []check) {
	for i := range t.test.Expect {
		e := &t.test.Expect[i]
		if e.KeptBy != "" {
			all = append(all, check{e.At + kept, func() { t.kept(e) }})
			continue
		}
		all = append(all, check{t.deadline(e), func() { t.expect(e) }})
	}
	slices.SortStableFunc(all, func(a, b check) int { return cmp.Compare(a.at, b.at) })
	return all
}

// kept is how long after its instant it is seen what keeps a socket: what happens at that
// very instant has happened.
const kept = 100 * time.Millisecond

// deadline is until when something that is expected may happen.
func (t *trial) deadline(e *ruletest.Expectation) time.Duration {
	if e.Within > 0 {
		return e.At + e.Within
	}
	i, within := t.rule(e.Rule), grace
	r := &t.set.Rules[i]
	if len(r.When) > 0 || e.Action == rules.Alert || t.changes(e.Socket) {
		within += t.run.Interval(i)
	}
	for _, a := range r.Then {
		if a.Kind == e.Action && a.Canary != nil && t.several() {
			within += a.Canary.Wait
		}
	}
	return e.At + within
}

// several reports whether there is more than one socket: another may be the canary.
func (t *trial) several() bool {
	n := 0
	for i := range t.test.Sockets {
		n += t.test.Sockets[i].Count
	}
	return n > 1
}

// changes reports whether sockdog must first see something of a socket that happens during
// the test; -1: of any.
func (t *trial) changes(socket int) bool {
	if socket < 0 {
		return slices.ContainsFunc(t.test.Sockets, appearsLater) || slices.ContainsFunc(t.test.Changes, isSeen)
	}
	seen := func(c ruletest.Change) bool { return c.Socket == socket && isSeen(c) }
	return appearsLater(t.test.Sockets[socket]) || slices.ContainsFunc(t.test.Changes, seen)
}

func appearsLater(s ruletest.Socket) bool { return s.At > 0 || s.Every > 0 }

// isSeen reports whether a scan must show the change: of progress the kernel tells the time.
func isSeen(c ruletest.Change) bool { return c.Sent+c.Received == 0 }

func (t *trial) rule(name string) int {
	return slices.IndexFunc(t.set.Rules, func(r rules.Rule) bool { return r.Name == name })
}

// until has the time go on, and takes in what happened.
func (t *trial) until(at time.Duration) {
	t.run.Until(max(t.run.Now(), start.Add(at)))
	for ; t.acts < len(t.run.Acts); t.acts++ {
		a := &t.run.Acts[t.acts]
		if a.Kind == rules.Alert {
			continue // the alert itself follows
		}
		t.happened = append(t.happened, happening{
			at: a.At.Sub(start), rule: a.Rule, kind: a.Kind, result: string(a.Result), socket: t.world.place[a.Socket.ID.Cookie], act: a,
		})
	}
	for ; t.groupActs < len(t.run.GroupActs); t.groupActs++ {
		a := &t.run.GroupActs[t.groupActs]
		result := string(a.Result)
		if a.Undo {
			result = ruletest.PutBack
		}
		t.aboutGroup(a.At, a.Rule, a.Kind(), result, a.Group)
	}
	for ; t.alerts < len(t.run.Alerts); t.alerts++ {
		a := &t.run.Alerts[t.alerts]
		result := firing
		if a.Ended != 0 {
			result = resolved
		}
		t.aboutGroup(a.At, a.Rule, rules.Alert, result, a.Group)
	}
	logs := func(a rules.Action) bool { return a.Kind == rules.Log }
	for ; t.transitions < len(t.run.Transitions); t.transitions++ {
		x := &t.run.Transitions[t.transitions]
		switch r := &t.set.Rules[t.rule(x.Rule)]; {
		case len(r.When) == 0 || !slices.ContainsFunc(r.Then, logs):
		case x.To == group.Firing:
			t.aboutGroup(x.At, x.Rule, rules.Log, firing, x.Group)
		case x.From == group.Firing:
			t.aboutGroup(x.At, x.Rule, rules.Log, resolved, x.Group)
		}
	}
}

// What becomes of an alert, and of a group that is logged.
const (
	firing   = "firing"
	resolved = "resolved"
)

// aboutGroup takes in what happened about a group.
func (t *trial) aboutGroup(at sock.Instant, rule string, kind *rules.Kind, result string, labels []subject.Label) {
	t.happened = append(t.happened, happening{at: at.Sub(start), rule: rule, kind: kind, result: result, socket: -1, group: subject.ByName(labels)})
}

// meets reports whether something that happened is what was expected, but for the time.
func (h *happening) meets(e *ruletest.Expectation) bool {
	if h.rule != e.Rule || h.kind != e.Action || h.result != e.Result || e.Socket >= 0 && h.socket != e.Socket {
		return false
	}
	for name, value := range e.Group {
		if h.group[name] != value {
			return false
		}
	}
	return true
}

// expect finds what was expected among what happened.
func (t *trial) expect(e *ruletest.Expectation) {
	found := 0
	for i := range t.happened {
		h := &t.happened[i]
		if found < e.Count && !h.told && h.meets(e) && h.at >= e.At && h.at <= t.deadline(e) {
			h.told = true
			found++
		}
	}
	if found < e.Count {
		t.miss(e, found)
	}
}

// kept compares why nothing happens to a socket with what was expected.
func (t *trial) kept(e *ruletest.Expectation) {
	reasons := make(map[string]int)
	forecasts := t.forecasts(e)
	for _, s := range t.world.sockets[e.Socket] {
		if t.world.Sockets[s.ID.Cookie] == nil {
			reasons[goneReason]++
			continue
		}
		reasons[t.reason(forecasts[s.ID.Cookie])]++
	}
	if len(reasons) == 1 && reasons[e.KeptBy] > 0 {
		return
	}
	t.failures = append(t.failures, t.keptFailure(e, slices.Sorted(maps.Keys(reasons)), forecasts))
}

// The reasons that are none of the engine's.
const (
	notDueReason    = "not_due"  // its time has not come
	unmatchedReason = "no_match" // the rule is about others
	limitReason     = "limit"    // it waits for its turn
	dueReason       = ""         // nothing does
	goneReason      = "-"        // there is no such socket any more
)

// turns are the reasons of what waits for its turn.
var turns = []match.Reason{match.RuleLimit, match.LimitOfAll, match.UnseenLimit, match.CanaryWaits, match.MaxMatches, match.Share}

// Reasons are the words for why a rule does nothing to a socket.
func Reasons() []string {
	words := []string{notDueReason, unmatchedReason, limitReason}
	for _, r := range []match.Reason{
		match.InUse, match.Protected, match.InAcceptQueue, match.MPTCPSubflow, match.HeldByKernel, match.Own, match.Excluded, match.Taken, match.NotIdle, match.NotStalled,
		match.Unmet, match.HoldersUnknown, match.OwnerUnknown, match.GroupIsQuiet,
	} {
		words = append(words, string(r))
	}
	return words
}

// forecasts are what the rule would do to sockets now, by their cookies.
func (t *trial) forecasts(e *ruletest.Expectation) map[uint64]*engine.Forecast {
	by := make(map[uint64]*engine.Forecast)
	all := t.run.Forecasts()
	for i := range all {
		f := &all[i]
		if f.Rule == e.Rule && (e.Action == nil || f.Kind == e.Action) && by[f.Socket.ID.Cookie] == nil {
			by[f.Socket.ID.Cookie] = f
		}
	}
	return by
}

// reason says what keeps the rule from a socket for which it forecasts that.
func (t *trial) reason(f *engine.Forecast) string {
	switch {
	case f == nil:
		return unmatchedReason
	case slices.Contains(turns, f.Not):
		return limitReason
	case f.Not != "":
		return string(f.Not)
	case f.In > 0:
		return notDueReason
	case t.held(f):
		return limitReason
	default:
		return dueReason
	}
}

// held reports whether a limit was the last to hold back the socket.
func (t *trial) held(f *engine.Forecast) bool {
	for i := range slices.Backward(t.happened) {
		if h := &t.happened[i]; h.act != nil && h.rule == f.Rule && h.act.Socket.ID.Cookie == f.Socket.ID.Cookie {
			return h.act.Result == engine.Held
		}
	}
	return false
}

// optional are the results that need not be expected: nothing was done.
var optional = []string{string(engine.Held), string(engine.Changed), string(engine.Gone), resolved, ruletest.PutBack}

// rest reports what happened and was not expected.
func (t *trial) rest() {
	type same struct {
		at           time.Duration
		rule, result string
		kind         *rules.Kind
		socket       int
	}
	counts := make(map[same]int)
	var order []same
	first, last := make(map[same]*happening), make(map[same]*happening)
	for i := range t.happened {
		h := &t.happened[i]
		if h.told || slices.Contains(optional, h.result) {
			continue
		}
		s := same{0, h.rule, h.result, h.kind, h.socket}
		if h.socket < 0 { // several of a socket of the test are told as one
			s.at = h.at.Round(shown)
		}
		if counts[s]++; counts[s] == 1 {
			order, first[s] = append(order, s), h
		}
		last[s] = h
	}
	for _, s := range order {
		t.failures = append(t.failures, Failure{Line: t.test.Line, Happened: t.textOf(first[s], last[s].at, counts[s]), Why: t.whyHappened(first[s])})
	}
}
