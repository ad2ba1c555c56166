package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// decideOn takes in an answer about one socket alone, and decides what the rules
// want of it.
func (e *Engine) decideOn(a *sock.Answer, now sock.Instant) {
	t := e.observe(&a.Socket, a.Sent, a.Got, now)
	t.set(seen, e.scans.running != nil)
	e.consider(t, &a.Socket, now, exact)
}

// An answerKind is how good an answer about a socket is.
type answerKind uint8

const (
	recalled answerKind = iota // a scan showed it, and it is older than the scan
	shown                      // a scan showed it
	exact                      // it is about the socket alone
)

// consideration is what the rules are found to want of a socket.
type consideration struct {
	e         *Engine
	t         *tracked
	s         *sock.Socket
	times     track.Times
	now       sock.Instant
	answer    answerKind
	was       held         // what a limit held back so far
	held      held         // what it holds back from now on
	full      bool         // the limit lets others go on before its holders are looked for
	awaits    []*throttle  // the limits that let it go on, while it waits for something else
	trial     *canary      // that it waits for; nil: none
	beside    *share       // in which an act counts, too; nil: in none
	shut      *shutDown    // the connection has left its state by that; nil: what is considered is about it as it is
	next      sock.Instant // when to ask again
	uncounted bool         // a rule that awaits its first count wants the socket before others
	decided   bool         // an act was told to be done, or said in a dry run
	ordered   bool         // the order among those that are due at the same instant is known
	stale     bool         // whether its group fires is to be seen again
	moves     bool         // it may come to another group as it is, by who holds it
}

// consider decides what the rules want of a socket. Only an exact answer about
// it alone is good enough to act on, and one that is no older than the scan to tell of;
// what a scan shows is good enough to ask. How old an exact answer is does not matter: an
// act is decided again by a newer one.
func (e *Engine) consider(t *tracked, s *sock.Socket, now sock.Instant, answer answerKind) {
	e.endGrant(t)
	e.leaveWaitQueue(t)
	c := consideration{e: e, t: t, s: s, times: t.Times(), now: now, answer: answer, was: e.recordOf(t).held, next: never}
	t.of, t.phase = 0, waiting
	e.recallHolders(t, now)
	t.set(blocked|aged, false)
	c.escalate()
	for candidate := range e.program.RulesFor(t.subject(s)) {
		c.rule(e.rules[candidate.Position])
	}
	for _, m := range e.recordOf(t).marks {
		// It is remembered, so that nothing is done twice, while the rule may come to
		// match again.
		if m.rule.Volatile && m.rule.Enabled {
			t.of |= 1 << m.rule.Class
		}
	}
	if c.was.rule != nil && c.held.rule == nil && !c.decided {
		e.dropHeld(t, c.was, s, Changed, now)
	}
	e.setHeld(t, c.held)
	switch {
	case t.phase == acted:
	case c.awaits != nil:
		e.beginWait(t, &c)
		e.waitAhead(t, c.next, now)
		c.fingerprint()
	case c.held.rule != nil:
		e.hold(t, c.next, now)
		c.fingerprint()
	case e.needs(t, c.next, now):
		e.waitAhead(t, c.next, now)
		c.fingerprint()
	case t.of != 0 && !t.is(plain) && (c.next != never || t.is(aged)):
		e.makeFar(t, c.next)
	default:
		e.drop(t, Changed, now)
	}
}

// fingerprint has a scan that shows the socket as it is now bring nothing. What the kernel does
// not know of it, or what stands against it, only an answer can tell.
func (c *consideration) fingerprint() {
	if c.t.is(plain) && !c.t.is(blocked|aged) && !c.stale && !c.moves {
		c.t.Print = track.Fingerprint(c.e.seed, c.s)
	}
}

// forgetFingerprints has the next scans bring everything again where a group has begun
// to fire, whose sockets are to be acted on.
func (e *Engine) forgetFingerprints() {
	if e.newFiring {
		for t := range e.tracks.all() {
			t.Print = 0
		}
	}
	e.newFiring = false
}

// rule considers one rule.
func (c *consideration) rule(r *ruleState) {
	e, t := c.e, c.t
	t.of |= 1 << r.Class
	fired := sock.Instant(0)
	if r.Grouped {
		var stale bool
		fired, stale = r.groups.FiringSince(t.subject(c.s), c.now, e.trusted(r.Class))
		if r.ByHolders && r.groups.Firing() > 0 && !t.subject(c.s).HoldersKnown() && e.mustLook(t, true, c.now) {
			fired = c.now // for all that is known
			e.wantHolders(t, c.s.ID.Key(), c.now)
			t.set(blocked, true)
		}
		c.moves = c.moves || r.ByHolders
		t.set(aged, t.is(aged) || r.Timed && !t.is(plain))
		c.stale = c.stale || stale
	}
	for j := range r.Then {
		a := &r.Then[j]
		if r.Grouped && (fired == never || a.Kind.On != rules.OnSocket) {
			continue // what else it does, it does about the group
		}
		if a.Kind == rules.Alert && j != r.firstAlert {
			continue
		}
		if m := e.marked(t, r, j); m != nil && !m.open && a.Kind != rules.Alert {
			continue
		}
		if a.Kind.Destructive {
			c.order(a)
		}
		decision, at, looks := c.decide(r, a, fired)
		if decision == match.Due && c.answer == recalled && !a.Kind.Destructive && e.marked(t, r, j) == nil {
			c.next = c.now
			continue
		}
		if a.Kind == rules.Alert && !looks && (decision == match.Due || e.unknownOfHolders(t, c.s, r, a, c.now) == "") {
			e.setDue(t, r, decision == match.Due) // it is counted for as long as it is due
		}
		switch {
		case looks:
			c.look(r, j)
		case decision != match.Due:
			c.notDue(r, a, decision, at)
		case a.Kind != rules.Alert:
			c.due(r, j, fired, at)
		}
	}
}

// order notes in which order the socket comes among those that are due at the same instant, by
// the first action that takes it.
func (c *consideration) order(a *rules.Action) {
	if !c.ordered {
		c.t.set(newestFirst, a.Order == rules.Newest)
		c.ordered = true
	}
}

// decide decides on an action. If it looks, the action is due unless who holds the socket
// stands against it, for which it is to be looked again. What did stand against it the last
// time is believed for a while.
func (c *consideration) decide(r *ruleState, a *rules.Action, fired sock.Instant) (decision match.Decision, at sock.Instant, looks bool) {
	s := c.e.subjectOf(c.t, c.s, r, a)
	return c.decideBy(r, a, byHolders{
		known: func() (match.Decision, sock.Instant) {
			return r.Decide(a, &c.times, s, fired, c.now, c.answer == exact)
		},
		but: func() (match.Decision, sock.Instant) {
			return r.DecideBut(a, &c.times, s, fired, c.now, c.answer == exact)
		},
	})
}

// byHolders is a decision: by who is known to hold the socket, and whoever holds it.
type byHolders struct {
	known, but func() (match.Decision, sock.Instant)
}

// decideBy is decide for a decision that comes from elsewhere.
func (c *consideration) decideBy(r *ruleState, a *rules.Action, by byHolders) (decision match.Decision, at sock.Instant, looks bool) {
	e, t := c.e, c.t
	touches := a.Kind.On == rules.OnSocket
	if must := e.holdersDecideFor(r.Rule, a) && e.mustLook(t, touches, c.now); must && !e.recalls(t, c.now) {
		decision, at = by.but()
		looks = decision == match.Due && !(touches && e.program.GuardBut(c.s, e.capabilities, e.config.Self) != "")
		return decision, at, looks
	} else if decision, at = by.known(); must && decision == match.Due {
		looks = !touches || e.guard(t, c.s) == "" && !(e.byHolder(a) && e.reach.refuse(t.heldBy(), c.now))
	}
	if decision == match.Blocked && a.Kind.Destructive {
		if unknown := e.unknownOfHolders(t, c.s, r, a, c.now); unknown != "" {
			e.skip(t, r, unknown)
		}
	}
	return decision, at, looks
}

// unsure reports whether it is not known that the socket is protected: who else holds it cannot
// be told.
func (e *Engine) unsure(t *tracked, s *sock.Socket) bool {
	by := t.subject(s)
	return !by.HoldersKnown() && match.Any(e.program.Protect, by) != ssfilter.True
}

// look has it looked for who holds the socket, which alone stands against an action. One
// that a limit has let go on keeps its place until then.
func (c *consideration) look(r *ruleState, action int) {
	e, t := c.e, c.t
	if t.is(survived) || t.phase == acted || t.is(simulated) && e.onlySays(r, action, c.s) {
		return
	}
	e.wantHolders(t, c.s.ID.Key(), c.now)
	t.set(blocked, true)
	if c.was.rule == r && c.was.action == action && !e.walks.Hangs() {
		c.await(r, action, c.was.by, c.now.Add(e.walks.Patience()))
	}
}

// notDue considers an action whose instant has not come, or against which something
// stands.
func (c *consideration) notDue(r *ruleState, a *rules.Action, decision match.Decision, at sock.Instant) {
	t := c.t
	c.next = min(c.next, max(at, c.now.Add(leastWait)))
	t.set(blocked, t.is(blocked) || decision == match.Blocked)
	t.set(foreseen, t.is(foreseen) || decision == match.NotDue && at != never)
	t.set(ahead, t.is(ahead) || at.Sub(c.now) >= time.Second)
	if decision == match.Blocked && a.Kind.Destructive && c.s.InUse() {
		c.e.skip(t, r, match.InUse)
	}
}

// due considers an action on the socket itself, whose instant came then.
func (c *consideration) due(r *ruleState, action int, fired, at sock.Instant) {
	e, t, s, now := c.e, c.t, c.s, c.now
	kind, onlySays := r.Then[action].Kind, e.onlySays(r, action, s)
	c.full = kind.Destructive && t.Inode != 0 && t.holders == nil && r.history.throttle(onlySays).Room(now) == 0
	if !c.full && (c.answer == exact || kind.On != rules.OnSocket) { // else an exact answer, or the limit, comes first
		if until := e.awaitHolders(t, s, now); until != 0 {
			c.await(r, action, r.history.throttle(onlySays), until)
			return
		}
	}
	if kind.On != rules.OnSocket {
		e.report(e.action(t, s, r, action, now), Done)
		e.mark(t, r, action, false)
		return
	}
	why := e.guard(t, s)
	if why == "" && e.byHolder(&r.Then[action]) {
		why = e.unreachable(t, s, now)
	}
	if !kind.Destructive {
		c.touch(r, action, fired, at, why)
		return
	}
	switch {
	case t.is(survived) || t.phase == acted || c.held.rule != nil && (!c.held.yields() || onlySays), t.is(simulated) && onlySays:
		return // it was told already, or an earlier rule has it
	case why == "" && !onlySays && r.stopped() == nil && e.usages.Spins(t.heldBy(), r.spinRule()):
		why = match.HolderSpins
	}
	if why != "" {
		r.history.unsure = r.history.unsure || why == match.Protected && e.unsure(t, s)
		t.set(blocked, true)
		e.skip(t, r, why)
		return
	}
	if c.uncounted = c.uncounted || !onlySays && r.awaitsCount(); c.uncounted || r.awaitsCount() {
		t.set(blocked, true) // and no later rule takes it before
		if c.was.rule == r && c.was.action == action {
			c.held = c.was // and waits on
		}
		return
	}
	switch again := e.noActBefore(t); {
	case now < again:
		c.next = min(c.next, again)
	case c.answer != exact && c.was.rule == r && c.was.action == action:
		c.held = c.was // and waits on
	case c.answer != exact:
		if c.was.rule == nil || !r.DryRun {
			c.next = now
		}
	case !onlySays && now < e.awaitUsage(t, now) && c.throttle(r, action, onlySays).Room(now) > 0:
		c.await(r, action, r.history.throttle(onlySays), e.awaitUsage(t, now))
	case !e.stopping:
		c.destroy(r, action, fired, at)
	}
}

// onlySays reports whether nothing is done to a socket that an action is due on.
func (e *Engine) onlySays(r *ruleState, action int, s *sock.Socket) bool {
	a := &r.Then[action]
	return a.Kind.On == rules.OnSocket && (r.DryRun || e.capabilities.Cannot(a, s) != nil)
}

// await has the action on the socket decided anew at that instant. If it is destructive, it
// has its place under the limit until then.
func (c *consideration) await(r *ruleState, action int, by *throttle, until sock.Instant) {
	c.next = min(c.next, until)
	if !r.Then[action].Kind.Destructive {
		return
	}
	c.awaits = append(c.awaits, by)
	if c.was.rule == r && c.was.action == action && c.held.rule == nil {
		c.held = c.was
	}
}

// needs reports whether something is pending on t, or soon will be: what a later scan
// will find in time, and know as much of, is left to that.
func (e *Engine) needs(t *tracked, next, now sock.Instant) bool {
	switch {
	case t.of == 0:
		return false
	case t.is(blocked|wanted) || len(e.recordOf(t).marks) > 0:
		return true
	case next == never && !t.is(aged):
		return false
	case next <= e.lookahead(t.of, now) || e.scans.running != nil:
		return true
	case !t.is(plain) && (t.record != 0 || t.is(tried|survived) || !canBeFar(&t.Packed)):
		return true
	}
	e.schedule.Leave(t.of, next)
	return false
}
