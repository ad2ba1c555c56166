package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
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
	ByKernel bool // no process holds it
	BySelf   bool // the watchdog holds it
	UID      uint32

	Bound    bool // to its local port, by the program
	Mark     uint32
	Marked   bool // the kernel tells the mark of a full socket
	Remarked int  // times that the program changed it

	Entered  sock.Instant // in its state since
	Accepted sock.Instant // from an accept queue; 0: it never waited in one, or still does
	Progress sock.Instant // last progress
	Queued   sock.Instant // something to send since; Never: nothing
	Changed  sock.Instant // last of all changes that matter to a rule
	RQueue   uint32

	LastAck, LastData sock.Instant
	Acked, Received   uint64
	Segs              uint32
	Retrans           uint8
	Keepalive         time.Duration // 0: off
	Expires           sock.Instant  // of a minisocket

	Disturbed bool // a question or an act about it went wrong
	Told      int  // acts on the present connection that the kernel was told of
}

func (s *Socket) String() string {
	return fmt.Sprintf("socket %d.%d %s entered %v progress %v queued %v changed %v rqueue %d keepalive %v inode %d",
		s.ID.Cookie, s.Conn, s.State, Text(s.Entered), Text(s.Progress), Text(s.Queued), Text(s.Changed), s.RQueue, s.Keepalive, s.Inode)
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

// InAcceptQueue reports whether the socket is in an accept queue.
func (s *Socket) InAcceptQueue() bool {
	return s.Inode == 0 && (s.State == ssfilter.Established || s.State == ssfilter.CloseWait)
}

// Report is what the kernel shows of the socket now: elapsed times in jiffies.
func (s *Socket) Report(now sock.Instant, jiffy time.Duration) sock.Socket {
	ticks := func(t sock.Instant) sock.Instant { return t - t%sock.Instant(jiffy) }
	elapsed := func(t sock.Instant) time.Duration { return ticks(now).Sub(ticks(t)) }
	id := s.ID
	const inet = 2 // AF_INET
	id.Family, id.Src, id.Dst = inet, [16]byte{10, 0, 0, 1}, [16]byte{10, 0, 0, 2}
	r := sock.Socket{
		Conn: ssfilter.Conn{State: s.State, Src: id.Local(), Dst: id.Peer()},
		ID:   id, MPTCP: s.MPTCP, Inode: s.Inode, UID: s.UID, RQueue: s.RQueue, Retrans: s.Retrans,
	}
	if s.Mini {
		r.Timer, r.Expires = sock.TimerTimeWait, max(0, ticks(s.Expires).Sub(ticks(now)))
		return r
	}
	r.Mark, r.HasMark = s.Mark, s.Marked
	if s.Keepalive > 0 {
		r.Timer, r.Expires = sock.TimerKeepalive, s.Keepalive
	}
	if s.Queued != Never {
		r.WQueue, r.Info.Unacked, r.Timer = 100, 1, sock.TimerRetransmit
	}
	r.Info = sock.Info{
		Has:     1<<8 - 1,
		Unacked: r.Info.Unacked, SegsIn: s.Segs,
		LastDataRecv: elapsed(s.LastData), LastAckRecv: elapsed(s.LastAck),
		BytesAcked: s.Acked, BytesReceived: s.Received,
	}
	if s.State == ssfilter.SynSent {
		r.Info.LastDataRecv, r.Info.LastAckRecv = time.Hour, time.Hour // garbage
	}
	return r
}

// Scan is what a scan shows of the socket: what only bytecode can ask for comes
// with it where the query asks.
func (s *Socket) Scan(q *sock.Query, now sock.Instant, jiffy time.Duration) sock.Socket {
	r := s.Report(now, jiffy)
	if ssfilter.AsksAutobound(q.Where) {
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

	Sockets map[uint64]*Socket // by cookie
	Table   []uint64           // cookies in the order of the hash table
	cookies uint64
	InSegs  uint64
	Taken   int // sockets that left the table: what shifts a dump's cursor
}

// segment arrives for s.
func (k *Kernel) segment(s *Socket) {
	s.Segs++
	k.InSegs++
}

// ack arrives for s, without any progress.
func (k *Kernel) ack(s *Socket) {
	k.segment(s)
	s.LastAck = k.Now
}

// advance is progress: the peer acknowledged, or sent, something.
func (k *Kernel) advance(s *Socket, sent, received uint64) {
	k.segment(s)
	if sent > 0 {
		s.LastAck = k.Now
	}
	if received > 0 {
		s.LastData = k.Now // the fast path leaves lastAck alone
	}
	s.Acked += sent
	s.Received += received
	s.Progress, s.Changed = k.Now, k.Now
}

// enter has s enter a state by a segment.
func (k *Kernel) enter(s *Socket, state ssfilter.State) {
	k.ack(s)
	s.State, s.Entered, s.Changed = state, k.Now, k.Now
}

// Remove takes s out of the table.
func (k *Kernel) Remove(s *Socket) {
	if k.Sockets[s.ID.Cookie] == s {
		delete(k.Sockets, s.ID.Cookie)
		k.Taken++
	}
}

// alive says whether s is still there, as the connection that it was.
func (k *Kernel) alive(s *Socket, conn int) bool {
	return k.Sockets[s.ID.Cookie] == s && s.Conn == conn
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

// open makes a socket of some age in an established connection.
func (k *Kernel) open(age time.Duration) *Socket {
	k.cookies++
	s := &Socket{State: ssfilter.Established, Inode: 1000 + uint32(k.cookies), UID: 1000, Queued: Never}
	s.ID = sock.ID{Family: 2, Cookie: k.cookies}
	binary.BigEndian.PutUint16(s.ID.SPort[:], uint16(10000+k.cookies))
	binary.BigEndian.PutUint16(s.ID.DPort[:], uint16(Ports[k.Rand.IntN(len(Ports))]))
	born := k.Now.Add(-age)
	s.Entered, s.Progress, s.Changed, s.LastAck, s.LastData = born, born, born, born, born
	s.Acked, s.Received, s.Segs = 1, 0, 1
	switch k.Rand.IntN(40) {
	case 0:
		s.MPTCP = true
	case 1:
		s.ByKernel, s.UID = true, []uint32{0, 65534}[k.Rand.IntN(2)]
	case 2:
		s.BySelf, s.UID = true, SelfUID
	case 3:
		s.UID = 0
	}
	s.Bound, s.Marked, s.Mark = k.Rand.IntN(3) == 0, k.TellsMarks, uint32(k.Rand.IntN(3))
	k.Sockets[k.cookies] = s
	i := k.Rand.IntN(len(k.Table) + 1)
	k.Table = append(k.Table[:i], append([]uint64{k.cookies}, k.Table[i:]...)...)
	k.InSegs++
	return s
}

// Ports are those on the other side, of which rules may name some.
var Ports = []int{22, 80, 443, 5432}

// SelfUID is the watchdog's own user.
const SelfUID = 990

// after has do happen to s later, if that is still the same connection then.
func (k *Kernel) after(s *Socket, d time.Duration, do func()) {
	conn := s.Conn
	k.At(k.Now.Add(d), func() {
		if k.alive(s, conn) {
			do()
		}
	})
}

// probe has s send keepalives, which its peer answers.
func (k *Kernel) probe(s *Socket) {
	k.after(s, s.Keepalive, func() {
		if !s.Mini && s.Keepalive > 0 {
			k.ack(s)
			k.probe(s)
		}
	})
}

// send has s send something now and then, for as long as it may.
func (k *Kernel) send(s *Socket, times int) {
	if times == 0 {
		return
	}
	k.after(s, k.UpTo(20*time.Second), func() {
		if s.Mini || s.Queued != Never {
			return
		}
		s.Queued, s.Changed = k.Now, k.Now
		rtt := k.UpTo(50 * time.Millisecond)
		if k.Rand.IntN(3) == 0 {
			rtt = k.UpTo(time.Minute) // the path is broken for a while; retransmissions follow
		}
		k.after(s, rtt, func() {
			if !s.Mini {
				s.Queued = Never
				k.advance(s, 1+uint64(k.Rand.IntN(100)), 0)
				k.send(s, times-1)
			}
		})
	})
}

// receive has the peer of s send something now and then.
func (k *Kernel) receive(s *Socket, times int) {
	if times == 0 {
		return
	}
	k.after(s, k.UpTo(20*time.Second), func() {
		if s.State == ssfilter.Established || s.State == ssfilter.FinWait2 && !s.Mini {
			k.advance(s, 0, 1+uint64(k.Rand.IntN(100)))
			k.receive(s, times-1)
		}
	})
}

// read has the program change the receive queue now and then.
func (k *Kernel) read(s *Socket) {
	k.after(s, k.UpTo(30*time.Second), func() {
		s.RQueue, s.Changed = uint32(k.Rand.IntN(3)), k.Now
		k.read(s)
	})
}

// accept has a program take the socket from the accept queue, sooner or later.
func (k *Kernel) accept(s *Socket) {
	k.after(s, k.UpTo(90*time.Second), func() {
		s.Inode, s.UID = 1000+uint32(s.ID.Cookie), 1000
		if s.BySelf {
			s.UID = SelfUID
		} else if s.ByKernel {
			s.UID = 0
		}
		s.Accepted, s.Changed = k.Now, k.Now
		k.read(s)
	})
}

// remark has the program set the mark now and then.
func (k *Kernel) remark(s *Socket) {
	k.after(s, k.UpTo(30*time.Second), func() {
		s.Mark, s.Changed = uint32(k.Rand.IntN(3)), k.Now
		s.Remarked++
		k.remark(s)
	})
}

// age moves the past of a new socket, so that the world does not begin with it.
func (s *Socket) age(d time.Duration) {
	for _, t := range []*sock.Instant{&s.Entered, &s.Progress, &s.Changed, &s.LastAck, &s.LastData} {
		*t = t.Add(-d)
	}
}

// timewait makes a minisocket of s, which takes away what the kernel knew of its progress.
func (k *Kernel) timewait(s *Socket, state ssfilter.State, lasts time.Duration) {
	s.Changed = k.Now
	s.State, s.Mini, s.Inode, s.UID, s.Expires = state, true, 0, 0, s.Entered.Add(lasts)
	if s.Expires < k.Now {
		s.Expires = k.Now.Add(lasts)
	}
	k.after(s, s.Expires.Sub(k.Now), func() { k.Remove(s) })
}

// Populate adds one socket with a life of its own. Those that are there when the
// world begins have a past.
func (k *Kernel) Populate(past time.Duration) {
	s := k.open(0)
	if k.Rand.IntN(4) == 0 {
		s.Keepalive = time.Second + k.UpTo(15*time.Second)
		k.probe(s)
	}
	if k.Rand.IntN(4) == 0 {
		s.Received = uint64(k.Rand.IntN(1000)) // and otherwise none
		s.Segs += uint32(k.Rand.IntN(10))
	}
	if k.Rand.IntN(8) == 0 {
		k.remark(s)
	}
	older := k.UpTo(past + 1)
	kind := k.Rand.IntN(15)
	switch kind {
	case 0, 1, 2, 3: // a leak
		k.enter(s, ssfilter.CloseWait)
		s.age(older)
		switch kind {
		case 1:
			k.send(s, k.Rand.IntN(6))
		case 2:
			k.read(s)
		}
	case 4: // in an accept queue
		k.enter(s, ssfilter.CloseWait)
		s.Inode, s.UID = 0, 0
		s.age(older)
		if k.Rand.IntN(2) == 0 {
			k.accept(s)
		}
	case 13: // the same, and its peer is patient
		s.Inode, s.UID = 0, 0
		s.age(older)
		k.receive(s, k.Rand.IntN(3))
		k.accept(s)
	case 14: // the same, until its peer closes
		s.Inode, s.UID = 0, 0
		s.age(older)
		k.receive(s, k.Rand.IntN(3))
		k.after(s, k.UpTo(time.Minute), func() { k.enter(s, ssfilter.CloseWait) })
		k.accept(s)
	case 5, 6: // in use, now and then
		s.age(older)
		k.send(s, k.Rand.IntN(8))
		k.receive(s, k.Rand.IntN(8))
	case 7: // closed by its peer while we watch
		k.receive(s, k.Rand.IntN(3))
		k.after(s, k.UpTo(time.Minute), func() { k.enter(s, ssfilter.CloseWait) })
	case 8:
		k.enter(s, ssfilter.TimeWait)
		s.age(min(older, 50*time.Second))
		k.timewait(s, ssfilter.TimeWait, sock.TimeWaitLen)
	case 9:
		k.enter(s, ssfilter.FinWait2)
		s.age(older)
		k.receive(s, k.Rand.IntN(4))
		if k.Rand.IntN(2) == 0 {
			k.after(s, k.UpTo(time.Minute), func() { k.timewait(s, ssfilter.FinWait2, time.Second+k.UpTo(2*time.Minute)) })
		}
	case 10: // a dead peer: something is queued for good
		s.age(older)
		k.after(s, k.UpTo(30*time.Second), func() { s.Queued, s.Changed = k.Now, k.Now })
	case 11: // connects anew under the same cookie and from the same port
		k.enter(s, ssfilter.CloseWait)
		s.age(older)
		k.reconnect(s)
	case 12: // a state that the kernel keeps no time of
		s.State = []ssfilter.State{ssfilter.SynSent, ssfilter.FinWait1, ssfilter.LastAck, ssfilter.Closing}[k.Rand.IntN(4)]
		s.Entered, s.Changed, s.Queued = k.Now, k.Now, k.Now
		if s.State != ssfilter.SynSent {
			s.Inode, s.UID, s.Keepalive = 0, 0, 0
		}
	}
	if k.Rand.IntN(3) == 0 { // its program closes it
		k.after(s, k.UpTo(2*time.Minute), func() { k.Remove(s) })
	}
}

func (k *Kernel) reconnect(s *Socket) {
	k.after(s, k.UpTo(90*time.Second), func() {
		s.Conn++
		s.Bound = !s.Bound // some other way than before
		s.Told, s.RQueue, s.Queued = 0, 0, Never
		s.Segs = uint32(k.Rand.IntN(20))
		if k.Rand.IntN(3) == 0 { // and otherwise the peer says what it said before
			s.Acked, s.Received = 1, uint64(k.Rand.IntN(200))
		}
		s.LastData = k.Now
		s.Progress = k.Now
		k.enter(s, ssfilter.Established)
		k.after(s, k.UpTo(3*time.Second), func() {
			k.enter(s, ssfilter.CloseWait)
			k.reconnect(s)
		})
		if s.Keepalive > 0 {
			k.probe(s)
		}
	})
}
