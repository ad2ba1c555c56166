package engine

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

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
	case d > 0 && InUse(s):
		return ssfilter.False
	case age.Idle >= d:
		return ssfilter.True
	case lasting(s), idleAtMost(s) < d:
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
