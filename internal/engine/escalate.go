package engine

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// shutDown is that a rule has shut a connection down, which has left its state by that. What
// the rule does later is done to it all the same, if its peer does not answer. It does not
// change: who acts reads it.
type shutDown struct {
	rule  *ruleState
	due   sock.Instant  // the socket fell due then
	after time.Duration // so long after that the shutdown was to come
	done  sock.Instant  // it came then
}

// shutRecheck is when to see again whether a connection that was shut down is still there, which
// scans do not show, and whether its rule still means it.
const shutRecheck = 15 * time.Second

// shutOf returns which rule has shut t down; nil: none has.
func (e *Engine) shutOf(t *tracked) *shutDown {
	if !t.is(tried) {
		return nil
	}
	return e.attempts[e.tracks.key(t)].shut
}

// dueAt returns when an action of the rule falls due that comes later than the shutdown, and
// as long after it as the rule says; ok: it does. A peer that goes on answering has as long
// again.
func (x *shutDown) dueAt(a *rules.Action, t *track.Times) (at sock.Instant, ok bool) {
	gap := a.After - x.after
	return max(x.due.Add(a.After), max(x.done, t.Quiet.Safe).Add(gap)), gap > 0 && a.Kind.Destructive && a.Kind.On == rules.OnSocket
}

// escalates reports whether the rule has an action that comes later than one that is a shutdown.
func (r *ruleState) escalates(shutdown int) bool {
	x := shutDown{after: r.Then[shutdown].After}
	later := func(a rules.Action) bool {
		_, ok := x.dueAt(&a, &track.Times{})
		return ok
	}
	return r.Then[shutdown].Kind == rules.Shutdown && !r.replaced && slices.ContainsFunc(r.Then, later)
}

// goOn keeps t in mind, which its rule's shutdown has made leave its state, for what the rule
// does later, and reports whether there is such a thing.
func (e *Engine) goOn(t *tracked, answer *sock.Answer, now sock.Instant) bool {
	a, c := e.attempt(t), e.tracks.connection(t)
	if answer.Gone || !a.rule.escalates(a.action) || !c.IsShut(&answer.Socket, answer.Sent) {
		return false
	}
	a.shut = &shutDown{rule: a.rule, due: a.due, after: a.rule.Then[a.action].After, done: a.unconfirmed.At}
	a.unconfirmed, a.canary, a.failures, a.again = nil, nil, 0, 0
	e.decideOn(answer, now)
	return true
}

// leaveState notes that t, which was shut down, is not what rules alert of any more.
func (e *Engine) leaveState(t *tracked) {
	for _, m := range e.recordOf(t).marks {
		if m.action == m.rule.firstAlert {
			e.setDue(t, m.rule, false)
		}
	}
}

// escalate considers what the rule does later that has shut the connection down.
func (c *consideration) escalate() {
	e, t := c.e, c.t
	x := e.shutOf(t)
	if x == nil {
		return
	}
	r := x.rule
	for j := range r.Then {
		a := &r.Then[j]
		at, ok := x.dueAt(a, &c.times)
		if m := e.marked(t, r, j); !ok || r.replaced || m != nil && !m.open {
			continue
		}
		t.of |= 1 << r.Class
		c.next = min(c.next, c.now.Add(shutRecheck))
		c.shut = x
		c.order(a)
		s := e.subjectOf(t, c.s, r, a)
		decision, at, looks := c.decideBy(r, a, byHolders{
			known: func() (match.Decision, sock.Instant) { return r.DecideShut(s, at, c.now) },
			but:   func() (match.Decision, sock.Instant) { return r.DecideShutBut(s, at, c.now) },
		})
		switch {
		case looks:
			c.look(r, j)
		case decision == match.Due:
			c.due(r, j, 0, at)
		case decision == match.NotDue:
			c.notDue(r, a, decision, at)
		}
		c.shut = nil
	}
}
