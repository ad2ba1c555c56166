package daemon

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/status"
)

// statesShown are the sockets by state as they are shown: as they were counted last, and as
// scans for rules have seen them since. Where a count costs much there are few, and what is
// shown must not contradict what is shown of the rules.
type statesShown struct {
	counted status.Sockets // nil: they could not be counted, or were not yet
	at      time.Time      // when they were
	every   time.Duration
	seen    []seenStates // oldest first
}

// seenStates are what a scan for rules has seen.
type seenStates struct {
	engine.SeenStates
	at time.Time
}

// count takes in a count, after which only what was seen later counts.
func (s *statesShown) count(sockets status.Sockets, at time.Time) {
	s.counted, s.at = sockets, at // what was counted before is not known to be so any more
	s.seen = slices.DeleteFunc(s.seen, func(old seenStates) bool { return !old.at.After(at) })
}

// see takes in what a scan has seen, which is newer than what scans for some of its rules have.
func (s *statesShown) see(seen engine.SeenStates, at time.Time) {
	s.seen = slices.DeleteFunc(s.seen, func(old seenStates) bool { return old.Part&^seen.Part == 0 })
	s.seen = append(s.seen, seenStates{seen, at})
}

// now returns the sockets by state, and since when all of that is so; zero: of none it is known.
func (s *statesShown) now() (sockets status.Sockets, at time.Time) {
	sockets, at = maps.Clone(s.counted), s.at
	for _, seen := range s.seen {
		for state, n := range seen.States {
			name, n := state.String(), uint64(n)
			switch before, known := sockets[name]; {
			case seen.All:
			case known: // there are at least those
				n = max(before, n)
			default:
				continue
			}
			if sockets == nil {
				sockets, at = make(status.Sockets), cmp.Or(s.at, seen.at)
			}
			sockets[name] = n
		}
	}
	return sockets, at
}
