package track

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Age is how long a socket has been in its state, how long it has made no progress, and
// how long nothing came from its peer: lower bounds, all.
type Age struct {
	InState, Idle, Silent time.Duration

	Known bool // false: only observation could tell, and none does
	Exact bool // InState is no mere bound
}

// exactWithin is how much more than the kernel observation may know of an age that
// is told without a bound.
const exactWithin = time.Second

// AgeOf is the age of a socket at the instant got of an answer, by who saw it enter its
// state, or else by what the kernel says, its precision less; and by what observation
// knows of the same connection: m is nil where that is nothing.
func AgeOf(s *sock.Socket, m *sock.Memory, sent, got sock.Instant, precision time.Duration) Age {
	t := TimesOf(s, sent, got, precision)
	_, known := kernelAge(s)
	// A retransmitted FIN starts the timer of TIME_WAIT anew.
	exact := known && s.State == ssfilter.CloseWait && steady(s)
	if s.Entered != 0 {
		known, exact = true, true
	}
	if m != nil && m.Entered <= got && m.Quiet <= got && m.ID == s.ID.Sum() {
		seen := Remembered(m, s.ID, sent)
		if seen.Same(s, sent) {
			seen.Update(s, t, got)
			// Keepalives that the socket sent once have reset what the kernel counts.
			exact = m.Exact || exact && t.Entered.Safe.Sub(seen.Entered.Safe) <= exactWithin
			known = true
		} else {
			seen = seen.Successor(s, t, got)
		}
		exact = exact && !seen.Accepted
		t = seen.Times
	}
	return Age{InState: got.Sub(t.Entered.Safe), Idle: got.Sub(t.Quiet.Safe), Silent: got.Sub(t.SilentBase()), Known: known, Exact: exact}
}

// SameConnection reports whether an answer is about the connection that was
// seen at the instant got, in the same state, and whether it has made progress
// since, or may have. A cookie alone names a socket, which can be connected anew.
func SameConnection(seen *sock.Socket, got sock.Instant, a *sock.Answer, precision time.Duration) (same, progress bool) {
	if a.Gone || a.Err != nil {
		return false, false
	}
	c := Begin(seen, TimesOf(seen, got, got, precision), got)
	return c.Same(&a.Socket, a.Sent), c.Progressed(&a.Socket)
}

// What an age says of a time bound is three-valued: a lower bound on the age that
// reaches it says yes, an upper bound that does not says no, and between the two
// nobody knows.

// ForAtLeast says whether a socket of that age has been in its state for d.
func ForAtLeast(s *sock.Socket, age Age, d time.Duration) ssfilter.Tri {
	switch {
	case age.InState >= d:
		return ssfilter.True
	case age.Exact, s.State == ssfilter.TimeWait, ageAtMost(s) < d:
		// Of TIME_WAIT the kernel knows the age: only a FIN that its peer sends again
		// makes it younger.
		return ssfilter.False
	default:
		return ssfilter.Unknown
	}
}

// IdleForAtLeast says whether a socket of that age has made no progress for d, and
// has nothing left to send.
func IdleForAtLeast(s *sock.Socket, age Age, d time.Duration) ssfilter.Tri {
	switch {
	case d > 0 && s.InUse():
		return ssfilter.False
	case age.Idle >= d:
		return ssfilter.True
	case Lasting(s), idleAtMost(s) < d:
		return ssfilter.False
	default:
		return ssfilter.Unknown
	}
}

// ageAtMost is an upper bound on the time in the present state: in CLOSE_WAIT
// nothing has come in since the FIN.
func ageAtMost(s *sock.Socket) time.Duration {
	if s.State != ssfilter.CloseWait {
		return math.MaxInt64
	}
	return idleAtMost(s)
}

// idleAtMost is an upper bound on the time since the last progress: data that came
// in was some. SYN_SENT reports garbage there.
func idleAtMost(s *sock.Socket) time.Duration {
	if s.State == ssfilter.SynSent || s.Info.Has&sock.HasLastDataRecv == 0 {
		return math.MaxInt64
	}
	return s.Info.LastDataRecv + dataRecvSlack
}
