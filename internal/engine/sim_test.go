package engine

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

var (
	simWorlds = flag.Int("worlds", 500, "how many random worlds to simulate")
	simSeed   = flag.Uint64("seed", 0, "simulate the one world of this seed, and print what happens in it")
)

// TestWorlds runs the engine in random worlds and holds it, at every decision,
// to the truth that it cannot see: nothing is killed early, in use, outside of
// its rule or beyond a limit, and nothing that stays due is forgotten.
func TestWorlds(t *testing.T) {
	if *simSeed != 0 {
		w := newSimWorld(*simSeed)
		w.trace = func(line string) { t.Log(line) }
		w.run()
		t.Logf("%+v", w.tally)
		if w.failure != "" {
			t.Fatal(w.failure)
		}
		return
	}
	var (
		mu    sync.Mutex
		total simTally
		next  atomic.Uint64
		wg    sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= uint64(*simWorlds) && !t.Failed(); seed = next.Add(1) {
				w := newSimWorld(seed)
				w.run()
				if w.failure != "" {
					t.Errorf("world %d: %s\nto see what happened in it: go test ./internal/engine -run TestWorlds -seed=%d -v", seed, w.failure, seed)
				}
				mu.Lock()
				total.add(&w.tally)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d worlds: %+v", *simWorlds, total)
	if total.Kills == 0 || total.Held == 0 || total.Would == 0 || total.Restarts == 0 || total.Reconnects == 0 || total.Fired == 0 || total.Alerts == 0 || total.Grouped == 0 || total.Changed == 0 || total.Spared == 0 || total.Accepted == 0 {
		t.Errorf("too little happened to show anything: %+v", total)
	}
}

// simTally counts what happened.
type simTally struct {
	Steps, Scans, Skips, Asks, Kills, Changed, Gone, Held, Would, Reloads, Restarts, Survivors, Punctual, Reconnects, Fired, Alerts, Grouped, Reads, Spins, Spared int
	Latest                                                                                                                                                         time.Duration // of those seen before they fell due
	Accepted                                                                                                                                                       int           // acts on what waited in an accept queue
}

func (t *simTally) add(u *simTally) {
	t.Steps += u.Steps
	t.Scans += u.Scans
	t.Skips += u.Skips
	t.Asks += u.Asks
	t.Kills += u.Kills
	t.Changed += u.Changed
	t.Gone += u.Gone
	t.Held += u.Held
	t.Would += u.Would
	t.Reloads += u.Reloads
	t.Restarts += u.Restarts
	t.Survivors += u.Survivors
	t.Punctual += u.Punctual
	t.Reconnects += u.Reconnects
	t.Fired += u.Fired
	t.Alerts += u.Alerts
	t.Grouped += u.Grouped
	t.Reads += u.Reads
	t.Spins += u.Spins
	t.Spared += u.Spared
	t.Accepted += u.Accepted
	t.Latest = max(t.Latest, u.Latest)
}

// simWorld is one random world: a kernel, an engine, and all that lies between.
type simWorld struct {
	*sim.Kernel
	jiffy        time.Duration
	calm         bool // no question and no act ever fails
	engine       *Engine
	run_         int // number of the daemon's run
	ruled        int // number of rule sets so far
	set          *rules.Set
	capabilities match.Capabilities
	wake         sock.Instant
	stopped      bool

	memories map[sock.Key]sock.Memory
	spent    []sock.Spent
	groups   []sock.Group
	firing   map[string]bool      // groups, by rule and labels
	scanned  map[string]bool      // for the rule, in this run of the watchdog
	alarms   map[string]bool      // that fire
	programs [4]sim.Program       // by PID
	walking  time.Duration        // through /proc, at the longest
	spinning bool                 // some kills have a program spin
	spins    map[int]sock.Instant // until when they do, by PID
	acting   sock.Instant         // until when the actor is busy

	shown     map[uint64]simShown
	held      map[uint64]bool     // a limit held it, by cookie
	seen      map[uint64]*simSeen // what the last exact answer said
	kills     []simKill
	done      map[uint64]sock.Instant // when the last act on a socket was, by cookie
	said      map[string]int
	began     sock.Instant // of the present rules
	restarted sock.Instant // the present run began then, if not with the world
	gap       time.Duration
	waited    sock.Instant // the last step that a wake brought
	idle      int          // such steps in a row without the time moving

	tally   simTally
	trace   func(string)
	failure string
}

// simSeen is the truth at the instant of an answer.
type simSeen struct {
	sim.Socket
	at sock.Instant
}

// simShown says that the watchdog was shown a socket waiting in an accept queue,
// as one that a rule selects.
type simShown struct {
	state      ssfilter.State
	ruled, run int
	remarked   int // what is selected by its mark may have been another one before
}

// knew reports whether the watchdog must know when the socket was accepted, at the
// earliest: it was shown it waiting, and has selected it ever since.
func (w *simWorld) knew(s *sim.Socket) bool {
	shown := w.shown[s.ID.Cookie]
	if shown.ruled == 0 || shown.remarked != s.Remarked || w.ruled-shown.ruled > 1 || w.ruled > shown.ruled && s.State != shown.state {
		return false // between the rules of then and now there may have been none for it
	}
	return shown.run == w.run_ || w.calm
}

// show notes that the watchdog is shown a socket by a scan for the classes, or by an
// answer about it alone.
func (w *simWorld) show(s *sim.Socket, shown *sock.Socket, of match.ClassSet) {
	for i := range w.engine.program.Rules {
		r := &w.engine.program.Rules[i]
		selects := func(m rules.Match) bool {
			return match.Lasts(&m, shown) != ssfilter.False && max(m.InStateFor, m.IdleFor) > 0
		}
		if r.Enabled && of.Has(r.Class) && slices.ContainsFunc(r.Match, selects) {
			w.shown[s.ID.Cookie] = simShown{shown.State, w.ruled, w.run_, s.Remarked} // it may have another state by now
		}
	}
}

type simKill struct {
	rule string
	at   sock.Instant
}

func newSimWorld(seed uint64) *simWorld {
	w := &simWorld{
		Kernel: sim.NewKernel(seed, sock.Instant(1000*time.Second)), wake: never,
		shown: make(map[uint64]simShown), held: make(map[uint64]bool),
		memories: make(map[sock.Key]sock.Memory), seen: make(map[uint64]*simSeen), said: make(map[string]int),
		spins: make(map[int]sock.Instant), done: make(map[uint64]sock.Instant), firing: make(map[string]bool), scanned: make(map[string]bool), alarms: make(map[string]bool),
	}
	w.Now += sock.Instant(w.UpTo(time.Second))
	w.jiffy = []time.Duration{time.Millisecond, 4 * time.Millisecond, 10 * time.Millisecond}[w.Rand.IntN(3)]
	w.calm = w.Rand.IntN(2) == 0
	w.TellsMarks = w.Rand.IntN(2) == 0
	w.spinning = w.Rand.IntN(4) == 0
	w.walking = []time.Duration{20 * time.Millisecond, 20 * time.Millisecond, 3 * time.Second}[w.Rand.IntN(3)]
	if w.Rand.IntN(8) == 0 {
		w.capabilities.KillTimeWait = "this kernel cannot"
	}
	if w.Rand.IntN(2) == 0 {
		w.capabilities.KillOrphan = "this kernel would leak it"
	}
	return w
}

// unlucky is true one time in n, where things may go wrong at all.
func (w *simWorld) unlucky(n int) bool { return !w.calm && w.Rand.IntN(n) == 0 }

// schedule has do happen to the daemon of this run.
func (w *simWorld) schedule(at sock.Instant, do func()) {
	run := w.run_
	w.At(at, func() {
		if run == w.run_ {
			do()
		}
	})
}

func (w *simWorld) logf(format string, args ...any) {
	if w.trace != nil {
		w.trace(sim.Text(w.Now) + " " + fmt.Sprintf(format, args...))
	}
}

func (w *simWorld) failf(format string, args ...any) {
	if w.failure == "" {
		w.failure = sim.Text(w.Now) + ": " + fmt.Sprintf(format, args...)
		w.logf("FAILED %s", w.failure)
	}
}

// run lets the world happen.
func (w *simWorld) run() {
	end := w.Now.Add(time.Minute + w.UpTo(3*time.Minute))
	for range 5 + w.Rand.IntN(40) {
		w.Populate(2 * time.Minute)
	}
	for range w.Rand.IntN(20) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), func() { w.Populate(0) })
	}
	w.set = w.rules()
	w.began = w.Now
	w.start()
	for range w.Rand.IntN(3) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), w.reload)
	}
	for range w.Rand.IntN(3) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), w.restart)
	}
	for w.failure == "" {
		next := w.Next()
		if min(next, w.wake) >= end {
			break
		}
		if w.wake < next {
			if w.wake > w.waited {
				w.idle = 0
			}
			w.waited = w.wake
			w.Now = w.wake.Add(w.UpTo(time.Millisecond))
			w.step(nil)
			continue
		}
		w.Happen()
	}
	w.Now = max(w.Now, end)
	if w.failure == "" {
		w.checkForgotten()
		w.stop()
	}
}

// start begins a run of the daemon with what is on disk.
func (w *simWorld) start() {
	w.run_++
	w.acting = 0
	w.engine = New(Config{Precision: w.jiffy, Self: 1, UID: sim.SelfUID})
	w.step(CapabilitiesChanged{w.capabilities})
	var r Restored
	for _, m := range w.memories {
		r.Memories = append(r.Memories, m)
	}
	r.Spent = slices.Clone(w.spent)
	r.Groups = slices.Clone(w.groups)
	w.step(r)
	clear(w.firing)
	clear(w.scanned)
	for _, g := range w.groups {
		for i := range w.set.Rules {
			if rule := &w.set.Rules[i]; g.Rule == sock.RuleSum(rule.Sum) && g.Firing != 0 && g.Ended == 0 {
				labels, _ := subject.KeyOf(rule.GroupBy).Labels(string(g.Key))
				w.firing[groupName(rule.Name, labels)] = true
			}
		}
	}
	w.rule()
}

func groupName(rule string, labels []subject.Label) string { return fmt.Sprint(rule, labels) }

// hear takes in what is said of groups.
func (w *simWorld) hear(p *Plan) {
	for _, t := range p.Transitions {
		w.logf("%s %v %s, count %d", t.Rule, t.Group, t.To, t.Count)
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
		w.logf("alert %s count %d ended %v", name, a.Count, a.Ended != 0)
		if a.Ended != 0 {
			if !w.alarms[name] && w.calm { // else the disk may have missed that it ended before
				w.failf("an alert that does not fire has ended: %s", name)
			}
			delete(w.alarms, name)
			continue
		}
		w.alarms[name] = true
		w.tally.Alerts++
		if r := w.ruleOf(a.Rule); r == nil || !r.Enabled || r.DryRun {
			w.failf("an alert of a rule that sends none: %s", name)
		}
	}
	if p.Groups != nil && !w.unlucky(5) {
		w.groups = p.Groups
	}
}

func (w *simWorld) rule() {
	w.ruled++
	w.logf("rules %s", describe(w.set))
	w.step(RulesChanged{Program: match.Compile(w.set)})
}

func (w *simWorld) reload() {
	w.tally.Reloads++
	w.set = w.rules()
	w.began = w.Now
	w.rule()
}

// restart kills the daemon and starts it again: what it had under way is lost.
func (w *simWorld) restart() {
	w.tally.Restarts++
	w.logf("restart")
	w.wake = never
	w.run_++
	w.At(w.Now.Add(w.UpTo(3*time.Second)), func() {
		w.restarted = w.Now
		w.start()
	})
	w.engine = nil
}

// stop ends the daemon in order.
func (w *simWorld) stop() {
	if w.engine == nil {
		return
	}
	w.stopped = true
	w.step(Stop{})
	deadline := w.Now.Add(time.Second)
	for w.failure == "" && w.stopped && w.Next() < deadline {
		w.Happen()
	}
	if w.failure == "" && w.stopped && w.calm && w.acting < deadline {
		w.failf("told to stop, and did not: %d acts under way, %d to be confirmed", w.engine.acting, w.engine.confirming)
	}
}

// rules makes a random set. A rule's name stands for its limit's window.
func (w *simWorld) rules() *rules.Set {
	set := &rules.Set{Settings: rules.Settings{
		CPUBudget: []float64{0.005, 0.01, 0.1, 1}[w.Rand.IntN(4)],
		Limit:     rules.Limit{N: 5 + w.Rand.IntN(30), Per: 20 * time.Second},
	}}
	if w.Rand.IntN(3) == 0 {
		set.Settings.Interval = time.Second + w.UpTo(9*time.Second)
	}
	port := func(p int) ssfilter.Expr {
		return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: uint16(p), Last: uint16(p)})
	}
	set.Protect = []rules.Match{{States: ssfilter.AllStates, Where: port(22)}}
	named := 1 + w.Rand.IntN(4)
	crowd := 0
	if w.Rand.IntN(8) == 0 {
		crowd = w.Rand.IntN(400) // of rules that name a port, most of them none that is in use
	}
	for i := range named + crowd {
		r := rules.Rule{
			Name:    fmt.Sprintf("rule-%d", w.Rand.IntN(3)*1000+i),
			Enabled: w.Rand.IntN(10) > 0, DryRun: w.Rand.IntN(4) == 0,
			Then: []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1 + w.Rand.IntN(12), Per: time.Duration(5+10*(i%4)) * time.Second}}},
		}
		if w.Rand.IntN(2) == 0 {
			r.Then[0].Order = rules.Newest
		}
		if w.Rand.IntN(3) == 0 {
			r.Then = append([]rules.Action{{Kind: rules.Log}}, r.Then...)
		}
		if w.Rand.IntN(4) == 0 {
			r.Then[len(r.Then)-1].After = w.UpTo(10 * time.Second)
		}
		for range 1 + w.Rand.IntN(2) {
			m := w.matching(port)
			if i >= named {
				m.Where = ssfilter.And(m.Where, w.somePorts())
			}
			r.Match = append(r.Match, m)
		}
		if w.Rand.IntN(4) == 0 {
			r.Exclude = []rules.Match{{States: ssfilter.AllStates, Where: port(sim.Ports[w.Rand.IntN(4)])}}
		}
		if w.Rand.IntN(8) == 0 {
			r.Exclude = append(r.Exclude, rules.Match{States: ssfilter.AllStates, Where: where([]string{"autobound", "not autobound", "fwmark = 2"}[w.Rand.IntN(3)]).Where})
		}
		if w.Rand.IntN(8) == 0 {
			r.Exclude = append(r.Exclude, rules.Match{States: ssfilter.AllStates, Unread: &rules.Threshold{Op: rules.Greater, Number: 1}})
		}
		if w.Rand.IntN(4) == 0 {
			r.Then = append([]rules.Action{{Kind: rules.Alert, Alert: &rules.AlertOptions{KeepFiringFor: w.UpTo(20 * time.Second)}}}, r.Then...)
		}
		if w.Rand.IntN(4) == 0 {
			w.group(&r)
		}
		r.Sum = fmt.Sprintf("%+v", r)
		set.Rules = append(set.Rules, r)
	}
	w.Rand.Shuffle(len(set.Rules), func(i, j int) { set.Rules[i], set.Rules[j] = set.Rules[j], set.Rules[i] })
	if w.set != nil && w.Rand.IntN(2) == 0 { // some rules stay as they were, at another place
		set.Settings.Limit = w.set.Settings.Limit
		kept := w.set.Rules[w.Rand.IntN(len(w.set.Rules)):]
		names := make(map[string]bool)
		for _, r := range kept {
			names[r.Name] = true
		}
		set.Rules = slices.DeleteFunc(set.Rules, func(r rules.Rule) bool { return names[r.Name] })
		set.Rules = append(set.Rules, kept...)
	}
	return set
}

// group makes a rule one about groups.
func (w *simWorld) group(r *rules.Rule) {
	n := w.Rand.IntN(4)
	r.When = []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: float64(n)}}
	if w.Rand.IntN(4) == 0 {
		r.When = append(r.When, rules.Condition{Metric: rules.Growth, Op: rules.Greater, Number: 0.2})
	}
	if w.Rand.IntN(2) == 0 {
		r.Until = []rules.Condition{{Metric: rules.Count, Op: rules.Less, Number: float64(1 + w.Rand.IntN(n+1))}}
	}
	if w.Rand.IntN(2) == 0 {
		r.For = w.UpTo(15 * time.Second)
	}
	for _, key := range []rules.GroupKey{rules.ByDport, rules.ByState, rules.ByUser} {
		if w.Rand.IntN(3) == 0 {
			r.GroupBy = append(r.GroupBy, key)
		}
	}
	if w.Rand.IntN(3) == 0 {
		for i := range r.Match { // count all, whatever their age, and kill none
			r.Match[i].InStateFor, r.Match[i].IdleFor, r.Match[i].StalledFor = 0, 0, 0
		}
		r.DryRun = true
	}
}

// somePorts names ports of either side, among which some are in use.
func (w *simWorld) somePorts() ssfilter.Expr {
	if w.Rand.IntN(2) == 0 {
		local := uint16(10000 + w.Rand.IntN(60))
		return ssfilter.Ports(ssfilter.Src, ssfilter.PortRange{First: local, Last: local + uint16(w.Rand.IntN(5))})
	}
	first := uint16(1 + w.Rand.IntN(6000))
	return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: first, Last: first + uint16(w.Rand.IntN(300))})
}

func (w *simWorld) matching(port func(int) ssfilter.Expr) rules.Match {
	m := rules.Match{States: []ssfilter.StateSet{
		ssfilter.Of(ssfilter.CloseWait), ssfilter.Of(ssfilter.CloseWait), ssfilter.Of(ssfilter.CloseWait),
		ssfilter.Of(ssfilter.Established), ssfilter.Of(ssfilter.Established, ssfilter.CloseWait),
		ssfilter.Of(ssfilter.TimeWait), ssfilter.Of(ssfilter.FinWait2), ssfilter.Connected,
		ssfilter.Of(ssfilter.LastAck, ssfilter.FinWait1, ssfilter.Closing, ssfilter.SynSent),
	}[w.Rand.IntN(9)]}
	bound := time.Second + w.UpTo(50*time.Second)
	switch w.Rand.IntN(4) {
	case 0, 1:
		m.InStateFor = bound
	case 2:
		m.IdleFor = bound
	case 3:
		m.StalledFor = bound
	}
	switch w.Rand.IntN(12) {
	case 0:
		m.Where = port(sim.Ports[w.Rand.IntN(4)])
	case 1:
		m.Where = ssfilter.Not(port(sim.Ports[w.Rand.IntN(4)]))
	case 2:
		m.Users = []uint32{1000}
	case 3:
		m.Unread = &rules.Threshold{Op: rules.LessEqual, Number: 1}
	case 4:
		m.Verdicts = []rules.Verdict{rules.EOFReadNotClosed}
	case 5:
		m.Where = where("autobound").Where
	case 6:
		m.Where = where("not autobound").Where
	case 7:
		m.Where = where("fwmark = 1").Where
	case 8:
		m.Where = where("fwmark != 0 and not autobound").Where
	}
	return m
}

func describe(set *rules.Set) string {
	var b strings.Builder
	fmt.Fprintf(&b, "limit %v interval %v cpu %v", set.Settings.Limit, set.Settings.Interval, set.Settings.CPUBudget)
	for _, r := range set.Rules {
		fmt.Fprintf(&b, "\n\t%s enabled=%v dry=%v by %v when %v until %v for %v then %v", r.Name, r.Enabled, r.DryRun, r.GroupBy, r.When, r.Until, r.For, r.Then)
		for _, m := range r.Match {
			fmt.Fprintf(&b, "\n\t\tmatch %s where %v in_state %v idle %v stalled %v users %v unread %v verdicts %v", m.States, m.Where, m.InStateFor, m.IdleFor, m.StalledFor, m.Users, m.Unread, m.Verdicts)
		}
		for _, m := range r.Exclude {
			fmt.Fprintf(&b, "\n\t\texclude %s where %v unread %v", m.States, m.Where, m.Unread)
		}
	}
	return b.String()
}

// step has the engine take in something, and carries out what it plans.
func (w *simWorld) step(in Input) {
	if w.engine == nil {
		return
	}
	w.tally.Steps++
	d := Driver{Engine: w.engine, Now: func() sock.Instant { return w.Now }, Workers: w}
	p := d.Step(in)
	w.wake = p.Wake
	if p.Wake <= w.Now && !w.stopped {
		w.failf("told to wake at %s, which is past, after %T", sim.Text(p.Wake), in)
	}
	if w.stopped && (p.Scan != nil || len(p.Act) > 0 || p.Count || len(p.Resolve)+len(p.Read)+len(p.Sample) > 0) {
		w.failf("something new was begun after the word to stop")
	}
	if w.stopped && p.Stopped {
		w.stopped = false
	}
	if _, ok := in.(CountersRead); ok && p.Scan == nil {
		w.tally.Skips++
	}
	if w.engine != nil && w.tally.Steps > 100_000 {
		w.failf("the engine is never at rest: %d steps", w.tally.Steps)
	}
}

// Record keeps on disk what is to be kept, and hears what is said.
func (w *simWorld) Record(p *Plan) {
	for _, n := range p.Notes {
		w.logf("note %s %v", n.Text, n.Attrs)
		if strings.Contains(n.Text, "made a program spin") {
			w.tally.Spared++
			if len(w.spins) == 0 {
				w.failf("said that a program spins, and none ever did: %v", n.Attrs)
			}
		}
	}
	for _, m := range p.Remember {
		if !w.unlucky(20) {
			w.memories[m.Key] = m
		}
	}
	for _, key := range p.Forget {
		if !w.unlucky(20) {
			delete(w.memories, key)
		}
	}
	for c := range w.engine.sight.gap {
		w.gap = max(w.gap, w.engine.sight.gap[c])
	}
	w.hear(p)
	for i := range p.Report {
		w.heard(&p.Report[i])
	}
}

// Count reads the counters.
func (w *simWorld) Count() {
	w.deliver(w.UpTo(time.Millisecond), func() Input {
		if w.unlucky(30) {
			return CountersRead{}
		}
		return CountersRead{OK: true, InSegs: w.InSegs, HasInSegs: true, TimeWait: w.TimeWaits(), HasTimeWait: true}
	})
}

// deliver hands the engine an answer that is made a while from now, and reaches
// it a little later.
func (w *simWorld) deliver(d time.Duration, answer func() Input) {
	w.schedule(w.Now.Add(d), func() {
		in := answer()
		w.schedule(w.Now.Add(w.UpTo(time.Millisecond)), func() { w.step(in) })
	})
}

// Scan walks the table as it changes. Where something is taken out meanwhile, it
// may miss what is left.
func (w *simWorld) Scan(l *Scan) {
	w.tally.Scans++
	w.logf("look %s", l.Query.States)
	duration := w.UpTo(300 * time.Millisecond)
	cost := min(duration, w.UpTo(50*time.Millisecond))
	w.schedule(w.Now.Add(w.UpTo(time.Millisecond)), func() {
		sent := w.Now
		f := l.Begin(sent)
		taken := w.Taken
		var waiting []func()
		table := slices.Clone(w.Table)
		chunks := 1 + w.Rand.IntN(5)
		for c := range chunks {
			part := table[len(table)*c/chunks : len(table)*(c+1)/chunks]
			w.schedule(sent.Add(duration*time.Duration(c)/time.Duration(chunks)), func() {
				got := w.Now.Add(w.UpTo(duration / time.Duration(chunks)))
				for _, cookie := range part {
					s := w.Sockets[cookie]
					if s == nil || !l.Query.States.Has(s.State) {
						continue
					}
					// Where all is calm, it misses only those that the engine knows.
					tracked := w.engine.tracks.get(sock.Key{Cookie: cookie}) != nil
					if w.Taken != taken && (tracked || !w.calm) && w.Rand.IntN(10) == 0 {
						continue
					}
					r := s.Scan(&l.Query, w.Now, w.jiffy)
					if l.Query.Where != nil && l.Query.Where.Eval(&r.Conn) == ssfilter.False {
						continue
					}
					if s.InAcceptQueue() {
						waiting = append(waiting, func() { w.show(s, &r, l.of) })
					}
					f.Take(&r, got)
					if w.Rand.IntN(50) == 0 {
						f.Take(&r, got)
					}
				}
			})
		}
		w.schedule(sent.Add(duration+time.Millisecond), func() {
			in := ScanDone{Result: f, Sent: sent, Cost: cost}
			if w.unlucky(20) {
				in.Err = errors.New("cut short")
			} else {
				if l.program == w.engine.program {
					for _, show := range waiting {
						show()
					}
				}
				for i := range l.program.Rules {
					if r := &l.program.Rules[i]; l.of.Has(r.Class) {
						w.scanned[r.Name] = true
					}
				}
			}
			w.step(in)
		})
	})
}

// Lookup answers for single sockets, each at an instant of its own.
func (w *simWorld) Lookup(ids []sock.ID) {
	w.tally.Asks += len(ids)
	for _, id := range ids {
		w.logf("ask for socket %d", id.Cookie)
	}
	w.schedule(w.Now.Add(w.UpTo(time.Millisecond)), func() {
		in := LookupDone{IDs: ids}
		sent := w.Now
		if w.unlucky(30) {
			in.Err = errors.New("no answer")
			ids = ids[:w.Rand.IntN(len(ids))]
		}
		w.schedule(sent.Add(w.UpTo(2*time.Millisecond)), func() {
			got := w.Now.Add(w.UpTo(2 * time.Millisecond))
			for _, id := range in.IDs[len(ids):] {
				if s := w.Sockets[id.Cookie]; s != nil {
					s.Disturbed = true
				}
			}
			for _, id := range ids {
				a := sock.Answer{ID: id, Sent: sent, Got: got}
				s := w.Sockets[id.Cookie]
				switch {
				case s == nil:
					a.Gone = true
				case w.unlucky(50):
					a.Err = errors.New("no memory")
					s.Disturbed = true
				default:
					a.Socket = s.Report(w.Now, w.jiffy)
					if s.InAcceptQueue() {
						known := a.Socket
						known.Autobound = ssfilter.TriOf(!s.Bound) // as a scan has said
						w.show(s, &known, match.AllClasses)
					}
					w.seen[id.Cookie] = &simSeen{*s, w.Now}
				}
				in.Answers = append(in.Answers, a)
			}
			w.schedule(got, func() { w.step(in) })
		})
	})
}

// Resolve walks through /proc.
func (w *simWorld) Resolve(inodes []uint32) {
	cost := w.UpTo(w.walking)
	w.deliver(cost+w.UpTo(20*time.Millisecond), func() Input {
		in := HoldersFound{Holders: make(map[uint32][]sock.Holder), Complete: true, Cost: cost}
		w.holders(inodes, in.Holders, false)
		return in
	})
}

// Read reads the descriptors that are new. It may find any socket, and none.
func (w *simWorld) Read(inodes []uint32) {
	cost, asked := w.UpTo(w.walking/10), slices.Clone(inodes)
	w.tally.Reads++
	w.deliver(cost, func() Input {
		in := NewHoldersFound{Holders: make(map[uint32][]sock.Holder), Cost: cost}
		if w.unlucky(10) {
			return NewHoldersFound{Cost: cost, Err: errors.New("no /proc")}
		}
		w.holders(slices.DeleteFunc(inodes, func(uint32) bool { return w.Rand.IntN(3) == 0 }), in.Holders, false)
		w.holders(asked, in.Holders, true)
		return in
	})
}

func (w *simWorld) holders(of []uint32, holders map[uint32][]sock.Holder, onlySelf bool) {
	for _, s := range w.Sockets {
		if s.Inode == 0 || s.ByKernel || onlySelf && !s.BySelf || !slices.Contains(of, s.Inode) {
			continue
		}
		// Where its start is not known, it is not to be watched.
		holders[s.Inode] = []sock.Holder{{PID: w.holder(s), Start: uint64(w.run_ % 2), Comm: "leaky"}}
	}
}

// holder is the process that has a socket.
func (w *simWorld) holder(s *sim.Socket) int {
	if s.BySelf {
		return 1
	}
	return 2 + int(s.Inode%2)
}

// Sample reads the CPU usage of processes, which now and then cannot be read.
func (w *simWorld) Sample(processes []spin.Process) {
	w.deliver(w.UpTo(50*time.Millisecond), func() Input {
		var in Sampled
		for _, p := range processes {
			s := &w.programs[p.PID%len(w.programs)]
			u := spin.Usage{Process: p, At: w.Now, CPU: s.Used(w.Now), Lived: w.Now.Sub(0), Gone: w.unlucky(100)}
			if s.Cores > 0 && w.Now >= w.spins[p.PID] {
				s.Uses(0, w.Now)
			}
			in.Usages = append(in.Usages, u)
		}
		return in
	})
}

// killed has the program of a killed socket spin for a while, in some worlds.
func (w *simWorld) killed(s *sim.Socket) {
	if pid := w.holder(s); w.Rand.IntN(10) == 0 && w.spinning {
		w.spins[pid] = w.Now.Add(w.UpTo(30 * time.Second))
		w.programs[pid%len(w.programs)].Uses(1, w.Now)
		w.tally.Spins++
	}
}

// Act does what was decided, one batch after the other. The record of the
// intent comes first and survives.
func (w *simWorld) Act(actions []Action) {
	for i := range actions {
		w.checkDecision(&actions[i])
	}
	record := 3 * time.Millisecond
	if w.Rand.IntN(20) == 0 {
		record = 3 * time.Second // a slow disk
	}
	w.acting = max(w.acting, w.Now).Add(w.UpTo(record))
	w.schedule(w.acting, func() {
		for i := range actions {
			a := &actions[i]
			w.spent = append(w.spent, sock.Spent{Rule: sock.RuleSum(a.Rule), N: 1, At: a.Decided, Expires: a.Decided.Add(a.Window)})
		}
		w.schedule(w.Now.Add(w.UpTo(time.Millisecond)), func() {
			outcomes := make([]Outcome, len(actions))
			for i := range actions {
				outcomes[i] = w.destroy(&actions[i])
			}
			done := w.Now.Add(w.UpTo(time.Millisecond))
			for i := range outcomes {
				outcomes[i].At = done
				w.done[outcomes[i].Act.Socket.ID.Cookie] = done
			}
			w.schedule(done, func() { w.step(ActionsDone{outcomes}) })
		})
	})
}

func (w *simWorld) destroy(a *Action) Outcome {
	o := Outcome{Act: *a}
	s := w.Sockets[a.Socket.ID.Cookie]
	switch {
	case s == nil:
		o.Gone, o.Err = true, sock.ErrGone
		w.tally.Gone++
		return o
	case w.unlucky(40):
		o.Err = errors.New("no memory")
		s.Disturbed = true
		return o
	}
	last := sock.Answer{ID: s.ID, Socket: s.Report(w.Now, w.jiffy), Sent: w.Now, Got: w.Now}
	was := w.seen[s.ID.Cookie]
	w.seen[s.ID.Cookie] = &simSeen{*s, w.Now}
	o.Last = last
	if a.Decided < w.began {
		o.Changed = "new rules came first"
		return o
	}
	if o.Changed = a.Recheck(&last); o.Changed != "" {
		w.tally.Changed++
		if s.Conn == was.Conn && s.Changed == was.Changed && s.Progress == was.Progress && s.Queued == was.Queued {
			w.failf("%s is not done, as if something had changed (%s): %s", a.Rule, o.Changed, s)
		}
		return o
	}
	w.checkTruth(w.ruleOf(a.Rule), a)
	switch {
	case w.unlucky(40):
		o.Unsure, o.Err = true, sock.ErrUnconfirmed
		s.Disturbed = true
		if w.Rand.IntN(2) == 0 {
			s.Told++
			w.kills = append(w.kills, simKill{a.Rule, w.Now})
			return o
		}
	}
	w.logf("killed by %s: %s", a.Rule, s)
	w.tally.Kills++
	w.kills = append(w.kills, simKill{a.Rule, w.Now})
	w.checkLimits(a.Rule)
	w.killed(s)
	if s.Told++; w.unlucky(100) {
		w.tally.Survivors++
		s.Disturbed = true
		return o
	}
	w.Remove(s)
	return o
}

// ruleOf is a rule in force.
func (w *simWorld) ruleOf(name string) *rules.Rule {
	for i := range w.set.Rules {
		if w.set.Rules[i].Name == name {
			return &w.set.Rules[i]
		}
	}
	return nil
}

// dueSince is the true instant since which an action of the rule is due on the
// socket, as far as time goes, or never.
func dueSince(r *rules.Rule, after time.Duration, s *sim.Socket, shown *sock.Socket) sock.Instant {
	due := never
	if match.Any(r.Exclude, shown) != ssfilter.False {
		return never
	}
	for i := range r.Match {
		m := &r.Match[i]
		if min(match.Lasts(m, shown), match.AtPresent(m, shown)) != ssfilter.True || m.StalledFor == 0 && s.Queued != never {
			continue
		}
		since := s.Base().Add(max(m.InStateFor, m.IdleFor))
		if m.StalledFor > 0 {
			since = max(s.Base(), s.Queued).Add(m.StalledFor)
		}
		due = min(due, since.Add(after))
	}
	return due
}

// taboo says why a socket is never to be touched.
func (w *simWorld) taboo(s *sim.Socket, shown *sock.Socket) string {
	orphaned := s.Inode == 0 && !s.Mini && !s.InAcceptQueue()
	switch {
	case shown.Dst.Port() == 22:
		return "protected"
	case s.InAcceptQueue():
		return "in an accept queue"
	case s.MPTCP, s.Inode != 0 && (s.ByKernel || s.BySelf):
		return "not for us"
	case s.Mini && s.State == ssfilter.TimeWait && w.capabilities.KillTimeWait != "":
		return "this kernel cannot"
	case orphaned && w.capabilities.KillOrphan != "":
		return "would leak"
	}
	return ""
}

// checkDecision holds a decision against the truth at the instant of the answer
// that it stands on.
func (w *simWorld) checkDecision(a *Action) {
	r := w.ruleOf(a.Rule)
	seen := w.seen[a.Socket.ID.Cookie]
	if r == nil || !r.Enabled || r.DryRun || a.DryRun || seen == nil {
		w.failf("%s takes socket %d without right", a.Rule, a.Socket.ID.Cookie)
		return
	}
	s := &seen.Socket
	kill := &r.Then[len(r.Then)-1]
	if len(r.When) > 0 {
		w.tally.Grouped++
		key := subject.KeyOf(r.GroupBy)
		labels, _ := key.Labels(string(key.Append(nil, subject.Subject{Socket: &a.Socket})))
		if !w.firing[groupName(r.Name, labels)] {
			w.failf("%s takes a socket whose group does not fire: %s", a.Rule, s)
		} else if !w.scanned[a.Rule] {
			w.failf("%s takes a socket for a group that an earlier run saw: %s", a.Rule, s)
		}
	}
	if s.Accepted != 0 {
		w.tally.Accepted++
	}
	due := w.checkTruth(r, a)
	if s.Told > 0 && !s.Disturbed {
		w.failf("%s takes a socket again: %s", a.Rule, s)
	}
	if s.Conn > 0 {
		w.tally.Reconnects++
	}
	if deadline, punctual := w.deadline(r, kill, s, w.held[s.ID.Cookie], due); w.Now > deadline {
		w.failf("%s takes a socket %v late (due %s): %s", a.Rule, w.Now.Sub(deadline), sim.Text(due), s)
	} else if punctual {
		w.tally.Punctual++
		w.tally.Latest = max(w.tally.Latest, w.Now.Sub(due))
	}
}

// checkTruth holds an act to what was true of its socket when it was last seen,
// and returns since when it has been due.
func (w *simWorld) checkTruth(r *rules.Rule, a *Action) (due sock.Instant) {
	seen := w.seen[a.Socket.ID.Cookie]
	s, kill := &seen.Socket, &r.Then[len(r.Then)-1]
	shown := s.Report(seen.at, w.jiffy)
	if why := w.taboo(s, &shown); why != "" {
		w.failf("%s takes a socket that is %s: %s", a.Rule, why, s)
	}
	shown.Autobound = ssfilter.TriOf(!s.Bound)
	due = dueSince(r, kill.After, s, &shown)
	if s.Mini {
		shown.Autobound = ssfilter.True // as scans say since it is one
		due = min(due, dueSince(r, kill.After, s, &shown))
	}
	earliest := due
	if s.Accepted != 0 && !w.knew(s) {
		unseen := *s
		unseen.Accepted = 0
		earliest = dueSince(r, kill.After, &unseen, &shown)
	}
	if due == never {
		w.failf("%s takes a socket that it does not match: %s", a.Rule, s)
	} else if w.Now < earliest {
		w.failf("%s takes a socket %v early: %s", a.Rule, earliest.Sub(w.Now), s)
	}
	return due
}

// deadline is when the engine must have decided to take a socket that has been
// due since then, and whether it could see it coming.
//
// A scan shows a change within a gap, unless it fails; from then on the engine
// counts, if the kernel does not. It then waits for its holders to be found, if
// there was no time for that before.
func (w *simWorld) deadline(r *rules.Rule, kill *rules.Action, s *sim.Socket, held bool, due sock.Instant) (deadline sock.Instant, punctual bool) {
	if s.Disturbed || held || len(r.When) > 0 {
		return never, false
	}
	const calmsDown = 2*spin.ForgetAfter + 30*time.Second // and what waited for that is killed with the rest
	if end, spun := w.spins[w.holder(s)]; spun && s.Inode != 0 && w.Now < end.Add(calmsDown) {
		return never, false
	}
	const (
		scanning = 400 * time.Millisecond
		asking   = 45 * time.Millisecond
	)
	walking, walks := 20*w.walking, walk.New()
	scans := 1
	if !w.calm {
		scans = 8
	}
	found := max(s.Changed, w.began).Add(time.Duration(scans)*w.gap + scanning)
	switch {
	case w.restarted <= found:
	case w.calm && s.State != ssfilter.SynSent:
		found = found.Add(storedWithin) // what was seen once outlives a restart, unless a SYN says otherwise
	default:
		found = w.restarted.Add(storedWithin + time.Duration(scans)*w.gap + scanning)
	}
	up := w.restarted.Add(time.Duration(scans)*w.gap + scanning)
	if s.State == ssfilter.CloseWait && s.Keepalive == 0 && s.Queued == never && s.Accepted == 0 && due.Sub(max(found, up)) > walks.Lead()+walking {
		return due.Add(asking), true
	}
	bound := due.Sub(max(s.Base(), queuedAt(s)))
	return max(due, found.Add(bound), found, up).Add(walks.Patience() + 2*walking), false
}

// queuedAt is since when something waits to be sent; 0: nothing does.
func queuedAt(s *sim.Socket) sock.Instant {
	if s.Queued == never {
		return 0
	}
	return s.Queued
}

func (w *simWorld) checkLimits(rule string) {
	r := w.ruleOf(rule)
	if r == nil {
		return // the rules changed under the act
	}
	own, all := 0, 0
	for _, k := range w.kills {
		if k.rule == rule && w.Now.Sub(k.at) < r.Then[len(r.Then)-1].Limit.Per {
			own++
		}
		if w.Now.Sub(k.at) < w.set.Settings.Limit.Per {
			all++
		}
	}
	if w.Now.Sub(w.began) > time.Second && (own > r.Then[len(r.Then)-1].Limit.N || all > w.set.Settings.Limit.N) {
		w.failf("%s killed %d, all killed %d: beyond a limit", rule, own, all)
	}
}

// heard takes in what is reported.
func (w *simWorld) heard(a *Action) {
	s := w.Sockets[a.Socket.ID.Cookie]
	w.logf("%s %s %s socket %d: %s", a.Rule, a.Kind, a.Result, a.Socket.ID.Cookie, a.Reason)
	conn := 0
	if seen := w.seen[a.Socket.ID.Cookie]; seen != nil {
		conn = seen.Conn
		if s != nil && s.Conn != conn {
			conn = -w.tally.Steps // no answer says which of its connections this is about
		}
	}
	keyOf := func(result Result) string {
		return fmt.Sprintf("%d %d %s %s %s %d.%d %s", w.run_, w.ruled, a.Rule, a.Kind, result, a.Socket.ID.Cookie, conn, a.Socket.State)
	}
	key := keyOf(a.Result)
	switch a.Result {
	case Changed:
		delete(w.said, keyOf(Held)) // it may fall due again, and wait again
		return
	case Held:
		w.tally.Held++
		if s != nil && !a.DryRun {
			w.held[s.ID.Cookie] = true
		}
	case Would:
		w.tally.Would++
	case Done:
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
	if w.said[key]++; w.said[key] > 1 && (s == nil || !s.Disturbed || a.Result == Held) {
		w.failf("said twice: %s", key)
	}
}

// checkForgotten scans for sockets that should have been killed long ago, and
// for limits that hold back what they have room for.
func (w *simWorld) checkForgotten() {
	if w.engine == nil {
		return
	}
	for _, s := range w.Sockets {
		shown := s.Report(w.Now, w.jiffy)
		shown.Autobound = ssfilter.TriOf(!s.Bound || s.Mini)
		if w.taboo(s, &shown) != "" || s.BySelf || s.Told > 0 {
			continue
		}
		if t := w.engine.tracks.get(s.ID.Key()); t != nil && t.phase == acted && w.Now <= w.acting.Add(time.Millisecond) {
			continue // the record of the intent takes its time
		}
		held := w.held[s.ID.Cookie]
		behind := false // a rule about groups, which may have it and hold it back
		for i := range w.set.Rules {
			r := &w.set.Rules[i]
			if !r.Enabled || r.DryRun {
				continue
			}
			kill := &r.Then[len(r.Then)-1]
			due := dueSince(r, kill.After, s, &shown)
			behind = behind || len(r.When) > 0 && due != never
			if due == never || len(r.When) > 0 {
				continue
			}
			if deadline, _ := w.deadline(r, kill, s, held, due); w.Now > deadline {
				w.failf("%s forgot a socket that has been due since %s: %s; track %+v", r.Name, sim.Text(due), s, w.engine.tracks.get(s.ID.Key()))
			}
			if due > w.Now {
				continue
			}
			if deadline, _ := w.deadline(r, kill, s, false, due); held && !behind && w.calm && deadline != never && w.Now.Sub(deadline) > 30*time.Second && w.room(r) {
				w.failf("%s holds back a socket that has been due since %s, with room for it: %s", r.Name, sim.Text(due), s)
			}
			break // the first rule has it, and the others wait
		}
	}
}

// room reports whether the limits have had room for one more for a while.
func (w *simWorld) room(r *rules.Rule) bool {
	const while = 10 * time.Second
	own, all := 0, 0
	limit := r.Then[len(r.Then)-1].Limit
	for _, k := range w.kills {
		if k.rule == r.Name && w.Now.Sub(k.at) < limit.Per+while {
			own++
		}
		if w.Now.Sub(k.at) < w.set.Settings.Limit.Per+while {
			all++
		}
	}
	return own < limit.N && all < w.set.Settings.Limit.N
}
