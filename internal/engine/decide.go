package engine

import (
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// guard says why the socket is not to be touched whatever a rule says, or "".
func (e *Engine) guard(t *tracked, s *sock.Socket) string {
	return match.Guard(s, e.program.Protect, e.capabilities, t.holders, e.config.Self)
}

// destroy decides on a destructive action whose instant has come, and reports
// whether it is done with: told to be done, or said in a dry run.
func (e *Engine) destroy(t *tracked, s *sock.Socket, r *ruleState, action int, fired, due, now sock.Instant) bool {
	a := e.action(t, s, r, action, now)
	if r.Grouped {
		a.Reason += e.groupReason(r, s)
	}
	if t.ahead && t.marked(r, action) == nil {
		a.Due = max(due, e.ruledAt)
	}
	if why := e.capabilities.Cannot(a.Kind, s); why != "" {
		a.Reason += "; " + why
		a.DryRun = true
	}
	t.rule, t.action = r, action
	b := e.budget(r, a.DryRun)
	if b.Free(now) == 0 {
		if t.marked(r, action) == nil {
			t.marks = append(t.marks, mark{r, uint32(action), true})
			e.say(a, Held)
			e.heldBack(r, b, now)
			h := r.history.throttle(a.DryRun)
			h.kind = a.Kind
			h.began++
			e.summary.soon(now)
		}
		t.held = &a
		return false
	}
	t.mark(r, action)
	b.Begin()
	if a.DryRun {
		b.End(now)
		t.would = true
		e.say(a, Would)
		return true
	}
	if t.held != nil {
		e.letGo(t.held, Changed, "a rule after it took the socket")
	}
	t.held, t.phase = nil, acted
	t.alarm.leave()
	e.acting++
	if e.plan.Act == nil {
		e.plan.Act = make([]Action, 0, e.answers)
	}
	a.basis = e.basisOf(t, r.Rule, action, fired)
	e.plan.Act = append(e.plan.Act, a)
	return true
}

// action describes an action of a rule on a socket.
func (e *Engine) action(t *tracked, s *sock.Socket, r *ruleState, action int, now sock.Instant) Action {
	a := Action{
		of: r, Rule: r.Name, Kind: r.Then[action].Kind, Options: r.Then[action].Options, DryRun: r.DryRun, Socket: *s,
		Decided: now, Window: max(r.Then[action].Limit.Per, e.program.Settings.Limit.Per) + restoreSlack,
		InStateFor: now.Sub(t.Entered.Safe), IdleFor: now.Sub(t.Quiet.Safe), Holders: t.heldBy(),
	}
	a.Reason = reason(r.Rule, &t.Times, s, now, "")
	return a
}

// reason says in one line why a rule wants the socket; least stands before times
// that are lower bounds.
func reason(r *match.Rule, t *track.Times, s *sock.Socket, now sock.Instant, least string) string {
	text := s.State.String() + " for " + least + inMs(now.Sub(t.Entered.Safe))
	for i := range r.Match {
		m := &r.Match[i]
		if match.Lasts(m, s) != ssfilter.True || match.AtPresent(m, s) != ssfilter.True || now < match.DueAt(m, t.Base(), t.Queued) {
			continue
		}
		if m.InStateFor > 0 {
			text += ", allowed " + m.InStateFor.String()
		}
		if m.IdleFor > 0 {
			text += ", idle for " + least + inMs(now.Sub(t.Quiet.Safe)) + ", allowed " + m.IdleFor.String()
		}
		if m.StalledFor > 0 {
			text += ", stalled for " + least + inMs(now.Sub(max(t.Quiet.Safe, t.Queued))) + ", allowed " + m.StalledFor.String()
		}
		break
	}
	if v := match.Verdict(s); v != "" {
		text += ", " + string(v)
	}
	return text
}

// groupReason says in what the socket's group meets the conditions of its rule,
// or did when it began to fire.
func (e *Engine) groupReason(r *ruleState, s *sock.Socket) string {
	g := r.groupOf(s)
	text := ", one of a group with"
	for i, c := range r.When {
		if i > 0 {
			text += " and"
		}
		text += fmt.Sprintf(" %s %s (fires at %s)", c.Metric, g.Text(c.Metric), c)
	}
	return text
}

func inMs(d time.Duration) string { return d.Truncate(time.Millisecond).String() }

// say reports an action that is decided.
func (e *Engine) say(a Action, result Result) {
	a.Result = result
	a.of.history.results[outcome{a.Kind, result}]++
	e.credit(&a, result)
	e.plan.Report = append(e.plan.Report, a)
}

// letGo ends the wait of an action that a limit held back.
func (e *Engine) letGo(held *Action, result Result, why string) {
	a := *held
	a.Waited = true
	if why != "" {
		a.Reason = why
	}
	h := a.of.history.throttle(a.DryRun)
	h.kind = a.Kind
	h.left++
	e.say(a, result)
}

func (in ActionsDone) apply(e *Engine, now sock.Instant) {
	for i := range in.Outcomes {
		o := &in.Outcomes[i]
		t := e.tracks[o.Act.Socket.ID.Cookie]
		if t == nil || t.phase != acted {
			continue
		}
		e.acting--
		o.Act.At = o.At
		switch {
		case o.Changed != "":
			e.budget(t.rule, false).Cancel()
			o.Act.Reason = o.Changed
			e.say(o.Act, Changed)
			e.reconsider(t, &o.Last, now)
		case o.Err == nil || o.Unsure:
			e.budget(t.rule, false).End(o.At)
			if o.Act.Due != 0 {
				e.plan.Late = append(e.plan.Late, max(0, o.At.Sub(o.Act.Due)))
			}
			if !t.rule.replaced {
				e.usages.Killed(t.heldBy(), t.rule.spinRule(), o.At)
			}
			t.act, t.unsure = &o.Act, o.Unsure
			e.confirming++
			e.wait(t, now)
		case o.Gone:
			e.budget(t.rule, false).Cancel()
			e.say(o.Act, Gone)
			e.drop(t, Gone, "")
		default:
			e.budget(t.rule, false).Cancel()
			o.Act.Reason += ": " + o.Err.Error()
			e.say(o.Act, Failed)
			if o.Never {
				e.cease(o)
			}
			e.retry(t, now)
		}
	}
}

// reconsider begins anew with a socket that an act was not done to, because the
// last answer about it showed something else than the act was decided on.
func (e *Engine) reconsider(t *tracked, last *sock.Answer, now sock.Instant) {
	t.unmark(t.rule, t.action)
	t.phase, t.ahead = waiting, false
	t.again = now.Add(retryAfter) // should the two decisions ever differ without end
	e.consider(e.observe(&last.Socket, last.Sent, last.Got), &last.Socket, now, true)
}

// retry has the act on t tried again, after twice as long each time.
func (e *Engine) retry(t *tracked, now sock.Instant) {
	t.reopen(t.rule, t.action)
	t.again = now.Add(retryAfter << min(t.failures, mostDoubled))
	t.failures++
	e.wait(t, t.again)
}

// cease switches off an action that failed for good.
func (e *Engine) cease(o *Outcome) {
	kind := o.Act.Kind
	if e.capabilities.Cannot(kind, &o.Act.Socket) != "" {
		return
	}
	if kind != rules.Kill {
		others := maps.Clone(e.capabilities.Others) // others read what was told before
		if others == nil {
			others = make(map[*rules.Kind]string)
		}
		others[kind] = kind.Name + " is switched off: " + o.Err.Error()
		e.capabilities.Others = others
		e.note(slog.LevelError, kind.Name+" is switched off for good: it cannot succeed here", slog.String("reason", o.Err.Error()))
		return
	}
	off, what := &e.capabilities.Kill, "kill is switched off for good: it cannot succeed here; sockdog doctor says what is missing"
	if o.Act.Socket.State == ssfilter.TimeWait && !o.Denied {
		// Only kernels before 6.0 say so, and of this state alone.
		off, what = &e.capabilities.KillTimeWait, "kill in time-wait is switched off for good: this kernel cannot do it"
	}
	*off = "kill is switched off: " + o.Err.Error()
	e.note(slog.LevelError, what, slog.String("reason", o.Err.Error()))
}

// confirm takes in what the kernel says of a socket after it was told to destroy it.
func (e *Engine) confirm(t *tracked, a *sock.Answer, now sock.Instant) {
	e.confirming--
	same := !a.Gone && t.Same(&a.Socket, a.Sent)
	switch {
	case a.Gone, !same && !t.unsure:
		// A program can connect a socket anew that was destroyed under it.
		e.say(*t.act, Done)
		e.lookups.follow(t, now)
		e.drop(t, Done, "")
		return
	case !same:
		t.act.Reason += "; the kernel's answer was lost, and the socket has changed since"
		e.say(*t.act, Unconfirmed)
		e.drop(t, Changed, "")
		return
	}
	t.act.Reason += "; the kernel still shows it"
	e.say(*t.act, Unconfirmed)
	t.act = nil
	if t.unsure {
		// The kernel destroys within the send, so the request never reached it.
		e.retry(t, now)
		return
	}
	t.survived = true
	e.wait(t, never)
}
