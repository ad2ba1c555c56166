// Package runner has an engine watch a table of sockets in simulated time, through
// workers that answer at once and never fail: what comes of it follows from the rules and
// the sockets alone.
package runner

import (
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Self is the watchdog's own process, as a Table knows it: no real one has that number
// (PID_MAX_LIMIT is 1<<22).
const Self = 1 << 30

// Table is the sockets that the engine watches, and those who hold them. Only Advance and
// Do change it.
type Table interface {
	// Next is when it changes next by itself; sock.Never: it does not.
	Next() sock.Instant
	// Advance has happen what is to happen up to that instant, which is now from then on.
	Advance(now sock.Instant)
	// Answers is when what is asked now is answered, at the earliest: a table may be known at
	// some instants only. sock.Never: it is not answered.
	Answers() sock.Instant

	// Sockets are what a scan shows, each until the next. One that the query does not ask for
	// is left out by the runner.
	Sockets(q *sock.Query) iter.Seq[*sock.Socket]
	// Socket is what the kernel answers about one; false: it is gone.
	Socket(id sock.ID) (sock.Socket, bool)
	// Counters are read before a scan; pressure: what all sockets share is asked for.
	Counters(pressure bool) engine.CountersRead
	// Holders are who holds sockets with these inodes, by a walk through /proc.
	Holders(inodes []uint32) engine.HoldersFound

	// Do does to a socket what was decided. The error is as that of a kind in package
	// action.
	Do(a *engine.Action) error
}

// Act is what was done to a socket, or decided of it.
type Act struct {
	At sock.Instant
	engine.Action
}

// GroupAct is what was done about a group, or decided of it.
type GroupAct struct {
	At sock.Instant
	engine.GroupAction
}

// Alert is an alert that begins to fire, or has ended.
type Alert struct {
	At sock.Instant
	engine.Alert
}

// Transition is a group that changes its phase.
type Transition struct {
	At sock.Instant
	engine.Transition
}

// Run is an engine that watches a table.
type Run struct {
	Acts      []Act      // in the order in which they were reported
	GroupActs []GroupAct // and what about whole groups
	Alerts    []Alert

	Transitions []Transition

	table    Table
	engine   *engine.Engine
	config   engine.Config
	allowed  match.Capabilities
	program  *match.Program
	ruledAt  sock.Instant
	clock    sim.Clock // what the workers answer
	wake     sock.Instant
	memories map[sock.Key]sock.Memory // what a restart would know
}

// answerTime is how long a worker takes: not nothing, so that what asks again and again
// does not hold up the time.
const answerTime = time.Microsecond

// New begins to watch a table at an instant. The source tells times that may be off by
// the precision; known is what an earlier run knew.
func New(set *rules.Set, table Table, now sock.Instant, precision time.Duration, known engine.Restored) *Run {
	r := &Run{table: table, wake: sock.Never, memories: make(map[sock.Key]sock.Memory), allowed: make(match.Capabilities)}
	r.config = engine.Config{Precision: precision, Self: Self}
	r.engine = engine.New(r.config)
	r.clock.Now = now
	for _, m := range known.Memories {
		r.memories[m.Key] = m
	}
	table.Advance(now)
	d := r.driver()
	d.Start(r.allowed, known)
	r.Change(set)
	return r
}

// Change puts other rules in force.
func (r *Run) Change(set *rules.Set) {
	r.program, r.ruledAt = match.Compile(set), r.clock.Now
	r.step(engine.RulesChanged{Program: r.program})
}

// Allow says what is not possible from now on, and why.
func (r *Run) Allow(c match.Capabilities) {
	r.allowed = c
	r.step(engine.CapabilitiesChanged{Capabilities: c})
}

// Now is how far the time has come.
func (r *Run) Now() sock.Instant { return r.clock.Now }

// Until has the time go on up to an instant, and all happen that happens by then.
func (r *Run) Until(end sock.Instant) {
	for {
		next := min(r.table.Next(), r.clock.Next(), r.wake)
		if next > end {
			break
		}
		r.clock.Now = max(r.clock.Now, next)
		changes := r.table.Next() <= next
		r.table.Advance(r.clock.Now)
		switch {
		case changes: // these come first: whoever asks now is shown them
		case r.clock.Next() <= next:
			r.clock.Happen()
		default:
			r.step(nil)
			r.wake = max(r.wake, r.clock.Now.Add(answerTime))
		}
	}
	r.clock.Now = max(r.clock.Now, end)
	r.table.Advance(r.clock.Now)
}

// Overview is how the rules stand.
func (r *Run) Overview() engine.Overview { return r.engine.Overview(r.clock.Now) }

// Interval is how often new sockets are looked for, for the rule at a place in the file.
func (r *Run) Interval(rule int) time.Duration {
	if r.program.Rules[rule].CounterOnly {
		return r.program.CounterInterval
	}
	return r.program.Intervals[r.program.Rules[rule].Class]
}

// Forecasts are what each rule would do to each socket, and when, by what is known now;
// or why not.
func (r *Run) Forecasts() []engine.Forecast {
	all := engine.ScanAll(r.program, r.config.Precision)
	result := all.Begin(r.clock.Now)
	r.show(all, result)
	found := r.table.Holders(slices.Collect(maps.Keys(result.Inodes())))
	known := engine.Restored{Memories: slices.Collect(maps.Values(r.memories))}
	return engine.Forecasts(result, r.config, r.allowed, known, found, r.engine, r.clock.Now)
}

// show hands a scan the sockets that it asks for.
func (r *Run) show(s *engine.Scan, result *engine.ScanResult) {
	for shown := range r.table.Sockets(&s.Query) {
		if s.Query.States.Has(shown.State) && (s.Query.Where == nil || s.Query.Where.Eval(&shown.Conn) != ssfilter.False) {
			result.Take(shown, r.clock.Now)
		}
	}
}

func (r *Run) driver() engine.Driver {
	return engine.Driver{Engine: r.engine, Now: r.Now, Workers: workers{r}}
}

// step has the engine take in something, and carries out what it plans.
func (r *Run) step(in engine.Input) {
	d := r.driver()
	r.wake = d.Step(in).Wake
}

// workers do what a plan wants done.
type workers struct{ *Run }

// answer hands the engine an answer that is made in a moment, or once the table answers.
func (w workers) answer(make func() engine.Input) {
	if at := w.table.Answers(); at != sock.Never {
		w.clock.At(max(w.clock.Now, at).Add(answerTime), func() { w.step(make()) })
	}
}

// Record keeps what is reported.
func (w workers) Record(p *engine.Plan) {
	for _, m := range p.Remember {
		w.memories[m.Key] = m
	}
	for _, key := range p.Forget {
		delete(w.memories, key)
	}
	for i := range p.Report {
		w.Acts = append(w.Acts, Act{w.clock.Now, p.Report[i]})
	}
	for i := range p.ReportGroups {
		w.GroupActs = append(w.GroupActs, GroupAct{w.clock.Now, p.ReportGroups[i]})
	}
	for i := range p.Transitions {
		w.Transitions = append(w.Transitions, Transition{w.clock.Now, p.Transitions[i]})
	}
	for i := range p.Alerts {
		if a := &p.Alerts[i]; a.New || a.Ended != 0 { // the others are said again
			w.Alerts = append(w.Alerts, Alert{w.clock.Now, *a})
		}
	}
}

// Count reads the counters.
func (w workers) Count(pressure bool) {
	w.answer(func() engine.Input { return w.table.Counters(pressure) })
}

// Scan reads the socket table.
func (w workers) Scan(s *engine.Scan) {
	w.answer(func() engine.Input {
		result := s.Begin(w.clock.Now)
		w.show(s, result)
		return engine.ScanDone{Result: result, Sent: w.clock.Now}
	})
}

// Lookup asks for single sockets.
func (w workers) Lookup(ids []sock.ID) {
	ids = slices.Clone(ids)
	w.answer(func() engine.Input {
		in := engine.LookupDone{IDs: ids}
		for _, id := range ids {
			in.Answers = append(in.Answers, w.ask(id))
		}
		return in
	})
}

// ask is the answer about one socket.
func (w workers) ask(id sock.ID) sock.Answer {
	s, ok := w.table.Socket(id)
	return sock.Answer{ID: id, Gone: !ok, Socket: s, Sent: w.clock.Now, Got: w.clock.Now}
}

// Act does what was decided and still stands.
func (w workers) Act(actions []engine.Action) {
	actions = slices.Clone(actions)
	w.answer(func() engine.Input {
		in := engine.ActionsDone{}
		for i := range actions {
			in.Outcomes = append(in.Outcomes, w.act(&actions[i]))
		}
		return in
	})
}

func (w workers) act(a *engine.Action) engine.Outcome {
	o := engine.Outcome{Act: *a, At: w.clock.Now}
	answer := w.ask(a.Socket.ID)
	switch {
	case answer.Gone:
		o.Gone, o.Err = true, sock.ErrGone
		return o
	case a.Decided < w.ruledAt:
		o.Changed = match.NewRules
	default:
		o.Changed = a.Recheck(&answer)
	}
	if o.Changed != "" {
		o.Last = answer
		return o
	}
	o.Err = w.table.Do(a)
	o.Gone, o.Unsure = errors.Is(o.Err, sock.ErrGone), errors.Is(o.Err, sock.ErrUnconfirmed)
	return o
}

// Intend has the record of an action on a group written.
func (w workers) Intend(a engine.GroupAction) {
	w.clock.At(w.clock.Now.Add(answerTime), func() { w.step(engine.GroupIntended{Act: a}) })
}

// Undo puts it back, which always succeeds.
func (w workers) Undo(a engine.GroupAction) {
	w.clock.At(w.clock.Now.Add(answerTime), func() { w.step(engine.GroupUndone{Act: a, At: w.clock.Now}) })
}

// ActOn does it, which always succeeds.
func (w workers) ActOn(a engine.GroupAction) {
	w.clock.At(w.clock.Now.Add(answerTime), func() { w.step(engine.GroupActed{Act: a, At: w.clock.Now}) })
}

// Resolve walks through /proc.
func (w workers) Resolve(inodes []uint32) {
	inodes = slices.Clone(inodes)
	w.answer(func() engine.Input { return w.table.Holders(inodes) })
}

// Read reads the descriptors that are new.
func (w workers) Read(inodes []uint32) {
	inodes = slices.Clone(inodes)
	w.answer(func() engine.Input {
		found := w.table.Holders(inodes)
		return engine.NewHoldersFound{Holders: found.Holders}
	})
}

// Fetch has every probe answered well.
func (w workers) Fetch(urls []string) {
	for _, url := range urls {
		w.answer(func() engine.Input { return engine.Probed{URL: url} })
	}
}

// Sample reads the CPU usage of processes, none of which uses any.
func (w workers) Sample(processes []spin.Process) {
	processes = slices.Clone(processes)
	w.clock.At(w.clock.Now.Add(answerTime), func() {
		var in engine.Sampled
		for _, p := range processes {
			in.Usages = append(in.Usages, spin.Usage{Process: p, At: w.clock.Now, Lived: w.clock.Now.Sub(0)})
		}
		w.step(in)
	})
}
