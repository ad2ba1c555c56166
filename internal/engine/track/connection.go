package track

import (
	"math"
	"math/bits"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Connection is what was observed of one connection in one state.
type Connection struct {
	ID    sock.ID
	State ssfilter.State
	Times
	Backlog  bool // the last answer showed it in an accept queue
	Accepted bool // it was seen in one before: its time counts from when a program had it, and Entered says so

	// What the last answer said, to compare the next one with:
	Acked, Received uint64
	SegsIn          uint32
	Retrans         uint8 // in SYN_SENT
	Counted         bool  // it had counters
	Inode           uint32
	Autobound       ssfilter.Tri // as the last scan said that asked for it
}

// Begin returns what the first answer about a connection says.
func Begin(s *sock.Socket, fresh Times, got sock.Instant) Connection {
	c := Connection{ID: s.ID, State: s.State}
	c.begin(s, fresh, got)
	return c
}

func (c *Connection) begin(s *sock.Socket, fresh Times, got sock.Instant) {
	c.Times = fresh
	c.note(s)
	c.accept(s, got)
}

// dataRecvSlack is how far an age may exceed last_data_recv before the two
// contradict each other: one jiffy, at the longest that Linux has, and as much as
// the tick that counts it may be late.
const dataRecvSlack = 20 * time.Millisecond

// Same reports whether s, which was asked for at the instant sent, is the
// connection that c is about, in the same state. The cookie names a socket, not a
// connection: after connect(AF_UNSPEC) and a new connect from a bound port, cookie
// and four-tuple are the same. What falls gives it away: the counters, the
// retransmissions of a SYN; and so does an age that the kernel contradicts.
//
// Where s says since when it is in its state, that alone tells: c is never about an
// instant before its socket entered the state, so an entry that is later than c knows
// is another one. On a starved guest c can be a little too old, by the kernel's clock;
// then the connection is taken for another, which counts from its entry: that is
// never too early. The kernel's clock contradicts nothing in that case.
func (c *Connection) Same(s *sock.Socket, sent sock.Instant) bool {
	if s.ID != c.ID || s.State != c.State {
		return false
	}
	if c.fell(s) {
		return false
	}
	has := s.Info.Has
	if s.Entered != 0 {
		return s.Entered <= c.Entered.Safe
	}
	if s.State == ssfilter.SynSent { // its last_data_recv is garbage
		return s.Retrans >= max(c.Retrans, retransBy(sent.Sub(c.Entered.Safe)))
	}
	if has&sock.HasLastDataRecv == 0 {
		return true
	}
	oldest := s.Info.LastDataRecv + dataRecvSlack
	if s.State == ssfilter.CloseWait && sent.Sub(c.Entered.Safe) > oldest {
		return false
	}
	return c.Progressed(s) || sent.Sub(c.Quiet.Safe) <= oldest
}

// IsShut reports whether s, which was asked for at the instant sent and is not Same, is the
// connection in a state that it comes to where its program has shut it down, or was made to: no
// other has the same socket and addresses, counters that have not fallen, and as old a word
// from the peer. A connection begins with one, by the kernel's clock (tcp_finish_connect). What
// comes after the peer's FIN, or for a program that has shut down both ways, is no data of it: the
// kernel resets such a connection (tcp_rcv_state_process).
func (c *Connection) IsShut(s *sock.Socket, sent sock.Instant) bool {
	next, most := ssfilter.StateSet(0), uint64(0) // and how much may be received on the way
	switch c.State {
	case ssfilter.CloseWait:
		next = ssfilter.Of(ssfilter.LastAck)
	case ssfilter.Established:
		next, most = ssfilter.Of(ssfilter.FinWait1, ssfilter.FinWait2, ssfilter.Closing), math.MaxUint64
	case ssfilter.FinWait1:
		if next = ssfilter.Of(ssfilter.FinWait2, ssfilter.Closing); s.State == ssfilter.Closing {
			most = 1 // the FIN counts as a byte
		}
	}
	const tells = sock.HasSegsIn | sock.HasBytesAcked | sock.HasBytesReceived | sock.HasLastDataRecv
	if s.ID != c.ID || !next.Has(s.State) || s.Info.Has&tells != tells || c.fell(s) || s.Info.BytesReceived-c.Received > most {
		return false
	}
	return s.Info.BytesReceived != c.Received || sent.Sub(c.Heard.Safe) <= s.Info.LastDataRecv+dataRecvSlack
}

// SameShut is Same for a connection that was shut down both ways, which receives nothing any more.
func (c *Connection) SameShut(s *sock.Socket, sent sock.Instant) bool {
	return c.Same(s, sent) && s.Info.BytesReceived == c.Received
}

// fell reports whether a counter of the connection is lower in s.
func (c *Connection) fell(s *sock.Socket) bool {
	has := s.Info.Has
	return has&sock.HasSegsIn != 0 && s.Info.SegsIn < c.SegsIn && c.SegsIn-s.Info.SegsIn < 1<<31 ||
		has&sock.HasBytesAcked != 0 && s.Info.BytesAcked < c.Acked ||
		has&sock.HasBytesReceived != 0 && s.Info.BytesReceived < c.Received
}

// Progressed reports whether the peer acknowledged or sent something since the
// last answer, or may have.
func (c *Connection) Progressed(s *sock.Socket) bool {
	const both = sock.HasBytesAcked | sock.HasBytesReceived
	if s.Info.Has&both != both {
		// Timewait and request sockets have no counters, and nothing to count; but
		// a full socket may have made progress before it became one.
		return c.Counted || !s.Minisocket() && s.State != ssfilter.SynRecv
	}
	return s.Info.BytesAcked != c.Acked || s.Info.BytesReceived != c.Received
}

// TellAutobound completes an answer with what only scans tell: whether the kernel
// chose the local port. It cannot change while the connection lasts.
func (c *Connection) TellAutobound(s *sock.Socket) {
	if s.Autobound == ssfilter.Unknown {
		s.Autobound = c.Autobound
	}
}

// note takes over what a later answer is compared with.
func (c *Connection) note(s *sock.Socket) {
	c.Counted = s.Info.Has&(sock.HasBytesAcked|sock.HasBytesReceived) != 0
	c.Acked, c.Received, c.SegsIn, c.Inode = s.Info.BytesAcked, s.Info.BytesReceived, s.Info.SegsIn, s.Inode
	if s.State == ssfilter.SynSent { // in other states it counts the probes of keepalives, too
		c.Retrans = s.Retrans
	}
}

// Update takes over what a further answer about the same connection says. Fresh is
// what it says alone.
func (c *Connection) Update(s *sock.Socket, fresh Times, got sock.Instant) {
	switch {
	case c.Accepted: // since when is known by observation alone
	case s.Entered != 0:
		c.Entered = fresh.Entered
	default:
		c.Entered = c.Entered.narrow(fresh.Entered)
	}
	switch {
	case c.Progressed(s):
		c.Quiet, c.Queued = fresh.Quiet, fresh.Queued
	default:
		c.Quiet = c.Quiet.narrow(fresh.Quiet)
		// Nothing was acknowledged since, so what was queued then is queued now.
		if fresh.Queued == Never {
			c.Queued = Never
		} else {
			c.Queued = min(c.Queued, fresh.Queued)
		}
	}
	c.hear(s, fresh)
	c.note(s)
	c.accept(s, got)
}

// hear takes over when the peer was last heard, of which the kernel goes on telling: what
// observation knows is better by no more than its times are off.
func (c *Connection) hear(s *sock.Socket, fresh Times) {
	switch {
	case !hears(s):
		c.Heard = c.Quiet
	case s.Info.BytesReceived == c.Received && fresh.Heard.Safe.Sub(c.Heard.Safe) <= dataRecvSlack:
		c.Heard = c.Heard.narrow(fresh.Heard)
	default:
		c.Heard = fresh.Heard
	}
}

// Successor is what is known of what the socket is now, which was something else.
// It goes on waiting in an accept queue.
func (c *Connection) Successor(s *sock.Socket, fresh Times, got sock.Instant) Connection {
	next := Connection{ID: s.ID, State: s.State}
	if c.ID == s.ID {
		next.Backlog = c.Backlog
		if c.Accepted && c.State == s.State { // what the kernel tells of it may be older
			next.Accepted, fresh.Entered = true, fresh.Entered.notBefore(c.Entered.Safe)
		}
	}
	next.begin(s, fresh, got)
	return next
}

// accept takes in whether the answer shows the socket in an accept queue. A
// socket's time counts from when a program had it: once an answer shows that one
// has it, no time before that answer counts.
func (c *Connection) accept(s *sock.Socket, got sock.Instant) {
	if s.InBacklog() {
		c.Backlog, c.Accepted = true, false
		return
	}
	if c.Backlog {
		c.Backlog, c.Accepted = false, true
		c.Entered = c.Entered.notBefore(got)
	}
	if c.Accepted {
		c.Quiet = c.Quiet.notBefore(c.Entered.Safe)
	}
}

// Memory returns what is known of the connection in the form in which it outlives
// a restart.
func (c *Connection) Memory() sock.Memory {
	m := sock.Memory{
		Key: c.ID.Key(), ID: c.ID.Sum(), State: c.State,
		Entered: c.Entered.Safe, Quiet: c.Quiet.Safe,
		Acked: c.Acked, Received: c.Received, SegsIn: c.SegsIn,
		Backlog: c.Backlog, Accepted: c.Accepted,
	}
	if c.Queued != Never {
		m.Queued = c.Queued
	}
	return m
}

// Remembered returns what an earlier run knew of a connection, for an answer that
// was asked for at the instant sent to confirm or refute.
func Remembered(m *sock.Memory, id sock.ID, sent sock.Instant) Connection {
	c := Connection{
		ID: id, State: m.State, Backlog: m.Backlog, Accepted: m.Accepted && !m.Backlog,
		Times: Times{Entered: Bound{m.Entered, m.Entered}, Quiet: Bound{m.Quiet, m.Quiet}, Heard: Bound{m.Quiet, m.Quiet}, Queued: m.Queued},
		Acked: m.Acked, Received: m.Received, SegsIn: m.SegsIn, Counted: m.SegsIn > 0,
	}
	if m.Queued == 0 {
		c.Queued = Never
	}
	return c
}

// retransBy is how often a SYN of that age has been sent again at least: after one
// second, after two more, four more and so on (TCP_TIMEOUT_INIT), or more often
// (net.ipv4.tcp_syn_linear_timeouts). A timer may be an eighth late, on a busy machine more. In
// SYN_SENT nothing else tells a socket that was connected anew while nobody watched.
func retransBy(age time.Duration) uint8 {
	seconds := uint64(max(0, age-age/5) / time.Second)
	return uint8(min(bits.Len64(seconds+1)-1, 6)) // net.ipv4.tcp_syn_retries
}
