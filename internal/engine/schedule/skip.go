package schedule

import (
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Finds is what the counters tell of a scan: what it can find at most.
type Finds uint8

const (
	Anything Finds = iota
	// Departures: no socket can have come. What programs did to those that are tracked
	// shows only in a scan.
	Departures
	// Nothing: there are no sockets that a rule wants.
	Nothing
)

// CanFind returns what a scan for the class could find at most, if it were made now, by
// counters that could be read. What falls due before lookahead is not left to later scans.
func (s *Schedule) CanFind(c match.Class, counters sock.Counters, now, lookahead sock.Instant) Finds {
	k, of := &s.classes[c], match.ClassSet(1<<c)
	if s.scans == 0 || k.next > now {
		return Anything
	}
	nobody := counters.TimeWait == 0 && s.OnlyTimeWait(c) && !s.program.MetByNobody(of)
	if counters.HasTimeWait && (nobody || s.program.Unmet(of, counters.TimeWait)) {
		return Nothing
	}
	if !s.Still(c, counters) || k.left > 0 || k.skips >= skipsInARow || k.later <= lookahead || k.nextMature <= now {
		return Anything
	}
	return Departures
}

// Still reports whether no segment has come since the last scan for the class, and no
// socket comes to it without one.
func (s *Schedule) Still(c match.Class, counters sock.Counters) bool {
	return counters.Still(&s.classes[c].before) && s.program.Passive(1<<c)
}

// OnlyTimeWait reports whether scans for the class ask for no other sockets.
func (s *Schedule) OnlyTimeWait(c match.Class) bool {
	return s.program.Queries[1<<c].States == 1<<ssfilter.TimeWait
}

// Skip has the scan for the class not made that is due.
func (s *Schedule) Skip(c match.Class, now sock.Instant) {
	k := &s.classes[c]
	k.skips++
	k.next = now.Add(k.interval)
}
