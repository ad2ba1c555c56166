package engine

import (
	"log/slog"
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	// skipsInARow bounds how long the counters alone are believed.
	skipsInARow = 10
	// recallScans is after how many whole scans a connection that an earlier run
	// knew, and none has shown, is forgotten.
	recallScans = 10
)

// schedule decides when to look at the socket table.
type schedule struct {
	next     [match.NumClasses]sock.Instant // never: no rule wants a scan
	later    [match.NumClasses]sock.Instant // when something falls due that the last scan left to a later one
	left     [match.NumClasses]int          // sockets that it had no room for
	waited   waits                          // of those: that were in an accept queue; a scan reads it
	crowded  failureStreak                  // of scans without room
	gap      [match.NumClasses]time.Duration
	cost     [match.NumClasses]time.Duration // of the last scan
	before   [match.NumClasses]sock.Counters // before the last whole scan; nothing, where they could not be read
	skips    [match.NumClasses]int
	paid     [match.NumClasses]sock.Instant  // until when the CPU budget has paid for the scans so far
	dear     [match.NumClasses]time.Duration // how much further one more scan puts that off
	ripens   [match.NumClasses]sock.Instant  // when a socket comes to count in a group by its age alone
	sample   sock.Instant                    // when to read the counters for rules that need nothing else
	asked    sock.Instant                    // when the counters were asked for
	deaf     failureStreak                   // of counters that cannot be read
	portless failureStreak                   // of ports that are not known

	counting  bool                  // the counters are being read
	scanning  *Scan                 // under way
	gone      map[sock.Key]struct{} // gone since it began: it may still show them
	counted   CountersRead          // before it
	overdue   sock.Instant          // when it takes long
	scans     uint64
	failed    uint64
	failing   failureStreak
	over      [match.NumClasses]int // scans in a row that were so dear that the interval is far above the wanted one
	stretched bool                  // it was said
	apart     bool                  // a scan for both classes failed, and none for the dear one has succeeded since

	states map[ssfilter.State]int // sockets in those states that were scanned as a whole
}

func newSchedule() schedule {
	s := schedule{gone: make(map[sock.Key]struct{}), states: make(map[ssfilter.State]int)}
	for c := range s.next {
		s.next[c], s.later[c], s.ripens[c] = never, never, never
	}
	s.sample = never
	return s
}

// rule has the table scanned at once for new rules.
func (s *schedule) rule(p *match.Program, now sock.Instant) {
	for c := range s.next {
		s.next[c], s.later[c], s.ripens[c], s.before[c] = never, never, never, sock.Counters{}
		s.left[c] = 0
		if p.Intervals[c] > 0 {
			s.next[c] = now
		}
	}
	clear(s.states)
	s.sample = never
	if p.CounterInterval > 0 {
		s.sample = now
	}
}

func (s *schedule) wake() sock.Instant {
	if s.scanning != nil || s.counting {
		return never
	}
	wake := s.sample
	for _, next := range s.next {
		wake = min(wake, next)
	}
	return wake
}

// dueClasses are the classes that a scan now is to be for: those whose time has come.
// A cheap class goes along with a dear one whose scans are no more frequent than its
// own, and with any if its time has almost come; a dear one never goes along with a
// cheap one. Where the two are better apart, the one that has been due the longer
// comes first, and the cheap one if they have been equally.
func (s *schedule) dueClasses(p *match.Program, now sock.Instant) match.ClassSet {
	var of match.ClassSet
	for c, next := range s.next {
		if next <= now {
			of |= 1 << c
		}
	}
	if s.apart || !p.ShareQuery {
		switch {
		case of != match.AllClasses:
			return of
		case s.next[match.Expensive] < s.next[match.Cheap]:
			return 1 << match.Expensive
		}
		return 1 << match.Cheap
	}
	soon := s.gap[match.Expensive] >= s.gap[match.Cheap] || s.next[match.Cheap].Sub(now) <= s.gap[match.Cheap]/4
	if of.Has(match.Expensive) && s.next[match.Cheap] != never && soon {
		of |= 1 << match.Cheap
	}
	return of
}

// scanAround has the counters read where it is time for a scan: they may tell
// that it could change nothing.
func (e *Engine) scanAround(now sock.Instant) {
	if now >= e.schedule.wake() {
		e.schedule.counting, e.schedule.asked = true, now
		e.plan.Count = true
	}
}

func (in CountersRead) apply(e *Engine, now sock.Instant) {
	s := &e.schedule
	s.counting = false
	e.takeCounts(in, now)
	// Each class by itself: one for which a scan could change nothing does not cost
	// what it would beside another.
	for c := range match.NumClasses {
		still := e.still(c, in)
		if s.next[c] > now || !e.skippable(c, in, still, now) {
			continue
		}
		e.atMost(1<<c, in)
		if still {
			e.nothingCame(1<<c, s.asked)
		}
		s.skips[c]++
		s.next[c] = now.Add(s.gap[c])
	}
	of := s.dueClasses(e.program, now)
	if of == 0 {
		return // only the counters were wanted, or new rules came meanwhile
	}
	s.counted, s.overdue = in, now.Add(scanPatience)
	clear(s.gone)
	s.scanning = &Scan{
		Query: e.program.Queries[of], program: e.program, of: of,
		horizon: e.horizon(of, now), known: e.known(), far: &e.far, seed: e.seed, precision: e.config.Precision,
		counts:  make([]ruleCount, len(e.rules)),
		bounded: e.config.MaxTracks > 0,
	}
	s.scanning.room, s.scanning.reserve = e.room()
	s.scanning.waited = s.waited
	asks, portless := false, false
	var expect int // paths
	for i, r := range e.rules {
		switch {
		case !r.Grouped || !r.Scanned() || !of.Has(r.Class):
		case in.Ports == nil && r.Measures(rules.PortUsage):
			asks, portless = true, true // what is not measured changes nothing
		default:
			asks = asks || r.Measures(rules.PortUsage)
			expect = max(expect, r.groups.Paths())
			s.scanning.counts[i].groups = r.groups.Tally()
		}
	}
	if asks && !portless {
		s.scanning.ports = group.NewPorts(in.Ephemeral, in.Ports, expect)
		s.scanning.Query.Where = s.scanning.ports.Widen(s.scanning.Query.Where)
	}
	if !asks {
		// A scan for other rules says nothing of whether the ports are known.
	} else if began, _ := s.portless.note(portless); began {
		e.note(PortsUnknown)
	}
	e.plan.Scan = s.scanning
}

// known are the sockets that are tracked, and those of which an earlier run, or the
// scans so far, may know more than the kernel does.
func (e *Engine) known() known {
	n := e.tracks.n + len(e.restored)
	for _, waited := range e.schedule.waited {
		n += len(waited)
	}
	k := newKnown(n)
	for key := range e.restored {
		k.add(key.Cookie, knownBefore)
	}
	for _, waited := range e.schedule.waited {
		for key := range waited {
			k.add(key.Cookie, knownBefore)
		}
	}
	for t := range e.tracks.all() {
		t.set(seen, false)
		k.add(t.Cookie, max(t.Print, knownNow))
	}
	return k
}

// horizon is until when what falls due is to be tracked: up to the scan after
// the next, so that one may fail.
func (e *Engine) horizon(of match.ClassSet, now sock.Instant) sock.Instant {
	gap := time.Duration(0)
	for c := range e.schedule.gap {
		if of.Has(match.Class(c)) {
			gap = max(gap, e.schedule.gap[c])
		}
	}
	return now.Add(2*gap + e.walks.Lead())
}

// noteGone notes that a socket is gone.
func (s *schedule) noteGone(key sock.Key) {
	if s.scanning != nil {
		s.gone[key] = struct{}{}
	}
}

// isGone reports whether a socket is gone since the scan began.
func (e *Engine) isGone(key sock.Key) bool {
	_, gone := e.schedule.gone[key]
	return gone
}

// leave notes that something which falls due at the instant is left to a later scan.
func (s *schedule) leave(of match.ClassSet, due sock.Instant) {
	for c := range s.later {
		if of.Has(match.Class(c)) {
			s.later[c] = min(s.later[c], due)
		}
	}
}

// still reports whether no segment has come since the last scan for the class, and no
// socket comes to it without one.
func (e *Engine) still(c match.Class, in CountersRead) bool {
	s := &e.schedule
	return in.Still(&s.before[c]) && e.program.Passive(1<<c)
}

// skippable reports whether a scan for the class now could change nothing.
func (e *Engine) skippable(c match.Class, in CountersRead, still bool, now sock.Instant) bool {
	s, of := &e.schedule, match.ClassSet(1<<c)
	if !in.OK || s.scans == 0 || e.neverScanned(of) || e.hasActiveGroups(of) {
		return false // who waits for the first scan is to have it
	}
	nobody := in.TimeWait == 0 && e.program.Queries[of].States == 1<<ssfilter.TimeWait && !e.program.MetByNobody(of)
	if in.HasTimeWait && (nobody || e.program.Unmet(of, in.TimeWait)) {
		return true
	}
	if !still || s.left[c] > 0 || s.skips[c] >= skipsInARow || s.later[c] <= e.horizon(of, now) || s.ripens[c] <= now {
		return false
	}
	// What the program does to a socket that is due, or waits to be accepted, shows
	// only in a scan.
	for t := range e.tracks.all() {
		if (t.is(blocked) || t.Backlog()) && t.of&of != 0 {
			return false
		}
	}
	return true
}

// atMost has nothing shown that is more than the counter of timewait sockets
// leaves, where scans for such sockets are spared: what the last one found may be
// long gone.
func (e *Engine) atMost(of match.ClassSet, in CountersRead) {
	if !in.HasTimeWait || e.program.Queries[of].States != 1<<ssfilter.TimeWait {
		return
	}
	n := uint32(min(in.TimeWait, math.MaxInt32))
	for _, r := range e.rules {
		if !r.Scanned() || !of.Has(r.Class) {
			continue
		}
		stats := &r.stats
		stats.sockets, stats.candidates = min(stats.sockets, n), min(stats.candidates, n)
		if n == 0 {
			stats.oldest, stats.next = never, never
		}
		if r.groups != nil {
			r.groups.AtMost(int(n))
		}
	}
}

// nothingCame notes that no segment has come since the last scan, and so no socket.
func (e *Engine) nothingCame(of match.ClassSet, until sock.Instant) {
	for _, r := range e.rules {
		if r.Scanned() && of.Has(r.Class) && r.groups != nil {
			r.groups.NothingCame(until)
		}
	}
}

// neverScanned reports whether groups of the classes wait for the first scan.
func (e *Engine) neverScanned(of match.ClassSet) bool {
	for _, r := range e.rules {
		if r.Scanned() && of.Has(r.Class) && r.Grouped && r.groups.NeverScanned() {
			return true
		}
	}
	return false
}

// hasActiveGroups reports whether a group of the classes is about to fire, or does: what
// becomes of it only scans tell.
func (e *Engine) hasActiveGroups(of match.ClassSet) bool {
	for _, r := range e.rules {
		if r.Scanned() && of.Has(r.Class) && r.groups != nil && r.groups.Active() {
			return true
		}
	}
	return false
}

// fill has the table scanned as soon as the CPU budget allows it, once there is
// room for half as many sockets as there may be.
func (e *Engine) fill(now sock.Instant) {
	if e.Watched() > e.config.MaxTracks/2 {
		return
	}
	s := &e.schedule
	for c := range s.left {
		if s.left[c] > 0 {
			s.next[c] = min(s.next[c], s.soonest(match.Class(c), now))
		}
	}
}

// spacing is how far apart scans for a class must be to stay within the budget,
// of which each class that is looked for has an equal share.
func (e *Engine) spacing(c match.Class) time.Duration {
	if e.schedule.cost[c] == 0 {
		return 0
	}
	shares := 0
	for _, gap := range e.program.Intervals {
		if gap > 0 {
			shares++
		}
	}
	return time.Duration(float64(e.schedule.cost[c]) * float64(shares) / e.program.Settings.CPUBudget)
}

// charge notes what a scan cost. One for both classes costs what the expensive
// one does.
func (s *schedule) charge(of match.ClassSet, cost time.Duration) {
	if of.Has(match.Expensive) {
		s.cost[match.Expensive] = cost
	} else {
		s.cost[match.Cheap] = cost
	}
}

// onCredit is how many scans may be made before the CPU budget has paid for them:
// one to see that a group fires, and one for its sockets.
const onCredit = 2

// pay notes until when a scan uses up the CPU budget. One for both classes is
// charged to the expensive one.
func (e *Engine) pay(of match.ClassSet, sent sock.Instant) {
	s, c := &e.schedule, match.Cheap
	if of.Has(match.Expensive) {
		c = match.Expensive
	}
	s.dear[c] = e.spacing(c)
	s.paid[c] = min(max(s.paid[c], sent), sent.Add(onCredit*s.dear[c])).Add(s.dear[c])
}

// soonest is when there may be a scan that is wanted at that instant and is not one
// of those that come by themselves: groups that fire one after the other must not
// have the table scanned without end.
func (s *schedule) soonest(c match.Class, at sock.Instant) sock.Instant {
	return max(at, s.paid[c].Add(-onCredit*s.dear[c]))
}

const (
	// stretchedAfter is how many dear scans in a row are more than a machine that was
	// busy during one.
	stretchedAfter = 3
	// stretchedFar is how many times the wanted interval is more than that at once.
	stretchedFar = 10
)

// space spaces the scans so that they stay within the CPU budget, after one for these
// classes.
func (e *Engine) space(of match.ClassSet) {
	s := &e.schedule
	stretched := false
	var wanted, gap, cost time.Duration
	for c := range s.gap {
		s.gap[c] = max(e.program.Intervals[c], e.spacing(match.Class(c)))
		// What began at twice the wanted interval ends well below it: looks differ.
		over := s.gap[c] >= 2*e.program.Intervals[c] || s.stretched && 2*s.gap[c] >= 3*e.program.Intervals[c]
		switch {
		case e.program.Intervals[c] == 0 || !over:
			s.over[c] = 0
		case of.Has(match.Class(c)):
			s.over[c]++
		}
		if s.over[c] >= stretchedAfter || s.over[c] > 0 && s.gap[c] >= stretchedFar*e.program.Intervals[c] {
			stretched, wanted, gap, cost = true, e.program.Intervals[c], s.gap[c], s.cost[c]
		}
	}
	if stretched && !s.stretched {
		e.note(IntervalStretch,
			slog.Duration("wanted", wanted), slog.Duration("interval", gap.Round(time.Millisecond)), slog.Duration("scan_cost", cost.Round(time.Microsecond)))
	}
	if !stretched && s.stretched {
		e.note(IntervalAsWanted)
	}
	s.stretched = stretched
}

// failureStreak is a time in which something fails. It is over after several successes,
// so that what fails now and then is said once.
type failureStreak struct {
	on   bool
	bad  int // failures in it
	good int // successes since the last failure
}

// overAfter is how many successes end a streak.
const overAfter = 3

// note takes in one more try, and reports whether a streak began or is over.
func (s *failureStreak) note(failed bool) (began, over bool) {
	if failed {
		began = !s.on
		s.on, s.good = true, 0
		s.bad++
		return began, false
	}
	s.good++
	over = s.on && s.good == overAfter
	if over {
		s.on, s.bad = false, 0
	}
	return false, over
}
