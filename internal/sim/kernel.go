package sim

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Socket is a socket of the simulated kernel: the truth, to the nanosecond.
type Socket struct {
	ID       sock.ID
	State    ssfilter.State
	Conn     int // number of the connection that the socket carries
	Mini     bool
	Inode    uint32
	MPTCP    bool
	ByKernel bool      // no process holds it
	BySelf   bool      // the watchdog holds it
	Held     []Holding // who has held it since when, the first to begin with
	UID      uint32

	Bound  bool // to its local port, by the program
	Mark   uint32
	Marked bool // the kernel tells the mark of a full socket

	Cgroup     string // its path; "": not known
	NetnsNames string // as in sock.Socket

	Entered  sock.Instant // in its state since
	Followed bool         // a source sees it change its state from now on
	Seen     bool         // and saw it enter the present one
	Accepted sock.Instant // from an accept queue; 0: it never waited in one, or still does
	Shut     sock.Instant // its connection was shut down on this side; 0: it was not
	Progress sock.Instant // last progress
	Queued   sock.Instant // something to send since; Never: nothing
	Changed  sock.Instant // last of all changes that matter to a rule
	RQueue   uint32       // of a listener: connections in its accept queue
	WQueue   uint32       // bytes where something is queued, 0 stands for some; of a listener: the limit of its queue

	LastAck, LastData sock.Instant
	Acked, Received   uint64
	Segs              uint32
	Retrans           uint8
	Keepalive         time.Duration // 0: off
	Expires           sock.Instant  // of a minisocket

	Disturbed bool // a question or an act about it went wrong
	Told      int  // acts on the present connection that the kernel was told of
}

// Holding is who holds a socket from an instant on, by PID.
type Holding struct {
	Since sock.Instant
	By    []int
}

// HeldAt returns who held the socket at an instant.
func (s *Socket) HeldAt(at sock.Instant) []int {
	for i := len(s.Held) - 1; i >= 0; i-- {
		if i == 0 || s.Held[i].Since <= at {
			return s.Held[i].By
		}
	}
	return nil
}

// Pass has other processes hold the socket from now on.
func (s *Socket) Pass(by []int, now sock.Instant) { s.Held = append(s.Held, Holding{now, by}) }

// Passed is when the holders last changed; 0: they never did.
func (s *Socket) Passed() sock.Instant {
	if len(s.Held) < 2 {
		return 0
	}
	return s.Held[len(s.Held)-1].Since
}

func (s *Socket) String() string {
	return fmt.Sprintf("socket %d.%d %s entered %v progress %v queued %v changed %v rqueue %d keepalive %v inode %d held by %v since %v",
		s.ID.Cookie, s.Conn, s.State, Text(s.Entered), Text(s.Progress), Text(s.Queued), Text(s.Changed), s.RQueue, s.Keepalive, s.Inode, s.HeldAt(Never), Text(s.Passed()))
}

// Text is an instant of a simulation as its traces have it.
func Text(t sock.Instant) string {
	if t == Never {
		return "never"
	}
	return time.Duration(t).String()
}

// Base is the true instant that time bounds count from.
func (s *Socket) Base() sock.Instant { return max(s.Entered, s.Progress, s.Accepted) }

// SilentBase is the true instant that a time without a word from the peer counts from.
func (s *Socket) SilentBase() sock.Instant {
	switch s.State {
	case ssfilter.Established, ssfilter.FinWait1, ssfilter.FinWait2:
		if !s.Mini {
			return max(s.Entered, s.LastData, s.Accepted)
		}
	}
	return s.Base() // the peer sends no more
}

// InAcceptQueue reports whether the socket is in an accept queue.
func (s *Socket) InAcceptQueue() bool {
	return s.Inode == 0 && (s.State == ssfilter.Established || s.State == ssfilter.CloseWait)
}

// Stages are the states of which a source that sees sockets change tells the age.
var Stages = ssfilter.Of(ssfilter.SynSent, ssfilter.FinWait1, ssfilter.FinWait2, ssfilter.CloseWait, ssfilter.LastAck, ssfilter.Closing)

// Report is what the source shows of the socket now: elapsed times in jiffies.
func (s *Socket) Report(now sock.Instant, jiffy time.Duration) sock.Socket {
	ticks := func(t sock.Instant) sock.Instant { return t - t%sock.Instant(jiffy) }
	elapsed := func(t sock.Instant) time.Duration { return ticks(now).Sub(ticks(t)) }
	id := s.ID
	if id.Family == 0 {
		id = between(id)
	}
	r := sock.Socket{
		Conn: ssfilter.Conn{State: s.State, Src: id.Local(), Dst: id.Peer(), Cgroup: s.Cgroup},
		ID:   id, MPTCP: s.MPTCP, Inode: s.Inode, UID: s.UID, RQueue: s.RQueue, Retrans: s.Retrans, NetnsNames: s.NetnsNames,
	}
	if s.State == ssfilter.Listening {
		r.WQueue = s.WQueue
		return r
	}
	if s.Mini {
		r.Timer, r.Expires = sock.TimerTimeWait, max(0, ticks(s.Expires).Sub(ticks(now)))
		return r
	}
	r.Mark, r.HasMark = s.Mark, s.Marked
	if s.Seen && Stages.Has(s.State) {
		r.Entered, r.Unmoved = s.Entered, s.Progress <= s.Entered
	}
	if s.Keepalive > 0 {
		r.Timer, r.Expires = sock.TimerKeepalive, s.Keepalive
	}
	if s.Queued != Never {
		r.WQueue, r.Info.Unacked, r.Timer = cmp.Or(s.WQueue, 100), 1, sock.TimerRetransmit
	}
	r.Info = sock.Info{
		Has:     1<<8 - 1,
		Unacked: r.Info.Unacked, SegsIn: s.Segs,
		LastDataRecv: elapsed(s.LastData), LastAckRecv: elapsed(s.LastAck),
		BytesAcked: s.Acked, BytesReceived: s.Received,
	}
	if s.State == ssfilter.SynSent {
		r.Info.LastDataRecv, r.Info.LastAckRecv = time.Hour, time.Hour // garbage
		r.Retrans = resent(now.Sub(s.Entered))
	}
	return r
}

// resent is how often a SYN of that age has been sent again: after one second, two more, four
// more and so on.
func resent(age time.Duration) uint8 {
	return uint8(bits.Len64(uint64(max(0, age)/time.Second)+1) - 1)
}

// Scan is what a scan shows of the socket: what only bytecode can ask for comes
// with it where the query asks.
func (s *Socket) Scan(q *sock.Query, now sock.Instant, jiffy time.Duration) sock.Socket {
	r := s.Report(now, jiffy)
	if ssfilter.Asks(q.Where).Autobound {
		r.Autobound = ssfilter.TriOf(!s.Bound || s.Mini) // which has no locks
	}
	return r
}

// Kernel holds the sockets of a simulation. What happens to them is scheduled on
// its clock.
type Kernel struct {
	Clock
	Rand       *rand.Rand
	TellsMarks bool // of full sockets
	Passes     bool // programs pass sockets on, and fork
	Follows    bool // a source sees connections change that begin from now on

	Sockets map[uint64]*Socket // by cookie
	Table   []uint64           // cookies in the order of the hash table
	cookies uint64
	InSegs  uint64
	Taken   int // sockets that left the table: what shifts a dump's cursor
}

// Ack arrives for s, without any progress.
func (k *Kernel) Ack(s *Socket) {
	s.Segs++
	k.InSegs++
	s.LastAck = k.Now
}

// Advance is progress: the peer acknowledged, or sent, something.
func (k *Kernel) Advance(s *Socket, sent, received uint64) {
	s.Segs++
	k.InSegs++
	if sent > 0 {
		s.LastAck = k.Now
	}
	if received > 0 {
		s.LastData = k.Now // the fast path leaves LastAck alone
	}
	s.Acked += sent
	s.Received += received
	s.Progress, s.Changed = k.Now, k.Now
}

// Enter has s enter a state by a segment.
func (k *Kernel) Enter(s *Socket, state ssfilter.State) {
	k.Ack(s)
	s.State, s.Entered, s.Changed, s.Seen = state, k.Now, k.Now, s.Followed
}

// Follow has a source see what happens from now on to new connections, and perhaps to
// those that are there.
func (k *Kernel) Follow(older bool) {
	k.Follows = true
	for _, s := range k.Sockets {
		s.Followed = s.Followed || older
	}
}

// Lose has that source go away, and with it all that it saw.
func (k *Kernel) Lose() {
	k.Follows = false
	for _, s := range k.Sockets {
		s.Followed, s.Seen = false, false
	}
}

// ShutDown sends the FIN of s.
func (k *Kernel) ShutDown(s *Socket) {
	s.State = map[ssfilter.State]ssfilter.State{ssfilter.CloseWait: ssfilter.LastAck, ssfilter.Established: ssfilter.FinWait1}[s.State]
	s.Entered, s.Changed, s.Seen, s.Shut = k.Now, k.Now, s.Followed, k.Now
	if s.Queued == Never {
		s.Queued = k.Now
	}
}

// TimeWait makes a minisocket of s, which takes away what the kernel knew of its progress.
func (k *Kernel) TimeWait(s *Socket, state ssfilter.State, lasts time.Duration) {
	s.Changed = k.Now
	s.State, s.Mini, s.Inode, s.UID, s.Expires = state, true, 0, 0, s.Entered.Add(lasts)
	if s.Expires < k.Now {
		s.Expires = k.Now.Add(lasts)
	}
	k.After(s, s.Expires.Sub(k.Now), func() { k.Remove(s) })
}

// Remove takes s out of the table.
func (k *Kernel) Remove(s *Socket) {
	if k.Sockets[s.ID.Cookie] == s {
		delete(k.Sockets, s.ID.Cookie)
		k.Taken++
	}
}

// TimeWaits is how many minisockets there are.
func (k *Kernel) TimeWaits() (n uint64) {
	for _, s := range k.Sockets {
		if s.Mini {
			n++
		}
	}
	return n
}

// between returns an id with the addresses of sockets for which those do not matter.
func between(id sock.ID) sock.ID {
	const inet = 2 // AF_INET
	id.Family, id.Src, id.Dst = inet, [16]byte{10, 0, 0, 1}, [16]byte{10, 0, 0, 2}
	return id
}

// Open makes a socket in an established connection to a port.
func (k *Kernel) Open(dport uint16) *Socket {
	k.cookies++
	k.InSegs++
	s := &Socket{
		ID: between(sock.ID{Cookie: k.cookies}), State: ssfilter.Established, Inode: 1000 + uint32(k.cookies), UID: 1000, Marked: k.TellsMarks,
		Followed: k.Follows, Seen: k.Follows,
		Entered: k.Now, Progress: k.Now, Changed: k.Now, LastAck: k.Now, LastData: k.Now, Queued: Never, Acked: 1, Segs: 1,
	}
	binary.BigEndian.PutUint16(s.ID.SPort[:], uint16(10000+k.cookies))
	binary.BigEndian.PutUint16(s.ID.DPort[:], dport)
	k.Sockets[k.cookies] = s
	k.Table = slices.Insert(k.Table, k.Rand.IntN(len(k.Table)+1), k.cookies)
	return s
}

// After has do happen to s later, if that is still the same connection then.
func (k *Kernel) After(s *Socket, d time.Duration, do func()) {
	conn := s.Conn
	k.At(k.Now.Add(d), func() {
		if k.Sockets[s.ID.Cookie] == s && s.Conn == conn {
			do()
		}
	})
}

// Probe has s send keepalives, which its peer answers.
func (k *Kernel) Probe(s *Socket) {
	k.After(s, s.Keepalive, func() {
		if !s.Mini && s.Keepalive > 0 {
			k.Ack(s)
			k.Probe(s)
		}
	})
}
