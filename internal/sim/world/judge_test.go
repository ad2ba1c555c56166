package world_test

import (
	"fmt"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sim/world"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// judge lets random rules loose on one random world, and holds every decision to the
// truth.
type judge struct {
	*world.World
	large     bool          // one world in ten is
	made      int           // number of rules so far
	ruled     int           // number of rule sets so far
	restarted sock.Instant  // the present run began then, if not with the world
	resumed   sock.Instant  // the last pause has ended then, or will
	gap       time.Duration // between two scans, at the longest

	firing  map[string]bool // groups, by rule and labels
	known   map[string]bool // groups that fired when the present run began, by what was on disk
	scanned map[string]bool // for the rule, in this run of the watchdog
	alerts  map[string]bool // that fire

	shown  map[uint64]int    // the run that was last shown it in an accept queue, as one that a rule selects
	held   map[uint64]bool   // a limit held it, by cookie
	seen   map[uint64]*truth // what the last exact answer said
	kills  []kill
	asked  map[uint64]asked        // keepalives that were turned on, by cookie
	done   map[uint64]sock.Instant // when the last act on a socket was, by cookie
	acting map[uint64]bool         // an act on it is under way, by cookie
	said   map[report]int
	groups groupJudge
	shuts  shutJudge

	brake   brake
	tally   tally
	failure string
}

// truth is the truth at the instant of an answer.
type truth struct {
	sim.Socket
	at sock.Instant
}

// knew reports whether the watchdog must know when the socket was accepted, at the
// earliest: it was shown it waiting, whatever has become of the rules since. What it knew
// before a restart it has on disk, if that is well.
func (w *judge) knew(s *sim.Socket) bool {
	run, shown := w.shown[s.ID.Cookie]
	return shown && (run == w.Run || w.Calm)
}

// report is what has been said of a connection, by a run of the watchdog under one set of
// rules.
type report struct {
	run, ruled int
	rule       string
	kind       *rules.Kind
	result     engine.Result
	cookie     uint64
	conn       int
	state      ssfilter.State
}

// asked is by which rule the keepalives of a connection were turned on, in which run.
type asked struct {
	run       int
	rule, sum string
	conn      int
}

type kill struct {
	rule string
	at   sock.Instant
}

func newJudge(seed uint64) *judge {
	w := &judge{
		World: world.New(seed), groups: newGroupJudge(seed), shuts: newShutJudge(seed), brake: newBrake(), shown: make(map[uint64]int), held: make(map[uint64]bool), seen: make(map[uint64]*truth), said: make(map[report]int), asked: make(map[uint64]asked), acting: make(map[uint64]bool),
		done: make(map[uint64]sock.Instant), firing: make(map[string]bool), known: make(map[string]bool), scanned: make(map[string]bool), alerts: make(map[string]bool),
	}
	w.Observer = w
	w.large = w.Rand.IntN(10) == 0
	return w
}

func (w *judge) failf(format string, args ...any) {
	if w.failure == "" {
		w.failure = sim.Text(w.Now) + ": " + fmt.Sprintf(format, args...)
		w.Logf("FAILED %s", w.failure)
	}
}

// run lets the world happen.
func (w *judge) run() {
	// A small world costs a tenth of a large one, and shows most of what that would.
	sockets, more, lasts := 1+w.Rand.IntN(12), w.Rand.IntN(7), 10*time.Second+w.UpTo(110*time.Second)
	if w.large {
		sockets, more, lasts = 5+w.Rand.IntN(40), w.Rand.IntN(20), time.Minute+w.UpTo(3*time.Minute)
	}
	end := w.Now.Add(lasts)
	for range sockets {
		population{w.Kernel}.add(2 * time.Minute)
	}
	for range more {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), func() { population{w.Kernel}.add(0) })
	}
	w.Reload(w.rules())
	w.describe()
	w.start()
	for range w.Rand.IntN(3) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), w.reload)
	}
	for range w.Rand.IntN(3) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), w.restart)
	}
	for range w.Rand.IntN(3) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), w.pause)
	}
	for range w.Rand.IntN(3) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), w.reset)
	}
	if w.Events {
		for range w.Rand.IntN(4) {
			w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), w.changeSource)
		}
	}
	w.Until(end, func() bool { return w.failure != "" })
	if w.failure != "" {
		return
	}
	w.tally.Spins = len(w.Spins)
	w.checkForgotten()
	if w.Engine != nil {
		w.checkLeft()
	}
	// The kernel takes up to 10 ms to do an act and to confirm it.
	if w.Engine != nil && !w.Stop() && w.failure == "" && w.Calm && max(w.Busy, w.Intends).Add(10*time.Millisecond) < w.Now {
		w.failf("told to stop, and did not")
	}
	if w.Engine != nil && !w.Stopping() {
		w.checkOutcomes()
		w.checkStanding()
	}
}

// start begins a run of the daemon with what is on disk.
func (w *judge) start() {
	clear(w.firing)
	clear(w.known)
	clear(w.scanned)
	clear(w.acting)
	clear(w.groups.underWay)
	clear(w.groups.set) // whoever starts again puts that back first
	w.groups.begin(w.Run)
	clear(w.brake.open)
	for _, g := range w.Groups() {
		for i := range w.Rules.Rules {
			if rule := &w.Rules.Rules[i]; g.Rule == sock.RuleSum(rule.Sum) && g.Firing != 0 && g.Ended == 0 {
				labels, _ := subject.KeyOf(rule.GroupBy).Labels(string(g.Key))
				w.firing[groupName(rule.Name, labels)], w.known[groupName(rule.Name, labels)] = true, true
			}
		}
	}
	w.ruled++
	w.Start(w.Rules)
}

func groupName(rule string, labels []subject.Label) string { return fmt.Sprint(rule, labels) }

func (w *judge) reload() {
	w.tally.Reloads++
	set := w.rules()
	if w.Engine != nil {
		w.ruled++
	}
	w.groups.forget(w.Rules, set)
	w.Reload(set)
	w.describe()
	w.unbraked()
}

// pause has nothing acted on for a while, which ends by itself or by somebody.
func (w *judge) pause() {
	w.tally.Pauses++
	w.resumed = max(w.resumed, w.Now.Add(w.UpTo(time.Minute)))
	w.Pause(w.resumed)
	if w.Rand.IntN(2) == 0 {
		w.At(w.Now.Add(w.UpTo(30*time.Second)), func() {
			w.Resume()
			w.resumed = w.Now
		})
	}
}

// changeSource has the source of sockets tell more than the kernel, or no more.
func (w *judge) changeSource() {
	if w.Engine != nil {
		w.tally.Changes++
		w.ChangeSource()
	}
}

// restart kills the daemon and starts it again: what it had under way is lost.
func (w *judge) restart() {
	w.tally.Restarts++
	w.Crash()
	w.At(w.Now.Add(w.UpTo(3*time.Second)), func() {
		w.restarted = w.Now
		w.start()
	})
}

// ruleOf is a rule in force.
func (w *judge) ruleOf(name string) *rules.Rule {
	for i := range w.Rules.Rules {
		if w.Rules.Rules[i].Name == name {
			return &w.Rules.Rules[i]
		}
	}
	return nil
}

// Planned takes in what is planned and said.
func (w *judge) Planned(in engine.Input, p *engine.Plan) {
	w.tally.Steps++
	if p.Wake <= w.Now && !w.Stopping() {
		w.failf("told to wake at %s, which is past, after %T", sim.Text(p.Wake), in)
	}
	if w.Stopping() && (p.Scan != nil || len(p.Act) > 0 || p.Count || len(p.Resolve)+len(p.Read)+len(p.Sample)+len(p.Intend)+len(p.ActOn) > 0) {
		w.failf("something new was begun after the word to stop")
	}
	if w.tally.Steps > 100_000 {
		w.failf("the engine is never at rest: %d steps", w.tally.Steps)
	}
	if _, ok := in.(engine.CountersRead); ok && p.Scan == nil {
		w.tally.Skips++
	}
	if p.Scan != nil {
		w.tally.Scans++
		clear(w.brake.shown)
	}
	if len(p.Read) > 0 {
		w.tally.Reads++
	}
	w.tally.Asks += len(p.Lookup)
	for _, id := range p.Lookup {
		w.Logf("ask for socket %d", id.Cookie)
	}
	for _, n := range p.Notes {
		w.Logf("note %s %v", n.Kind, n.Values)
		if n.Kind == engine.HoldersUnseen {
			w.tally.Unseen++
		}
		if n.Kind == engine.SpinBegan {
			w.tally.Spared++
			if len(w.Spins) == 0 {
				w.failf("said that a program spins, and none ever did: %v", n.Values)
			}
		}
	}
	w.gap = max(w.gap, w.Engine.ScanInterval(match.Cheap), w.Engine.ScanInterval(match.Expensive))
	w.hear(in, p)
	w.brakes(p)
	for i := range p.Report {
		w.heard(&p.Report[i])
	}
	for i := range p.ReportGroups {
		w.heardGroup(&p.ReportGroups[i])
	}
	if len(p.Act)+len(p.Intend)+len(p.ActOn) > 0 && w.Paused() {
		w.failf("%d acts are decided on while that is paused", len(p.Act))
	}
	for i := range p.Act {
		if p.Act[i].Kind == rules.Keepalive {
			w.checkTouch(&p.Act[i])
			continue
		}
		w.checkDecision(&p.Act[i])
		w.acting[p.Act[i].Socket.ID.Cookie] = true
	}
}

// hear takes in what is said of groups.
func (w *judge) hear(in engine.Input, p *engine.Plan) {
	_, reloaded := in.(engine.RulesChanged) // with which the last of the old rules are told

	for _, t := range p.Transitions {
		w.Logf("%s %v %s, count %d", t.Rule, t.Group, t.To, t.Count)
		w.firing[groupName(t.Rule, t.Group)] = t.To == group.Firing
		if t.To == group.Firing {
			w.tally.Fired++
		}
		r := w.ruleOf(t.Rule)
		if r == nil || !r.Enabled || t.To == group.Firing && len(r.When) > 0 && w.Now.Sub(t.Since) < r.For {
			w.failf("%s %v turns %s, which has held since %s", t.Rule, t.Group, t.To, sim.Text(t.Since))
		}
	}
	for _, a := range p.Alerts {
		name := fmt.Sprint(a.Rule, a.Action, a.Group)
		w.Logf("alert %s count %d ended %v", name, a.Count, a.Ended != 0)
		if a.Ended != 0 {
			// The disk may have missed that it ended before, and that it was not told before a crash.
			if !w.alerts[name] && w.Calm && !w.known[groupName(a.Rule, a.Group)] {
				w.failf("an alert that does not fire has ended: %s", name)
			}
			delete(w.alerts, name)
			continue
		}
		w.alerts[name] = true
		w.tally.Alerts++
		if r := w.ruleOf(a.Rule); !reloaded && (r == nil || !r.Enabled || r.DryRun) {
			w.failf("an alert of a rule that sends none: %s", name)
		}
	}
}

// heard takes in what is reported.
func (w *judge) heard(a *engine.Action) {
	s := w.Sockets[a.Socket.ID.Cookie]
	w.Logf("%s %s %s socket %d: %s", a.Rule, a.Kind, a.Result, a.Socket.ID.Cookie, a.Reason)
	conn := 0
	if seen := w.seen[a.Socket.ID.Cookie]; seen != nil {
		conn = seen.Conn
	}
	if s == nil || s.Conn != conn {
		conn = -w.tally.Steps // no answer says which of its connections this is about
	}
	key := report{w.Run, w.ruled, a.Rule, a.Kind, a.Result, a.Socket.ID.Cookie, conn, a.Socket.State}
	switch a.Result {
	case engine.Changed:
		key.result = engine.Held
		delete(w.said, key) // it may fall due again, and wait again
		return
	case engine.Held:
		w.tally.Held++
		if w.Paused() && !a.DryRun {
			w.tally.Waited++
		}
		if s != nil && !a.DryRun {
			w.held[s.ID.Cookie] = true
		}
	case engine.Would:
		w.tally.Would++
	case engine.Done:
		if a.Kind == rules.Kill && s != nil && s.Conn == 0 {
			w.failf("said to be done, and it lives: %s", s)
		}
		if a.Kind == rules.Kill && a.At != w.done[a.Socket.ID.Cookie] {
			w.failf("said to be done at %s, and was at %s", sim.Text(a.At), sim.Text(w.done[a.Socket.ID.Cookie]))
		}
		if a.Kind == rules.Kill {
			return
		}
	default:
		return
	}
	if w.said[key]++; w.said[key] > 1 && (s == nil || !s.Disturbed || a.Result == engine.Held) {
		w.failf("said twice: %+v", key)
	}
}

// Waits notes that the watchdog is shown a socket in an accept queue.
func (w *judge) Waits(s *sim.Socket, shown *sock.Socket, to []*match.Rule) {
	for _, r := range to {
		for i := range r.Match {
			if m := &r.Match[i]; r.Enabled && match.Lasts(m, subject.Of(shown)) != ssfilter.False && m.StalledFor == 0 && max(m.InStateFor, m.IdleFor, m.SilentFor) > 0 {
				w.shown[s.ID.Cookie] = w.Run
				return
			}
		}
	}
}

// Scanned notes for which rules the watchdog has seen the table in this run.
func (w *judge) Scanned(scan *engine.Scan) {
	w.brake.takeLive()
	for _, r := range scan.Rules() {
		w.scanned[r.Name] = true
	}
}

// Answered notes the truth at the instant of an exact answer.
func (w *judge) Answered(s *sim.Socket) { w.seen[s.ID.Cookie] = &truth{*s, w.Now} }

// Acts holds a kill, or that it is not done, to the truth at its instant.
func (w *judge) Acts(o *engine.Outcome, s *sim.Socket) {
	a, was := &o.Act, w.brake.basis[decided{o.Act.Socket.ID.Cookie, o.Act.Kind}]
	w.Answered(s)
	switch {
	case w.Paused() && o.Changed == "":
		w.failf("%s kills while that is paused: %s", a.Rule, s)
	case a.Decided < w.Ruled, o.Changed == match.HoldersOld, o.Changed == match.Paused:
	case o.Changed == match.HolderChanged && s.Passed() > 0:
	case o.Changed == "" && a.Kind == rules.Keepalive:
		w.tally.Touches++
		if r := w.ruleOf(a.Rule); s.Keepalive == 0 {
			w.asked[s.ID.Cookie] = asked{w.Run, r.Name, r.Sum, s.Conn}
		}
	case o.Changed == "":
		w.checkTruth(w.ruleOf(a.Rule), a)
	default:
		w.tally.Changed++
		if was != nil && s.Conn == was.Conn && s.Changed == was.Changed && s.Progress == was.Progress && s.Queued == was.Queued {
			w.failf("%s is not done, as if something had changed (%s): %s", a.Rule, o.Changed, s)
		}
	}
}

// Acted takes in what came of an act.
func (w *judge) Acted(o *engine.Outcome, s *sim.Socket) {
	if o.Act.Kind == rules.Keepalive {
		return
	}
	if o.Err == nil && o.Changed == "" && o.Act.Via == rules.ViaHolder {
		w.tally.Through++
	}
	w.done[o.Act.Socket.ID.Cookie] = o.At
	w.braked(o)
	delete(w.acting, o.Act.Socket.ID.Cookie)
	switch {
	case o.Gone:
		w.tally.Gone++
	case o.Changed != "", o.Err != nil && !o.Unsure:
	default:
		if s == nil || o.Err == nil {
			w.tally.Kills++
		}
		if s != nil && o.Err == nil {
			w.tally.Survivors++
		}
		w.Logf("%s took socket %d by %s", o.Act.Rule, o.Act.Socket.ID.Cookie, o.Act.Kind)
		w.shutDown(o, s)
		w.kills = append(w.kills, kill{o.Act.Rule, w.Now})
		w.checkLimits(o.Act.Rule)
		w.checkShare(&o.Act)
	}
}
