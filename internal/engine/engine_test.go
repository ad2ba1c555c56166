package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// bench is an engine whose plans are carried out at once, on sockets whose truth
// is known. Time moves only from wake to wake.
type bench struct {
	t       *testing.T
	e       *Engine
	now     sock.Instant
	wake    sock.Instant
	sockets map[uint64]*sim.Socket
	missed  map[uint64]bool // by scans
	twice   bool            // scans show everything twice
	count   CountersRead
	cost    time.Duration // of a scan
	scanErr error
	// scanTime is how long scans take that are begun now.
	scanTime time.Duration
	destroy  func(*Action) Outcome // nil: the kernel does it
	// beforeLast, if not nil, happens between a decision and the last question
	// before its act.
	beforeLast func(*sim.Socket)
	old        time.Duration // each answer about single sockets is, when it is taken in
	holders    func(inode uint32) []sock.Holder
	probe      func(url string) error
	signal     func(*GroupAction)       // hears of each signal
	groupErr   error                    // of each action on a group
	fds        map[spin.Process]float64 // what walks find of their descriptors

	events []string // what was reported, from benchStart on
	heard  struct { // the events that plans said last of groups and alerts
		at       sock.Instant
		from, to int
	}
	notes         []string
	held          []saidHeld
	scans         []ssfilter.StateSet
	asks          int
	sampled       int // readings of CPU usage
	counts        int
	alarms        map[string]Alert // that fire
	ofRules       []string         // alerts about rules themselves, each when it begins and ends
	problems      map[string]RuleAlert
	kept          []sock.Group
	stops         []sock.RuleStop
	spent         []sock.Spent // of shares, and by actions on groups
	late          []time.Duration
	memories      map[sock.Key]sock.Memory
	slow, partial bool                 // walks of /proc: that do not end, that were refused a process
	settled       map[*sock.Owner]bool // of a partial walk
	walkCost      time.Duration
	remembered    map[uint64]sock.Answer // what scans show of sockets
	walks, reads  int                    // of all descriptors, of the new ones
	reused        map[uint32]bool        // sockets behind descriptors that were another's
	programs      map[int]*sim.Program
	world         []worldEvent // what is to happen, in no order
}

// worldEvent is something that happens whether or not the engine knows.
type worldEvent struct {
	at sock.Instant
	do func()
}

// saidHeld is a summary, and when it was said.
type saidHeld struct {
	HeldBack
	at time.Duration
}

// benchStart is when each test begins.
const benchStart = sock.Instant(1000 * time.Second)

const benchJiffy = time.Millisecond

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{
		t: t, now: benchStart, sockets: make(map[uint64]*sim.Socket), missed: make(map[uint64]bool), memories: make(map[sock.Key]sock.Memory),
		e: New(Config{Precision: benchJiffy, Self: 1}), alarms: make(map[string]Alert), problems: make(map[string]RuleAlert),
		holders: func(uint32) []sock.Holder { return []sock.Holder{{PID: 2, Comm: "leaky"}} },
	}
	b.e.Step(b.now, CapabilitiesChanged{match.Capabilities{rules.Descriptor: errNoDescriptors}})
	return b
}

var errNoDescriptors = errors.New("no pidfd_getfd")

// set fills in what every set of rules has.
func set(list ...rules.Rule) rules.Set {
	s := rules.Set{Settings: rules.Settings{CPUBudget: 0.01, Limit: rules.Limit{N: 5000, Per: time.Minute}}, Rules: list}
	s.Protect = []rules.Match{{States: ssfilter.AllStates, Where: port(22)}}
	return s
}

func port(p uint16) ssfilter.Expr {
	return ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: p, Last: p})
}

// killing is a rule that kills what stays in CLOSE_WAIT for ten seconds.
func killing(name string, change ...func(*rules.Rule)) rules.Rule {
	r := rules.Rule{
		Name: name, Enabled: true,
		Match: []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second}},
		Then:  []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1000, Per: time.Minute}, Order: rules.Oldest}},
	}
	for _, c := range change {
		c(&r)
	}
	r.Sum = fmt.Sprintf("%+v", r)
	return r
}

func dryRun(r *rules.Rule)   { r.DryRun = true }
func logging(r *rules.Rule)  { r.Then = []rules.Action{{Kind: rules.Log}} }
func disabled(r *rules.Rule) { r.Enabled = false }
func limited(n int, per time.Duration) func(*rules.Rule) {
	return func(r *rules.Rule) { r.Then[0].Limit = rules.Limit{N: n, Per: per} }
}
func newest(r *rules.Rule) { r.Then[0].Order = rules.Newest }
func after(d time.Duration) func(*rules.Rule) {
	return func(r *rules.Rule) { r.Then[0].After = d }
}
func matching(m rules.Match) func(*rules.Rule) {
	return func(r *rules.Rule) { r.Match = []rules.Match{m} }
}
func exclude(m rules.Match) func(*rules.Rule) {
	return func(r *rules.Rule) { r.Exclude = []rules.Match{m} }
}

// add makes a socket in CLOSE_WAIT that entered it some time before the start.
func (b *bench) add(cookie uint64, age time.Duration, change ...func(*sim.Socket)) *sim.Socket {
	since := benchStart.Add(-age)
	s := &sim.Socket{
		ID: sock.ID{Family: 2, Cookie: cookie, DPort: [2]byte{0, 80}}, State: ssfilter.CloseWait, Inode: uint32(cookie), UID: 1000,
		Entered: since, Progress: since, Queued: never, LastAck: since, LastData: since, Acked: 1, Received: 100, Segs: 5,
	}
	for _, c := range change {
		c(s)
	}
	b.sockets[cookie] = s
	return s
}

// where is what killing matches, as far as the filter holds.
func where(filter string) rules.Match {
	x, err := ssfilter.ParseExpr(filter)
	if err != nil {
		panic(err)
	}
	return rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second, Where: x}
}

// reconnect makes of s a new connection from the same port to the same peer, which
// has closed it at once.
func reconnect(s *sim.Socket, now sock.Instant) {
	s.Entered, s.Progress, s.LastAck, s.LastData, s.Segs = now, now, now, now, 7
}

func bindsPort(s *sim.Socket) { s.Bound = true }
func marked(mark uint32) func(*sim.Socket) {
	return func(s *sim.Socket) { s.Mark, s.Marked = mark, true }
}
func keepsAlive(s *sim.Socket) { s.Keepalive, s.LastAck = time.Second, benchStart }

// step has the engine take in something, and what comes of it.
func (b *bench) step(in Input) {
	b.t.Helper()
	inputs := []Input{in}
	for n := 0; len(inputs) > 0; n++ {
		if n > 1000 {
			b.t.Fatalf("the engine is never at rest: %T %+v", inputs[0], inputs[0])
		}
		p := b.e.Step(b.now, inputs[0])
		inputs = append(inputs[1:], b.carryOut(&p)...)
		b.wake = p.Wake
		if len(inputs) == 0 && b.wake <= b.now {
			b.t.Fatalf("told to wake at %s, which is past", b.since(b.wake))
		}
	}
}

func (b *bench) since(at sock.Instant) time.Duration { return at.Sub(benchStart) }

func (b *bench) carryOut(p *Plan) (inputs []Input) {
	if p.Resumed {
		b.events = append(b.events, fmt.Sprintf("%v resumed", b.since(b.now)))
	}
	for _, a := range p.Report {
		b.events = append(b.events, fmt.Sprintf("%v %s %s %s %d", b.since(b.now).Truncate(100*time.Millisecond), a.Rule, a.Kind, a.Result, a.Socket.ID.Cookie))
	}
	for _, a := range p.ReportGroups {
		b.events = append(b.events, fmt.Sprintf("%v %s %s %s", b.since(b.now).Truncate(100*time.Millisecond), a.Rule, a.Kind(), a.Result))
	}
	for _, a := range p.Intend {
		if a.Window > 0 {
			b.spent = append(b.spent, sock.Spent{Rule: sock.RuleSum(a.Limit()), N: 1, At: b.now, Expires: b.now.Add(a.Window), Own: !a.Kind().Destructive})
		}
		inputs = append(inputs, GroupIntended{a})
	}
	for _, a := range p.ActOn {
		if b.signal != nil && a.Kind() == rules.Signal {
			b.signal(&a)
		}
		inputs = append(inputs, GroupActed{Act: a, Err: b.groupErr, At: b.now})
	}
	for _, n := range p.Notes {
		b.notes = append(b.notes, fmt.Sprintf("%v %s %v", b.since(b.now).Truncate(100*time.Millisecond), n.Kind, n.Values))
	}
	for _, h := range p.Held {
		b.held = append(b.held, saidHeld{h, b.since(b.now)})
	}
	for _, m := range p.Remember {
		b.memories[m.Key] = m
	}
	for _, key := range p.Forget {
		delete(b.memories, key)
	}
	if p.Stops != nil {
		b.stops = p.Stops
	}
	b.late = append(b.late, p.Late...)
	b.hear(p)
	b.hearOfRules(p)
	if p.Count {
		b.counts++
		inputs = append(inputs, b.count)
	}
	if p.Scan != nil {
		b.scans = append(b.scans, p.Scan.Query.States)
		if in := b.scan(p.Scan); b.scanTime > 0 {
			b.later(b.scanTime, func() { b.step(in) })
		} else {
			inputs = append(inputs, in)
		}
	}
	if len(p.Lookup) > 0 {
		b.asks += len(p.Lookup)
		in := LookupDone{IDs: p.Lookup}
		for _, id := range p.Lookup {
			in.Answers = append(in.Answers, b.answer(id, b.now.Add(-b.old)))
		}
		inputs = append(inputs, in)
	}
	if len(p.Act) > 0 {
		var in ActionsDone
		for i := range p.Act {
			for _, share := range p.Act[i].Shares {
				a := &p.Act[i]
				b.spent = append(b.spent, sock.Spent{Rule: share, N: 1, At: b.now, Expires: b.now.Add(a.ShareWindow), Share: true})
			}
			o := b.act(&p.Act[i])
			o.At = b.now
			in.Outcomes = append(in.Outcomes, o)
		}
		inputs = append(inputs, in)
	}
	if len(p.Resolve) > 0 && !b.slow {
		in := HoldersFound{Complete: !b.partial, Settled: b.settled, Cost: b.walkCost, Holders: make(map[uint32][]sock.Holder), FDUsage: maps.Clone(b.fds)}
		for _, inode := range p.Resolve {
			if held := b.holders(inode); held != nil {
				in.Holders[inode] = held
			}
		}
		b.walks++
		if b.walkCost > 0 {
			b.later(b.walkCost, func() { b.step(in) })
		} else {
			inputs = append(inputs, in)
		}
	}
	if len(p.Read) > 0 && !b.slow {
		b.reads++
		in := NewHoldersFound{Cost: b.walkCost / 20, Holders: make(map[uint32][]sock.Holder)}
		for _, inode := range p.Read {
			if held := b.holders(inode); held != nil && !b.reused[inode] {
				in.Holders[inode] = held
			}
		}
		if b.walkCost > 0 {
			b.later(in.Cost, func() { b.step(in) })
		} else {
			inputs = append(inputs, in)
		}
	}
	for _, url := range p.Probe {
		inputs = append(inputs, Probed{URL: url, Err: b.probe(url)})
	}
	if len(p.Sample) > 0 {
		b.sampled += len(p.Sample)
		var in Sampled
		for _, p := range p.Sample {
			u := spin.Usage{Process: p, At: b.now, Gone: true}
			if s := b.programs[p.PID]; s != nil && s.Start == p.Start {
				if s.Unreadable {
					continue
				}
				u.Gone, u.CPU, u.Waited, u.Runs, u.Lived = false, s.Used(b.now), s.WaitedUntil(b.now), s.RunsUntil(b.now), b.now.Sub(0)
			}
			in.Usages = append(in.Usages, u)
		}
		inputs = append(inputs, in)
	}
	return inputs
}

// answer is what the kernel says of one socket at an instant.
func (b *bench) answer(id sock.ID, at sock.Instant) sock.Answer {
	a := sock.Answer{ID: id, Sent: at, Got: at}
	if s := b.sockets[id.Cookie]; s != nil {
		a.Socket = s.Report(at, benchJiffy)
	} else {
		a.Gone = true
	}
	return a
}

// act asks for the socket once more and destroys it, if it is still as decided.
func (b *bench) act(a *Action) Outcome {
	id := a.Socket.ID
	if s := b.sockets[id.Cookie]; s != nil && b.beforeLast != nil {
		b.beforeLast(s)
	}
	last := b.answer(id, b.now)
	if !last.Gone {
		if why := a.Recheck(&last); why != "" {
			return Outcome{Act: *a, Changed: why, Last: last}
		}
	}
	if b.destroy != nil {
		return b.destroy(a)
	}
	delete(b.sockets, id.Cookie)
	return Outcome{Act: *a}
}

func (b *bench) scan(l *Scan) ScanDone {
	f := l.Begin(b.now)
	take := func() {
		for cookie, s := range b.sockets {
			if r := s.Scan(&l.Query, b.now, benchJiffy); !b.missed[cookie] && l.Query.States.Has(r.State) && (l.Query.Where == nil || l.Query.Where.Eval(&r.Conn) == ssfilter.True) {
				if a, ok := b.remembered[cookie]; ok && l.Query.Known != sock.Now {
					f.Take(&a.Socket, a.Got)
					continue
				} else if ok {
					b.remember(s)
				}
				f.Take(&r, b.now)
			}
		}
	}
	take()
	if b.twice {
		take()
	}
	return ScanDone{Result: f, Sent: b.now, Cost: b.cost, Err: b.scanErr}
}

// rule puts rules in force.
func (b *bench) rule(s rules.Set) {
	b.t.Helper()
	b.step(RulesChanged{Program: match.Compile(&s)})
}

// later has something happen in the world after a while.
func (b *bench) later(d time.Duration, do func()) {
	b.world = append(b.world, worldEvent{b.now.Add(d), do})
}

// until lets time pass up to an instant after the start.
func (b *bench) until(d time.Duration) {
	b.t.Helper()
	for {
		next := -1
		for i := range b.world {
			if b.world[i].at <= min(b.wake, benchStart.Add(d)) && (next < 0 || b.world[i].at < b.world[next].at) {
				next = i
			}
		}
		if next >= 0 {
			event := b.world[next]
			b.world = slices.Delete(b.world, next, next+1)
			b.now = max(b.now, event.at)
			event.do()
			continue
		}
		if b.wake > benchStart.Add(d) {
			break
		}
		b.now = b.wake
		b.step(nil)
	}
	b.now = benchStart.Add(d)
}

// want compares all that was reported with one line for each.
func (b *bench) want(lines ...string) {
	b.t.Helper()
	if diff := cmp.Diff(lines, b.events); diff != "" {
		b.t.Errorf("reported (-want +got):\n%s", diff)
	}
}

// noted returns how often something of the kind was noted, with these values.
func (b *bench) noted(kind NoteKind, values ...string) (times int) {
	for _, n := range b.notes {
		if strings.Contains(n, " "+string(kind)+" ") && !slices.ContainsFunc(values, func(v string) bool { return !strings.Contains(n, v) }) {
			times++
		}
	}
	return times
}

// TestDecisions shows what becomes of sockets under given rules, a minute long.
func TestDecisions(t *testing.T) {
	verdict := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second, Verdicts: []rules.Verdict{rules.EOFUnread}}
	idle := rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: 10 * time.Second}
	stalled := rules.Match{States: ssfilter.Of(ssfilter.Established), StalledFor: 10 * time.Second}
	silent := rules.Match{States: ssfilter.Of(ssfilter.Established, ssfilter.CloseWait), SilentFor: 10 * time.Second}
	ofRoot := rules.Match{States: ssfilter.AllStates, Users: []uint32{0}}
	established := func(s *sim.Socket) { s.State = ssfilter.Established }
	queues := func(at time.Duration) func(*sim.Socket) {
		return func(s *sim.Socket) { s.Queued = benchStart.Add(at) }
	}
	tests := []struct {
		name   string
		rules  []rules.Rule
		add    func(b *bench)
		during func(b *bench) // after five seconds
		want   []string
	}{
		{name: "due when first seen", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, time.Minute) }, want: []string{"0s r kill done 1"}},
		{name: "due later", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, 3*time.Second) }, want: []string{"7s r kill done 1"}},
		{name: "due beyond the lookahead", rules: []rules.Rule{killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 50 * time.Second}))},
			add: func(b *bench) { b.add(1, time.Second) }, want: []string{"49s r kill done 1"}},
		{name: "keepalives count from the first answer", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, time.Minute, keepsAlive) }, want: []string{"10s r kill done 1"}},
		{name: "after", rules: []rules.Rule{killing("r", after(20*time.Second))},
			add: func(b *bench) { b.add(1, 3*time.Second) }, want: []string{"27s r kill done 1"}},
		{name: "closed in time", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, 0) }, during: func(b *bench) { delete(b.sockets, 1) }},
		{name: "half-closed and sending", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, time.Minute, queues(-time.Minute)) }},
		{name: "half-closed and acknowledged again", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, 0) },
			during: func(b *bench) {
				s := b.sockets[1]
				s.Acked, s.LastAck, s.Progress = s.Acked+10, b.now, b.now
			}, want: []string{"15s r kill done 1"}},
		{name: "idle", rules: []rules.Rule{killing("r", matching(idle))},
			add:  func(b *bench) { b.add(1, 3*time.Second, established); b.add(2, time.Minute, established, queues(0)) },
			want: []string{"7s r kill done 1"}},
		{name: "idle, with data on the fast path", rules: []rules.Rule{killing("r", matching(idle))},
			add:    func(b *bench) { b.add(1, 0, established) },
			during: func(b *bench) { s := b.sockets[1]; s.Received, s.LastData = s.Received+1, b.now },
			want:   []string{"15s r kill done 1"}},
		{name: "silent, though the peer acknowledges", rules: []rules.Rule{killing("r", matching(silent))},
			add:    func(b *bench) { b.add(1, 3*time.Second, established, keepsAlive) },
			during: func(b *bench) { s := b.sockets[1]; s.Acked, s.LastAck, s.Progress = s.Acked+10, b.now, b.now },
			want:   []string{"7s r kill done 1"}},
		{name: "silent, and then no more", rules: []rules.Rule{killing("r", matching(silent))},
			add:    func(b *bench) { b.add(1, 3*time.Second, established) },
			during: func(b *bench) { s := b.sockets[1]; s.Received, s.LastData, s.Progress = s.Received+1, b.now, b.now },
			want:   []string{"15s r kill done 1"}},
		{name: "silent, and something is not acknowledged", rules: []rules.Rule{killing("r", matching(silent))},
			add: func(b *bench) { b.add(1, 3*time.Second, established, queues(time.Second)) }},
		{name: "silent after its FIN, and acknowledging", rules: []rules.Rule{killing("r", matching(silent))},
			add:    func(b *bench) { b.add(1, 3*time.Second) },
			during: func(b *bench) { s := b.sockets[1]; s.Acked, s.LastAck, s.Progress = s.Acked+10, b.now, b.now },
			want:   []string{"15s r kill done 1"}},
		{name: "stalled counts from when something is queued", rules: []rules.Rule{killing("r", matching(stalled))},
			add:    func(b *bench) { b.add(1, time.Minute, established) },
			during: func(b *bench) { b.sockets[1].Queued = b.now },
			want:   []string{"16s r kill done 1"}},
		{name: "stalled, and some of it acknowledged", rules: []rules.Rule{killing("r", matching(stalled))},
			add:    func(b *bench) { b.add(1, time.Minute, established, queues(-time.Minute)) },
			during: func(b *bench) { s := b.sockets[1]; s.Acked, s.LastAck = s.Acked+10, b.now },
			want:   []string{"16s r kill done 1"}},
		{name: "verdict that comes later", rules: []rules.Rule{killing("r", matching(verdict))},
			add: func(b *bench) { b.add(1, time.Minute) }, during: func(b *bench) { b.sockets[1].RQueue = 1 },
			want: []string{"6s r kill done 1"}},
		{name: "unknown owner does not match", rules: []rules.Rule{killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.TimeWait), InStateFor: time.Second, Users: []uint32{0}}))},
			add: func(b *bench) {
				b.add(1, 10*time.Second, func(s *sim.Socket) {
					s.State, s.Mini, s.Inode, s.UID, s.Expires = ssfilter.TimeWait, true, 0, 0, benchStart.Add(50*time.Second)
				})
			}},
		{name: "unknown owner is not outside of exclude", rules: []rules.Rule{killing("r", exclude(ofRoot), matching(rules.Match{States: ssfilter.Of(ssfilter.TimeWait), InStateFor: time.Second}))},
			add: func(b *bench) {
				b.add(1, 10*time.Second, func(s *sim.Socket) {
					s.State, s.Mini, s.Inode, s.UID, s.Expires = ssfilter.TimeWait, true, 0, 0, benchStart.Add(50*time.Second)
				})
			}},
		{name: "excluded for certain, and for certain not", rules: []rules.Rule{killing("r", exclude(ofRoot))},
			add: func(b *bench) { b.add(1, time.Minute, func(s *sim.Socket) { s.UID = 0 }); b.add(2, time.Minute) }, want: []string{"0s r kill done 2"}},
		{name: "protected", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, time.Minute, func(s *sim.Socket) { s.ID.DPort = [2]byte{0, 22} }) }},
		{name: "MPTCP subflow", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, time.Minute, func(s *sim.Socket) { s.MPTCP = true }) }},
		{name: "in an accept queue", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, time.Minute, func(s *sim.Socket) { s.Inode = 0 }) }},
		{name: "listening", rules: []rules.Rule{killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.Listening), InStateFor: time.Second}))},
			add: func(b *bench) { b.add(1, time.Minute, func(s *sim.Socket) { s.State = ssfilter.Listening }) }},
		{name: "held by the kernel", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.holders = func(uint32) []sock.Holder { return nil }; b.add(1, time.Minute) }},
		{name: "the watchdog's own", rules: []rules.Rule{killing("r")},
			add: func(b *bench) {
				b.holders = func(uint32) []sock.Holder { return []sock.Holder{{PID: 7}, {PID: 1}} }
				b.add(1, time.Minute)
			}},
		{name: "orphan that the kernel would leak", rules: []rules.Rule{killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.LastAck), StalledFor: time.Second}))},
			add: func(b *bench) {
				b.step(CapabilitiesChanged{match.Capabilities{match.DestroyOrphan: errors.New("this kernel would leak it"), rules.Descriptor: errNoDescriptors}})
				b.add(1, time.Minute, queues(-time.Minute), func(s *sim.Socket) { s.State, s.Inode = ssfilter.LastAck, 0 })
			}},
		{name: "the first rule takes it", rules: []rules.Rule{killing("a"), killing("b")},
			add: func(b *bench) { b.add(1, time.Minute) }, want: []string{"0s a kill done 1"}},
		{name: "a rule whose instant comes first takes it", rules: []rules.Rule{killing("a", after(time.Second)), killing("b")},
			add: func(b *bench) { b.add(1, 0) }, want: []string{"10s b kill done 1"}},
		{name: "disabled and dry-run rules take none", rules: []rules.Rule{killing("a", disabled), killing("b", dryRun), killing("c")},
			add: func(b *bench) { b.add(1, time.Minute) }, want: []string{"0s b kill would 1", "0s c kill done 1"}},
		{name: "log once, then nothing", rules: []rules.Rule{killing("r", logging)},
			add: func(b *bench) { b.add(1, 0) }, want: []string{"10s r log done 1"}},
		{name: "dry run says it once", rules: []rules.Rule{killing("r", dryRun)},
			add: func(b *bench) { b.add(1, 0) }, want: []string{"10s r kill would 1"}},
		{name: "the kernel cannot", rules: []rules.Rule{killing("r")},
			add: func(b *bench) {
				b.step(CapabilitiesChanged{match.Capabilities{rules.Destroy: errors.New("no capability"), rules.Descriptor: errNoDescriptors}})
				b.add(1, time.Minute)
			}, want: []string{"0s r kill would 1"}},
		{name: "a survivor is told once", rules: []rules.Rule{killing("a"), killing("b")},
			add: func(b *bench) {
				b.add(1, time.Minute)
				b.destroy = func(a *Action) Outcome { return Outcome{Act: *a} }
			}, want: []string{"0s a kill unconfirmed 1"}},
		{name: "gone before the act", rules: []rules.Rule{killing("r")},
			add: func(b *bench) {
				b.add(1, time.Minute)
				b.destroy = func(a *Action) Outcome {
					delete(b.sockets, 1)
					return Outcome{Act: *a, Gone: true, Err: sock.ErrGone}
				}
			}, want: []string{"0s r kill gone 1"}},
		{name: "a failed act is tried again, less and less often", rules: []rules.Rule{killing("r")},
			add: func(b *bench) {
				b.add(1, time.Minute)
				b.destroy = func(a *Action) Outcome { return Outcome{Act: *a, Err: errors.New("no memory")} }
			}, want: []string{"0s r kill failed 1", "1s r kill failed 1", "3s r kill failed 1", "7s r kill failed 1", "15s r kill failed 1", "31s r kill failed 1"}},
		{name: "a permanent failure switches off", rules: []rules.Rule{killing("r")},
			add: func(b *bench) {
				b.add(1, time.Minute)
				b.add(2, 0)
				b.destroy = func(a *Action) Outcome {
					return Outcome{Act: *a, Err: errors.New("operation not permitted"), Never: true}
				}
			}, want: []string{"0s r kill failed 1", "1s r kill would 1", "10s r kill would 2"}},
		{name: "what an old kernel refuses for minisockets is possible for others", rules: []rules.Rule{killing("r", func(r *rules.Rule) { r.Match[0].States |= ssfilter.Of(ssfilter.FinWait2) })},
			add: func(b *bench) {
				b.add(1, time.Minute, func(s *sim.Socket) {
					s.State, s.Mini, s.Inode, s.Expires = ssfilter.FinWait2, true, 0, benchStart.Add(30*time.Second)
				})
				b.add(2, 0)
				b.destroy = func(a *Action) Outcome {
					if a.Socket.Minisocket() {
						return Outcome{Act: *a, Err: errors.New("operation not supported"), Never: true}
					}
					delete(b.sockets, a.Socket.ID.Cookie)
					return Outcome{Act: *a}
				}
			}, want: []string{"10s r kill failed 1", "10s r kill done 2", "11s r kill would 1"}},
		{name: "reconnected under the same cookie", rules: []rules.Rule{killing("r")},
			add: func(b *bench) { b.add(1, 0) },
			during: func(b *bench) {
				reconnect(b.sockets[1], b.now)
			}, want: []string{"15s r kill done 1"}},
		{name: "autobound, which scans alone tell", rules: []rules.Rule{killing("r", matching(where("autobound")))},
			add: func(b *bench) { b.add(1, 3*time.Second); b.add(2, 3*time.Second, bindsPort) }, want: []string{"7s r kill done 1"}},
		{name: "not autobound", rules: []rules.Rule{killing("r", matching(where("not autobound")))},
			add: func(b *bench) { b.add(1, 3*time.Second); b.add(2, 3*time.Second, bindsPort) }, want: []string{"7s r kill done 2"}},
		{name: "autobound is asked for by a later rule", rules: []rules.Rule{killing("r", matching(where("dport = 80")), after(time.Hour))},
			add: func(b *bench) { b.add(1, 0, keepsAlive) },
			during: func(b *bench) {
				b.rule(set(killing("r", matching(where("autobound")))))
			}, want: []string{"10s r kill done 1"}},
		{name: "autobound beside a rule for all ports", rules: []rules.Rule{killing("all", logging), killing("r", matching(where("autobound")))},
			add: func(b *bench) { b.add(1, 3*time.Second); b.add(2, 5*time.Second, bindsPort) }, want: []string{"5s all log done 2", "7s all log done 1", "7s r kill done 1"}},
		{name: "autobound excludes", rules: []rules.Rule{killing("r", exclude(where("autobound")))},
			add: func(b *bench) { b.add(1, 3*time.Second); b.add(2, 3*time.Second, bindsPort) }, want: []string{"7s r kill done 2"}},
		{name: "a new connection is not autobound because the old one was", rules: []rules.Rule{killing("r", matching(where("autobound")))},
			add: func(b *bench) { b.add(1, 0) },
			during: func(b *bench) {
				reconnect(b.sockets[1], b.now)
				b.missed[1] = true
			}},
		{name: "a new connection is not bound because the old one was", rules: []rules.Rule{killing("r", matching(where("not autobound")))},
			add: func(b *bench) { b.add(1, 0, bindsPort) },
			during: func(b *bench) {
				reconnect(b.sockets[1], b.now)
				b.missed[1] = true
			}},
		{name: "a mark", rules: []rules.Rule{killing("r", matching(where("fwmark = 5")))},
			add: func(b *bench) { b.add(1, 3*time.Second, marked(5)); b.add(2, 3*time.Second, marked(4)) }, want: []string{"7s r kill done 1"}},
		{name: "a mark that the kernel does not tell", rules: []rules.Rule{killing("a", matching(where("fwmark = 5"))), killing("b", matching(where("fwmark != 5")))},
			add: func(b *bench) { b.add(1, 3*time.Second) }},
		{name: "a mark that is set in time", rules: []rules.Rule{killing("r", matching(where("fwmark = 5")))},
			add: func(b *bench) { b.add(1, time.Minute, marked(4)) }, during: func(b *bench) { b.sockets[1].Mark = 5 },
			want: []string{"6s r kill done 1"}},
		{name: "a mark that is taken away in time", rules: []rules.Rule{killing("r", matching(where("fwmark = 5")))},
			add: func(b *bench) { b.add(1, 3*time.Second, marked(5)) }, during: func(b *bench) { b.sockets[1].Mark = 0 }},
		{name: "a mark that comes and goes", rules: []rules.Rule{killing("r", matching(where("fwmark = 5")), logging)},
			add: func(b *bench) { b.add(1, time.Minute, marked(5)) }, during: func(b *bench) {
				for range 5 {
					b.sockets[1].Mark ^= 5
					b.until(b.since(b.now) + 3*time.Second)
				}
			}, want: []string{"0s r log done 1"}},
		{name: "a mark that excludes until it is taken away", rules: []rules.Rule{killing("r", exclude(where("fwmark = 5")))},
			add: func(b *bench) { b.add(1, time.Minute, marked(5)) }, during: func(b *bench) { b.sockets[1].Mark = 0 },
			want: []string{"6s r kill done 1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			test.add(b)
			b.rule(set(test.rules...))
			if test.during != nil {
				b.until(5 * time.Second)
				test.during(b)
			}
			b.until(time.Minute)
			b.want(test.want...)
		})
	}
}

// What is protected by a condition that only scans tell is so, and the rest is not.
func TestProtectedIfAutobound(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	b.add(2, time.Minute, bindsPort)
	s := set(killing("r"))
	s.Protect = []rules.Match{{States: ssfilter.AllStates, Where: ssfilter.Autobound()}}
	b.rule(s)
	b.until(time.Minute)
	b.want("0s r kill done 2")
}

func TestForecastsTellOfEachActionOnce(t *testing.T) {
	either := func(r *rules.Rule) { r.Match = append(r.Match, where("dport = 80")) }
	s := set(killing("a", either), killing("b", matching(where("dport = 443"))), killing("c", either, logging, after(time.Hour)))
	b := newBench(t)
	b.add(1, time.Minute)
	f := b.scan(ScanAll(match.Compile(&s), benchJiffy)).Result
	var got []string
	for _, f := range Forecasts(f, b.e.config, match.Capabilities{}, Restored{}, HoldersFound{Complete: true, Holders: map[uint32][]sock.Holder{1: {{PID: 2}}}}, nil, b.now) {
		got = append(got, fmt.Sprintf("%s %s in %v %s", f.Rule, f.Kind, f.In.Round(time.Second), f.Not))
	}
	if diff := cmp.Diff([]string{"a kill in 0s ", "c log in 59m10s "}, got); diff != "" {
		t.Errorf("forecasts (-want +got):\n%s", diff)
	}
}

// Why a socket is left alone is told as it is.
func TestForecastsSayWhyNot(t *testing.T) {
	states := ssfilter.Of(ssfilter.CloseWait)
	stalls := matching(rules.Match{States: states, StalledFor: time.Minute})
	idles := matching(rules.Match{States: states, IdleFor: time.Minute})
	s := set(killing("stalls", stalls, logging), killing("idles", idles, logging))
	b := newBench(t)
	b.add(1, time.Hour)
	b.add(2, time.Hour, func(s *sim.Socket) { s.Queued = benchStart.Add(-time.Second) })
	f := b.scan(ScanAll(match.Compile(&s), benchJiffy)).Result
	var got []string
	for _, f := range Forecasts(f, b.e.config, match.Capabilities{}, Restored{}, HoldersFound{Complete: true}, nil, b.now) {
		if f.Not != "" {
			got = append(got, fmt.Sprintf("%s %d: %s", f.Rule, f.Socket.ID.Cookie, f.Not))
		}
	}
	slices.Sort(got)
	want := []string{
		"idles 2: not_idle",
		"stalls 1: not_stalled",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("forecasts (-want +got):\n%s", diff)
	}
}

func TestPermanentFailureIsNotedOnce(t *testing.T) {
	b := newBench(t)
	for cookie := range uint64(3) {
		b.add(cookie+1, time.Minute)
	}
	b.destroy = func(a *Action) Outcome { return Outcome{Act: *a, Err: errors.New("no capability"), Never: true} }
	b.rule(set(killing("r")))
	b.until(time.Minute)
	if n := b.noted(ActionOff); n != 1 {
		t.Errorf("noted %d times: %v", n, b.notes)
	}
}

// TestHeld shows in which order a limit lets sockets go on.
func TestHeld(t *testing.T) {
	tests := []struct {
		name   string
		rules  []rules.Rule
		during func(b *bench)
		want   []string
	}{
		{name: "oldest", rules: []rules.Rule{killing("r", limited(1, 10*time.Second))}, want: []string{
			"0s r kill held 3", "0s r kill held 2", "0s r kill done 1", "10s r kill done 3", "20s r kill done 2"}},
		{name: "newest", rules: []rules.Rule{killing("r", limited(1, 10*time.Second), newest)}, want: []string{
			"0s r kill held 3", "0s r kill held 1", "0s r kill done 2", "10s r kill done 3", "20s r kill done 1"}},
		{name: "one that is in use again", rules: []rules.Rule{killing("r", limited(1, 10*time.Second))},
			during: func(b *bench) { s := b.sockets[3]; s.Queued = b.now },
			want: []string{
				"0s r kill held 3", "0s r kill held 2", "0s r kill done 1", "6s r kill changed 3", "10s r kill done 2"}},
		{name: "one that is gone", rules: []rules.Rule{killing("r", limited(1, 10*time.Second))},
			during: func(b *bench) { delete(b.sockets, 3) },
			want: []string{
				"0s r kill held 3", "0s r kill held 2", "0s r kill done 1", "6s r kill gone 3", "10s r kill done 2"}},
		{name: "rules that no longer want it", rules: []rules.Rule{killing("r", limited(1, 10*time.Second))},
			during: func(b *bench) {
				b.rule(set(killing("other", matching(rules.Match{States: ssfilter.Of(ssfilter.LastAck), StalledFor: time.Second}))))
			},
			want: []string{
				"0s r kill held 3", "0s r kill held 2", "0s r kill done 1", "5s r kill changed 3", "5s r kill changed 2"}},
		{name: "an unchanged rule at another place", rules: []rules.Rule{killing("r", limited(1, 10*time.Second))},
			during: func(b *bench) {
				b.rule(set(killing("other", logging, after(time.Hour)), killing("r", limited(1, 10*time.Second))))
			},
			want: []string{
				"0s r kill held 3", "0s r kill held 2", "0s r kill done 1", "10s r kill done 3", "20s r kill done 2"}},
		{name: "a dry run takes nothing from a real rule", rules: []rules.Rule{killing("dry", dryRun, limited(1, 10*time.Second)), killing("r", limited(2, 10*time.Second))}, want: []string{
			"0s dry kill held 3", "0s dry kill held 2", "0s r kill held 2", "0s dry kill would 1", "0s dry kill changed 3", "0s r kill done 1", "0s r kill done 3", "10s dry kill would 2", "10s r kill done 2"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.add(1, time.Minute)
			b.add(2, 30*time.Second)
			b.add(3, 40*time.Second)
			b.rule(set(test.rules...))
			if test.during != nil {
				b.until(5 * time.Second)
				test.during(b)
			}
			b.until(30 * time.Second)
			b.want(test.want...)
		})
	}
}

// TestHeldIsSummedUpOnceAMinute: by rule, and dry runs apart; what is left to say
// at a reload and at the end is said then.
func TestHeldIsSummedUpOnceAMinute(t *testing.T) {
	b := newBench(t)
	for cookie := range uint64(100) {
		b.add(cookie+1, time.Minute)
	}
	port80 := matching(where("dport = 80"))
	b.rule(set(killing("dry", port80, dryRun, limited(1, 10*time.Second)), killing("r", limited(1, 10*time.Second))))
	b.until(90 * time.Second)
	for cookie := range uint64(100) {
		if cookie%2 == 1 { // the program closes half of what is left
			delete(b.sockets, cookie+1)
		}
	}
	b.until(130 * time.Second)
	b.rule(set(killing("r", limited(1, 20*time.Second))))
	b.until(140 * time.Second)
	b.step(Stop{})

	began, left, waiting := make(map[string]int), make(map[string]int), make(map[string]int)
	said := make(map[string][]time.Duration)
	for _, h := range b.held {
		began[h.Rule] += h.Began
		left[h.Rule] += h.Left
		waiting[h.Rule] = h.Waiting
		if h.Kind != rules.Kill || h.DryRun != (h.Rule == "dry") || h.Limit == "" || h.LimitOfAll != "5000/1m" {
			t.Errorf("said %+v", h)
		}
		said[h.Rule] = append(said[h.Rule], h.at.Truncate(time.Second))
	}
	want := map[string][]time.Duration{"dry": {1 * time.Second}, "r": {1 * time.Second, 61 * time.Second, 121 * time.Second, 130 * time.Second, 140 * time.Second}}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("summed up at (-want +got):\n%s", diff)
	}
	reported := make(map[string]int)
	for _, e := range b.events {
		for _, rule := range []string{"dry", "r"} {
			if strings.Contains(e, " "+rule+" kill held ") {
				reported[rule]++
			}
		}
	}
	if diff := cmp.Diff(reported, began); diff != "" || reported["r"] < 99 {
		t.Errorf("began to wait (-by socket +summed up):\n%s", diff)
	}
	if left["r"] < 40 || waiting["r"] == 0 || waiting["r"] > 50 {
		t.Errorf("of rule r, %d left the line and %d wait, want half and half", left["r"], waiting["r"])
	}
}

func TestAFailedScanChangesNothing(t *testing.T) {
	b := newBench(t)
	b.add(1, 0, keepsAlive)
	b.rule(set(killing("r")))
	b.until(2 * time.Second)
	b.scanErr = errors.New("cut short")
	b.missed[1] = true
	b.until(9 * time.Second)
	if b.e.Watched() != 1 {
		t.Errorf("watched %d sockets, want 1", b.e.Watched())
	}
	b.until(15 * time.Second)
	b.want("10s r kill done 1")
	if n := b.noted(ScanFailed); n != 1 {
		t.Errorf("noted %d times: %v", n, b.notes)
	}
}

func TestAbsentIsNotGone(t *testing.T) {
	b := newBench(t)
	b.add(1, 0, keepsAlive)
	b.rule(set(killing("r")))
	b.until(2 * time.Second)
	b.missed[1] = true
	b.until(15 * time.Second)
	b.want("10s r kill done 1")
}

// What a scan shows may be older than an answer about the socket alone that came while it was
// under way: what that answer has ended does not begin anew.
func TestAScanIsOlderThanAnAnswer(t *testing.T) {
	for _, test := range []struct {
		name    string
		destroy func(b *bench, a *Action) Outcome
		change  func(b *bench) // while the scan is under way
		want    []string
	}{
		{
			name: "it has left its state", change: func(b *bench) { b.sockets[1].State, b.sockets[1].Entered = ssfilter.TimeWait, b.now },
			want: []string{"10s r log done 1"},
		},
		{
			name: "it is gone", change: func(b *bench) { delete(b.sockets, 1) },
			want: []string{"10s r log done 1"},
		},
		{
			name: "it was connected anew as it was killed, and the answer is lost", change: func(*bench) {},
			destroy: func(b *bench, a *Action) Outcome {
				reconnect(b.sockets[1], b.now)
				return Outcome{Act: *a, Err: sock.ErrUnconfirmed, Unsure: true}
			},
			want: []string{"10s r log done 1", "10.3s r kill unconfirmed 1"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			if test.destroy != nil {
				b.destroy = func(a *Action) Outcome { return test.destroy(b, a) }
			}
			b.add(1, 0, func(s *sim.Socket) { s.State, s.Inode = ssfilter.FinWait2, 0 }) // nobody holds it: no log line waits for that
			b.rule(set(killing("r", func(r *rules.Rule) {
				r.Match[0].States = ssfilter.Of(ssfilter.FinWait2)
				r.Then[0].After = 300 * time.Millisecond
				r.Then = append([]rules.Action{{Kind: rules.Log}}, r.Then...)
			})))
			b.until(8900 * time.Millisecond)
			b.sockets[1].RQueue++ // so the next scan brings it
			b.scanTime = 2 * time.Second
			scans := len(b.scans)
			b.later(1300*time.Millisecond, func() { test.change(b) })
			b.until(15 * time.Second)
			if len(b.scans) == scans {
				t.Error("no scan was under way")
			}
			b.want(test.want...)
		})
	}
}

func TestAScanForOlderRulesIsDropped(t *testing.T) {
	b := newBench(t)
	s := b.add(1, time.Minute)
	old, young := set(killing("old")), set(killing("young", matching(rules.Match{States: ssfilter.Of(ssfilter.LastAck), StalledFor: time.Second})))
	b.e.Step(b.now, RulesChanged{Program: match.Compile(&old)})
	l := b.e.Step(b.now, CountersRead{}).Scan
	f := l.Begin(b.now)
	r := s.Report(b.now, benchJiffy)
	f.Take(&r, b.now)
	b.e.Step(b.now, RulesChanged{Program: match.Compile(&young)})
	p := b.e.Step(b.now, ScanDone{Result: f, Sent: b.now})
	if b.e.Watched() != 0 || !p.Count {
		t.Errorf("watched %d, counts again %v: want none, and a scan of the new rules' own", b.e.Watched(), p.Count)
	}
}

func TestReloadKeepsWhatWasDone(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	b.rule(set(killing("kept", logging), killing("changed", logging)))
	b.until(5 * time.Second)
	b.rule(set(killing("changed", logging, after(time.Second)), killing("kept", logging)))
	b.until(10 * time.Second)
	b.want("0s kept log done 1", "0s changed log done 1", "5s changed log done 1")
}

func TestReloadWhileActing(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	s := set(killing("r"))
	b.destroy = func(a *Action) Outcome {
		none := set()
		b.e.Step(b.now, RulesChanged{Program: match.Compile(&none)})
		delete(b.sockets, 1)
		return Outcome{Act: *a}
	}
	b.rule(s)
	b.until(time.Second)
	b.want("0s r kill done 1")
	if b.e.acts.underWay != 0 || b.e.acts.unconfirmed != 0 || b.e.Watched() != 0 {
		t.Errorf("acting %d, confirming %d, watched %d: want nothing left", b.e.acts.underWay, b.e.acts.unconfirmed, b.e.Watched())
	}
}

func TestRestored(t *testing.T) {
	tests := []struct {
		name   string
		change func(m *sock.Memory, s *sim.Socket)
		want   []string
	}{
		{"the same connection", func(*sock.Memory, *sim.Socket) {}, []string{"4s r kill done 1"}},
		{"progress since", func(_ *sock.Memory, s *sim.Socket) { s.Acked++ }, []string{"10s r kill done 1"}},
		{"another tuple", func(m *sock.Memory, _ *sim.Socket) { m.ID++ }, []string{"10s r kill done 1"}},
		{"another state", func(m *sock.Memory, _ *sim.Socket) { m.State = ssfilter.Established }, []string{"10s r kill done 1"}},
		{"counters fell", func(m *sock.Memory, _ *sim.Socket) { m.Received++ }, []string{"10s r kill done 1"}},
		{"contradicted by last_data_recv", func(_ *sock.Memory, s *sim.Socket) { s.LastData = benchStart.Add(-2 * time.Second) }, []string{"10s r kill done 1"}},
		{"from the future", func(m *sock.Memory, _ *sim.Socket) { m.Entered, m.Quiet = benchStart+1, benchStart+1 }, []string{"10s r kill done 1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			s := b.add(1, 6*time.Second, keepsAlive)
			shown := s.Report(b.now, benchJiffy)
			m := sock.Memory{Key: sock.Key{Cookie: 1}, ID: shown.ID.Sum(), State: s.State, Entered: s.Entered, Quiet: s.Progress, Acked: s.Acked, Received: s.Received, SegsIn: s.Segs}
			test.change(&m, s)
			b.step(Restored{Memories: []sock.Memory{m, {Key: sock.Key{Cookie: 99}, State: ssfilter.CloseWait}}})
			b.rule(set(killing("r")))
			b.until(time.Minute)
			b.want(test.want...)
		})
	}
}

// TestRemembered shows that a restart loses no more than moments.
func TestRemembered(t *testing.T) {
	b := newBench(t)
	b.add(1, 0, keepsAlive)
	b.rule(set(killing("r")))
	for range 60 {
		s := b.sockets[1]
		s.LastAck = b.now
		s.Segs++
		b.until(b.since(b.now) + 100*time.Millisecond)
	}
	var r Restored
	for _, m := range b.memories {
		r.Memories = append(r.Memories, m)
	}
	if len(r.Memories) != 1 {
		t.Fatalf("remembered %v, want the one socket", r.Memories)
	}
	b.e = New(b.e.config)
	b.step(r)
	b.rule(set(killing("r")))
	b.until(time.Minute)
	b.want("10s r kill done 1")
	if len(b.memories) != 0 {
		t.Errorf("still remembered: %v", b.memories)
	}
}

func TestRestoredLimit(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	b.step(Restored{Spent: []sock.Spent{{Rule: sock.RuleSum("r"), N: 3, At: benchStart.Add(-8 * time.Second)}}})
	b.rule(set(killing("r", limited(3, 20*time.Second))))
	b.until(time.Minute)
	b.want("0s r kill held 1", "18s r kill done 1") // and six seconds for the act that may have waited for its record
}

func TestStop(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	b.add(2, 8*time.Second)
	stopped := false
	b.destroy = func(a *Action) Outcome {
		p := b.e.Step(b.now, Stop{})
		if p.Stopped {
			t.Error("stopped with an act under way")
		}
		delete(b.sockets, 1)
		return Outcome{Act: *a}
	}
	s := set(killing("r"))
	inputs := []Input{RulesChanged{Program: match.Compile(&s)}}
	for len(inputs) > 0 {
		p := b.e.Step(b.now, inputs[0])
		inputs = append(inputs[1:], b.carryOut(&p)...)
		stopped = stopped || p.Stopped
	}
	if !stopped {
		t.Error("not stopped when the act was confirmed")
	}
	b.want("0s r kill done 1")
	b.now = benchStart.Add(time.Minute)
	if p := b.e.Step(b.now, nil); p.Count || p.Scan != nil || len(p.Lookup)+len(p.Act)+len(p.Resolve) > 0 {
		t.Errorf("something new was begun after the word to stop: %+v", p)
	}
}

// TestStopWhileAsking shows that an answer which comes after the word to stop
// leads to nothing.
func TestStopWhileAsking(t *testing.T) {
	b := newBench(t)
	s := b.add(1, time.Minute)
	r := set(killing("r"))
	b.e.Step(b.now, RulesChanged{Program: match.Compile(&r)})
	l := b.e.Step(b.now, CountersRead{}).Scan
	p := b.e.Step(b.now, b.scan(l))
	if len(p.Lookup) != 1 {
		t.Fatalf("asked for %v, want the one socket", p.Lookup)
	}
	if p := b.e.Step(b.now, Stop{}); !p.Stopped {
		t.Error("not stopped, with nothing but a question under way")
	}
	p = b.e.Step(b.now, LookupDone{IDs: p.Lookup, Answers: []sock.Answer{{ID: s.ID, Sent: b.now, Got: b.now, Socket: s.Report(b.now, benchJiffy)}}})
	if len(p.Act)+len(p.Report) > 0 {
		t.Errorf("acts %v, reports %v after the word to stop", p.Act, p.Report)
	}
}

// What the kernel itself holds stays untouched when a later walk is slow, or was
// refused a process, and when the first one is slow.
func TestHeldByTheKernel(t *testing.T) {
	for name, then := range map[string]func(b *bench){
		"a slow walk":    func(b *bench) { b.slow = true },
		"a partial walk": func(b *bench) { b.partial = true },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.holders = func(uint32) []sock.Holder { return nil }
			b.add(1, time.Minute, ofRoot)
			b.rule(set(killing("r")))
			b.until(30 * time.Second)
			then(b)
			b.until(3 * time.Minute)
			b.want()
		})
	}
	t.Run("a slow first walk", func(t *testing.T) {
		b := newBench(t)
		b.holders = func(uint32) []sock.Holder { return nil }
		b.slow = true
		b.add(1, time.Minute, ofRoot)
		b.rule(set(killing("r")))
		b.until(20 * time.Second)
		b.want()
	})
}

func ofRoot(s *sim.Socket) { s.UID = 0 }

// What comes alive between the decision and the act, however long the record of
// the intent takes, is not destroyed: it counts anew from then on.
func TestComesAliveBeforeTheAct(t *testing.T) {
	idle := matching(rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: 10 * time.Second})
	established := func(s *sim.Socket) { s.State = ssfilter.Established }
	for _, test := range []struct {
		name    string
		rule    func(*rules.Rule)
		socket  func(*sim.Socket)
		happens func(b *bench, s *sim.Socket)
		want    []string
	}{
		{name: "nothing", want: []string{"0s r kill done 1"}},
		{
			name: "the peer sends", rule: idle, socket: established,
			happens: func(b *bench, s *sim.Socket) {
				s.Received++
				s.Segs++
				s.Progress, s.LastData, s.LastAck = b.now, b.now, b.now
			},
			want: []string{"0s r kill changed 1", "10s r kill done 1"},
		},
		{
			name: "the peer acknowledges", rule: idle, socket: established,
			happens: func(b *bench, s *sim.Socket) { s.Acked++; s.Segs++; s.Progress, s.LastAck = b.now, b.now },
			want:    []string{"0s r kill changed 1", "10s r kill done 1"},
		},
		{
			name: "the program sends, and nothing is acknowledged", rule: idle, socket: established,
			happens: func(b *bench, s *sim.Socket) { s.Queued = b.now },
			want:    []string{"0s r kill changed 1"},
		},
		{
			name:    "connected anew under the same cookie",
			happens: func(b *bench, s *sim.Socket) { reconnect(s, b.now); s.Received, s.Acked = 0, 0 },
			want:    []string{"0s r kill changed 1", "10s r kill done 1"},
		},
		{
			name:    "another state",
			happens: func(b *bench, s *sim.Socket) { s.State = ssfilter.LastAck },
			want:    []string{"0s r kill changed 1"},
		},
		{
			name:    "the program reads, where the rule asks for unread data",
			rule:    matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second, Unread: &rules.Threshold{Op: rules.Greater, Number: 1}}),
			socket:  func(s *sim.Socket) { s.RQueue = 2 },
			happens: func(b *bench, s *sim.Socket) { s.RQueue = 0 },
			want:    []string{"0s r kill changed 1"},
		},
		{
			name:    "a mark that excludes it",
			rule:    exclude(rules.Match{States: ssfilter.AllStates, Where: where("fwmark = 7").Where}),
			socket:  marked(1),
			happens: func(b *bench, s *sim.Socket) { marked(7)(s) },
			want:    []string{"0s r kill changed 1"},
		},
		{
			name: "more is queued on a stalled one", rule: matching(rules.Match{States: ssfilter.Of(ssfilter.Established), StalledFor: 10 * time.Second}),
			socket:  func(s *sim.Socket) { s.State, s.Queued = ssfilter.Established, benchStart.Add(-time.Minute) },
			happens: func(b *bench, s *sim.Socket) { s.Segs++ },
			want:    []string{"10s r kill done 1"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			change := func(s *sim.Socket) {
				if test.socket != nil {
					test.socket(s)
				}
			}
			b.add(1, time.Minute, change)
			happened := false
			b.beforeLast = func(s *sim.Socket) {
				if !happened && test.happens != nil {
					test.happens(b, s)
				}
				happened = true
			}
			r := killing("r")
			if test.rule != nil {
				r = killing("r", test.rule)
			}
			b.rule(set(r))
			b.until(30 * time.Second)
			b.want(test.want...)
		})
	}
}

// An answer may be old by the time that it is taken in, on a starved machine; the
// act is decided again by a fresh one, and not put off for ever.
func TestOldAnswersAreActedOn(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	b.old = time.Second
	b.rule(set(killing("r")))
	b.until(30 * time.Second)
	b.want("0s r kill done 1")
}

// Where the answer was lost and the socket is still there, it was not destroyed.
func TestLostAnswerIsNoOutcome(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	n := 0
	b.destroy = func(a *Action) Outcome {
		if n++; n == 1 {
			return Outcome{Act: *a, Err: sock.ErrUnconfirmed, Unsure: true}
		}
		delete(b.sockets, 1)
		return Outcome{Act: *a}
	}
	b.rule(set(killing("r")))
	b.until(time.Minute)
	b.want("0s r kill unconfirmed 1", "1s r kill done 1")
}

// A dry run of two rules decides as the real run would: what the first holds
// back waits for its limit, and what it takes the second does not get.
func TestDryRunOfTwoRules(t *testing.T) {
	said := func(dry bool) (done []string) {
		b := newBench(t)
		b.add(1, time.Minute)
		b.add(2, 50*time.Second)
		b.add(3, 40*time.Second)
		mode := func(r *rules.Rule) { r.DryRun = dry }
		b.rule(set(killing("a", mode, limited(1, time.Minute)), killing("b", mode, limited(1, time.Hour))))
		b.until(10 * time.Minute)
		for _, e := range b.events {
			if !strings.Contains(e, " held ") {
				done = append(done, strings.NewReplacer(" done ", " ", " would ", " ").Replace(e))
			}
		}
		return done
	}
	if diff := cmp.Diff(said(false), said(true)); diff != "" {
		t.Errorf("what the rules do, really and in a dry run (-want +got):\n%s", diff)
	}
}

// Scans that fail now and then are said once.
func TestFailingNowAndThenIsSaidOnce(t *testing.T) {
	var s failureStreak
	notes := 0
	for n := range 100 {
		began, over := s.note(n%2 == 0)
		if began {
			notes++
		}
		if over {
			t.Errorf("over after %d tries, every other of which fails", n)
		}
	}
	if notes != 1 {
		t.Errorf("began %d times, want once", notes)
	}
	for n := range overAfter {
		if _, over := s.note(false); over != (n == overAfter-2) {
			t.Errorf("over after %d more successes: %v", n+1, over)
		}
	}
}
