package world_test

import (
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sim/world"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// storedWithin is how far what is on disk of a socket may be off.
const storedWithin = 500 * time.Millisecond

// dueSince is the true instant since which an action of the rule is due on the
// socket, as far as time goes, or never.
func dueSince(r *rules.Rule, after time.Duration, s *sim.Socket, shown subject.Subject) sock.Instant {
	due := sim.Never
	if match.Any(r.Exclude, shown) != ssfilter.False {
		return sim.Never
	}
	for i := range r.Match {
		m := &r.Match[i]
		if min(match.Lasts(m, shown), match.AtPresent(m, shown)) != ssfilter.True || m.StalledFor == 0 && s.Queued != sim.Never {
			continue
		}
		since := s.Base().Add(max(m.InStateFor, m.IdleFor))
		switch {
		case m.StalledFor > 0:
			since = max(since, max(s.Base(), s.Queued).Add(m.StalledFor), s.SilentBase().Add(m.SilentFor))
		case m.SilentFor > 0 && m.IdleFor == 0:
			since = s.SilentBase().Add(max(m.InStateFor, m.SilentFor))
		case m.SilentFor > 0:
			since = max(since, s.SilentBase().Add(m.SilentFor))
		}
		due = min(due, since.Add(after))
	}
	return due
}

// taboo says why a socket is never to be touched.
func (w *judge) taboo(s *sim.Socket, shown *sock.Socket) string {
	orphaned := s.Inode == 0 && !s.Mini && !s.InAcceptQueue()
	switch {
	case !slices.ContainsFunc(w.heldLately(s, w.Now), func(h *subject.Holders) bool {
		return match.Any(w.Rules.Protect, subject.Subject{Socket: shown, Holders: h}) == ssfilter.False
	}):
		return "protected"
	case s.InAcceptQueue():
		return "in an accept queue"
	case s.MPTCP, s.Inode != 0 && (s.ByKernel || s.BySelf):
		return "not for us"
	case s.Mini && w.Capabilities[match.DestroyTimeWait] != nil:
		return "this kernel cannot"
	case orphaned && w.Capabilities[match.DestroyOrphan] != nil:
		return "would leak"
	}
	return ""
}

// checkDecision holds a decision against the truth at the instant of the answer
// that it stands on.
func (w *judge) checkDecision(a *engine.Action) {
	r := w.ruleOf(a.Rule)
	seen := w.seen[a.Socket.ID.Cookie]
	if r == nil || !r.Enabled || r.DryRun || a.DryRun || seen == nil {
		w.failf("%s takes socket %d without right", a.Rule, a.Socket.ID.Cookie)
		return
	}
	s := &seen.Socket
	escalates := a.Kind == rules.Kill && s.Shut != 0
	if len(r.When) > 0 && !escalates {
		w.tally.Grouped++
		key := subject.KeyOf(r.GroupBy)
		fires := func(h *subject.Holders) bool {
			labels, _ := key.Labels(string(key.Append(nil, subject.Subject{Socket: &a.Socket, Holders: h})))
			return w.firing[groupName(r.Name, labels)]
		}
		if !slices.ContainsFunc(w.heldLately(s, w.Now), fires) {
			w.failf("%s takes a socket whose group does not fire: %s", a.Rule, s)
		} else if !w.scanned[a.Rule] {
			w.failf("%s takes a socket for a group that an earlier run saw: %s", a.Rule, s)
		}
	}
	if s.Accepted != 0 {
		w.tally.Accepted++
	}
	if asksHolders(r) {
		w.tally.ByHolders++
		if s.Passed() > 0 {
			w.tally.Passed++
		}
	}
	if a.Via == rules.ViaHolder && s.Inode == 0 {
		w.failf("%s goes through who holds a socket that nobody holds: %s", a.Rule, s)
	}
	due := w.checkTruth(r, a)
	if s.Told > 0 && !s.Disturbed && !(escalates && s.Told == 1) {
		w.failf("%s takes a socket again: %s", a.Rule, s)
	}
	if s.Conn > 0 {
		w.tally.Reconnects++
	}
	kill := takes(r, a.Kind)
	if kill != takesFirst(r) {
		return // what comes before it may come late
	}
	if deadline, punctual := w.deadline(r, kill, s, w.held[s.ID.Cookie], due); w.Now > deadline {
		w.failf("%s takes a socket %v late (due %s): %s", a.Rule, w.Now.Sub(deadline), sim.Text(due), s)
	} else if punctual {
		w.tally.Punctual++
		if s.Seen && (s.Keepalive > 0 || s.State != ssfilter.CloseWait) {
			w.tally.Exact++
		}
		w.tally.Latest = max(w.tally.Latest, w.Now.Sub(due))
	}
}

// protects reports whether a process that protects a socket holds it, or has lately.
func (w *judge) protects(s *sim.Socket, shown *sock.Socket) bool {
	return slices.ContainsFunc(w.heldLately(s, w.Now), func(h *subject.Holders) bool {
		return match.Any(w.Rules.Protect, subject.Subject{Socket: shown, Holders: h}) != ssfilter.False
	})
}

// heldAt are the holders of a socket at an instant; none where no descriptor stands for it.
func heldAt(s *sim.Socket, at sock.Instant) *subject.Holders {
	h := &subject.Holders{Complete: true}
	if s.Inode != 0 {
		h.Processes = world.Holders(s, at, 1)
	}
	return h
}

// heldLately are the holders that a socket has had in the time in which the watchdog may go
// by what it has found.
func (w *judge) heldLately(s *sim.Socket, at sock.Instant) (lately []*subject.Holders) {
	recent := 10*time.Second + 20*w.Walking
	lately = append(lately, heldAt(s, at))
	for _, h := range s.Held {
		if h.Since < at && at.Sub(h.Since) <= recent {
			lately = append(lately, heldAt(s, h.Since), heldAt(s, h.Since-1))
		}
	}
	return lately
}

// dueLately is dueSince by any of those. Keepalives that the rule itself has turned on do not
// count against what it does later.
func (w *judge) dueLately(r *rules.Rule, after time.Duration, s *sim.Socket, shown *sock.Socket) sock.Instant {
	due := sim.Never
	for _, h := range w.heldLately(s, w.Now) {
		for _, meant := range w.asMeant(r, s, subject.Subject{Socket: shown, Holders: h}) {
			due = min(due, dueSince(r, after, s, meant))
		}
	}
	return due
}

// asMeant is what a rule may take a socket for, whose keepalives it may have turned on itself.
func (w *judge) asMeant(r *rules.Rule, s *sim.Socket, shown subject.Subject) []subject.Subject {
	if w.asked[s.ID.Cookie] != (asked{w.Run, r.Name, r.Sum, s.Conn}) {
		return []subject.Subject{shown}
	}
	without := shown
	without.KeptAlive = true
	return []subject.Subject{shown, without}
}

// checkTouch holds an act that takes nothing away to what its rule says of the socket as it
// was when it was last seen.
func (w *judge) checkTouch(a *engine.Action) {
	r, seen := w.ruleOf(a.Rule), w.seen[a.Socket.ID.Cookie]
	if r == nil || !r.Enabled || r.DryRun || seen == nil || a.Via != rules.ViaHolder || a.Window != 0 {
		w.failf("%s touches socket %d without right", a.Rule, a.Socket.ID.Cookie)
		return
	}
	shown := seen.Report(seen.at, w.Jiffy)
	if why := w.taboo(&seen.Socket, &shown); why != "" || seen.Inode == 0 {
		w.failf("%s touches a socket that is %s: %s", a.Rule, why, &seen.Socket)
	}
	matched := func(m rules.Match) bool { return m.States.Has(shown.State) }
	if !slices.ContainsFunc(r.Match, matched) {
		w.failf("%s touches a socket that it does not match: %s", a.Rule, &seen.Socket)
	}
}

// checkTruth holds an act to what was true of its socket when it was last seen,
// and returns since when it has been due.
func (w *judge) checkTruth(r *rules.Rule, a *engine.Action) (due sock.Instant) {
	seen := w.seen[a.Socket.ID.Cookie]
	s, kill := &seen.Socket, takes(r, a.Kind)
	shown := s.Report(seen.at, w.Jiffy)
	if why := w.taboo(s, &shown); why != "" {
		w.failf("%s takes a socket that is %s: %s", a.Rule, why, s)
	}
	shown.Autobound = ssfilter.TriOf(!s.Bound)
	if w.escalates(r, a, s, &shown) {
		return sim.Never
	}
	due = w.dueLately(r, kill.After, s, &shown)
	if s.Mini {
		shown.Autobound = ssfilter.True // as scans say since it is one
		due = min(due, w.dueLately(r, kill.After, s, &shown))
	}
	earliest := due
	if s.Accepted != 0 && !w.knew(s) {
		unseen := *s
		unseen.Accepted = 0
		earliest = w.dueLately(r, kill.After, &unseen, &shown)
	}
	if due == sim.Never {
		w.failf("%s takes a socket that it does not match: %s", a.Rule, s)
	} else if w.Now < earliest {
		w.failf("%s takes a socket %v early: %s", a.Rule, earliest.Sub(w.Now), s)
	}
	return due
}

// deadline is when the engine must have decided to take a socket that has been
// due since then, and whether it could see it coming.
//
// A scan shows a change within a gap, unless it fails; from then on the engine
// counts, if the kernel does not. It then waits for its holders to be found, if
// there was no time for that before.
func (w *judge) deadline(r *rules.Rule, kill *rules.Action, s *sim.Socket, held bool, due sock.Instant) (deadline sock.Instant, punctual bool) {
	asks := asksHolders(r) || len(w.Rules.Protect) > 1 || kill.Via() == rules.ViaHolder
	if s.Disturbed || held || len(r.When) > 0 || asks && !w.Calm {
		return sim.Never, false
	}
	const calmsDown = 2*spin.ForgetAfter + 30*time.Second // and what waited for that is killed with the rest
	for _, h := range s.Held {
		for _, pid := range h.By {
			if end, spun := w.Spins[pid]; spun && s.Inode != 0 && w.Now < end.Add(calmsDown) {
				return sim.Never, false
			}
		}
	}
	const (
		scanning = 400 * time.Millisecond
		asking   = 45 * time.Millisecond
	)
	walking, walks := 20*w.Walking, walk.New()
	scans := 1
	if !w.Calm {
		scans = 8
	}
	found := max(s.Changed, w.Ruled).Add(time.Duration(scans)*w.gap + scanning)
	if w.Remembers && s.Changed > s.Entered && !s.Mini && sim.Stages.Has(s.State) {
		found = found.Add(world.FreshFor)
	}
	switch {
	case w.restarted <= found:
	case w.Calm && s.State != ssfilter.SynSent:
		found = found.Add(storedWithin) // what was seen once outlives a restart, unless a SYN says otherwise
	default:
		found = w.restarted.Add(storedWithin + time.Duration(scans)*w.gap + scanning)
	}
	if asks && s.Passed() > 0 {
		// What is known of holders is renewed each minute, or more seldom where walks are slow.
		found = max(found, s.Passed().Add(time.Minute+walking+max(time.Minute, walking)+2*w.gap+scanning))
	}
	up := w.restarted.Add(time.Duration(scans)*w.gap + scanning)
	byKernel := s.State == ssfilter.CloseWait && s.Keepalive == 0 && s.Queued == sim.Never
	bySource := s.Seen && !s.Mini && sim.Stages.Has(s.State) && s.Progress <= s.Entered && (s.Queued == sim.Never || s.Queued == s.Entered)
	if (byKernel || bySource) && s.Accepted == 0 && due.Sub(max(found, up)) > walks.Lead()+walking {
		return due.Add(asking), true
	}
	base := s.Base()
	if slices.ContainsFunc(r.Match, func(m rules.Match) bool { return m.SilentFor > 0 }) {
		base = s.SilentBase()
	}
	bound := due.Sub(max(base, queuedAt(s)))
	return max(due, found.Add(bound), found, up).Add(walks.Patience() + 2*walking), false
}

// queuedAt is since when something waits to be sent; 0: nothing does.
func queuedAt(s *sim.Socket) sock.Instant {
	if s.Queued == sim.Never {
		return 0
	}
	return s.Queued
}

func (w *judge) checkLimits(rule string) {
	r := w.ruleOf(rule)
	if r == nil {
		return // the rules changed under the act
	}
	own, all := 0, 0
	for _, k := range w.kills {
		if k.rule == rule && w.Now.Sub(k.at) < r.Then[len(r.Then)-1].Limit.Per {
			own++
		}
		if w.Now.Sub(k.at) < w.Rules.Settings.Limit.Per {
			all++
		}
	}
	if w.Now.Sub(w.Ruled) > time.Second && (own > r.Then[len(r.Then)-1].Limit.N || all > w.Rules.Settings.Limit.N) {
		w.failf("%s killed %d, all killed %d: beyond a limit", rule, own, all)
	}
}

// checkForgotten scans for sockets that should have been killed long ago, and
// for limits that hold back what they have room for.
func (w *judge) checkForgotten() {
	if w.Engine == nil {
		return
	}
	for _, s := range w.Sockets {
		shown := s.Report(w.Now, w.Jiffy)
		shown.Autobound = ssfilter.TriOf(!s.Bound || s.Mini)
		if w.taboo(s, &shown) != "" || s.BySelf || s.Told > 0 {
			continue
		}
		if w.acting[s.ID.Cookie] && w.Now <= w.Busy.Add(time.Millisecond) {
			continue // the record of the intent takes its time
		}
		held := w.held[s.ID.Cookie]
		behind := false // a rule about groups, which may have it and hold it back
		for i := range w.Rules.Rules {
			r := &w.Rules.Rules[i]
			if !r.Enabled || r.DryRun {
				continue
			}
			kill := takesFirst(r)
			if w.protects(s, &shown) {
				continue
			}
			due := dueSince(r, kill.After, s, subject.Subject{Socket: &shown, Holders: heldAt(s, w.Now)})
			behind = behind || len(r.When) > 0 && due != sim.Never
			if due == sim.Never || len(r.When) > 0 || kill.Via() == rules.ViaHolder && s.Inode == 0 {
				continue
			}
			if w.brake.stopped[r.Name] == r.Sum {
				continue
			}
			if deadline, _ := w.deadline(r, kill, s, held, due); w.Now > deadline {
				w.failf("%s forgot a socket that has been due since %s: %s; watched %v", r.Name, sim.Text(due), s, w.Engine.Watches(s.ID.Key()))
			}
			if due > w.Now {
				continue
			}
			if deadline, _ := w.deadline(r, kill, s, false, due); held && !behind && w.Calm && deadline != sim.Never && w.Now.Sub(deadline) > 30*time.Second && w.room(r) {
				w.failf("%s holds back a socket that has been due since %s, with room for it: %s", r.Name, sim.Text(due), s)
			}
			break // the first rule has it, and the others wait
		}
	}
}

// room reports whether the limits have had room for one more for a while.
func (w *judge) room(r *rules.Rule) bool {
	const while = 10 * time.Second
	if w.Now < w.resumed.Add(while) {
		return false
	}
	if w.holdsBack(r) {
		return false
	}
	own, all := 0, 0
	limit := r.Then[len(r.Then)-1].Limit
	for _, k := range w.kills {
		if k.rule == r.Name && w.Now.Sub(k.at) < limit.Per+while {
			own++
		}
		if w.Now.Sub(k.at) < w.Rules.Settings.Limit.Per+while {
			all++
		}
	}
	return own < limit.N && all < w.Rules.Settings.Limit.N
}
