package engine

import (
	"cmp"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/sockdog/sockdog/internal/engine/limit"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

const (
	// RecordTimeout is how long an act waits for the record of its intent.
	RecordTimeout = 5 * time.Second
	// restoreSlack is how long after the record of its intent began to be written an
	// act may have been done, in an earlier run.
	restoreSlack = RecordTimeout + time.Second
)

// throttle is the limit of a rule, and what waits for room in it. A dry run has a
// throttle of its own.
type throttle struct {
	limit.Throttle
	queue
	shut match.Reason // why the rule does nothing; empty: it does

	// Since the last summary:
	kind        *rules.Kind
	began, left int // sockets that began to wait, and that waited and are not acted on
}

// Room returns how many more actions may start, or be let go on, now.
func (h *throttle) Room(now sock.Instant) int {
	if h.shut != "" {
		return 0
	}
	return h.Throttle.Room(now)
}

// RoomAt returns the instant from which one more may be let go on, or never where that
// depends on something else.
func (h *throttle) RoomAt(now sock.Instant) sock.Instant {
	if h.shut != "" {
		return never
	}
	return h.Throttle.RoomAt(now)
}

// holdsBy is why there is no room.
func (h *throttle) holdsBy(now sock.Instant) match.Reason {
	switch why := h.barredBy(); {
	case why != "":
		return why
	case h.ByOwn(now):
		return match.RuleLimit
	default:
		return match.LimitOfAll
	}
}

// barredBy is why nothing may go on, whatever the limits leave; empty: it may.
func (h *throttle) barredBy() match.Reason {
	if h.shut == "" && h.All.Closed {
		return match.Paused
	}
	return h.shut
}

func (h *history) throttle(dry bool) *throttle {
	if dry {
		return &h.dry
	}
	return &h.real
}

// throttles yields those of the rules in force that hold something back, in the order of
// the file.
func (e *Engine) throttles() iter.Seq[*throttle] {
	return func(yield func(*throttle) bool) {
		for _, r := range e.rules {
			for _, h := range []*throttle{&r.history.real, &r.history.dry} {
				if !h.empty() && !yield(h) {
					return
				}
			}
		}
	}
}

// newWaitQueue is an empty queue of what a limit holds back.
func (e *Engine) newWaitQueue() queue { return queue{of: &e.tracks, kind: waitQueue} }

// hold has t wait until the limit that holds it back lets one more go on; at
// next, something else may want it.
func (e *Engine) hold(t *tracked, next, now sock.Instant) {
	e.waitAhead(t, next, now)
	e.throttle(t).add(t)
}

// release lets as many held sockets go on as the limits leave room for, in the
// rule's order. They are matched afresh before anything is done to them.
func (e *Engine) release(now sock.Instant) {
	for h := range e.throttles() {
		for !h.empty() && h.Room(now) > 0 {
			t := h.first()
			h.leave(t)
			e.wait(t, now)
			t.set(granted, true)
			h.Grant(1)
		}
	}
}

// wantAhead has the holders looked for of those that limits let go on next, before their
// turn comes.
func (e *Engine) wantAhead(now sock.Instant) {
	for h := range e.throttles() {
		if at := e.aheadAt(h, now); at != never && at <= now {
			e.wantFirst(&h.queue, h.Own.Limit.N, h.RoomAt(now))
		}
	}
}

// aheadAt returns when to look for the holders of those that a limit lets go on next;
// never: they are known.
func (e *Engine) aheadAt(h *throttle, now sock.Instant) sock.Instant {
	at := h.RoomAt(now)
	if at == never || e.knowsHolders(h.first(), at) {
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
			n += r.history.throttle(r.DryRun).Room(now)
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

// knowsHolders reports whether the holders of t are known for what falls due at that
// instant, or will be.
func (e *Engine) knowsHolders(t *tracked, due sock.Instant) bool {
	return t.is(wanted) || t.Inode == 0 || t.holders != nil && !(e.holdersDecide() && e.outdated(t, due))
}

// endGrant is called when it is clear what becomes of a socket that a limit let go on.
func (e *Engine) endGrant(t *tracked) {
	if t.is(granted) {
		t.set(granted, false)
		e.throttle(t).Grant(-1)
	}
	if len(e.awaiting) == 0 {
		return
	}
	for _, h := range e.awaiting[e.tracks.key(t)] {
		h.Grant(-1)
	}
	delete(e.awaiting, e.tracks.key(t))
}

// leaveWaitQueue takes t out of what a limit holds back.
func (e *Engine) leaveWaitQueue(t *tracked) {
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
	for h := range e.throttles() {
		first = min(first, h.RoomAt(now), e.aheadAt(h, now))
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
	Shut              match.Reason // why nothing goes on; empty: for those limits alone
}

// sumUpHeld says what the limits hold back, by rule.
func (e *Engine) sumUpHeld(now sock.Instant) {
	waits := false
	for _, h := range e.histories {
		for _, dry := range []bool{false, true} {
			t := h.throttle(dry)
			waiting := len(t.numbers)
			if waiting+t.began+t.left == 0 {
				continue
			}
			waits = waits || waiting > 0
			e.plan.Held = append(e.plan.Held, HeldBack{
				Rule: h.name, Kind: t.kind, DryRun: dry, Began: t.began, Left: t.left, Waiting: waiting,
				Limit: t.Own.String(), LimitOfAll: t.All.String(), Shut: t.barredBy(),
			})
			t.began, t.left = 0, 0
		}
	}
	e.summary.Done(len(e.plan.Held) > 0, waits, now)
	slices.SortFunc(e.plan.Held, func(a, b HeldBack) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(strconv.FormatBool(a.DryRun), strconv.FormatBool(b.DryRun)))
	})
}
