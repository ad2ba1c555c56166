package match

import (
	"cmp"
	"errors"
	"maps"
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
	DestroyTimeWait rules.Capability = "destroy_time_wait" // minisockets: in TIME_WAIT, and in FIN_WAIT2 once closed
	DestroyOrphan   rules.Capability = "destroy_orphan"    // those that their program has closed
)

// Without returns these without one more, which is missing for that reason. What is missing
// already stays so for its own.
func (c Capabilities) Without(missing rules.Capability, why error) Capabilities {
	others := Capabilities{missing: why}
	maps.Copy(others, c)
	return others
}

// Way returns by which way the action reaches sockets here; else why it reaches none. It is
// empty where the action needs no way. Of any way, that of the kernel comes first, unless the
// kernel has none: where a privilege is missing for it, nobody may have meant the other.
func (c Capabilities) Way(a *rules.Action) (rules.Via, error) {
	via := a.Via()
	if via == rules.ViaAny {
		via = rules.ViaKernel
		if errors.Is(c[rules.Destroy], errors.ErrUnsupported) && c[rules.Descriptor] == nil {
			via = rules.ViaHolder
		}
	}
	return via, c[Needs(a.Kind, via)]
}

// Cannot says why the action cannot be done to the socket here; nil: it can, if somebody
// holds it where that is the way.
func (c Capabilities) Cannot(a *rules.Action, s *sock.Socket) error {
	via, err := c.Way(a)
	if why := c[DestroyTimeWait]; why != nil && via == rules.ViaKernel && s.Minisocket() {
		return why
	}
	return err
}

// CannotAny says why an action of the kind can be done to no socket here, by any way; nil:
// it can.
func (c Capabilities) CannotAny(kind *rules.Kind) error {
	_, err := c.Way(&rules.Action{Kind: kind})
	return err
}

// Needs returns the capability without which no action of the kind can be done by that
// way: one of its own where it names none.
func Needs(kind *rules.Kind, via rules.Via) rules.Capability {
	return cmp.Or(via.Needs(), kind.Needs, rules.Capability(kind.Name))
}

// SwitchedOff is the error of what was possible until it failed for good.
type SwitchedOff struct{ Err error }

func (s SwitchedOff) Error() string { return s.Err.Error() }
func (s SwitchedOff) Unwrap() error { return s.Err }
