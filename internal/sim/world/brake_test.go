package world_test

import (
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// brake is what the judge knows of what keeps rules from doing harm.
type brake struct {
	trials  map[trialKey]*trial      // canaries
	stopped map[string]string        // rules that have stopped themselves, and what they said
	basis   map[decided]*truth       // what was true when an act was decided
	taken   map[peers][]sock.Instant // live connections
	live    map[uint16]int           // the most that there ever were at once, by the port of the peer
	shown   map[uint16]int           // by the scan under way
	open    map[uint64]int           // acts without an outcome, by cookie
}

// peers are those of a rule's acts that have one port.
type peers struct {
	rule string
	port uint16
}

// decided is an act on a socket.
type decided struct {
	cookie uint64
	kind   *rules.Kind
}

// trialKey is a run of the watchdog, a rule with what it says, and a process.
type trialKey struct {
	run       int
	rule, sum string
	pid       int
	kind      *rules.Kind
}

// trial is a canary: how many acts of it are under way or done, and when the last one was.
type trial struct {
	begun, running int
	over           bool // others may follow
	last           sock.Instant
}

func newBrake() brake {
	return brake{trials: make(map[trialKey]*trial), stopped: make(map[string]string), open: make(map[uint64]int), basis: make(map[decided]*truth), taken: make(map[peers][]sock.Instant), live: make(map[uint16]int), shown: make(map[uint16]int)}
}

// canary has a rule try its first acts.
func (w *judge) canary(r *rules.Rule) {
	c := &rules.Canary{First: 1 + w.Rand.IntN(2), Wait: 5*time.Second + w.UpTo(10*time.Second)}
	if w.Rand.IntN(3) == 0 {
		c.Probe = "http://localhost/"
	}
	r.Then[len(r.Then)-1].Canary = c
}

// share has a rule take no more than a share of live connections.
func (w *judge) share(r *rules.Rule) {
	r.Then[len(r.Then)-1].Most = []float64{0.1, 0.5, 0.9}[w.Rand.IntN(3)]
}

// sharePer is the time that a share counts for.
const sharePer = 10 * time.Minute

// Shown counts a live connection.
func (w *judge) Shown(shown *sock.Socket) {
	if isLive(shown) {
		w.brake.shown[shown.Dst.Port()]++
	}
}

// takeLive takes in how many live connections a scan has shown.
func (b *brake) takeLive() {
	for port, n := range b.shown {
		b.live[port] = max(b.live[port], n)
	}
	clear(b.shown)
}

// checkShare holds a rule to its share of what belongs together by the port of the peer, of
// as many as a scan ever showed, or as there were at the instant of an act.
func (w *judge) checkShare(a *engine.Action) {
	r := w.ruleOf(a.Rule)
	if r == nil || !isLive(&a.Socket) || w.brake.basis[decided{a.Socket.ID.Cookie, a.Kind}].Shut != 0 {
		return // what was shut down was taken by that
	}
	most := r.Then[len(r.Then)-1].Most
	if most == 0 {
		return // and what it takes without a share counts in none that it may come to have
	}
	b, key := &w.brake, peers{a.Rule, a.Socket.Dst.Port()}
	b.taken[key] = append(b.taken[key], w.Now)
	live := 1 // with this one
	for _, s := range w.Sockets {
		if shown := s.Report(w.Now, w.Jiffy); isLive(&shown) && shown.Dst.Port() == key.port {
			live++
		}
	}
	b.live[key.port] = max(b.live[key.port], live)
	taken := 0
	for _, at := range b.taken[key] {
		if w.Now.Sub(at) < sharePer {
			taken++
		}
	}
	if asksHolders(r) { // it is one of each holder's
		return
	}
	w.tally.Shares++
	if allowed := max(1, int(most*float64(b.live[key.port]+taken))); taken > allowed {
		w.failf("%s takes %d of %d live connections to a port in ten minutes, with a share of %v", a.Rule, taken, b.live[key.port], most)
	}
}

func isLive(s *sock.Socket) bool {
	return s.Inode != 0 && (ssfilter.Connected &^ ssfilter.Dead).Has(s.State)
}

// reset lets a rule act again that has stopped itself.
func (w *judge) reset() {
	for _, name := range slices.Sorted(maps.Keys(w.brake.stopped)) {
		w.Logf("reset %s", name)
		delete(w.brake.stopped, name)
		maps.DeleteFunc(w.brake.trials, func(k trialKey, _ *trial) bool { return k.rule == name })
		w.Reset(name)
		return
	}
}

// trialOf is the canary that an act is a part of, or must wait for; nil: it needs none.
func (w *judge) trialOf(a *engine.Action) *trial {
	r := w.ruleOf(a.Rule)
	if r == nil || len(a.Holders) == 0 || a.Holders[0].Start == 0 || a.Socket.Inode == 0 || r.Then[len(r.Then)-1].Canary == nil {
		return nil
	}
	key := trialKey{w.Run, a.Rule, r.Sum, a.Holders[0].PID, a.Kind}
	if w.brake.trials[key] == nil {
		w.brake.trials[key] = &trial{}
	}
	return w.brake.trials[key]
}

// brakes takes in what is planned: no act for a stopped rule, no second act on a process
// before there is a verdict on the first ones, and one outcome for each act.
func (w *judge) brakes(p *engine.Plan) {
	b := &w.brake
	for i := range p.Stops {
		if name := p.Stops[i].Rule; b.stopped[name] == "" {
			w.Logf("%s stopped itself: %s", name, p.Stops[i].Reason)
			w.tally.Stops++
			b.stopped[name] = p.Stops[i].Sum
		}
	}
	for i := range p.Report {
		a := &p.Report[i]
		if !a.Kind.Destructive || a.Waited || a.Result == engine.Held || a.Result == engine.Would {
			continue
		}
		if b.open[a.Socket.ID.Cookie]--; b.open[a.Socket.ID.Cookie] < 0 {
			w.failf("an outcome without an act: %s %s of socket %d", a.Rule, a.Result, a.Socket.ID.Cookie)
		}
	}
	for i := range p.Act {
		a := &p.Act[i]
		b.basis[decided{a.Socket.ID.Cookie, a.Kind}] = w.seen[a.Socket.ID.Cookie]
		if !a.Kind.Destructive {
			continue // it goes on beside
		}
		if b.open[a.Socket.ID.Cookie]++; b.open[a.Socket.ID.Cookie] > 1 {
			w.failf("%s takes socket %d before the outcome of the act before", a.Rule, a.Socket.ID.Cookie)
		}
		if r := w.ruleOf(a.Rule); r != nil && b.stopped[a.Rule] == r.Sum {
			w.failf("%s takes socket %d, and has stopped itself", a.Rule, a.Socket.ID.Cookie)
		}
		t := w.trialOf(a)
		if t == nil {
			continue
		}
		options := w.ruleOf(a.Rule).Then[len(w.ruleOf(a.Rule).Then)-1].Canary
		if t.over = t.over || t.running == 0 && t.last != 0 && w.Now >= t.last.Add(options.Wait); t.over {
			continue
		}
		if t.begun++; t.begun > options.First {
			w.failf("%s takes socket %d of process %d while its canary waits", a.Rule, a.Socket.ID.Cookie, a.Holders[0].PID)
		}
		w.tally.Canaries++
		t.running++
	}
}

// checkOutcomes holds a run that has ended in order to an outcome for each act.
func (w *judge) checkOutcomes() {
	for cookie, n := range w.brake.open {
		if n != 0 {
			w.failf("an act on socket %d has no outcome", cookie)
		}
	}
	for rule, underWay := range w.groups.underWay {
		if underWay {
			w.failf("an action of %s on a group has no outcome", rule)
		}
	}
}

// braked takes in what came of an act.
func (w *judge) braked(o *engine.Outcome) {
	t := w.trialOf(&o.Act)
	if t == nil || t.running == 0 {
		return
	}
	t.running--
	if came := o.Changed == "" && (o.Err == nil || o.Unsure); came {
		t.last = o.At
	} else {
		t.begun--
	}
}

// unbraked forgets which rules had stopped themselves that say something else by now.
func (w *judge) unbraked() {
	for name, sum := range w.brake.stopped {
		if r := w.ruleOf(name); r != nil && r.Sum != sum {
			delete(w.brake.stopped, name)
		}
	}
}

// holdsBack reports whether something else than a limit may hold a rule back.
func (w *judge) holdsBack(r *rules.Rule) bool {
	kill := &r.Then[len(r.Then)-1]
	return w.brake.stopped[r.Name] != "" || kill.Most > 0 || kill.MaxMatches > 0 || kill.Canary != nil
}
