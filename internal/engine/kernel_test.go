package engine

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// simSocket is a socket of the simulated kernel: the truth, to the nanosecond.
type simSocket struct {
	id     sock.ID
	state  ssfilter.State
	conn   int // number of the connection that the socket carries
	mini   bool
	inode  uint32
	mptcp  bool
	kernel bool // no process holds it
	self   bool // the watchdog holds it
	uid    uint32

	bound  bool // to its local port, by the program
	mark   uint32
	marked bool // the kernel tells the mark of a full socket

	entered  sock.Instant // in its state since
	accepted sock.Instant // from an accept queue; 0: it never waited in one, or still does
	shown    simShown     // waiting there
	progress sock.Instant // last progress
	queued   sock.Instant // something to send since; never: nothing
	changed  sock.Instant // last of all changes that matter to a rule
	rqueue   uint32

	lastAck, lastData sock.Instant
	acked, received   uint64
	segs              uint32
	retrans           uint8
	keepalive         time.Duration // 0: off
	expires           sock.Instant  // of a minisocket

	doomed    bool // the kernel takes it away by itself
	disturbed bool // a question or an act about it went wrong
	held      bool // a limit held it
	told      int  // acts on the present connection that the kernel was told of
}

func (s *simSocket) String() string {
	return fmt.Sprintf("socket %d.%d %s entered %v progress %v queued %v changed %v rqueue %d keepalive %v inode %d held %v",
		s.id.Cookie, s.conn, s.state, at(s.entered), at(s.progress), at(s.queued), at(s.changed), s.rqueue, s.keepalive, s.inode, s.held)
}

// at prints an instant of a simulation.
func at(t sock.Instant) string {
	if t == never {
		return "never"
	}
	return time.Duration(t).String()
}

// base is the true instant that time bounds count from.
func (s *simSocket) base() sock.Instant { return max(s.entered, s.progress, s.accepted) }

// waits reports whether the socket is in an accept queue.
func (s *simSocket) waits() bool {
	return s.inode == 0 && (s.state == ssfilter.Established || s.state == ssfilter.CloseWait)
}

// report is what the kernel shows of the socket now: elapsed times in jiffies.
func (s *simSocket) report(now sock.Instant, jiffy time.Duration) sock.Socket {
	ticks := func(t sock.Instant) sock.Instant { return t - t%sock.Instant(jiffy) }
	elapsed := func(t sock.Instant) time.Duration { return ticks(now).Sub(ticks(t)) }
	r := sock.Socket{
		Conn: ssfilter.Conn{
			State: s.state,
			Src:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), binary.BigEndian.Uint16(s.id.SPort[:])),
			Dst:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), binary.BigEndian.Uint16(s.id.DPort[:])),
		},
		ID: s.id, MPTCP: s.mptcp, Inode: s.inode, UID: s.uid, RQueue: s.rqueue, Retrans: s.retrans,
	}
	if s.mini {
		r.Timer, r.Expires = sock.TimerTimeWait, max(0, ticks(s.expires).Sub(ticks(now)))
		return r
	}
	r.Mark, r.HasMark = s.mark, s.marked
	if s.keepalive > 0 {
		r.Timer, r.Expires = sock.TimerKeepalive, s.keepalive
	}
	if s.queued != never {
		r.WQueue, r.Info.Unacked, r.Timer = 100, 1, sock.TimerRetransmit
	}
	r.Info = sock.Info{
		Has:     1<<8 - 1,
		Unacked: r.Info.Unacked, SegsIn: s.segs,
		LastDataRecv: elapsed(s.lastData), LastAckRecv: elapsed(s.lastAck),
		BytesAcked: s.acked, BytesReceived: s.received,
	}
	if s.state == ssfilter.SynSent {
		r.Info.LastDataRecv, r.Info.LastAckRecv = time.Hour, time.Hour // garbage
	}
	return r
}

// scan is what a scan shows of the socket: what only bytecode can ask for comes
// with it where the query asks.
func (s *simSocket) scan(q *sock.Query, now sock.Instant, jiffy time.Duration) sock.Socket {
	r := s.report(now, jiffy)
	if ssfilter.AsksAutobound(q.Where) {
		r.Autobound = ssfilter.TriOf(!s.bound || s.mini) // which has no locks
	}
	return r
}

// simKernel holds the sockets. What happens to them is scheduled in the world.
type simKernel struct {
	*simWorld
	sockets map[uint64]*simSocket
	table   []uint64 // cookies in the order of the hash table
	cookies uint64
	inSegs  uint64
	taken   int // sockets that left the table: what shifts a dump's cursor
}

// segment arrives for s.
func (k *simKernel) segment(s *simSocket) {
	s.segs++
	k.inSegs++
}

// ack arrives for s, without any progress.
func (k *simKernel) ack(s *simSocket) {
	k.segment(s)
	s.lastAck = k.now
}

// advance is progress: the peer acknowledged, or sent, something.
func (k *simKernel) advance(s *simSocket, sent, received uint64) {
	k.segment(s)
	if sent > 0 {
		s.lastAck = k.now
	}
	if received > 0 {
		s.lastData = k.now // the fast path leaves lastAck alone
	}
	s.acked += sent
	s.received += received
	s.progress, s.changed = k.now, k.now
}

// enter has s enter a state by a segment.
func (k *simKernel) enter(s *simSocket, state ssfilter.State) {
	k.ack(s)
	s.state, s.entered, s.changed = state, k.now, k.now
}

func (k *simKernel) remove(s *simSocket) {
	if k.sockets[s.id.Cookie] == s {
		delete(k.sockets, s.id.Cookie)
		k.taken++
	}
}

// alive says whether s is still there, as the connection that it was.
func (k *simKernel) alive(s *simSocket, conn int) bool {
	return k.sockets[s.id.Cookie] == s && s.conn == conn
}

// count is what the counters hold.
func (k *simKernel) count() CountersRead {
	c := CountersRead{OK: true, InSegs: k.inSegs, HasInSegs: true, HasTimeWait: true}
	for _, s := range k.sockets {
		if s.mini {
			c.TimeWait++
		}
	}
	return c
}

// open makes a socket of some age in an established connection.
func (k *simKernel) open(age time.Duration) *simSocket {
	k.cookies++
	s := &simSocket{state: ssfilter.Established, inode: 1000 + uint32(k.cookies), uid: 1000, queued: never}
	s.id = sock.ID{Family: 2, Cookie: k.cookies}
	binary.BigEndian.PutUint16(s.id.SPort[:], uint16(10000+k.cookies))
	binary.BigEndian.PutUint16(s.id.DPort[:], uint16(simPorts[k.rng.IntN(len(simPorts))]))
	born := k.now.Add(-age)
	s.entered, s.progress, s.changed, s.lastAck, s.lastData = born, born, born, born, born
	s.acked, s.received, s.segs = 1, 0, 1
	switch k.rng.IntN(40) {
	case 0:
		s.mptcp = true
	case 1:
		s.kernel, s.uid = true, []uint32{0, 65534}[k.rng.IntN(2)]
	case 2:
		s.self, s.uid = true, simSelf
	case 3:
		s.uid = 0
	}
	s.bound, s.marked, s.mark = k.rng.IntN(3) == 0, k.marks, uint32(k.rng.IntN(3))
	k.sockets[k.cookies] = s
	i := k.rng.IntN(len(k.table) + 1)
	k.table = append(k.table[:i], append([]uint64{k.cookies}, k.table[i:]...)...)
	k.inSegs++
	return s
}

var simPorts = []int{22, 80, 443, 5432}

// after has do happen to s later, if that is still the same connection then.
func (k *simKernel) after(s *simSocket, d time.Duration, do func()) {
	conn := s.conn
	k.schedule(k.now.Add(d), false, func() {
		if k.alive(s, conn) {
			do()
		}
	})
}

// probe has s send keepalives, which its peer answers.
func (k *simKernel) probe(s *simSocket) {
	k.after(s, s.keepalive, func() {
		if !s.mini && s.keepalive > 0 {
			k.ack(s)
			k.probe(s)
		}
	})
}

// send has s send something now and then, for as long as it may.
func (k *simKernel) send(s *simSocket, times int) {
	if times == 0 {
		return
	}
	k.after(s, k.upTo(20*time.Second), func() {
		if s.mini || s.queued != never {
			return
		}
		s.queued, s.changed = k.now, k.now
		rtt := k.upTo(50 * time.Millisecond)
		if k.rng.IntN(3) == 0 {
			rtt = k.upTo(time.Minute) // the path is broken for a while; retransmissions follow
		}
		k.after(s, rtt, func() {
			if !s.mini {
				s.queued = never
				k.advance(s, 1+uint64(k.rng.IntN(100)), 0)
				k.send(s, times-1)
			}
		})
	})
}

// receive has the peer of s send something now and then.
func (k *simKernel) receive(s *simSocket, times int) {
	if times == 0 {
		return
	}
	k.after(s, k.upTo(20*time.Second), func() {
		if s.state == ssfilter.Established || s.state == ssfilter.FinWait2 && !s.mini {
			k.advance(s, 0, 1+uint64(k.rng.IntN(100)))
			k.receive(s, times-1)
		}
	})
}

// read has the program change the receive queue now and then.
func (k *simKernel) read(s *simSocket) {
	k.after(s, k.upTo(30*time.Second), func() {
		s.rqueue, s.changed = uint32(k.rng.IntN(3)), k.now
		k.read(s)
	})
}

// accept has a program take the socket from the accept queue, sooner or later.
func (k *simKernel) accept(s *simSocket) {
	k.after(s, k.upTo(90*time.Second), func() {
		s.inode, s.uid = 1000+uint32(s.id.Cookie), 1000
		if s.self {
			s.uid = simSelf
		} else if s.kernel {
			s.uid = 0
		}
		s.accepted, s.changed = k.now, k.now
		k.read(s)
	})
}

// remark has the program set the mark now and then.
func (k *simKernel) remark(s *simSocket) {
	k.after(s, k.upTo(30*time.Second), func() {
		s.mark, s.changed = uint32(k.rng.IntN(3)), k.now
		s.shown = simShown{} // what is selected by its mark may have been another one before
		k.remark(s)
	})
}

// age moves the past of a new socket, so that the world does not begin with it.
func (s *simSocket) age(d time.Duration) {
	for _, t := range []*sock.Instant{&s.entered, &s.progress, &s.changed, &s.lastAck, &s.lastData} {
		*t = t.Add(-d)
	}
}

// timewait makes a minisocket of s, which takes away what the kernel knew of its progress.
func (k *simKernel) timewait(s *simSocket, state ssfilter.State, lasts time.Duration) {
	s.changed = k.now
	s.state, s.mini, s.inode, s.uid, s.expires, s.doomed = state, true, 0, 0, s.entered.Add(lasts), true
	if s.expires < k.now {
		s.expires = k.now.Add(lasts)
	}
	k.after(s, s.expires.Sub(k.now), func() { k.remove(s) })
}

// populate adds one socket with a life of its own. Those that are there when the
// world begins have a past.
func (k *simKernel) populate(past time.Duration) {
	s := k.open(0)
	if k.rng.IntN(4) == 0 {
		s.keepalive = time.Second + k.upTo(15*time.Second)
		k.probe(s)
	}
	if k.rng.IntN(4) == 0 {
		s.received = uint64(k.rng.IntN(1000)) // and otherwise none
		s.segs += uint32(k.rng.IntN(10))
	}
	if k.rng.IntN(8) == 0 {
		k.remark(s)
	}
	older := k.upTo(past + 1)
	kind := k.rng.IntN(15)
	switch kind {
	case 0, 1, 2, 3: // a leak
		k.enter(s, ssfilter.CloseWait)
		s.age(older)
		switch kind {
		case 1:
			k.send(s, k.rng.IntN(6))
		case 2:
			k.read(s)
		}
	case 4: // in an accept queue
		k.enter(s, ssfilter.CloseWait)
		s.inode, s.uid = 0, 0
		s.age(older)
		if k.rng.IntN(2) == 0 {
			k.accept(s)
		}
	case 13: // the same, and its peer is patient
		s.inode, s.uid = 0, 0
		s.age(older)
		k.receive(s, k.rng.IntN(3))
		k.accept(s)
	case 14: // the same, until its peer closes
		s.inode, s.uid = 0, 0
		s.age(older)
		k.receive(s, k.rng.IntN(3))
		k.after(s, k.upTo(time.Minute), func() { k.enter(s, ssfilter.CloseWait) })
		k.accept(s)
	case 5, 6: // in use, now and then
		s.age(older)
		k.send(s, k.rng.IntN(8))
		k.receive(s, k.rng.IntN(8))
	case 7: // closed by its peer while we watch
		k.receive(s, k.rng.IntN(3))
		k.after(s, k.upTo(time.Minute), func() { k.enter(s, ssfilter.CloseWait) })
	case 8:
		k.enter(s, ssfilter.TimeWait)
		s.age(min(older, 50*time.Second))
		k.timewait(s, ssfilter.TimeWait, timeWaitLen)
	case 9:
		k.enter(s, ssfilter.FinWait2)
		s.age(older)
		k.receive(s, k.rng.IntN(4))
		if k.rng.IntN(2) == 0 {
			k.after(s, k.upTo(time.Minute), func() { k.timewait(s, ssfilter.FinWait2, time.Second+k.upTo(2*time.Minute)) })
		}
	case 10: // a dead peer: something is queued for good
		s.age(older)
		k.after(s, k.upTo(30*time.Second), func() { s.queued, s.changed = k.now, k.now })
	case 11: // connects anew under the same cookie and from the same port
		k.enter(s, ssfilter.CloseWait)
		s.age(older)
		k.reconnect(s)
	case 12: // a state that the kernel keeps no time of
		s.state = []ssfilter.State{ssfilter.SynSent, ssfilter.FinWait1, ssfilter.LastAck, ssfilter.Closing}[k.rng.IntN(4)]
		s.entered, s.changed, s.queued = k.now, k.now, k.now
		if s.state != ssfilter.SynSent {
			s.inode, s.uid, s.keepalive = 0, 0, 0
		}
	}
	if k.rng.IntN(3) == 0 { // its program closes it
		s.doomed = true
		k.after(s, k.upTo(2*time.Minute), func() { k.remove(s) })
	}
}

func (k *simKernel) reconnect(s *simSocket) {
	k.after(s, k.upTo(90*time.Second), func() {
		s.conn++
		s.bound = !s.bound // some other way than before
		s.told, s.rqueue, s.queued = 0, 0, never
		s.segs = uint32(k.rng.IntN(20))
		if k.rng.IntN(3) == 0 { // and otherwise the peer says what it said before
			s.acked, s.received = 1, uint64(k.rng.IntN(200))
		}
		s.lastData = k.now
		s.progress = k.now
		k.enter(s, ssfilter.Established)
		k.after(s, k.upTo(3*time.Second), func() {
			k.enter(s, ssfilter.CloseWait)
			k.reconnect(s)
		})
		if s.keepalive > 0 {
			k.probe(s)
		}
	})
}

func newSimRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x50c4d06)) }
