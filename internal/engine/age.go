package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Age is how long a socket has been in its state, and how long it has made no
// progress: lower bounds, both.
type Age struct {
	InState, Idle time.Duration
	Known         bool // false: only observation could tell, and none does
	Exact         bool // InState is no mere bound
}

// exactWithin is how much more than the kernel observation may know of an age that
// is told without a bound.
const exactWithin = time.Second

// AgeOf is the age of a socket at the instant got of an answer, by what the
// kernel says, its precision less, and by what observation knows of the same
// connection; m is nil where that is nothing.
func AgeOf(s *sock.Socket, m *sock.Memory, sent, got sock.Instant, precision time.Duration) Age {
	t := timesOf(s, sent, got, precision)
	_, known := kernelAge(s)
	// A retransmitted FIN starts the timer of TIME_WAIT anew.
	exact := known && s.State == ssfilter.CloseWait && steady(s)
	if m != nil && m.Entered <= got && m.Quiet <= got && m.ID == s.ID.Sum() {
		seen := remembered(*m, s.ID, sent)
		if seen.sameConnection(s, sent) {
			seen.update(s, t, sent, got)
			// Keepalives that the socket sent once have reset what the kernel counts.
			exact = exact && t.entered.safe.Sub(seen.entered.safe) <= exactWithin
			known = true
		} else {
			seen = seen.successor(s)
			seen.begin(s, t, sent, got)
		}
		exact = exact && seen.accepted.safe == 0
		t = seen.times
	}
	return Age{InState: got.Sub(t.entered.safe), Idle: got.Sub(t.quiet.safe), Known: known, Exact: exact}
}

// SameConnection reports whether an answer is about the connection that was
// seen at the instant got, in the same state, and whether it has made progress
// since, or may have. A cookie alone names a socket, which can be connected anew.
func SameConnection(seen *sock.Socket, got sock.Instant, a *sock.Answer, precision time.Duration) (same, progress bool) {
	if a.Gone || a.Err != nil {
		return false, false
	}
	t := track{id: seen.ID, state: seen.State}
	t.begin(seen, timesOf(seen, got, got, precision), got, got)
	return t.sameConnection(&a.Socket, a.Sent), t.progressed(&a.Socket)
}
