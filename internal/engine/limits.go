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
func (e *Engine) hold(t *tracked, next, now sock.Instant) {
	e.waitAhead(t, next, now)
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

// mayLetGo reports whether the limit lets one more of the rule go on, beside those that
// it has let go on.
func (e *Engine) mayLetGo(r *ruleState, dry bool, now sock.Instant) bool {
	return r.history.throttle(dry).released < e.budget(r, dry).Free(now)
}

// wantAhead has the holders looked for of those that limits let go on next, before their
// turn comes.
func (e *Engine) wantAhead(now sock.Instant) {
	for _, r := range e.rules {
		for _, dry := range []bool{false, true} {
			h, b := r.history.throttle(dry), e.budget(r, dry)
			if at := e.aheadAt(h, b, now); at != never && at <= now {
				e.wantFirst(&h.queue, b.Own.Limit.N, b.FreeAt(now, h.released))
			}
		}
	}
}

// aheadAt returns when to look for the holders of those that a limit lets go on next;
// never: they are known, or none are held.
func (e *Engine) aheadAt(h *throttle, b limit.Budget, now sock.Instant) sock.Instant {
	if h.empty() || e.knowsHolders(h.first()) {
		return never
	}
	at := b.FreeAt(now, h.released)
	if at == never {
		return never
	}
	return at.Add(-e.walks.Lead())
}

// wantDue has the holders looked for of as many that are due as limits let go on, the
// first ones, before they are asked for.
func (e *Engine) wantDue(now sock.Instant) {
	n := 0
	for _, r := range e.rules {
		if r.Enabled && r.Destructive {
			n += max(0, e.budget(r, r.DryRun).Free(now)-r.history.throttle(r.DryRun).released)
		}
	}
	e.wantFirst(&e.due, n, now)
}

// wantFirst has the holders looked for of the first n of a queue that are needed by then.
func (e *Engine) wantFirst(q *queue, n int, at sock.Instant) {
	var first []*tracked
	for len(first) < n && !q.empty() && (q.kind == waitQueue || q.first().rank <= at) {
		t := q.first()
		q.leave(t)
		first = append(first, t)
		e.wantHolders(t, e.tracks.key(t), at)
	}
	for _, t := range first {
		q.add(t)
	}
}

// knowsHolders reports whether the holders of t are known, or will be.
func (e *Engine) knowsHolders(t *tracked) bool {
	return t.holders != nil || t.is(wanted) || t.Inode == 0
}

// endTurn is called when it is clear what becomes of a released socket.
func (e *Engine) endTurn(t *tracked) {
	if t.is(released) {
		t.set(released, false)
		e.throttle(t).released--
	}
	if len(e.awaiting) == 0 {
		return
	}
	if h := e.awaiting[e.tracks.key(t)]; h != nil {
		h.released--
		delete(e.awaiting, e.tracks.key(t))
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
			if h, b := r.history.throttle(dry), e.budget(r, dry); !h.empty() {
				first = min(first, b.FreeAt(now, h.released), e.aheadAt(h, b, now))
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
