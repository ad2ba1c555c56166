package engine

import (
	"cmp"
	"iter"
	"maps"
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

// throttle is a limit, and what waits for room in it. A rule has one for what it does, and
// one for its dry run; and throttles within those, for sockets of which less may be done.
type throttle struct {
	limit.Throttle
	queue
	names  []match.Reason // by which its windows hold back
	dry    bool
	outer  *throttle    // that of the rule; nil: it is that
	within []*throttle  // the others of the rule
	share  *share       // it is for what belongs together; nil: it is not
	unseen bool         // it is for sockets of nobody who could be watched
	shut   match.Reason // why the rule does nothing; empty: it does
	trials int          // sockets that it let go on, and that wait for the verdict on a canary

	// Since the last summary:
	kind        *rules.Kind
	began, left int                       // sockets that began to wait, and that waited and are not acted on
	why         map[match.Reason]struct{} // they began to
}

// ofRule is the throttle of the rule that h is, or is within.
func (h *throttle) ofRule() *throttle {
	if h.outer != nil {
		return h.outer
	}
	return h
}

// Room returns how many more actions may start, or be let go on, now.
func (h *throttle) Room(now sock.Instant) int {
	if h.ofRule().shut != "" {
		return 0
	}
	if h.share != nil {
		h.share.allow(now)
	}
	room := h.Throttle.Room(now)
	for _, x := range h.within {
		if x.unseen { // who is let go on here would have its holders looked for, only to wait behind those
			room -= len(x.numbers)
		}
	}
	return max(0, room)
}

// RoomAt returns the instant from which one more may be let go on, or never where that
// depends on something else.
func (h *throttle) RoomAt(now sock.Instant) sock.Instant {
	if h.share != nil {
		h.share.allow(now)
	}
	at := h.Throttle.RoomAt(now)
	switch {
	case h.ofRule().shut != "" || at <= now && h.Room(now) == 0:
		return never
	case len(h.within) > 0: // what waited there was asked for since others were let go on
		return max(at, now.Add(leastWait))
	}
	return at
}

// holdsBy is why there is no room.
func (h *throttle) holdsBy(now sock.Instant) match.Reason {
	if why := h.barredBy(); why != "" {
		return why
	}
	return cmp.Or(fullOf(h.Throttle, h.names, now), match.RuleLimit) // behind others that wait for it
}

// fullOf names the first of the limits that leaves no room; empty: each leaves some.
func fullOf(limits limit.Throttle, names []match.Reason, now sock.Instant) match.Reason {
	for i, w := range limits {
		if w.Free(now) == 0 {
			return names[i]
		}
	}
	return ""
}

// barredBy is why nothing may go on, whatever the limits leave; empty: it may.
func (h *throttle) barredBy() match.Reason {
	shut := h.ofRule().shut
	if ofAll := h.Throttle[len(h.Throttle)-1]; shut == "" && ofAll.Closed {
		return match.Paused
	}
	return shut
}

// began counts a socket that begins to wait.
func (h *throttle) begins(kind *rules.Kind, why match.Reason) {
	h = h.ofRule()
	h.kind = kind
	h.began++
	if h.why == nil {
		h.why = make(map[match.Reason]struct{})
	}
	h.why[why] = struct{}{}
}

// waiting is how many sockets wait: for room, and for the verdict on a canary.
func (h *throttle) waiting() int {
	n := len(h.numbers) + h.trials
	for _, x := range h.within {
		n += len(x.numbers)
	}
	return n
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
			for _, of := range []*throttle{&r.history.real, &r.history.dry} {
				if !of.empty() && !yield(of) {
					return
				}
				for _, h := range of.within {
					if !h.empty() && !yield(h) {
						return
					}
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
	h := e.throttle(t)
	if h.outer != nil && !slices.Contains(h.outer.within, h) { // nothing had waited there for long
		h.outer.within = append(h.outer.within, h)
	}
	h.add(t)
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
			e.wantFirst(&h.queue, h.Throttle[0].Limit.N, h.RoomAt(now))
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
	w := e.awaiting[e.tracks.key(t)]
	for _, h := range w.by {
		h.Grant(-1)
	}
	if w.trial != nil {
		w.by[0].ofRule().trials--
	}
	delete(e.awaiting, e.tracks.key(t))
}

// await is what let a socket go on that waits for something else.
type await struct {
	by    []*throttle
	trial *canary // for the verdict on it, as its first; nil: it waits for something else
}

// beginWait has t keep its places while it waits for something else.
func (e *Engine) beginWait(t *tracked, c *consideration) {
	for _, h := range c.awaits {
		h.Grant(1)
	}
	if c.trial != nil {
		c.awaits[0].ofRule().trials++
	}
	e.awaiting[e.tracks.key(t)] = await{c.awaits, c.trial}
}

// unseenShare is the part of a limit up to which a rule acts on programs that nobody can
// watch.
const unseenShare = 10

// leaveWaitQueue takes t out of what a limit holds back.
func (e *Engine) leaveWaitQueue(t *tracked) {
	if t.turn != 0 {
		e.throttle(t).leave(t)
	}
}

// throttle is what holds t back, or has just let it go on.
func (e *Engine) throttle(t *tracked) *throttle { return e.recordOf(t).held.by }

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
	Shut              match.Reason   // why nothing goes on; empty: for those below
	Why               []match.Reason // those that began to wait did so
}

// Routine reports whether nobody need look: nothing waits any more, or a canary alone is why.
func (h *HeldBack) Routine() bool {
	return h.Waiting == 0 || h.Shut == "" && slices.Equal(h.Why, []match.Reason{match.CanaryWaits})
}

// sumUpHeld says what the limits hold back, by rule; news: only where that has changed.
func (e *Engine) sumUpHeld(now sock.Instant, news bool) {
	waits := false
	for _, h := range e.histories {
		for _, dry := range []bool{false, true} {
			t := h.throttle(dry)
			waiting := t.waiting()
			waits = waits || waiting > 0
			if changed := t.began + t.left; changed == 0 && (news || waiting == 0) {
				continue
			}
			e.plan.Held = append(e.plan.Held, HeldBack{
				Rule: h.name, Kind: t.kind, DryRun: dry, Began: t.began, Left: t.left, Waiting: waiting,
				Limit: t.Throttle[0].String(), LimitOfAll: t.Throttle[1].String(), Shut: t.barredBy(), Why: slices.Sorted(maps.Keys(t.why)),
			})
			t.began, t.left = 0, 0
			clear(t.why)
		}
	}
	e.summary.Done(len(e.plan.Held) > 0, waits, now)
	slices.SortFunc(e.plan.Held, func(a, b HeldBack) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(strconv.FormatBool(a.DryRun), strconv.FormatBool(b.DryRun)))
	})
}
