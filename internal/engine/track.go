package engine

import (
	"math/bits"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// track is what is known of one connection in one state.
type track struct {
	id    sock.ID
	state ssfilter.State
	times
	counted         bool // the last answer had counters
	acked, received uint64
	segsIn          uint32
	retrans         uint8
	inode           uint32
	autobound       ssfilter.Tri // as the last scan said that asked for it
	got             sock.Instant // of the last answer
	backlog         bool         // that showed it in an accept queue
	accepted        bound        // of one that was seen in an accept queue: when a program got it; zero: of any other
	plain           bool         // the kernel alone knows its times as well, and will at a later scan

	of    classSet // classes of the rules it may match
	scan  uint64   // number of the scan that last saw it
	phase phase
	alarm seat         // where phase is waiting: when to attend to it; in no queue: when a scan sees it
	goal  sock.Instant // what for: when to ask for it

	marks   []mark      // what was done or said, each at most once per connection
	held    *Action     // a limit holds this back
	line    seat        // among those that the limit holds back
	turn    bool        // the limit let it go on: it is asked for afresh
	would   bool        // a dry run said so: a real one would have taken it, and no later rule gets it
	blocked bool        // due, and something that may change stands against it
	aged    bool        // a rule about groups asks for its age, of which the kernel alone knows less
	spared  []hindrance // what kept rules from acting on it, each told once

	order    sock.Instant // among those due at the same instant, the lowest comes first
	rule     *ruleState   // of the act held back or under way
	action   int
	failures int          // of acts on it
	again    sock.Instant // after a failure: no act before
	act      *Action      // the kernel was told; to be confirmed
	unsure   bool         // its answer to that was lost
	survived bool         // it was told, and still shows the socket: nothing more is done

	holders  *Holders
	wanted   bool         // its holders are being looked for
	notOwn   bool         // the watchdog does not hold it
	foreseen bool         // it was known before it fell due
	ahead    bool         // and well before that
	patience sock.Instant // until when to wait for that; 0: not waited for yet

	stored stored // what is on disk of it
	behind bool   // the disk does not have what is known by now
}

type phase uint8

const (
	waiting phase = iota // for its alarm, for a scan, or for its turn under a limit
	asked                // the kernel was asked for it
	acted                // an act on it is under way
)

type mark struct {
	rule   *ruleState
	action uint32
	open   bool // it was held back, or failed: still to be done
}

func newTrack(id sock.ID, state ssfilter.State) *track {
	t := &track{id: id, state: state}
	t.alarm.track, t.line.track = t, t
	return t
}

// dataRecvSlack is how far an age may exceed last_data_recv before the two
// contradict each other: one jiffy, at the longest that Linux has, and as much as
// the tick that counts it may be late.
const dataRecvSlack = 20 * time.Millisecond

// sameConnection reports whether s is the connection that the track is about.
// The cookie names a socket, not a connection: after connect(AF_UNSPEC) and a
// new connect from a bound port, cookie and four-tuple are the same. What falls
// gives it away: the counters, the retransmissions of a SYN; and so does an age
// that the kernel contradicts.
func (t *track) sameConnection(s *sock.Socket, sent sock.Instant) bool {
	if s.ID != t.id || s.State != t.state {
		return false
	}
	has := s.Info.Has
	if has&sock.HasSegsIn != 0 && s.Info.SegsIn < t.segsIn && t.segsIn-s.Info.SegsIn < 1<<31 ||
		has&sock.HasBytesAcked != 0 && s.Info.BytesAcked < t.acked ||
		has&sock.HasBytesReceived != 0 && s.Info.BytesReceived < t.received {
		return false
	}
	if s.State == ssfilter.SynSent {
		return s.Retrans >= t.retrans // its last_data_recv is garbage
	}
	if has&sock.HasLastDataRecv == 0 {
		return true
	}
	oldest := s.Info.LastDataRecv + dataRecvSlack
	if s.State == ssfilter.CloseWait && sent.Sub(t.entered.safe) > oldest {
		return false
	}
	return t.progressed(s) || sent.Sub(t.quiet.safe) <= oldest
}

// progressed reports whether the peer acknowledged or sent something since the
// track was last updated, or may have.
func (t *track) progressed(s *sock.Socket) bool {
	const both = sock.HasBytesAcked | sock.HasBytesReceived
	if s.Info.Has&both != both {
		// Timewait and request sockets have no counters, and nothing to count; but
		// a full socket may have made progress before it became one.
		return t.counted || !s.Minisocket() && s.State != ssfilter.SynRecv
	}
	return s.Info.BytesAcked != t.acked || s.Info.BytesReceived != t.received
}

// tellAutobound completes an answer with what only scans tell: whether the kernel
// chose the local port. It cannot change while the connection lasts.
func (t *track) tellAutobound(s *sock.Socket) {
	if s.Autobound == ssfilter.Unknown {
		s.Autobound = t.autobound
	}
}

// begin takes over what the first answer about a connection says.
func (t *track) begin(s *sock.Socket, fresh times, sent, got sock.Instant) {
	t.times = fresh
	t.count(s)
	t.accept(s, sent, got)
}

// count takes over what a later answer is compared with.
func (t *track) count(s *sock.Socket) {
	t.counted = s.Info.Has&(sock.HasBytesAcked|sock.HasBytesReceived) != 0
	t.acked, t.received, t.segsIn, t.retrans, t.inode = s.Info.BytesAcked, s.Info.BytesReceived, s.Info.SegsIn, s.Retrans, s.Inode
}

// update takes over what a further answer says. fresh is what it says alone.
func (t *track) update(s *sock.Socket, fresh times, sent, got sock.Instant) {
	t.entered = t.entered.narrow(fresh.entered)
	switch {
	case t.progressed(s):
		t.quiet, t.queued = fresh.quiet, fresh.queued
		t.stored.quiet = never // whatever the disk has is of another time
	default:
		t.quiet = t.quiet.narrow(fresh.quiet)
		// Nothing was acknowledged since, so what was queued then is queued now.
		if fresh.queued == never {
			t.queued = never
		} else {
			t.queued = min(t.queued, fresh.queued)
		}
	}
	t.count(s)
	t.accept(s, sent, got)
}

// successor is a track of what the socket is now, which was something else. It
// goes on waiting in an accept queue.
func (t *track) successor(s *sock.Socket) *track {
	next := newTrack(s.ID, s.State)
	if t.id == s.ID {
		next.backlog, next.accepted = t.backlog, t.accepted
	}
	return next
}

// accept takes in whether the answer shows the socket in an accept queue. A
// socket's time counts from when a program had it: once an answer shows that one
// has it, no time before the last answer that showed it waiting counts, and for
// certain none before this one.
func (t *track) accept(s *sock.Socket, sent, got sock.Instant) {
	if inBacklog(s) {
		t.backlog, t.accepted = true, bound{early: sent}
		return
	}
	if t.backlog {
		t.backlog, t.accepted.safe = false, got
	}
	if t.accepted != (bound{}) {
		t.entered, t.quiet = t.entered.notBefore(t.accepted), t.quiet.notBefore(t.accepted)
	}
}

// remembered makes a track of what an earlier run knew, for an answer that was asked
// for at the instant sent to confirm or refute.
func remembered(m sock.Memory, id sock.ID, sent sock.Instant) *track {
	queued := m.Queued
	if queued == 0 {
		queued = never
	}
	t := newTrack(id, m.State)
	t.times = times{entered: bound{m.Entered, m.Entered}, quiet: bound{m.Quiet, m.Quiet}, queued: queued}
	t.acked, t.received, t.segsIn = m.Acked, m.Received, m.SegsIn
	t.counted = t.segsIn > 0
	if m.State == ssfilter.SynSent {
		t.retrans = retransBy(sent.Sub(m.Entered))
	}
	switch {
	case m.Backlog:
		t.backlog, t.accepted = true, bound{early: m.Entered}
	case m.Accepted:
		t.accepted = t.entered
	}
	t.stored = storedOf(&m)
	return t
}

// retransBy is how often a SYN of that age has been sent again at least: after one
// second, after two more, four more and so on (TCP_TIMEOUT_INIT), or more often
// (net.ipv4.tcp_syn_linear_timeouts). A timer may be a tenth late. In SYN_SENT nothing
// else tells a socket that was connected anew while nobody watched.
func retransBy(age time.Duration) uint8 {
	seconds := uint64(max(0, age-age/10) / time.Second)
	return uint8(min(bits.Len64(seconds+1)-1, 6)) // net.ipv4.tcp_syn_retries
}

// marked returns what was done or said about an action of a rule.
func (t *track) marked(rule *ruleState, action int) *mark {
	for i := range t.marks {
		if t.marks[i].rule == rule && int(t.marks[i].action) == action {
			return &t.marks[i]
		}
	}
	return nil
}

// mark notes that an action of a rule was done.
func (t *track) mark(rule *ruleState, action int) {
	if m := t.marked(rule, action); m != nil {
		m.open = false
		return
	}
	t.marks = append(t.marks, mark{rule: rule, action: uint32(action)})
}

// unmark notes that it is as if the action of a rule had not been done.
func (t *track) unmark(rule *ruleState, action int) {
	t.marks = slices.DeleteFunc(t.marks, func(m mark) bool { return m.rule == rule && int(m.action) == action })
}

// reopen lets an action of a rule be done again.
func (t *track) reopen(rule *ruleState, action int) {
	if m := t.marked(rule, action); m != nil {
		m.open = true
	}
}
