package engine

import (
	"log/slog"

	"github.com/sockdog/sockdog/internal/sock"
)

func (e *Engine) firstDue() sock.Instant {
	if e.due.empty() || e.lookups.underWay == MaxLookupBatches || e.acts.underWay >= actBacklog {
		return never // an answer comes first
	}
	return e.due.first().rank
}

// ask has the kernel asked for what is due.
func (e *Engine) ask(now sock.Instant) {
	if e.lookups.underWay == MaxLookupBatches || e.acts.underWay >= actBacklog {
		return
	}
	for !e.due.empty() && len(e.plan.Lookup) < askBatch {
		t := e.due.first()
		if t.rank > now {
			break
		}
		at := t.askAt()
		if at > now {
			e.wantHolders(t, e.tracks.key(t), at)
			e.wait(t, at)
			continue
		}
		e.askFor(t)
	}
	e.asked()
}

// asked counts the plan's questions as under way.
func (e *Engine) asked() {
	if len(e.plan.Lookup) > 0 {
		e.lookups.underWay++
	}
}

func (e *Engine) askFor(t *tracked) {
	e.due.leave(t)
	e.leaveWaitQueue(t)
	t.phase = asked
	e.plan.Lookup = append(e.plan.Lookup, e.tracks.id(t))
}

func (in LookupDone) apply(e *Engine, now sock.Instant) {
	e.lookups.underWay--
	e.lookups.answers = len(in.Answers)
	if began, _ := e.lookups.streak.note(in.Err != nil); began {
		e.note(LookupFailed, slog.String("error", in.Err.Error()))
	}
	e.lookups.failing = in.Err != nil
	for i := range in.Answers {
		a := &in.Answers[i]
		t := e.tracks.get(a.ID.Key())
		if t == nil || t.phase != asked || e.tracks.id(t) != a.ID {
			continue
		}
		switch {
		case a.Err != nil:
			e.askAgain(t, now)
		case e.unconfirmed(t) != nil:
			e.confirm(t, a, now)
		case a.Gone:
			e.drop(t, Gone, now)
		default:
			e.decideOn(a, now)
		}
	}
	for _, id := range in.IDs {
		// What a failed batch left without an answer.
		if t := e.tracks.get(id.Key()); t != nil && t.phase == asked {
			e.askAgain(t, now)
		}
	}
}

func (e *Engine) askAgain(t *tracked, now sock.Instant) {
	e.endGrant(t)
	after := retryAfter
	if e.stopping {
		after = stopRetry
	}
	e.wait(t, now.Add(after))
}
