// Package track says what is known of one connection: since when it has been in
// its state and without progress, and whether an answer is about the same one.
// It knows of no rules and keeps no set of connections.
package track

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Never is later than every instant that can come.
const Never = sock.Never

// kernelAge is the kernel's own lower bound on the time in the present state,
// or false where it keeps none.
//
// tcp_ack() stamps rcv_tstamp on every acknowledgement, the one that the FIN
// carries included, so since the last one the state cannot have changed by a
// segment. SYN_SENT reports garbage there, and TCP_LINGER2 falsifies the
// countdown of a FIN_WAIT2 minisocket. Data is received in ESTABLISHED and later states,
// but for what a SYN carries (TCP Fast Open), so ESTABLISHED has lasted since the last came.
func kernelAge(s *sock.Socket) (time.Duration, bool) {
	switch s.State {
	case ssfilter.CloseWait, ssfilter.Closing, ssfilter.FinWait2, ssfilter.Established:
		if s.Minisocket() || s.Info.Has&sock.HasLastAckRecv == 0 {
			return 0, false
		}
		if s.State == ssfilter.Established && hears(s) {
			return max(s.Info.LastAckRecv, s.Info.LastDataRecv), true
		}
		return s.Info.LastAckRecv, true
	case ssfilter.TimeWait:
		return max(0, sock.TimeWaitLen-s.Expires), true
	default:
		return 0, false
	}
}

// kernelQuiet is the kernel's own lower bound on the time since the last
// progress. Bytes are acknowledged only through tcp_ack(), which stamps
// last_ack_recv; but data received on the fast path of tcp_rcv_established()
// stamps last_data_recv alone, so it takes both.
func kernelQuiet(s *sock.Socket) (time.Duration, bool) {
	const both = sock.HasLastAckRecv | sock.HasLastDataRecv
	age, ok := kernelAge(s)
	if !ok || s.State == ssfilter.TimeWait {
		return age, ok
	}
	if s.Info.Has&both != both {
		return 0, false
	}
	return min(s.Info.LastAckRecv, s.Info.LastDataRecv), true
}

// hears reports whether the peer may send data in the state of the socket, and the kernel
// tells when it last did: tcp_event_data_recv() stamps that, and so does the beginning of a
// connection. After the peer's FIN none can come, so that silence says nothing: there,
// progress counts.
func hears(s *sock.Socket) bool {
	const both = sock.HasLastDataRecv | sock.HasBytesReceived
	switch s.State {
	case ssfilter.Established, ssfilter.FinWait1, ssfilter.FinWait2:
		return !s.Minisocket() && s.Info.Has&both == both
	default:
		return false
	}
}

// Lasting reports whether the kernel's bounds will still count at a later scan.
// The time of a socket that waits in an accept queue begins anew when a program
// accepts it, of which the kernel keeps nothing.
func Lasting(s *sock.Socket) bool { return !s.InBacklog() && steady(s) }

// steady reports whether the kernel's bounds will still be there at a later
// scan. The answer to a keepalive probe of the socket's own resets
// last_ack_recv; the peer's probes do not. A FIN_WAIT2 socket loses its bounds
// when the program closes it, and a minisocket takes its place.
func steady(s *sock.Socket) bool {
	if s.State == ssfilter.FinWait2 {
		return false
	}
	_, age := kernelAge(s)
	_, quiet := kernelQuiet(s)
	return age && quiet && (s.State == ssfilter.TimeWait || s.Timer == sock.TimerOff && !s.InUse())
}

// Bound is what is known of an instant in the past. The true one is never later
// than Safe, so an age counted from Safe is never too large; Early is the best
// guess, and says only when to ask again.
type Bound struct{ Safe, Early sock.Instant }

// since turns a lower bound on an age into a bound on the instant. The answer
// was true at some instant between sent and got: counting back from got, and
// the error of its times less, keeps it a lower bound.
func since(age time.Duration, known bool, sent, got sock.Instant, precision time.Duration) Bound {
	if !known {
		return Bound{Safe: got, Early: sent}
	}
	return Bound{Safe: got.Add(-max(0, age-precision)), Early: sent.Add(-age)}
}

// narrow returns the better of two bounds on the same instant.
func (b Bound) narrow(c Bound) Bound {
	return Bound{Safe: min(b.Safe, c.Safe), Early: min(b.Early, c.Early)}
}

// notBefore returns the bound on the later of two instants, of which at is one.
func (b Bound) notBefore(at sock.Instant) Bound {
	return Bound{Safe: max(b.Safe, at), Early: max(b.Early, at)}
}

// Times are when a socket entered its state, last made progress, last heard from its
// peer, and began to have something queued (Never: nothing is).
type Times struct {
	Entered, Quiet, Heard Bound
	Queued                sock.Instant
}

// TimesOf bounds the times of a socket by one answer alone.
func TimesOf(s *sock.Socket, sent, got sock.Instant, precision time.Duration) Times {
	return timesOf(s, s.Entered, sent, got, precision)
}

// KernelTimes bounds the times of a socket by what the kernel says in one answer: what
// is left where nobody saw the socket enter its state.
func KernelTimes(s *sock.Socket, sent, got sock.Instant, precision time.Duration) Times {
	return timesOf(s, 0, sent, got, precision)
}

// timesOf bounds the times of a socket that entered its state then; 0: that is not known.
func timesOf(s *sock.Socket, entered, sent, got sock.Instant, precision time.Duration) Times {
	var t Times
	age, ok := kernelAge(s)
	t.Entered = since(age, ok, sent, got, precision)
	quiet, ok := kernelQuiet(s)
	t.Quiet = since(quiet, ok, sent, got, precision)
	t.Heard = t.Quiet
	if hears(s) {
		t.Heard = since(s.Info.LastDataRecv, true, sent, got, precision)
	}
	t.Queued = Never
	if s.InUse() {
		t.Queued = got
	}
	if entered == 0 {
		return t
	}
	t.Entered = Bound{entered, entered}
	if s.Unmoved {
		t.Quiet, t.Heard = t.Quiet.narrow(t.Entered), t.Heard.narrow(t.Entered)
	}
	if t.Queued != Never && queuedThroughout(s.State) {
		t.Queued = entered
	}
	return t
}

// queuedThroughout reports whether a socket in that state waits for the peer to
// acknowledge its SYN or FIN from the first instant to the last.
func queuedThroughout(state ssfilter.State) bool {
	switch state {
	case ssfilter.SynSent, ssfilter.FinWait1, ssfilter.Closing, ssfilter.LastAck:
		return true
	default:
		return false
	}
}

// Base is the instant that every time bound counts from: a socket falls due at
// the later of its entry into the state and its last progress, plus the bound.
func (t *Times) Base() sock.Instant { return max(t.Entered.Safe, t.Quiet.Safe) }

// EarlyBase is the best guess at that instant.
func (t *Times) EarlyBase() sock.Instant { return max(t.Entered.Early, t.Quiet.Early) }

// SilentBase is the instant that a time without a word from the peer counts from: the
// later of the entry into the state and of what was last received. It is never later
// than Base.
func (t *Times) SilentBase() sock.Instant { return max(t.Entered.Safe, t.Heard.Safe) }

// EarlySilentBase is the best guess at that instant.
func (t *Times) EarlySilentBase() sock.Instant { return max(t.Entered.Early, t.Heard.Early) }
