package schedule

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// onCredit is how many scans may be made before the CPU budget has paid for them:
	// one to see that a group fires, and one for its sockets.
	onCredit = 2
	// stretchedAfter is how many expensive scans in a row are more than a machine that was
	// busy during one.
	stretchedAfter = 3
	// stretchedFar is how many times the wanted interval is more than that at once.
	stretchedFar = 10
)

// spacing returns how far apart scans for a class must be to stay within the budget,
// of which each class that is scanned for has an equal share.
func (s *Schedule) spacing(c match.Class) time.Duration {
	if s.classes[c].cost == 0 {
		return 0
	}
	shares := 0
	for _, wanted := range s.program.Intervals {
		if wanted > 0 {
			shares++
		}
	}
	return time.Duration(float64(s.classes[c].cost) * float64(shares) / s.program.Settings.CPUBudget)
}

// pay notes until when a scan for the class uses up the CPU budget.
func (s *Schedule) pay(c match.Class, sent sock.Instant) {
	k := &s.classes[c]
	k.charge = s.spacing(c)
	k.budgetUntil = min(max(k.budgetUntil, sent), sent.Add(onCredit*k.charge)).Add(k.charge)
}

// Hasten has the table scanned at that instant, if the CPU budget allows it: groups that
// fire one after the other must not have that done without end.
func (s *Schedule) Hasten(c match.Class, at sock.Instant) {
	k := &s.classes[c]
	k.next = min(k.next, max(at, k.budgetUntil.Add(-onCredit*k.charge)))
}

// Stretch tells that the CPU budget has begun, or ceased, to keep scans much further apart
// than the rules want.
type Stretch struct {
	Began, Over            bool
	Wanted, Interval, Cost time.Duration // of a class that has; Cost is a scan's
}

// space spaces the scans so that they stay within the CPU budget, after one for these
// classes.
func (s *Schedule) space(of match.ClassSet) (changed Stretch) {
	stretched := false
	for c, wanted := range s.program.Intervals {
		k := &s.classes[c]
		k.interval = max(wanted, s.spacing(match.Class(c)))
		// What began at twice the wanted interval ends well below it: scans differ.
		over := k.interval >= 2*wanted || s.stretched && 2*k.interval >= 3*wanted
		switch {
		case wanted == 0 || !over:
			k.over = 0
		case of.Has(match.Class(c)):
			k.over++
		}
		if k.over >= stretchedAfter || k.over > 0 && k.interval >= stretchedFar*wanted {
			stretched = true
			changed = Stretch{Wanted: wanted, Interval: k.interval, Cost: k.cost}
		}
	}
	changed.Began, changed.Over = stretched && !s.stretched, s.stretched && !stretched
	s.stretched = stretched
	return changed
}
