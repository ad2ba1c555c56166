package engine

import (
	"log/slog"
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/schedule"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// scans are the scan under way, and what the last ones showed.
type scans struct {
	running  *Scan                 // nil: none is
	overdue  sock.Instant          // when it takes long
	outdated map[sock.Key]struct{} // forgotten since it began by what an answer told: it may still show them as they were
	waits    waits
	live     [match.NumClasses]*liveCount // by the last whole scan for each class; nil: no rule asks, or there was none

	failing, crowded, portless, uncounted, unmeasured failureStreak

	pressing bool        // what is short is being read
	drops    group.Drops // of what listening sockets drop, by the counters
}

func newScans() scans {
	return scans{outdated: make(map[sock.Key]struct{})}
}

// outdate notes that an answer about a socket alone has told that it is gone, or has become
// what no rule wants: what the scan under way shows of it may be older.
func (s *scans) outdate(key sock.Key) {
	if s.running != nil {
		s.outdated[key] = struct{}{}
	}
}

// isOutdated reports whether that was told since the scan began.
func (s *scans) isOutdated(key sock.Key) bool {
	_, outdated := s.outdated[key]
	return outdated
}

func (in CountersRead) apply(e *Engine, now sock.Instant) {
	asked := e.schedule.Counted()
	e.takeCounts(in, asked, now)
	if in.OK {
		e.skipScans(in.Counters, asked, now)
	}
	of := e.schedule.Due(now)
	if of == 0 {
		return // only the counters were wanted, or new rules came meanwhile
	}
	counters := in.Counters
	if !in.OK {
		counters = sock.Counters{}
	}
	e.schedule.Begin(counters)
	e.beginScan(of, in, now)
}

// skipScans has those scans not made that could change nothing. Each class is judged by
// itself: one for which a scan could change nothing does not cost what it would beside
// another.
func (e *Engine) skipScans(counters sock.Counters, asked, now sock.Instant) {
	for c := range match.NumClasses {
		finds := e.schedule.CanFind(c, counters, now, e.lookahead(1<<c, now))
		if finds == schedule.Anything || e.groupsWait(c) || finds == schedule.Departures && e.waitsForProgram(c) {
			continue
		}
		still := e.schedule.Still(c, counters)
		for _, r := range e.rules {
			if !r.Scanned() || r.Class != c {
				continue
			}
			if counters.HasTimeWait && e.schedule.OnlyTimeWait(c) {
				r.atMost(uint32(min(counters.TimeWait, math.MaxInt32)))
			}
			if still && r.groups != nil {
				r.groups.NothingCame(asked)
			}
		}
		e.schedule.Skip(c, now)
	}
}

// groupsWait reports whether groups of the class wait for the first scan, or one is about
// to fire, or does: what becomes of it only scans tell.
func (e *Engine) groupsWait(c match.Class) bool {
	for _, r := range e.rules {
		if r.Scanned() && r.Class == c && r.groups != nil && (r.groups.Active() || r.Grouped && r.groups.NeverScanned()) {
			return true
		}
	}
	return false
}

// waitsForProgram reports whether something is tracked for the class of which only a scan
// shows what its program does to it: it is due, or waits to be accepted.
func (e *Engine) waitsForProgram(c match.Class) bool {
	for t := range e.tracks.all() {
		if (t.is(blocked) || t.Backlog()) && t.of.Has(c) {
			return true
		}
	}
	return false
}

// atMost has no more shown than the counter of timewait sockets leaves: what the last scan
// for them found may be long gone.
func (r *ruleState) atMost(n uint32) {
	stats := &r.stats
	stats.sockets, stats.candidates, stats.soon = min(stats.sockets, n), min(stats.candidates, n), min(stats.soon, n)
	if n == 0 {
		stats.oldest, stats.next = never, never
	}
	if r.groups != nil {
		r.groups.AtMost(int(n))
	}
}

// beginScan has the table scanned for rules of the classes.
func (e *Engine) beginScan(of match.ClassSet, in CountersRead, now sock.Instant) {
	e.plan.Forget = append(e.plan.Forget, e.scans.waits.settle(e.Watches)...)
	l := &Scan{
		Query: e.program.Queries[of], program: e.program, of: of,
		lookahead: e.lookahead(of, now), known: e.known(), far: &e.far, seed: e.seed, precision: e.config.Precision,
		counts: make([]ruleCount, len(e.rules)), waited: e.scans.waits.known,
		bounded: e.config.MaxTracks > 0,
	}
	l.room, l.reserve = e.room()
	for _, r := range e.rules {
		if most := r.most(); r.Scanned() && of.Has(r.Class) && most > 0 && most < 1 {
			l.live = &liveCount{count: make(map[together]uint32)}
		}
	}
	if e.program.NeedsHolders {
		l.holders, l.believed = e.holders.cache, now.Add(-e.walks.Believed())
		l.renew, l.renewShown = now.Add(-e.walks.Renew()), now.Add(-e.walks.RenewShown())
		e.giveUpCounts(now.Add(-e.walks.Patience()))
	} else {
		l.held = e.heldTracks()
	}
	asks, portless := false, false
	var expect int // paths
	for i, r := range e.rules {
		switch {
		case !r.Grouped || !r.Scanned() || !of.Has(r.Class):
		case len(in.Ports) == 0 && r.Measures(rules.PortUsage):
			asks, portless = true, true // what is not measured changes nothing
		default:
			asks = asks || r.Measures(rules.PortUsage)
			expect = max(expect, r.groups.Paths())
			l.counts[i].groups = r.groups.Tally()
			// An answer from before a socket came of age does not count it.
			if r.Timed && r.stats.next <= now {
				l.Query.Known = sock.Now
			}
		}
	}
	if asks && !portless {
		l.ports = group.NewPorts(in.Ports, expect)
		l.Query.Where = l.ports.Widen(l.Query.Where)
	}
	if asks { // another scan says nothing of whether the ports are known
		if began, _ := e.scans.portless.note(portless); began {
			e.note(PortsUnknown)
		}
	}
	clear(e.scans.outdated)
	e.scans.running, e.scans.overdue = l, now.Add(scanPatience)
	e.plan.Scan = l
}

// known returns the sockets that are tracked, and those of which an earlier run, or the
// scans so far, may know more than the kernel does.
func (e *Engine) known() known {
	k := newKnown(e.tracks.n + len(e.earlier.memories) + len(e.scans.waits.known))
	for key := range e.earlier.memories {
		k.Put(key.Cookie, knownBefore)
	}
	for key := range e.scans.waits.known {
		k.Put(key.Cookie, knownBefore)
	}
	for t := range e.tracks.all() {
		t.set(seen, false)
		k.Put(t.Cookie, max(t.Print, knownNow))
	}
	return k
}

// lookahead returns until when what falls due is to be tracked.
func (e *Engine) lookahead(of match.ClassSet, now sock.Instant) sock.Instant {
	return now.Add(e.schedule.Lookahead(of) + e.walks.Lead())
}

// noteStretch says where cpu_budget has the scans far apart, and no more.
func (e *Engine) noteStretch(s schedule.Stretch) {
	if s.Began {
		e.note(IntervalStretch,
			slog.Duration("wanted", s.Wanted), slog.Duration("interval", s.Interval.Round(time.Millisecond)), slog.Duration("scan_cost", s.Cost.Round(time.Microsecond)))
	}
	if s.Over {
		e.note(IntervalAsWanted)
	}
}
