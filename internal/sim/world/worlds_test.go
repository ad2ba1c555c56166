package world_test

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sim/world"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

var (
	judges = flag.Int("worlds", manyWorlds, "how many random worlds to simulate")
	seed   = flag.Uint64("seed", 0, "simulate the one world of this seed, and print what happens in it")
)

// TestWorlds runs the engine in random worlds and holds it, at every decision,
// to the truth that it cannot see: nothing is killed early, in use, outside of
// its rule or beyond a limit, and nothing that stays due is forgotten.
func TestWorlds(t *testing.T) {
	if *seed != 0 {
		w := newJudge(*seed)
		w.Trace = func(line string) { t.Log(line) }
		w.run()
		t.Logf("%+v", w.tally)
		if w.failure != "" {
			t.Fatal(w.failure)
		}
		return
	}
	var (
		mu    sync.Mutex
		total tally
		next  atomic.Uint64
		wg    sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= uint64(*judges) && !t.Failed(); seed = next.Add(1) {
				w := newJudge(seed)
				func() {
					defer func() {
						if p := recover(); p != nil {
							w.failf("%v\n%s", p, debug.Stack())
						}
					}()
					w.run()
				}()
				if w.failure != "" {
					t.Errorf("world %d: %s\nto see what happened in it: go test ./internal/sim/world -run TestWorlds -seed=%d -v", seed, w.failure, seed)
				}
				mu.Lock()
				total.add(&w.tally)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d worlds: %+v", *judges, total)
	if total.Kills == 0 || total.Touches == 0 || total.Through == 0 || total.Held == 0 || total.Would == 0 || total.Restarts == 0 || total.Reconnects == 0 || total.Fired == 0 || total.Alerts == 0 || total.Grouped == 0 || total.Changed == 0 || total.Spared == 0 || total.Accepted == 0 || total.ByHolders == 0 || total.Passed == 0 || total.Unseen == 0 || total.Canaries == 0 || total.Stops == 0 || total.Shares == 0 || total.Exact == 0 || total.Changes == 0 || total.Waited == 0 || total.GroupDone == 0 || total.GroupChanged == 0 || total.GroupWould == 0 || total.Signals == 0 || total.Sets == 0 {
		t.Errorf("too little happened to show anything: %+v", total)
	}
}

// tally counts what happened.
type tally struct {
	Touches, Through                                                                                                                                               int // keepalives, and kills through who held the socket
	Steps, Scans, Skips, Asks, Kills, Changed, Gone, Held, Would, Reloads, Restarts, Survivors, Punctual, Reconnects, Fired, Alerts, Grouped, Reads, Spins, Spared int
	Latest                                                                                                                                                         time.Duration // of those seen before they fell due
	ByHolders, Passed, Unseen                                                                                                                                      int           // acts that holders decided, some of sockets that were passed on; rules that waited for holders
	Accepted                                                                                                                                                       int           // acts on what waited in an accept queue
	Canaries, Stops, Shares                                                                                                                                        int           // acts of canaries, rules that stopped themselves, and acts within a share
	Pauses, Waited                                                                                                                                                 int           // pauses, and acts held back by them
	GroupDone, GroupChanged, GroupWould, Signals, Sets                                                                                                             int           // actions on groups
	Exact, Changes                                                                                                                                                 int           // on time by what only a source knew that saw the socket change; and how often it came or went
}

func (t *tally) add(u *tally) {
	t.Touches += u.Touches
	t.Through += u.Through
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
	t.ByHolders += u.ByHolders
	t.Passed += u.Passed
	t.Unseen += u.Unseen
	t.GroupDone += u.GroupDone
	t.Signals += u.Signals
	t.Sets += u.Sets
	t.GroupChanged += u.GroupChanged
	t.GroupWould += u.GroupWould
	t.Exact += u.Exact
	t.Changes += u.Changes
	t.Pauses += u.Pauses
	t.Canaries += u.Canaries
	t.Stops += u.Stops
	t.Shares += u.Shares
	t.Waited += u.Waited
	t.Latest = max(t.Latest, u.Latest)
}

// judge lets random rules loose on one random world, and holds every decision to the
// truth.
type judge struct {
	*world.World
	ruled     int           // number of rule sets so far
	restarted sock.Instant  // the present run began then, if not with the world
	resumed   sock.Instant  // the last pause has ended then, or will
	gap       time.Duration // between two scans, at the longest

	firing  map[string]bool // groups, by rule and labels
	scanned map[string]bool // for the rule, in this run of the watchdog
	alerts  map[string]bool // that fire

	shown  map[uint64]int    // the run that was last shown it in an accept queue, as one that a rule selects
	held   map[uint64]bool   // a limit held it, by cookie
	seen   map[uint64]*truth // what the last exact answer said
	kills  []kill
	done   map[uint64]sock.Instant // when the last act on a socket was, by cookie
	acting map[uint64]bool         // an act on it is under way, by cookie
	said   map[string]int
	groups groupJudge

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

type kill struct {
	rule string
	at   sock.Instant
}

func newJudge(seed uint64) *judge {
	w := &judge{
		World: world.New(seed), groups: newGroupJudge(seed), brake: newBrake(), shown: make(map[uint64]int), held: make(map[uint64]bool), seen: make(map[uint64]*truth), said: make(map[string]int), acting: make(map[uint64]bool),
		done: make(map[uint64]sock.Instant), firing: make(map[string]bool), scanned: make(map[string]bool), alerts: make(map[string]bool),
	}
	w.Observer = w
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
	end := w.Now.Add(time.Minute + w.UpTo(3*time.Minute))
	for range 5 + w.Rand.IntN(40) {
		population{w.Kernel}.add(2 * time.Minute)
	}
	for range w.Rand.IntN(20) {
		w.At(w.Now.Add(w.UpTo(end.Sub(w.Now))), func() { population{w.Kernel}.add(0) })
	}
	w.Reload(w.rules())
	w.Logf("rules %s", describe(w.Rules))
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
	// The kernel takes up to 10 ms to do an act and to confirm it.
	if w.Engine != nil && !w.Stop() && w.failure == "" && w.Calm && max(w.Busy, w.Intends).Add(10*time.Millisecond) < w.Now {
		w.failf("told to stop, and did not")
	}
	if w.Engine != nil && !w.Stopping() {
		w.checkStanding()
	}
}

// start begins a run of the daemon with what is on disk.
func (w *judge) start() {
	clear(w.firing)
	clear(w.scanned)
	clear(w.acting)
	clear(w.groups.underWay)
	clear(w.groups.set) // whoever starts again puts that back first
	clear(w.brake.open)
	for _, g := range w.Groups() {
		for i := range w.Rules.Rules {
			if rule := &w.Rules.Rules[i]; g.Rule == sock.RuleSum(rule.Sum) && g.Firing != 0 && g.Ended == 0 {
				labels, _ := subject.KeyOf(rule.GroupBy).Labels(string(g.Key))
				w.firing[groupName(rule.Name, labels)] = true
			}
		}
	}
	w.ruled++
	w.Start(w.Rules)
}

func groupName(rule string, labels []subject.Label) string { return fmt.Sprint(rule, labels) }

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
			if !w.alerts[name] && w.Calm { // else the disk may have missed that it ended before
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

func (w *judge) reload() {
	w.tally.Reloads++
	set := w.rules()
	if w.Engine != nil {
		w.ruled++
	}
	w.Logf("rules %s", describe(set))
	w.groups.forget(w.Rules, set)
	w.Reload(set)
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

// rules makes a random set. A rule's name stands for its limit's window.
func (w *judge) rules() *rules.Set {
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
	if w.Passes && w.Rand.IntN(4) == 0 {
		set.Protect = append(set.Protect, rules.Match{States: ssfilter.AllStates, Processes: []string{"worker"}})
	}
	named := 1 + w.Rand.IntN(4)
	total := 0
	if w.Rand.IntN(8) == 0 {
		total = w.Rand.IntN(400) // of rules that name a port, most of them none that is in use
	}
	for i := range named + total {
		r := rules.Rule{
			Name:    fmt.Sprintf("rule-%d", w.Rand.IntN(3)*1000+i),
			Enabled: w.Rand.IntN(10) > 0, DryRun: w.Rand.IntN(4) == 0,
			Then: []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1 + w.Rand.IntN(12), Per: time.Duration(5+10*(i%4)) * time.Second}}},
		}
		if w.Rand.IntN(2) == 0 {
			r.Then[0].Order = rules.Newest
		}
		if w.Rand.IntN(5) == 0 {
			r.Then[0].Options = map[string]any{"via": rules.ViaHolder}
		}
		if w.Rand.IntN(5) == 0 {
			r.Then = append([]rules.Action{{Kind: rules.Keepalive}}, r.Then...)
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
			r.Exclude = []rules.Match{{States: ssfilter.AllStates, Where: port(ports[w.Rand.IntN(4)])}}
		}
		if w.Rand.IntN(8) == 0 {
			r.Exclude = append(r.Exclude, rules.Match{States: ssfilter.AllStates, Where: where([]string{"autobound", "not autobound", "fwmark = 2"}[w.Rand.IntN(3)])})
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
		if w.Passes {
			w.byProcess(&r)
		}
		w.groups.actions(&r)
		if w.Rand.IntN(3) == 0 {
			w.canary(&r)
		}
		if w.Rand.IntN(3) == 0 {
			w.share(&r)
		}
		if w.Rand.IntN(8) == 0 {
			r.Then[len(r.Then)-1].MaxMatches = 1 + w.Rand.IntN(20)
		}
		r.Sum = fmt.Sprintf("%+v", r)
		set.Rules = append(set.Rules, r)
	}
	w.Rand.Shuffle(len(set.Rules), func(i, j int) { set.Rules[i], set.Rules[j] = set.Rules[j], set.Rules[i] })
	if w.Rules != nil && w.Rand.IntN(2) == 0 { // some rules stay as they were, at another place
		set.Settings.Limit = w.Rules.Settings.Limit
		kept := w.Rules.Rules[w.Rand.IntN(len(w.Rules.Rules)):]
		names := make(map[string]bool)
		for _, r := range kept {
			names[r.Name] = true
		}
		set.Rules = slices.DeleteFunc(set.Rules, func(r rules.Rule) bool { return names[r.Name] })
		set.Rules = append(set.Rules, kept...)
	}
	return set
}

// byProcess has a rule ask who holds sockets.
func (w *judge) byProcess(r *rules.Rule) {
	names := [][]string{{"leaky"}, {"server"}, {"leaky", "worker"}, {"ser*"}}
	for i := range r.Match {
		if w.Rand.IntN(2) == 0 {
			r.Match[i].Processes = names[w.Rand.IntN(len(names))]
		}
	}
	if w.Rand.IntN(4) == 0 {
		r.Exclude = append(r.Exclude, rules.Match{States: ssfilter.AllStates, Processes: names[w.Rand.IntN(len(names))]})
	}
	if len(r.When) > 0 && w.Rand.IntN(2) == 0 {
		r.GroupBy = append(r.GroupBy, []rules.GroupKey{rules.ByProcess, rules.ByPID}[w.Rand.IntN(2)])
	}
}

// asksHolders reports whether a rule asks who holds sockets.
func asksHolders(r *rules.Rule) bool {
	asks := func(m rules.Match) bool { return len(m.Processes) > 0 }
	return slices.ContainsFunc(r.Match, asks) || slices.ContainsFunc(r.Exclude, asks) || slices.Contains(r.GroupBy, rules.ByProcess) || slices.Contains(r.GroupBy, rules.ByPID)
}

// group makes a rule one about groups.
func (w *judge) group(r *rules.Rule) {
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
			r.Match[i].InStateFor, r.Match[i].IdleFor, r.Match[i].StalledFor, r.Match[i].SilentFor = 0, 0, 0, 0
		}
		r.DryRun = true
	}
}

// somePorts names ports of either side, among which some are in use.
func (w *judge) somePorts() ssfilter.Expr {
	if w.Rand.IntN(2) == 0 {
		local := uint16(10000 + w.Rand.IntN(60))
		return ssfilter.Ports(ssfilter.Src, ssfilter.PortRange{First: local, Last: local + uint16(w.Rand.IntN(5))})
	}
	first := uint16(1 + w.Rand.IntN(6000))
	return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: first, Last: first + uint16(w.Rand.IntN(300))})
}

func (w *judge) matching(port func(int) ssfilter.Expr) rules.Match {
	m := rules.Match{States: []ssfilter.StateSet{
		ssfilter.Of(ssfilter.CloseWait), ssfilter.Of(ssfilter.CloseWait), ssfilter.Of(ssfilter.CloseWait),
		ssfilter.Of(ssfilter.Established), ssfilter.Of(ssfilter.Established, ssfilter.CloseWait),
		ssfilter.Of(ssfilter.TimeWait), ssfilter.Of(ssfilter.FinWait2), ssfilter.Connected,
		ssfilter.Of(ssfilter.LastAck, ssfilter.FinWait1, ssfilter.Closing, ssfilter.SynSent),
	}[w.Rand.IntN(9)]}
	bound := time.Second + w.UpTo(50*time.Second)
	switch w.Rand.IntN(6) {
	case 0, 1:
		m.InStateFor = bound
	case 2:
		m.IdleFor = bound
	case 3:
		m.StalledFor = bound
	case 4:
		m.SilentFor = bound
	case 5:
		m.SilentFor, m.InStateFor, m.StalledFor = bound, bound*time.Duration(w.Rand.IntN(2))/2, bound*time.Duration(w.Rand.IntN(3))/3
	}
	switch w.Rand.IntN(12) {
	case 0:
		m.Where = port(ports[w.Rand.IntN(4)])
	case 1:
		m.Where = ssfilter.Not(port(ports[w.Rand.IntN(4)]))
	case 2:
		m.Users = []uint32{1000}
	case 3:
		m.Unread = &rules.Threshold{Op: rules.LessEqual, Number: 1}
	case 4:
		m.Verdicts = []rules.Verdict{rules.EOFReadNotClosed}
	case 5:
		m.Where = where("autobound")
	case 6:
		m.Where = where("not autobound")
	case 7:
		m.Where = where("fwmark = 1")
	case 8:
		m.Where = where("fwmark != 0 and not autobound")
	case 9:
		kept := w.Rand.IntN(2) == 0
		m.Keepalive = &kept
	}
	return m
}

func describe(set *rules.Set) string {
	var b strings.Builder
	fmt.Fprintf(&b, "limit %v interval %v cpu %v", set.Settings.Limit, set.Settings.Interval, set.Settings.CPUBudget)
	for _, r := range set.Rules {
		fmt.Fprintf(&b, "\n\t%s enabled=%v dry=%v by %v when %v until %v for %v then %v", r.Name, r.Enabled, r.DryRun, r.GroupBy, r.When, r.Until, r.For, r.Then)
		for _, m := range r.Match {
			fmt.Fprintf(&b, "\n\t\tmatch %s where %v in_state %v idle %v stalled %v silent %v users %v unread %v keepalive %v verdicts %v processes %v", m.States, m.Where, m.InStateFor, m.IdleFor, m.StalledFor, m.SilentFor, m.Users, m.Unread, m.Keepalive != nil, m.Verdicts, m.Processes)
		}
		for _, m := range r.Exclude {
			fmt.Fprintf(&b, "\n\t\texclude %s where %v unread %v processes %v", m.States, m.Where, m.Unread, m.Processes)
		}
	}
	return b.String()
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

// Waits notes that the watchdog is shown a socket in an accept queue.
func (w *judge) Waits(s *sim.Socket, shown *sock.Socket, to []*match.Rule) {
	selects := func(m rules.Match) bool {
		return match.Lasts(&m, subject.Of(shown)) != ssfilter.False && m.StalledFor == 0 && max(m.InStateFor, m.IdleFor, m.SilentFor) > 0
	}
	for _, r := range to {
		if r.Enabled && slices.ContainsFunc(r.Match, selects) {
			w.shown[s.ID.Cookie] = w.Run
		}
	}
}

// Scanned notes for which rules the watchdog has seen the table in this run.
func (w *judge) Scanned(scan *engine.Scan) {
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
		w.Logf("%s killed socket %d", o.Act.Rule, o.Act.Socket.ID.Cookie)
		w.kills = append(w.kills, kill{o.Act.Rule, w.Now})
		w.checkLimits(o.Act.Rule)
		w.checkShare(&o.Act)
	}
}

// where is a filter as ss has it.
func where(filter string) ssfilter.Expr {
	x, err := ssfilter.ParseExpr(filter)
	if err != nil {
		panic(err)
	}
	return x
}

// storedWithin is how far what is on disk of a socket may be off.
const storedWithin = 500 * time.Millisecond

// ruleOf is a rule in force.
func (w *judge) ruleOf(name string) *rules.Rule {
	for i := range w.Rules.Rules {
		if w.Rules.Rules[i].Name == name {
			return &w.Rules.Rules[i]
		}
	}
	return nil
}

// dueSince is the true instant since which an action of the rule is due on the
// socket, as far as time goes, or never.
func dueSince(r *rules.Rule, after time.Duration, s *sim.Socket, shown subject.Subject) sock.Instant {
	due := sim.Never
	if match.Any(r.Exclude, shown) != ssfilter.False {
		return sim.Never
	}
	for i := range r.Match {
		m := &r.Match[i]
		if min(match.Lasts(m, shown), match.AtPresent(m, shown)) != ssfilter.True || m.StalledFor == 0 && s.Queued != sim.Never {
			continue
		}
		since := s.Base().Add(max(m.InStateFor, m.IdleFor))
		switch {
		case m.StalledFor > 0:
			since = max(since, max(s.Base(), s.Queued).Add(m.StalledFor), s.SilentBase().Add(m.SilentFor))
		case m.SilentFor > 0 && m.IdleFor == 0:
			since = s.SilentBase().Add(max(m.InStateFor, m.SilentFor))
		case m.SilentFor > 0:
			since = max(since, s.SilentBase().Add(m.SilentFor))
		}
		due = min(due, since.Add(after))
	}
	return due
}

// taboo says why a socket is never to be touched.
func (w *judge) taboo(s *sim.Socket, shown *sock.Socket) string {
	orphaned := s.Inode == 0 && !s.Mini && !s.InAcceptQueue()
	switch {
	case !slices.ContainsFunc(w.heldLately(s, w.Now), func(h *subject.Holders) bool {
		return match.Any(w.Rules.Protect, subject.Subject{Socket: shown, Holders: h}) == ssfilter.False
	}):
		return "protected"
	case s.InAcceptQueue():
		return "in an accept queue"
	case s.MPTCP, s.Inode != 0 && (s.ByKernel || s.BySelf):
		return "not for us"
	case s.Mini && s.State == ssfilter.TimeWait && w.Capabilities[match.DestroyTimeWait] != nil:
		return "this kernel cannot"
	case orphaned && w.Capabilities[match.DestroyOrphan] != nil:
		return "would leak"
	}
	return ""
}

// checkDecision holds a decision against the truth at the instant of the answer
// that it stands on.
func (w *judge) checkDecision(a *engine.Action) {
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
		fires := func(h *subject.Holders) bool {
			labels, _ := key.Labels(string(key.Append(nil, subject.Subject{Socket: &a.Socket, Holders: h})))
			return w.firing[groupName(r.Name, labels)]
		}
		if !slices.ContainsFunc(w.heldLately(s, w.Now), fires) {
			w.failf("%s takes a socket whose group does not fire: %s", a.Rule, s)
		} else if !w.scanned[a.Rule] {
			w.failf("%s takes a socket for a group that an earlier run saw: %s", a.Rule, s)
		}
	}
	if s.Accepted != 0 {
		w.tally.Accepted++
	}
	if asksHolders(r) {
		w.tally.ByHolders++
		if s.Passed() > 0 {
			w.tally.Passed++
		}
	}
	if a.Via == rules.ViaHolder && s.Inode == 0 {
		w.failf("%s goes through who holds a socket that nobody holds: %s", a.Rule, s)
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
		if s.Seen && (s.Keepalive > 0 || s.State != ssfilter.CloseWait) {
			w.tally.Exact++
		}
		w.tally.Latest = max(w.tally.Latest, w.Now.Sub(due))
	}
}

// protects reports whether a process that protects a socket holds it, or has lately.
func (w *judge) protects(s *sim.Socket, shown *sock.Socket) bool {
	return slices.ContainsFunc(w.heldLately(s, w.Now), func(h *subject.Holders) bool {
		return match.Any(w.Rules.Protect, subject.Subject{Socket: shown, Holders: h}) != ssfilter.False
	})
}

// heldAt are the holders of a socket at an instant; none where no descriptor stands for it.
func heldAt(s *sim.Socket, at sock.Instant) *subject.Holders {
	h := &subject.Holders{Complete: true}
	if s.Inode != 0 {
		h.Processes = world.Holders(s, at, 1)
	}
	return h
}

// heldLately are the holders that a socket has had in the time in which the watchdog may go
// by what it has found.
func (w *judge) heldLately(s *sim.Socket, at sock.Instant) (lately []*subject.Holders) {
	recent := 10*time.Second + 20*w.Walking
	lately = append(lately, heldAt(s, at))
	for _, h := range s.Held {
		if h.Since < at && at.Sub(h.Since) <= recent {
			lately = append(lately, heldAt(s, h.Since), heldAt(s, h.Since-1))
		}
	}
	return lately
}

// dueLately is dueSince by any of those.
func (w *judge) dueLately(r *rules.Rule, after time.Duration, s *sim.Socket, shown *sock.Socket) sock.Instant {
	due := sim.Never
	for _, h := range w.heldLately(s, w.Now) {
		due = min(due, dueSince(r, after, s, subject.Subject{Socket: shown, Holders: h}))
	}
	return due
}

// checkTouch holds an act that takes nothing away to what its rule says of the socket as it
// was when it was last seen.
func (w *judge) checkTouch(a *engine.Action) {
	r, seen := w.ruleOf(a.Rule), w.seen[a.Socket.ID.Cookie]
	if r == nil || !r.Enabled || r.DryRun || seen == nil || a.Via != rules.ViaHolder || a.Window != 0 {
		w.failf("%s touches socket %d without right", a.Rule, a.Socket.ID.Cookie)
		return
	}
	shown := seen.Report(seen.at, w.Jiffy)
	if why := w.taboo(&seen.Socket, &shown); why != "" || seen.Inode == 0 {
		w.failf("%s touches a socket that is %s: %s", a.Rule, why, &seen.Socket)
	}
	matched := func(m rules.Match) bool { return m.States.Has(shown.State) }
	if !slices.ContainsFunc(r.Match, matched) {
		w.failf("%s touches a socket that it does not match: %s", a.Rule, &seen.Socket)
	}
}

// checkTruth holds an act to what was true of its socket when it was last seen,
// and returns since when it has been due.
func (w *judge) checkTruth(r *rules.Rule, a *engine.Action) (due sock.Instant) {
	seen := w.seen[a.Socket.ID.Cookie]
	s, kill := &seen.Socket, &r.Then[len(r.Then)-1]
	shown := s.Report(seen.at, w.Jiffy)
	if why := w.taboo(s, &shown); why != "" {
		w.failf("%s takes a socket that is %s: %s", a.Rule, why, s)
	}
	shown.Autobound = ssfilter.TriOf(!s.Bound)
	due = w.dueLately(r, kill.After, s, &shown)
	if s.Mini {
		shown.Autobound = ssfilter.True // as scans say since it is one
		due = min(due, w.dueLately(r, kill.After, s, &shown))
	}
	earliest := due
	if s.Accepted != 0 && !w.knew(s) {
		unseen := *s
		unseen.Accepted = 0
		earliest = w.dueLately(r, kill.After, &unseen, &shown)
	}
	if due == sim.Never {
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
func (w *judge) deadline(r *rules.Rule, kill *rules.Action, s *sim.Socket, held bool, due sock.Instant) (deadline sock.Instant, punctual bool) {
	asks := asksHolders(r) || len(w.Rules.Protect) > 1 || kill.Via() == rules.ViaHolder
	if s.Disturbed || held || len(r.When) > 0 || asks && !w.Calm {
		return sim.Never, false
	}
	const calmsDown = 2*spin.ForgetAfter + 30*time.Second // and what waited for that is killed with the rest
	for _, h := range s.Held {
		for _, pid := range h.By {
			if end, spun := w.Spins[pid]; spun && s.Inode != 0 && w.Now < end.Add(calmsDown) {
				return sim.Never, false
			}
		}
	}
	const (
		scanning = 400 * time.Millisecond
		asking   = 45 * time.Millisecond
	)
	walking, walks := 20*w.Walking, walk.New()
	scans := 1
	if !w.Calm {
		scans = 8
	}
	found := max(s.Changed, w.Ruled).Add(time.Duration(scans)*w.gap + scanning)
	if w.Remembers && s.Changed > s.Entered && !s.Mini && sim.Stages.Has(s.State) {
		found = found.Add(world.FreshFor)
	}
	switch {
	case w.restarted <= found:
	case w.Calm && s.State != ssfilter.SynSent:
		found = found.Add(storedWithin) // what was seen once outlives a restart, unless a SYN says otherwise
	default:
		found = w.restarted.Add(storedWithin + time.Duration(scans)*w.gap + scanning)
	}
	if asks && s.Passed() > 0 {
		// What is known of holders is renewed each minute, or more seldom where walks are slow.
		found = max(found, s.Passed().Add(time.Minute+walking+max(time.Minute, walking)+2*w.gap+scanning))
	}
	up := w.restarted.Add(time.Duration(scans)*w.gap + scanning)
	byKernel := s.State == ssfilter.CloseWait && s.Keepalive == 0 && s.Queued == sim.Never
	bySource := s.Seen && !s.Mini && sim.Stages.Has(s.State) && s.Progress <= s.Entered && (s.Queued == sim.Never || s.Queued == s.Entered)
	if (byKernel || bySource) && s.Accepted == 0 && due.Sub(max(found, up)) > walks.Lead()+walking {
		return due.Add(asking), true
	}
	base := s.Base()
	if slices.ContainsFunc(r.Match, func(m rules.Match) bool { return m.SilentFor > 0 }) {
		base = s.SilentBase()
	}
	bound := due.Sub(max(base, queuedAt(s)))
	return max(due, found.Add(bound), found, up).Add(walks.Patience() + 2*walking), false
}

// queuedAt is since when something waits to be sent; 0: nothing does.
func queuedAt(s *sim.Socket) sock.Instant {
	if s.Queued == sim.Never {
		return 0
	}
	return s.Queued
}

func (w *judge) checkLimits(rule string) {
	r := w.ruleOf(rule)
	if r == nil {
		return // the rules changed under the act
	}
	own, all := 0, 0
	for _, k := range w.kills {
		if k.rule == rule && w.Now.Sub(k.at) < r.Then[len(r.Then)-1].Limit.Per {
			own++
		}
		if w.Now.Sub(k.at) < w.Rules.Settings.Limit.Per {
			all++
		}
	}
	if w.Now.Sub(w.Ruled) > time.Second && (own > r.Then[len(r.Then)-1].Limit.N || all > w.Rules.Settings.Limit.N) {
		w.failf("%s killed %d, all killed %d: beyond a limit", rule, own, all)
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
	keyOf := func(result engine.Result) string {
		return fmt.Sprintf("%d %d %s %s %s %d.%d %s", w.Run, w.ruled, a.Rule, a.Kind, result, a.Socket.ID.Cookie, conn, a.Socket.State)
	}
	key := keyOf(a.Result)
	switch a.Result {
	case engine.Changed:
		delete(w.said, keyOf(engine.Held)) // it may fall due again, and wait again
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
		w.failf("said twice: %s", key)
	}
}

// checkForgotten scans for sockets that should have been killed long ago, and
// for limits that hold back what they have room for.
func (w *judge) checkForgotten() {
	if w.Engine == nil {
		return
	}
	for _, s := range w.Sockets {
		shown := s.Report(w.Now, w.Jiffy)
		shown.Autobound = ssfilter.TriOf(!s.Bound || s.Mini)
		if w.taboo(s, &shown) != "" || s.BySelf || s.Told > 0 {
			continue
		}
		if w.acting[s.ID.Cookie] && w.Now <= w.Busy.Add(time.Millisecond) {
			continue // the record of the intent takes its time
		}
		held := w.held[s.ID.Cookie]
		behind := false // a rule about groups, which may have it and hold it back
		for i := range w.Rules.Rules {
			r := &w.Rules.Rules[i]
			if !r.Enabled || r.DryRun {
				continue
			}
			kill := &r.Then[len(r.Then)-1]
			if w.protects(s, &shown) {
				continue
			}
			due := dueSince(r, kill.After, s, subject.Subject{Socket: &shown, Holders: heldAt(s, w.Now)})
			behind = behind || len(r.When) > 0 && due != sim.Never
			if due == sim.Never || len(r.When) > 0 || kill.Via() == rules.ViaHolder && s.Inode == 0 {
				continue
			}
			if w.brake.stopped[r.Name] == r.Sum {
				continue
			}
			if deadline, _ := w.deadline(r, kill, s, held, due); w.Now > deadline {
				w.failf("%s forgot a socket that has been due since %s: %s; watched %v", r.Name, sim.Text(due), s, w.Engine.Watches(s.ID.Key()))
			}
			if due > w.Now {
				continue
			}
			if deadline, _ := w.deadline(r, kill, s, false, due); held && !behind && w.Calm && deadline != sim.Never && w.Now.Sub(deadline) > 30*time.Second && w.room(r) {
				w.failf("%s holds back a socket that has been due since %s, with room for it: %s", r.Name, sim.Text(due), s)
			}
			break // the first rule has it, and the others wait
		}
	}
}

// room reports whether the limits have had room for one more for a while.
func (w *judge) room(r *rules.Rule) bool {
	const while = 10 * time.Second
	if w.Now < w.resumed.Add(while) {
		return false
	}
	if w.holdsBack(r) {
		return false
	}
	own, all := 0, 0
	limit := r.Then[len(r.Then)-1].Limit
	for _, k := range w.kills {
		if k.rule == r.Name && w.Now.Sub(k.at) < limit.Per+while {
			own++
		}
		if w.Now.Sub(k.at) < w.Rules.Settings.Limit.Per+while {
			all++
		}
	}
	return own < limit.N && all < w.Rules.Settings.Limit.N
}
