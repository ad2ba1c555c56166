package engine

import (
	"log/slog"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// guard says why the socket is not to be touched whatever a rule says, or "".
func (e *Engine) guard(t *tracked, s *sock.Socket) match.Reason {
	return guard(s, t.holders, e.program.Protect, e.capabilities, e.config.Self)
}

// guard says so of a socket that they hold, or did before it was closed.
func guard(s *sock.Socket, h *subject.Holders, protect []rules.Match, capabilities match.Capabilities, self int) match.Reason {
	why := match.Guard(heldSubject(s, h), protect, capabilities, self)
	if why == "" && h != nil && h.By(self) {
		return match.Own // even if no descriptor stands for it any more
	}
	return why
}

// describe describes a destructive action.
func (c *consideration) describe(r *ruleState, action int) Action {
	a := c.e.action(c.t, c.s, r, action, c.now)
	if r.Grouped {
		a.When = r.When
		if g := r.groups.Of(c.t.subject(c.s)); g != nil { // of one that was shut down there may be none any more
			a.Group = g.Measured
		}
	}
	if c.shut != nil {
		a.ShutFor = c.now.Sub(c.shut.done)
	}
	return a
}

// destroy decides on a destructive action whose instant has come.
func (c *consideration) destroy(r *ruleState, action int, fired, due sock.Instant) {
	e, t, s, now := c.e, c.t, c.s, c.now
	a := c.describe(r, action)
	m := e.marked(t, r, action)
	if t.is(ahead) && m == nil {
		a.Due = max(due, e.ruledAt)
	}
	if why := e.capabilities.Cannot(&r.Then[action], s); why != nil {
		a.DryRun, a.Reason, a.Err = true, match.NotPossible, why
	}
	h, trial := c.throttle(r, action, a.DryRun), (*canary)(nil)
	if h.Room(now) == 0 {
		c.hold(r, action, &a, h, h.holdsBy(now))
		return
	}
	if !a.DryRun {
		trial = r.canaryOf(t, action)
	}
	if until := trial.holdsUntil(now); until != 0 {
		c.hold(r, action, &a, h, match.CanaryWaits)
		c.await(r, action, h, until)
		c.trial = trial
		return
	}
	e.mark(t, r, action, false)
	c.decided = true
	taken := c.beside.with(h.Throttle, now)
	taken.Begin()
	if a.DryRun {
		taken.End(now)
		t.set(simulated, true)
		e.report(a, Would)
		return
	}
	if c.held.rule != nil {
		e.dropHeld(t, c.held, s, Changed, now)
	}
	c.held, t.phase = held{}, acted
	attempt := e.attempt(t)
	attempt.rule, attempt.action, attempt.throttle, attempt.canary = r, action, taken, trial
	attempt.due = due.Add(-r.Then[action].After)
	e.canaryBegins(trial)
	e.acts.underWay++
	if e.plan.Act == nil {
		e.plan.Act = make([]Action, 0, e.lookups.answers)
	}
	for _, x := range []*share{h.share, c.beside} {
		if x != nil {
			a.Shares, a.ShareWindow = append(a.Shares, x.id), sharePer+restoreSlack
		}
	}
	a.basis = e.basisOf(t, r, action, fired)
	a.basis.shut = c.shut
	e.plan.Act = append(e.plan.Act, a)
}

// throttle returns the limit that counts for an action on the socket.
func (c *consideration) throttle(r *ruleState, action int, dry bool) *throttle {
	if c.full {
		return r.history.throttle(dry)
	}
	unseen := !dry && r.slowly(c.t, action)
	if unseen {
		c.e.noteUntold(r, slog.String("rule", r.Name))
	}
	var x *share
	if c.beside = nil; c.shut == nil { // which has taken it
		x, c.beside = c.e.sharesOf(r, action, c.t, c.s, dry, c.now)
	}
	return c.e.inner(r, x, unseen, dry)
}

// hold has the socket held back, for a reason that is told once.
func (c *consideration) hold(r *ruleState, action int, a *Action, h *throttle, why match.Reason) {
	e := c.e
	if e.marked(c.t, r, action) == nil {
		e.mark(c.t, r, action, true)
		e.report(*a, Held)
		r.history.skips[why]++
		h.begins(a.Kind, why)
		e.summary.Soon(c.now)
	}
	c.held = held{rule: r, action: action, by: h, uid: c.s.UID, device: c.s.Device}
}

// action describes an action of a rule on a socket.
func (e *Engine) action(t *tracked, s *sock.Socket, r *ruleState, action int, now sock.Instant) Action {
	times := t.Times()
	via, _ := e.capabilities.Way(&r.Then[action])
	a := Action{
		of: r, Rule: r.Name, Kind: r.Then[action].Kind, Options: r.Then[action].Options, Via: via, DryRun: r.DryRun, Socket: *s,
		Decided: now,
		Grounds: groundsOf(r.Rule, &times, e.subjectOf(t, s, r, &r.Then[action]), now), Holders: t.heldBy(),
	}
	if a.Kind.Destructive {
		a.Window = max(limitOf(r.Rule).Per, e.program.Settings.Limit.Per) + restoreSlack
	}
	return a
}

// groundsOf returns why a rule wants the socket.
func groundsOf(r *match.Rule, t *track.Times, s subject.Subject, now sock.Instant) Grounds {
	g := Grounds{InStateFor: now.Sub(t.Entered.Safe), IdleFor: now.Sub(t.Quiet.Safe), StalledFor: now.Sub(max(t.Quiet.Safe, t.Queued)), SilentFor: now.Sub(t.SilentBase())}
	for i := range r.Match {
		m := &r.Match[i]
		if min(match.Lasts(m, s), match.AtPresent(m, s)) == ssfilter.True && now >= match.DueAt(m, t) {
			g.Match = m
			break
		}
	}
	return g
}

// report reports an action that is decided.
func (e *Engine) report(a Action, result Result) {
	a.Result = result
	a.of.history.results[KindResult{a.Kind, result}]++
	e.credit(&a, result)
	e.plan.Report = append(e.plan.Report, a)
}

// dropHeld ends the wait of what a limit held back of t, which s shows.
func (e *Engine) dropHeld(t *tracked, h held, s *sock.Socket, result Result, now sock.Instant) {
	a := e.action(t, s, h.rule, h.action, now)
	a.DryRun, a.Waited = h.by.dry, true
	throttle := h.by.ofRule()
	throttle.kind = a.Kind
	throttle.left++
	e.report(a, result)
}

// lastKnown is what is known of the socket of t where no answer shows it.
func (e *Engine) lastKnown(t *tracked, h *held) sock.Socket {
	c := e.tracks.connection(t)
	return sock.Socket{
		Conn: ssfilter.Conn{State: c.State, Src: c.ID.Local(), Dst: c.ID.Peer(), Iface: c.ID.Iface, Device: h.device, Autobound: c.Autobound},
		ID:   c.ID, Inode: c.Inode, UID: h.uid, Retrans: c.Retrans,
	}
}

func (in ActionsDone) apply(e *Engine, now sock.Instant) {
	for i := range in.Outcomes {
		o := &in.Outcomes[i]
		if !o.Act.Kind.Destructive {
			e.touched(o, now)
			continue
		}
		t := e.tracks.get(o.Act.Socket.ID.Key())
		if t == nil || t.phase != acted {
			continue
		}
		e.acts.underWay--
		o.Act.At = o.At
		attempt := e.attempt(t)
		throttle, trial := attempt.throttle, attempt.canary
		switch {
		case o.Changed != "":
			throttle.Cancel()
			e.canaryEnds(trial, 0, now)
			o.Act.Reason = o.Changed
			e.report(o.Act, Changed)
			e.reconsider(t, o.Changed, &o.Last, now)
		case o.Err == nil || o.Unsure:
			throttle.End(o.At)
			e.canaryEnds(trial, o.At, now)
			if o.Act.Due != 0 {
				e.plan.Late = append(e.plan.Late, max(0, o.At.Sub(o.Act.Due)))
			}
			if !attempt.rule.replaced {
				e.usages.Killed(t.heldBy(), attempt.rule.spinRule(), o.At)
			}
			told := o.Act // without the others of its batch
			attempt.unconfirmed, attempt.unsure = &told, o.Unsure
			e.acts.unconfirmed++
			e.wait(t, 0) // before any other: thousands may be due
		case o.Gone:
			throttle.Cancel()
			e.canaryEnds(trial, 0, now)
			e.report(o.Act, Gone)
			e.drop(t, Gone, now)
		default:
			throttle.Cancel()
			e.canaryEnds(trial, 0, now)
			o.Act.Err = o.Err
			e.report(o.Act, Failed)
			if o.Never {
				e.cease(o)
			}
			if o.Refused {
				e.reach.noteRefused(o.Act.Holders, now)
			}
			e.retry(t, now)
		}
	}
}

// noActBefore is until when t is left alone after an act on it failed.
func (e *Engine) noActBefore(t *tracked) sock.Instant {
	if !t.is(tried) {
		return 0
	}
	return e.attempts[e.tracks.key(t)].again
}

// reconsider begins anew with a socket that an act was not done to, because the
// last answer about it showed something else than the act was decided on.
func (e *Engine) reconsider(t *tracked, why match.Reason, last *sock.Answer, now sock.Instant) {
	a := e.attempt(t)
	e.unmark(t, a.rule, a.action)
	if why == match.HolderChanged {
		t.holders = nil // whoever it is now is looked for
	}
	t.phase = waiting
	t.set(ahead, false)
	a.again = now.Add(retryAfter) // should the two decisions ever differ without end
	e.decideOn(last, now)
}

// retry has the act on t tried again, after twice as long each time.
func (e *Engine) retry(t *tracked, now sock.Instant) {
	a := e.attempt(t)
	if e.marked(t, a.rule, a.action) != nil {
		e.mark(t, a.rule, a.action, true)
	}
	a.again = now.Add(retryAfter << min(a.failures, mostDoubled))
	a.failures++
	e.wait(t, a.again)
}

// cease switches off an action that failed for good.
func (e *Engine) cease(o *Outcome) {
	kind, missing := o.Act.Kind, match.Needs(o.Act.Kind, o.Act.Via)
	values := []slog.Attr{slog.String("action", kind.Name), slog.String("reason", o.Err.Error())}
	if missing == rules.Destroy && o.Act.Socket.Minisocket() && !o.Denied {
		// Only kernels before 6.0 say so, and of these alone.
		missing = match.DestroyTimeWait
		values = append(values, slog.String("state", o.Act.Socket.State.String()))
	}
	if e.capabilities[missing] != nil {
		return
	}
	capabilities := e.capabilities.Without(missing, match.SwitchedOff{Err: o.Err})
	e.allow(capabilities)
	if via, err := capabilities.Way(&rules.Action{Kind: kind, Options: o.Act.Options}); err == nil && via != o.Act.Via {
		e.note(WayChanged, append(values, slog.String("via", string(via)))...)
		return
	}
	e.note(ActionOff, values...)
}

// confirm takes in what the kernel says of a socket after it was told to destroy it.
func (e *Engine) confirm(t *tracked, answer *sock.Answer, now sock.Instant) {
	e.acts.unconfirmed--
	a, c := e.attempt(t), e.tracks.connection(t)
	told, same := a.unconfirmed, !answer.Gone && c.Same(&answer.Socket, answer.Sent)
	t.set(seen, e.scans.running != nil)
	switch {
	case answer.Gone, !same && !a.unsure:
		// A program can connect a socket anew that was destroyed under it.
		e.report(*told, Done)
		if a.shut == nil || a.shut.rule != a.rule { // else it was counted with the shutdown
			e.killed.add(t.Inode, told.Rule, now)
			e.noteKill(a.rule, t, now)
		}
		if !e.goOn(t, answer, now) {
			e.drop(t, Done, now)
		}
		return
	case !same:
		told.Reason = match.AnswerLost
		e.report(*told, Unconfirmed)
		e.drop(t, Changed, now)
		return
	}
	told.Reason = match.StillThere
	e.report(*told, Unconfirmed)
	a.unconfirmed = nil
	if a.unsure {
		// The kernel destroys within the send, so the request never reached it.
		e.retry(t, now)
		return
	}
	t.set(survived, true)
	e.wait(t, never)
}
