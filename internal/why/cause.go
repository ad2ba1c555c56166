package why

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// cause is why sockets are stuck.
type cause struct {
	Name  string
	note  bool // it is no leak by itself
	least int  // how many sockets are worth telling

	// What the owner does, with %s for its connections, and what to look for in it.
	asClient, asServer wording
}

// wording is what an owner does, and what to look for.
type wording struct{ does, look string }

// The verdicts of CLOSE_WAIT have the names that rules know; the others are told by state.
var (
	eofReadNotClosed = &cause{
		Name: string(rules.EOFReadNotClosed), least: 1,
		asClient: wording{"read the end of stream on %s and never closed them", "a connection taken from a pool is not given back, or an error path returns without close"},
		asServer: wording{"read the end of stream on %s and never closed them", "the handler has returned, or waits for something else, and nobody closes the connection"},
	}
	eofUnread = &cause{
		Name: string(rules.EOFUnread), least: 1,
		asClient: wording{"never read the end of stream on %s", "they lie in a pool that nobody tests or empties, or nobody reads a response to its end and closes it"},
		asServer: wording{"never read the end of stream on %s", "the handler is stuck before its next read, as in a lock or a slow call, or the connection is forgotten"},
	}
	unreadData = &cause{
		Name: string(rules.UnreadData), least: 1,
		asClient: wording{"has left data unread on %s that the peer has closed", "responses arrive that nobody reads, as when the reader is stuck or has given up without close"},
		asServer: wording{"has left data unread on %s that the client has closed", "requests arrive that nobody reads, as when the workers are stuck or too few"},
	}
	stillSending = &cause{
		Name: string(rules.StillSending), note: true, least: 1,
		asClient: wording{"still sends on %s that the peer has closed for its part", "half-closed on purpose and in use, they are left alone"},
		asServer: wording{"still sends on %s that the client has closed for its part", "half-closed on purpose and in use, they are left alone"},
	}
	inBacklog = &cause{
		Name: string(rules.InBacklog), least: 1,
		asClient: wording{"has not accepted %s", "the loop that accepts has ended, is stuck, or too slow"},
		asServer: wording{"has not accepted %s", "the loop that accepts has ended or is stuck, as when all workers are busy or accept fails for want of descriptors"},
	}
	deadSockets = &cause{
		Name: "dead-sockets", least: 1,
		asClient: wording{"holds %s in no table any more", "they were killed, reset, timed out or never connected, and are still not closed, which ss does not show: after an error of read or write nobody calls close"},
	}
	notClosed = &cause{ // of MPTCP, whose sockets do not tell whether the end was read
		Name: "not-closed", least: 1,
		asClient: wording{"has not closed %s, which the peer has closed", "a connection taken from a pool is not given back, or nobody reads its end"},
		asServer: wording{"has not closed %s, which the client has closed", "the handler has returned or is stuck, and nobody closes the connection"},
	}
	notReading = &cause{
		Name: "not-reading", least: 1,
		asClient: wording{"does not read data that has arrived on %s", "the reader is stuck, or waits on purpose"},
		asServer: wording{"does not read data that has arrived on %s", "the workers are stuck or too few, or wait on purpose"},
	}
	peerSilent = &cause{
		Name: "peer-silent", least: 1,
		asClient: wording{"sends on %s, and the peer acknowledges nothing", "the peer is gone, or a firewall or NAT has forgotten the connections, and no TCP_USER_TIMEOUT or deadline for writes ends them"},
		asServer: wording{"sends on %s, and the clients acknowledge nothing", "the clients are gone, or a firewall or NAT has forgotten the connections, and no TCP_USER_TIMEOUT or deadline for writes ends them"},
	}
	peerNotClosing = &cause{
		Name: "peer-not-closing", least: 1,
		asClient: wording{"has shut down %s for sending, and the peer does not close them", "the peer leaks, and here a deadline for reads after shutdown is missing"},
		asServer: wording{"has shut down %s for sending, and the clients do not close them", "the clients leak, and here a deadline for reads after shutdown is missing"},
	}
	unanswered = &cause{
		Name: "unanswered", note: true, least: 3,
		asClient: wording{"gets no answer to %s", "the peer is down, or a firewall drops what it is sent, and the timeout of connect decides how long they stay"},
	}
	idle = &cause{
		Name: "idle", note: true, least: 20,
		asClient: wording{"holds %s without traffic", "a pool, or connections that are taken and never given back, and --watch tells whether they grow"},
		asServer: wording{"holds %s without traffic", "clients that keep their connections, or that are gone without a word, and keepalives tell the two apart"},
	}
	timeWait = &cause{
		Name: "time-wait", note: true, least: 1000,
		asClient: wording{"holds the remains of %s", "they go by themselves within 60s, but so many take up ports, which this side would not need if it kept connections"},
		asServer: wording{"holds the remains of %s", "they go by themselves within 60s and cost little, and there would be none if it left the closing to the clients"},
	}
)

const (
	stalledFor = time.Minute     // after which nobody is merely slow
	idleFor    = 5 * time.Minute // as for a pool
)

// causeOf says why a socket is stuck; nil: it is not.
func causeOf(s *Socket) *cause {
	switch s.State {
	case ssfilter.CloseWait:
		return s.closeWait()
	case ssfilter.Established:
		return s.established()
	case ssfilter.FinWait1, ssfilter.LastAck, ssfilter.Closing:
		if s.silent() {
			return peerSilent
		}
	case ssfilter.FinWait2:
		if s.Inode != 0 && s.Idle >= stalledFor {
			return peerNotClosing
		}
	case ssfilter.SynSent:
		return unanswered
	case ssfilter.TimeWait:
		return timeWait
	}
	return nil
}

// closeWait says why a connection is stuck that the peer has closed.
func (s *Socket) closeWait() *cause {
	verdict := match.Verdict(&s.Socket)
	switch {
	case s.silent():
		return peerSilent
	case verdict != rules.InBacklog && s.Known && s.Idle < stalledFor && s.InState-s.Idle >= time.Second:
		return stillSending // what it sent since the peer closed was acknowledged
	}
	for _, c := range []*cause{eofReadNotClosed, eofUnread, unreadData, stillSending, inBacklog} {
		if c.Name == string(verdict) {
			return c
		}
	}
	return nil
}

// causeOfMPTCP says why a connection of Multipath TCP is stuck; nil: it is not, as far as the
// kernel tells.
func causeOfMPTCP(s *Socket) *cause {
	switch {
	case s.State != ssfilter.CloseWait:
		return nil
	case s.InBacklog():
		return inBacklog
	case s.InUse():
		return stillSending
	case s.RQueue > 0:
		return unreadData
	default:
		return notClosed
	}
}

// silent reports whether the peer has acknowledged nothing for long.
func (s *Socket) silent() bool { return s.InUse() && s.Idle >= stalledFor }

// established says why a connection that both ends hold is stuck.
func (s *Socket) established() *cause {
	switch {
	case s.InBacklog():
		if s.Idle >= time.Second || s.InState >= time.Second {
			return inBacklog
		}
	case s.silent():
		return peerSilent
	case s.InUse():
	case s.RQueue > 0 && s.Idle >= stalledFor:
		return notReading
	case s.Known && s.Idle >= idleFor:
		return idle
	}
	return nil
}
