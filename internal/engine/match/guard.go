package match

import (
	"cmp"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Guard says why a socket is not to be touched, whatever a rule or a person
// says, or "". self is the watchdog's own process.
func Guard(s subject.Subject, protect []rules.Match, capabilities Capabilities, self int) Reason {
	switch {
	case s.State == ssfilter.Listening || s.State == ssfilter.Close || s.State == ssfilter.BoundInactive:
		return NotConnected
	case Any(protect, s) != ssfilter.False:
		return Protected
	case s.MPTCP:
		return MPTCPSubflow
	case s.InBacklog():
		return InAcceptQueue
	case s.Orphan() && capabilities[DestroyOrphan] != nil:
		return Orphan
	case s.Holders != nil && s.Holders.Kernel && s.Inode != 0:
		return HeldByKernel
	case s.Holders != nil && s.Holders.By(self):
		return Own
	default:
		return ""
	}
}

// NeedHolders reports whether who holds a socket decides whether one of those that exclude
// or protect holds.
func NeedHolders(matches []rules.Match) bool { return slices.ContainsFunc(matches, asksHolders) }

// WithoutHolders returns those for which that does not matter.
func WithoutHolders(matches []rules.Match) []rules.Match {
	return slices.DeleteFunc(slices.Clone(matches), asksHolders)
}

func asksHolders(m rules.Match) bool { return m.AsksHolders() }

// Capabilities says what the kernel or the privileges do not allow, and why; what is
// absent, they do. Who has been given one may read it at any time: a change is made to
// a copy.
type Capabilities map[rules.Capability]error

// What may be missing beside rules.Destroy, or instead.
const (
	DestroyTimeWait rules.Capability = "destroy_time_wait" // sockets in TIME_WAIT
	DestroyOrphan   rules.Capability = "destroy_orphan"    // those that their program has closed
)

// Cannot says why an action of the kind cannot be done to the socket here; nil: it can.
func (c Capabilities) Cannot(kind *rules.Kind, s *sock.Socket) error {
	if why := c[DestroyTimeWait]; why != nil && kind.Needs == rules.Destroy && s.State == ssfilter.TimeWait {
		return why
	}
	return c.CannotAny(kind)
}

// CannotAny says why an action of the kind can be done to no socket here; nil: it can.
func (c Capabilities) CannotAny(kind *rules.Kind) error { return c[Needs(kind)] }

// Needs returns the capability without which no action of the kind can be done: one of
// its own where it names none.
func Needs(kind *rules.Kind) rules.Capability {
	return cmp.Or(kind.Needs, rules.Capability(kind.Name))
}

// SwitchedOff is the error of what was possible until it failed for good.
type SwitchedOff struct{ Err error }

func (s SwitchedOff) Error() string { return s.Err.Error() }
