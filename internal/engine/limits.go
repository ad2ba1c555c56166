package engine

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// RecordPatience is how long an act waits for the record of its intent.
	RecordPatience = 5 * time.Second
	// restoreSlack is how long after the record of its intent began to be written an
	// act may have been done, in an earlier run.
	restoreSlack = RecordPatience + time.Second
)

// budget is what a rule may still do, or its dry run.
func (e *Engine) budget(r *ruleState, dry bool) limit.Budget {
	if dry {
		return limit.Budget{Own: &r.history.dry.Window, All: &e.dryLimit}
	}
	return limit.Budget{Own: &r.history.real.Window, All: &e.limit}
}

// hold has t wait until the limit that holds it back lets one more go on; at
// next, something else may want it.
func (e *Engine) hold(t *tracked, next sock.Instant) {
	e.wait(t, next)
	e.throttle(t).add(t)
}

// release lets as many held sockets go on as the limits leave room for, in the
// rule's order. They are matched afresh before anything is done to them.
func (e *Engine) release(now sock.Instant) {
	for _, r := range e.rules {
		for _, dry := range []bool{false, true} {
			h := r.history.throttle(dry)
			for !h.empty() && h.released < e.budget(r, dry).Free(now) {
				t := h.first()
				h.leave(t)
				e.wait(t, now)
				t.set(released, true)
				h.released++
			}
		}
	}
}

// endTurn is called when it is clear what becomes of a released socket.
func (e *Engine) endTurn(t *tracked) {
	if t.is(released) {
		t.set(released, false)
		e.throttle(t).released--
	}
}

// leaveTurn takes t out of what a limit holds back.
func (e *Engine) leaveTurn(t *tracked) {
	if t.turn != 0 {
		e.throttle(t).leave(t)
	}
}

// throttle is what holds t back, or has just let it go on.
func (e *Engine) throttle(t *tracked) *throttle {
	h := &e.recordOf(t).held
	return h.rule.history.throttle(h.dry)
}

// firstFree is when a limit that holds something back leaves room again.
func (e *Engine) firstFree(now sock.Instant) sock.Instant {
	first := never
	for _, r := range e.rules {
		for _, dry := range []bool{false, true} {
			if h := r.history.throttle(dry); !h.empty() && h.released == 0 { // else an answer comes first
				first = min(first, e.budget(r, dry).FreeAt(now))
			}
		}
	}
	return first
}

// HeldBack sums up what the limits hold back of a rule, or of its dry run.
type HeldBack struct {
	Rule              string
	Kind              *rules.Kind
	DryRun            bool
	Began             int // sockets that began to wait since this was last said
	Left              int // of all that waited: that ended by themselves, or are not due any more
	Waiting           int // sockets that wait now
	Limit, LimitOfAll string
}

// summary counts what the limits began to hold back, and what of that came to
// nothing, for one line a minute.
type summary struct {
	at   sock.Instant // when to say it; never: nothing to say
	last sock.Instant
}

const (
	summaryEvery = time.Minute
	// summarySettle lets the sockets that fell due together be counted together.
	summarySettle = time.Second
)

func newSummary() summary {
	return summary{at: never, last: sock.Instant(-summaryEvery)}
}

// soon has the summary said, a minute after the last one at the earliest.
func (s *summary) soon(now sock.Instant) {
	if s.at == never {
		s.at = max(now.Add(summarySettle), s.last.Add(summaryEvery))
	}
}

// summarize says what the limits hold back, each minute for as long as they do.
func (e *Engine) summarize(now sock.Instant) {
	if now >= e.summary.at {
		e.sumUpHeld(now)
	}
}

// sumUpHeld says what the limits hold back, by rule.
func (e *Engine) sumUpHeld(now sock.Instant) {
	s := &e.summary
	s.at = never
	for _, h := range e.histories {
		for _, dry := range []bool{false, true} {
			t := h.throttle(dry)
			waiting := len(t.numbers)
			if waiting+t.began+t.left == 0 {
				continue
			}
			if waiting > 0 {
				s.at = now.Add(summaryEvery)
			}
			e.plan.Held = append(e.plan.Held, HeldBack{
				Rule: h.name, Kind: t.kind, DryRun: dry, Began: t.began, Left: t.left, Waiting: waiting,
				Limit: h.real.Window.String(), LimitOfAll: e.limit.String(),
			})
			s.last, t.began, t.left = now, 0, 0
		}
	}
	slices.SortFunc(e.plan.Held, func(a, b HeldBack) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(strconv.FormatBool(a.DryRun), strconv.FormatBool(b.DryRun)))
	})
}
