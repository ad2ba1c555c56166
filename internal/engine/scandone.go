package engine

import (
	"cmp"
	"log/slog"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
)

func (in ScanDone) apply(e *Engine, now sock.Instant) {
	l := e.scans.running
	e.scans.running = nil
	if l == nil || l.program != e.program {
		e.takeWaits(in.Result)
		e.schedule.Dropped()
		e.bringNear(true, now)
		return // new rules came meanwhile, and want a scan of their own
	}
	e.noteStretch(e.schedule.Ended(l.of, in.Sent, in.Cost))
	if in.Err != nil {
		e.takeWaits(in.Result)
		e.scanFailed(l.of, in.Err, now)
		return
	}
	if _, over := e.scans.failing.note(false); over {
		e.note(ScansSucceed)
	}
	f := in.Result
	e.schedule.Succeeded(l.of, in.Sent, f.later, f.left, e.walks.Lead(), now)
	e.takeFar(f, now)
	e.markShown(&l.known)
	f.bounded = nil // which takes up room
	e.observeKnown(f, now)
	e.noteLeft()
	e.takeAll(f, in.Sent, now)
	e.considerAll(f, now)
	e.wantDue(now)
	e.scans.waits.shown(f.waits)
	e.plan.Forget = append(e.plan.Forget, e.scans.waits.miss(f.waits, l.of, e.program.Scanned())...)
	e.makeRoom(f.starved, now)
	// Absent is not gone: a walk of the hash table beside kills can miss the
	// survivors. Only the kernel's word on the one socket ends its track. Scans do not look for
	// the state of one that was shut down.
	for t := range e.tracks.all() {
		if t.of&l.of != 0 && !t.is(seen) && t.phase == waiting && e.shutOf(t) == nil {
			e.wait(t, now)
		}
	}
	e.forgetUnseen(l.of)
}

// scanFailed notes that a scan told nothing.
func (e *Engine) scanFailed(of match.ClassSet, err error, now sock.Instant) {
	e.bringNear(false, now)
	e.schedule.Failed(of, now)
	if began, _ := e.scans.failing.note(true); began {
		e.note(ScanFailed, slog.String("error", err.Error()))
	}
}

// markShown marks what the scan showed as it was.
func (e *Engine) markShown(k *known) {
	for t := range e.tracks.all() {
		if at, print, _ := k.get(t.Cookie); print > knownNow && k.shown.Has(at) {
			t.set(seen, true)
		}
	}
}

// observeKnown takes in what a whole scan shows of sockets of which something was
// known, where no answer about the socket alone tells it better, or soon will; and
// counts them.
func (e *Engine) observeKnown(f *ScanResult, now sock.Instant) {
	var s sock.Socket // one for all: there may be many
	for h := range f.hits.All() {
		if !h.is(hitKnown) {
			continue
		}
		h.set(hitKnown, false)
		if e.scans.isOutdated(f.hits.key(h)) {
			continue
		}
		s = f.hits.socket(h)
		got := f.hits.got(h)
		t, sent := e.tracks.get(s.ID.Key()), f.sentBy(got)
		if t == nil || t.phase == waiting && !t.is(seen) && e.unconfirmed(t) == nil {
			t = e.observe(&s, sent, got, now)
			h.set(hitKnown, true)
		}
		t.set(seen, true)
		if c := e.tracks.connection(t); c.Same(&s, sent) {
			f.count(f.scan.subject(&s), &c.Times, got)
		}
	}
}

// considerAll decides on what a whole scan brought, and observes what was not known
// before.
func (e *Engine) considerAll(f *ScanResult, now sock.Instant) {
	var s sock.Socket
	for h := range f.hits.Drain() { // there may be many more
		s = f.hits.socket(h)
		got, answer := f.hits.got(h), shown
		if got < f.scan.sent {
			answer = recalled
		}
		switch t := e.tracks.get(s.ID.Key()); {
		case t != nil && h.is(hitKnown):
			c := e.tracks.connection(t)
			c.TellAutobound(&s)
			e.consider(t, &s, now, answer)
		case t == nil && !e.scans.isOutdated(s.ID.Key()):
			t = e.observe(&s, f.sentBy(got), got, now)
			t.set(seen, true)
			e.consider(t, &s, now, answer)
		}
	}
}

// recallScans is after how many whole scans a connection that an earlier run knew, and
// none has shown, is forgotten.
const recallScans = 10

// forgetUnseen forgets what an earlier run knew, once scans for all rules have had
// their chance to show it.
func (e *Engine) forgetUnseen(of match.ClassSet) {
	if e.fallback || len(e.earlier.memories) == 0 || e.schedule.Left() > 0 {
		return
	}
	for c := range e.earlier.scans {
		if of.Has(match.Class(c)) {
			e.earlier.scans[c]++
		}
	}
	for c, gap := range e.program.Intervals {
		if gap > 0 && e.earlier.scans[c] < recallScans {
			return
		}
	}
	for key, m := range e.earlier.memories {
		if w, waited := waitOfMemory(&m); !waited || !e.scans.waits.add(key, w) {
			e.plan.Forget = append(e.plan.Forget, key)
		}
	}
	e.earlier.memories = nil
}

// backlogShare is the part of the sockets there is room for that is kept for those
// in accept queues. What waits there and is not watched would look old, later, to
// whoever has not seen it wait.
const backlogShare = 8

// room is for how many more sockets there is room, and for how many in accept queues
// beside those.
func (e *Engine) room() (any, backlog int) {
	free := max(0, e.config.MaxTracks-e.Watched())
	any = max(0, free-e.config.MaxTracks/backlogShare)
	return any, free - any
}

// makeRoom forgets so many sockets to which nothing can be done as they are: what they
// become, a scan shows. There would never be room for others beside those that a
// program uses for ever, or that a dry run has told of.
func (e *Engine) makeRoom(n int, now sock.Instant) {
	if n == 0 {
		return
	}
	var idle []*tracked
	for t := range e.tracks.all() {
		idleNow := t.phase == waiting && t.due == 0 && e.recordOf(t).held.rule == nil && e.unconfirmed(t) == nil
		if idleNow && !t.Backlog() && !t.Accepted() && !t.is(aged|wanted) {
			idle = append(idle, t)
		}
	}
	// What was told of a socket would be told again: that goes last.
	slices.SortFunc(idle, func(a, b *tracked) int {
		return cmp.Or(cmp.Compare(len(e.recordOf(a).marks), len(e.recordOf(b).marks)), cmp.Compare(b.Entered(), a.Entered()), cmp.Compare(a.Cookie, b.Cookie))
	})
	for _, t := range idle[:min(n, len(idle))] {
		e.drop(t, Changed, now)
	}
}

// noteLeft says when there are more sockets to watch than memory allows, and when
// there are no more.
func (e *Engine) noteLeft() {
	left := e.schedule.Left()
	began, over := e.scans.crowded.note(left > 0)
	if began {
		e.note(TooManySockets, slog.Int("watched", e.config.MaxTracks), slog.Int("left_for_later", left))
	}
	if over {
		e.note(AllSocketsFit)
	}
}

// takeCount takes in what a whole scan counted for a rule, which was in at got.
func (e *Engine) takeCount(r *ruleState, l *Scan, sent, got, now sock.Instant) {
	c := &l.counts[r.Position]
	if e.noteUnseen(r, c.unseen) && r.Grouped {
		return // neither counts nor resets, as if the scan had failed
	}
	r.stats, r.held = c.stats, c.held
	e.countMatches(r)
	rg := r.groups
	if c.groups != nil {
		e.takeGroups(r, c.groups, l.ports, sent, got)
	}
	if rg == nil {
		return
	}
	r.sampled()
	if !r.Grouped {
		rg.Scanned(got)
	}
	if due := rg.NextFiring(); due != never {
		e.schedule.Hasten(r.Class, max(now, due))
	}
}

// takeAll takes in what a whole scan counted.
func (e *Engine) takeAll(f *ScanResult, sent, now sock.Instant) {
	l := f.scan
	if l.ports != nil {
		l.ports.Finish()
	}
	if l.holders != nil {
		e.askForHolders(f, sent, now)
	}
	e.takeLive(l, now)
	for i, r := range e.rules {
		if !r.Scanned() || !l.of.Has(r.Class) {
			continue
		}
		if c := &l.counts[i]; !c.postponed && !c.dropped {
			e.takeCount(r, l, sent, now, now)
		}
	}
	e.schedule.Matures(l.of, f.nextMature)
}
