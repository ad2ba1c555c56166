package match

import (
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// What Guard says, but for what the kernel would do to an orphan.
const (
	notConnected = "not connected"
	protected    = "protected"
	subflow      = "an MPTCP subflow"
	unaccepted   = "in an accept queue"
	kernels      = "held by the kernel"
	own          = "sockdog's own"
)

// hindrances are the names under which it is counted how often what kept a rule
// from acting.
var hindrances = map[string]string{
	notConnected: "not_connected", protected: "protected", subflow: "mptcp_subflow",
	unaccepted: "in_accept_queue", kernels: "held_by_kernel", own: "own",
}

// Guard says why a socket is not to be touched, whatever a rule or a person
// says, or "". self is the watchdog's own process.
func Guard(s subject.Subject, protect []rules.Match, capabilities Capabilities, self int) string {
	switch {
	case s.State == ssfilter.Listening || s.State == ssfilter.Close || s.State == ssfilter.BoundInactive:
		return notConnected
	case Any(protect, s) != ssfilter.False:
		return protected
	case s.MPTCP:
		return subflow
	case s.InBacklog():
		return unaccepted
	case s.Orphan() && capabilities.KillOrphan != "":
		return capabilities.KillOrphan
	case s.Holders != nil && s.Holders.Kernel && s.Inode != 0:
		return kernels
	case s.Holders != nil && s.Holders.By(self):
		return own
	default:
		return ""
	}
}

// Capabilities says why the kernel or the privileges do not let sockets be
// destroyed: all of them, those in TIME_WAIT, or those that their program has
// closed. Empty: they do.
type Capabilities struct {
	Kill, KillTimeWait, KillOrphan string
	Others                         map[*rules.Kind]string // the same for other kinds of actions; absent: they can be done
}

// Cannot says why an action of the kind cannot be done to the socket here, or "".
func (c *Capabilities) Cannot(kind *rules.Kind, s *sock.Socket) string {
	if kind == rules.Kill && s.State == ssfilter.TimeWait && c.KillTimeWait != "" {
		return c.KillTimeWait
	}
	return c.CannotAny(kind)
}

// CannotAny says why an action of the kind can be done to no socket here, or "".
func (c *Capabilities) CannotAny(kind *rules.Kind) string {
	if kind != rules.Kill {
		return c.Others[kind]
	}
	return c.Kill
}

// SkipName returns the name under which what Guard says is counted.
func SkipName(why string) string {
	if name, ok := hindrances[why]; ok {
		return name
	}
	return "orphan"
}
