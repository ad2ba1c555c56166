// Package schedule decides when to scan the socket table, and for which class of rules:
// as often as the rules want it and the CPU budget allows, the classes together or apart,
// and not while the counters tell that a scan could change nothing. It is pure, and knows
// of no socket.
package schedule

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
)

// Schedule is when the next scans are to be made, and what the last ones cost.
type Schedule struct {
	program   *match.Program // whose rules want them
	classes   [match.NumClasses]class
	sample    sock.Instant // when to read the counters for rules that need nothing else
	asked     sock.Instant // when the counters were asked for
	counting  bool         // they are being read
	scanning  bool
	counters  sock.Counters // before the scan under way; nothing, where they could not be read
	scans     uint64
	failed    uint64
	stretched bool // an interval is far above the wanted one, which was said
	apart     bool // a scan for both classes failed, and none for the expensive one has succeeded since
}

// class is what is known of the scans for one class of rules.
type class struct {
	next        sock.Instant  // never: no rule wants a scan
	later       sock.Instant  // when something falls due that the last scan left to a later one
	nextMature  sock.Instant  // when a socket comes to count in a group by its age alone
	left        int           // sockets that the last scan had no room for
	interval    time.Duration // between two scans
	cost        time.Duration // of the last scan
	budgetUntil sock.Instant  // until when the scans so far have used up the CPU budget
	charge      time.Duration // by how much one more scan puts that off
	before      sock.Counters // before the last whole scan; nothing, where they could not be read
	skips       int           // scans in a row that were spared
	over        int           // scans in a row whose cost has the interval far above the wanted one
}

// skipsInARow bounds how long the counters alone are believed.
const skipsInARow = 10

// New returns a Schedule for no rules.
func New() Schedule {
	s := Schedule{}
	s.ChangeRules(&match.Program{}, 0)
	return s
}

// ChangeRules has the table scanned at once for new rules.
func (s *Schedule) ChangeRules(p *match.Program, now sock.Instant) Stretch {
	s.program = p
	for c, wanted := range p.Intervals {
		k := &s.classes[c]
		k.next, k.later, k.nextMature, k.before, k.left = sock.Never, sock.Never, sock.Never, sock.Counters{}, 0
		if wanted > 0 {
			k.next = now
		}
	}
	s.sample = sock.Never
	if p.CounterInterval > 0 {
		s.sample = now
	}
	return s.space(0)
}

// Wake returns when Count has something to do.
func (s *Schedule) Wake() sock.Instant {
	if s.scanning || s.counting {
		return sock.Never
	}
	wake := s.sample
	for c := range s.classes {
		wake = min(wake, s.classes[c].next)
	}
	return wake
}

// Count reports whether the counters are to be read now: they may tell that a scan could
// change nothing.
func (s *Schedule) Count(now sock.Instant) bool {
	due := now >= s.Wake()
	if due {
		s.counting, s.asked = true, now
	}
	return due
}

// Counted says that the counters were read, and returns when they were asked for.
func (s *Schedule) Counted() (asked sock.Instant) {
	s.counting = false
	return s.asked
}

// SampleAt says when the counters are to be read for rules that need nothing else.
func (s *Schedule) SampleAt(at sock.Instant) { s.sample = at }

// Sample returns when that is.
func (s *Schedule) Sample() sock.Instant { return s.sample }

// Due returns the classes that a scan now is to be for: those whose time has come.
// A cheap class goes along with an expensive one whose scans are no more frequent than
// its own, and with any if its time has almost come; an expensive one never goes along
// with a cheap one. Where the two are better apart, the one that has been due the longer
// comes first, and the cheap one if they have been equally.
func (s *Schedule) Due(now sock.Instant) match.ClassSet {
	var of match.ClassSet
	for c := range s.classes {
		if s.classes[c].next <= now {
			of |= 1 << c
		}
	}
	cheap, expensive := &s.classes[match.Cheap], &s.classes[match.Expensive]
	if s.apart || !s.program.ShareQuery {
		switch {
		case of != match.AllClasses:
			return of
		case expensive.next < cheap.next:
			return 1 << match.Expensive
		}
		return 1 << match.Cheap
	}
	soon := expensive.interval >= cheap.interval || cheap.next.Sub(now) <= cheap.interval/4
	if of.Has(match.Expensive) && cheap.next != sock.Never && soon {
		of |= 1 << match.Cheap
	}
	return of
}

// Begin says that a scan begins, and what the counters were before it.
func (s *Schedule) Begin(counters sock.Counters) { s.scanning, s.counters = true, counters }

// Interval returns how far apart the scans for a class are; 0: there are none.
func (s *Schedule) Interval(c match.Class) time.Duration { return s.classes[c].interval }

// Lookahead returns how long from now a scan for the classes leaves nothing to later ones
// that falls due within: up to the scan after the next, so that one may fail.
func (s *Schedule) Lookahead(of match.ClassSet) (d time.Duration) {
	for c := range match.NumClasses {
		if of.Has(c) {
			d = max(d, 2*s.classes[c].interval)
		}
	}
	return d
}

// Ended says that a scan has ended, what CPU time it cost, and when it was sent.
// One for both classes is charged to the expensive one.
func (s *Schedule) Ended(of match.ClassSet, sent sock.Instant, cost time.Duration) Stretch {
	s.scanning = false
	c := match.Cheap
	if of.Has(match.Expensive) {
		c = match.Expensive
	}
	s.classes[c].cost = cost
	changed := s.space(of)
	s.pay(c, sent)
	return changed
}

// Dropped says that a scan has ended which tells nothing of the rules in force.
func (s *Schedule) Dropped() { s.scanning = false }

// Failed says that the scan that has ended told nothing.
func (s *Schedule) Failed(of match.ClassSet, now sock.Instant) {
	s.failed++
	s.apart = s.apart || of == match.AllClasses
	for c := range match.NumClasses {
		if k := &s.classes[c]; of.Has(c) {
			k.next = now.Add(k.interval)
		}
	}
}

// Succeeded says that the scan that has ended was whole, when something falls due that it
// left to a later one, and how many sockets it had no room for. Before something is due,
// lead is wanted.
func (s *Schedule) Succeeded(of match.ClassSet, sent, later sock.Instant, left int, lead time.Duration, now sock.Instant) {
	s.scans++
	s.apart = s.apart && !of.Has(match.Expensive)
	for c := range match.NumClasses {
		if !of.Has(c) {
			continue
		}
		k := &s.classes[c]
		k.later, k.left, k.before, k.skips = later, left, s.counters, 0
		k.next = sent.Add(k.interval)
		if later != sock.Never {
			// What was left to a later scan is not to wait where the budget has just
			// put that off: the lookahead was the old one's.
			k.next = min(k.next, later.Add(-lead))
		}
		k.next = max(now, k.next)
	}
}

// Leave says that something which falls due at that instant is left to a later scan.
func (s *Schedule) Leave(of match.ClassSet, due sock.Instant) {
	for c := range match.NumClasses {
		if k := &s.classes[c]; of.Has(c) {
			k.later = min(k.later, due)
		}
	}
}

// Matures says when the first socket comes to count in a group by its age alone.
func (s *Schedule) Matures(of match.ClassSet, at sock.Instant) {
	for c := range match.NumClasses {
		if of.Has(c) {
			s.classes[c].nextMature = at
		}
	}
}

// Left returns how many sockets the last scans had no room for.
func (s *Schedule) Left() (n int) {
	for c := range s.classes {
		n = max(n, s.classes[c].left) // one scan may have been for all classes
	}
	return n
}

// Fill has the table scanned as soon as the CPU budget allows it, where scans had no room
// for all.
func (s *Schedule) Fill(now sock.Instant) {
	for c := range match.NumClasses {
		if s.classes[c].left > 0 {
			s.Hasten(c, now)
		}
	}
}

// Overview is how scans stand.
type Overview struct {
	Scans, FailedScans uint64
	Interval           time.Duration // between the scans of the rules that want them most often; 0: none are made
	Wanted             time.Duration // what it would be, had scans no cost
	Cost               time.Duration // of CPU, of the most expensive scan
	Stretched          bool          // Interval is so much above Wanted that it was said
	Left               int           // sockets that the last scans had no room for
}

// Overview returns how scans stand.
func (s *Schedule) Overview() Overview {
	o := Overview{Scans: s.scans, FailedScans: s.failed, Stretched: s.stretched, Left: s.Left()}
	for c, wanted := range s.program.Intervals {
		k := &s.classes[c]
		o.Cost = max(o.Cost, k.cost)
		if wanted > 0 && (o.Wanted == 0 || k.interval < o.Interval) {
			o.Wanted, o.Interval = wanted, k.interval
		}
	}
	return o
}
