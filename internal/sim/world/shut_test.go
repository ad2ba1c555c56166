package world_test

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// shutJudge holds what follows a shutdown to what a rule says of it.
type shutJudge struct {
	rand *rand.Rand         // of its own, as that of actions on groups is
	by   map[uint64]shutOff // by cookie
}

// shutOff is by which rule a connection was shut down, in which run, and when.
type shutOff struct {
	run       int
	rule, sum string
	conn      int
	at        sock.Instant
}

func newShutJudge(seed uint64) shutJudge {
	return shutJudge{rand.New(rand.NewPCG(seed, 0x5407d)), make(map[uint64]shutOff)}
}

// shutdown has some of the rules shut down what they kill later.
func (j *shutJudge) shutdown(r *rules.Rule) {
	other := func(m rules.Match) bool { return m.States&^rules.Shutdown.States != 0 }
	if slices.ContainsFunc(r.Match, other) || j.rand.IntN(3) == 0 {
		return
	}
	kill := &r.Then[len(r.Then)-1]
	shutdown := *kill
	shutdown.Kind, shutdown.Options = rules.Shutdown, nil
	kill.After += time.Second + time.Duration(j.rand.Int64N(int64(10*time.Second)))
	r.Then = slices.Insert(r.Then, len(r.Then)-1, shutdown)
}

// takes is the action of a rule by which it takes sockets; nil: it has none of that kind.
func takes(r *rules.Rule, kind *rules.Kind) *rules.Action {
	i := slices.IndexFunc(r.Then, func(a rules.Action) bool { return a.Kind == kind })
	if i < 0 {
		return nil
	}
	return &r.Then[i]
}

// takesFirst is the first of those actions.
func takesFirst(r *rules.Rule) *rules.Action {
	if a := takes(r, rules.Shutdown); a != nil {
		return a
	}
	return &r.Then[len(r.Then)-1]
}

// shutDown takes in that a connection was shut down, if that is certain.
func (w *judge) shutDown(o *engine.Outcome, s *sim.Socket) {
	r := w.ruleOf(o.Act.Rule)
	if o.Act.Kind != rules.Shutdown || o.Err != nil || s == nil || s.Shut == 0 || r == nil {
		return
	}
	w.tally.Shutdowns++
	w.shuts.by[s.ID.Cookie] = shutOff{w.Run, r.Name, r.Sum, s.Conn, o.At}
}

// checkLeft looks for connections that were shut down, and that should have been killed long ago.
func (w *judge) checkLeft() {
	const while = 30 * time.Second
	for _, s := range w.Sockets {
		x, shown := w.shuts.by[s.ID.Cookie], s.Report(w.Now, w.Jiffy)
		r := w.ruleOf(x.rule)
		if r == nil || s.Shut == 0 || s.Mini || x != (shutOff{w.Run, r.Name, r.Sum, s.Conn, x.at}) || !w.Calm || s.Disturbed || w.held[s.ID.Cookie] || len(w.Spins) > 0 {
			continue
		}
		if asksHolders(r) || w.taboo(s, &shown) != "" || w.protects(s, &shown) || !w.room(r) || match.Any(r.Exclude, subject.Of(&shown)) != ssfilter.False {
			continue
		}
		means := func(m rules.Match) bool {
			m.States = ssfilter.AllStates
			shown.Autobound = ssfilter.TriOf(!s.Bound)
			return match.Lasts(&m, subject.Of(&shown)) == ssfilter.True
		}
		due := max(x.at, s.Changed).Add(takes(r, rules.Kill).After - takes(r, rules.Shutdown).After)
		if slices.ContainsFunc(r.Match, means) && w.Now.Sub(due) > while {
			w.failf("%s has left since %s what it has shut down: %s", r.Name, sim.Text(due), s)
		}
	}
}

// escalates reports whether a kill follows the shutdown of its socket, as far as it can be by
// what is true of that.
func (w *judge) escalates(r *rules.Rule, a *engine.Action, s *sim.Socket, shown *sock.Socket) bool {
	x := w.shuts.by[s.ID.Cookie]
	shutdown, kill := takes(r, rules.Shutdown), takes(r, rules.Kill)
	if a.Kind != rules.Kill || s.Shut == 0 || s.Mini || x != (shutOff{w.Run, r.Name, r.Sum, s.Conn, x.at}) || shutdown == nil {
		return false
	}
	if gap := kill.After - shutdown.After; w.Now < max(x.at, s.Progress).Add(gap) {
		w.failf("%s kills a socket %v early after it has shut it down: %s", a.Rule, max(x.at, s.Progress).Add(gap).Sub(w.Now), s)
	}
	if !ssfilter.Of(ssfilter.FinWait1, ssfilter.FinWait2, ssfilter.Closing, ssfilter.LastAck).Has(s.State) {
		w.failf("%s kills what it has shut down, and is not in such a state: %s", a.Rule, s)
	}
	w.tally.Escalated++
	return slices.ContainsFunc(w.heldLately(s, w.Now), func(h *subject.Holders) bool {
		held := subject.Subject{Socket: shown, Holders: h}
		means := func(m rules.Match) bool {
			m.States = ssfilter.AllStates
			return match.Lasts(&m, held) == ssfilter.True
		}
		spared := func(s subject.Subject) bool { return match.Any(r.Exclude, s) == ssfilter.False }
		return slices.ContainsFunc(r.Match, means) && slices.ContainsFunc(w.asMeant(r, s, held), spared)
	})
}
