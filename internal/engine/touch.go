package engine

import (
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// touch decides on an action on the socket that takes nothing away, whose instant has come:
// no limit counts for it, and what else is done to the socket is decided without regard to
// it. What stands against it is why.
func (c *consideration) touch(r *ruleState, action int, fired, due sock.Instant, why match.Reason) {
	e, t, now := c.e, c.t, c.now
	onlySays := e.onlySays(r, action, c.s)
	switch {
	case why != "":
	case !onlySays && e.Paused():
		why = match.Paused
	case !onlySays && r.stopped() != nil:
		why = match.RuleStopped
	}
	switch {
	case why != "":
		t.set(blocked, true)
		e.skip(t, r, why)
		return
	case c.answer != exact:
		c.next = now
		return
	case e.stopping:
		return
	}
	a := e.action(t, c.s, r, action, now)
	if t.is(ahead) {
		a.Due = max(due, e.ruledAt)
	}
	e.mark(t, r, action, false)
	if onlySays {
		if why := e.capabilities.Cannot(&r.Then[action], c.s); why != nil {
			a.DryRun, a.Reason, a.Err = true, match.NotPossible, why
		}
		e.report(a, Would)
		return
	}
	e.acts.underWay++
	a.basis = e.basisOf(t, r, action, fired)
	e.plan.Act = append(e.plan.Act, a)
}

// actionOf is which of its rule's such an action is: there is one of each kind.
func actionOf(a *Action) int {
	return slices.IndexFunc(a.of.Then, func(of rules.Action) bool { return of.Kind == a.Kind })
}

// touched takes in how such an action ended. One that failed is not tried again on that
// connection, unless it was refused, or possible by no way: that may change.
func (e *Engine) touched(o *Outcome, now sock.Instant) {
	e.acts.underWay--
	a := &o.Act
	a.At, a.Reason, a.Err = o.At, o.Changed, o.Err
	t := e.tracks.get(a.Socket.ID.Key())
	switch {
	case o.Changed != "":
		e.report(*a, Changed)
	case o.Err == nil:
		if a.Due != 0 {
			e.plan.Late = append(e.plan.Late, max(0, o.At.Sub(a.Due)))
		}
		e.report(*a, Done)
		if t != nil && match.WithoutKeepalives(&a.Socket) {
			e.markAsked(t, a.of, actionOf(a))
		}
		return
	case o.Gone:
		e.report(*a, Gone)
		return // a scan, or the next answer, says the same
	default:
		e.report(*a, Failed)
		if o.Never {
			e.cease(o)
		}
		if o.Refused {
			e.reach.noteRefused(a.Holders, now)
		}
		if !o.Never && !o.Refused {
			return
		}
	}
	if t == nil {
		return
	}
	if o.Changed == match.HolderChanged {
		t.holders = nil // whoever it is now is looked for
	}
	e.unmark(t, a.of, actionOf(a))
	if again := now.Add(retryAfter); t.phase == waiting && t.turn == 0 && (t.due == 0 || t.askAt() > again) {
		e.wait(t, again)
	}
}
