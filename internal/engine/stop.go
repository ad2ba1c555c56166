package engine

import (
	"cmp"
	"log/slog"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
)

// RuleReset says that somebody lets a rule act again that has stopped itself.
type RuleReset struct{ Rule string }

func (in RuleReset) apply(e *Engine, _ sock.Instant) {
	for _, r := range e.rules {
		if r.Name == in.Rule && r.stopped() != nil {
			r.history.stop, r.history.ended, r.canaries = nil, 0, nil // they begin anew
			r.brake()
			e.disk.stopsChanged, e.problemsAt = true, 0
			e.note(RuleGoesOn, slog.String("rule", r.Name))
		}
	}
}

// stopped returns why and since when the rule has stopped itself; nil: it has not. It
// stays stopped until it is reset or says something else.
func (r *ruleState) stopped() *sock.RuleStop {
	if stop := r.history.stop; stop != nil && stop.Sum == r.Sum {
		return stop
	}
	return nil
}

// brake has nothing done for the rule for as long as it must not act.
func (r *ruleState) brake() {
	shut := match.Reason("")
	if r.troubles.tooMany {
		shut = match.MaxMatches
	}
	r.history.real.shut, r.history.dry.shut = shut, shut
	if r.stopped() != nil {
		r.history.real.shut = match.RuleStopped
	}
}

// stopRule has a rule act no more, because of what its acts did to a process.
func (e *Engine) stopRule(r *ruleState, why match.Reason, holder sock.Holder, now sock.Instant, more ...slog.Attr) {
	if r.stopped() != nil {
		return
	}
	r.history.stop = &sock.RuleStop{Rule: r.Name, Sum: r.Sum, Reason: string(why), PID: holder.PID, Comm: holder.Comm, Since: now}
	r.brake()
	e.disk.stopsChanged, e.problemsAt = true, 0
	attrs := []slog.Attr{slog.String("rule", r.Name), slog.String("reason", string(why))}
	if holder.PID != 0 {
		attrs = append(attrs, slog.Int("pid", holder.PID), slog.String("comm", holder.Comm))
	}
	e.note(RuleStopped, append(attrs, more...)...)
}

// forgetStop forgets that a rule had stopped itself which says something else by now.
func (e *Engine) forgetStop(r *ruleState) {
	if r.history.stop != nil && r.stopped() == nil {
		r.history.stop = nil
		e.disk.stopsChanged = true
	}
}

// keepStops has it kept which rules have stopped themselves, if that has changed.
func (e *Engine) keepStops() {
	if !e.disk.stopsChanged {
		return
	}
	e.disk.stopsChanged = false
	e.plan.Stops = []sock.RuleStop{} // nil would be no change
	for _, h := range e.histories {
		if h.stop != nil {
			e.plan.Stops = append(e.plan.Stops, *h.stop)
		}
	}
	slices.SortFunc(e.plan.Stops, func(a, b sock.RuleStop) int { return cmp.Compare(a.Rule, b.Rule) })
}
