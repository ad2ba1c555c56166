package engine

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/engine/table"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// hits are the sockets that a scan brings, of which there may be hundreds of
// thousands.
type hits struct {
	table.List[hit]
	traits []traits // what many of them have in common, by number
	number map[traits]uint32
	gots   []sock.Instant // when they were shown, many at once, by number
}

// hit is a socket in 128 bytes, and when it was shown. The kernel says times in
// milliseconds.
type hit struct {
	cookie, acked, received                             uint64
	entered                                             sock.Instant
	src, dst                                            [16]byte
	iface, inode, rqueue, wqueue                        uint32
	unacked, notSent, segsIn                            uint32
	sinceDataSent, sinceDataRecv, sinceAckRecv, expires uint32 // milliseconds
	traits, got                                         uint32 // number of them, and of the instant
	has                                                 sock.Has
	sport, dport                                        [2]byte
	family, state, timer, retrans                       uint8
	autobound                                           ssfilter.Tri
	bits                                                hitBits
}

// hitBits are what is true of a hit.
type hitBits uint8

const (
	hitUnmoved hitBits = 1 << iota
	hitKnown           // observation may know more of it than the kernel; it is not counted yet
)

func (h *hit) is(b hitBits) bool { return h.bits&b != 0 }

func (h *hit) set(b hitBits, is bool) {
	h.bits &^= b
	if is {
		h.bits |= b
	}
}

// traits are the properties that sockets share.
type traits struct {
	device, altNames, cgroup string
	netnsNames               string
	mark, uid, netns         uint32
	hasMark, mptcp           bool
}

// pack returns the small form of a socket.
func (x *hits) pack(s *sock.Socket, got sock.Instant, known bool) hit {
	ms := func(d time.Duration) uint32 { return uint32(min(max(0, d/time.Millisecond), math.MaxUint32)) }
	t := traits{s.Device, s.AltNames, s.Cgroup, s.NetnsNames, s.Mark, s.UID, s.ID.Netns, s.HasMark, s.MPTCP}
	n, old := x.number[t]
	if !old {
		if x.number == nil {
			x.number = make(map[traits]uint32)
		}
		n = uint32(len(x.traits))
		x.number[t], x.traits = n, append(x.traits, t)
	}
	if last := len(x.gots) - 1; last < 0 || x.gots[last] != got {
		x.gots = append(x.gots, got)
	}
	h := hit{
		cookie: s.ID.Cookie, acked: s.Info.BytesAcked, received: s.Info.BytesReceived, entered: s.Entered, src: s.ID.Src, dst: s.ID.Dst,
		iface: s.ID.Iface, inode: s.Inode, rqueue: s.RQueue, wqueue: s.WQueue, unacked: s.Info.Unacked, notSent: s.Info.NotSent, segsIn: s.Info.SegsIn,
		sinceDataSent: ms(s.Info.LastDataSent), sinceDataRecv: ms(s.Info.LastDataRecv), sinceAckRecv: ms(s.Info.LastAckRecv), expires: ms(s.Expires + time.Millisecond - 1),
		traits: n, has: s.Info.Has, sport: s.ID.SPort, dport: s.ID.DPort, family: s.ID.Family, state: uint8(s.State), timer: s.Timer, retrans: s.Retrans,
		autobound: s.Autobound, got: uint32(len(x.gots) - 1),
	}
	h.set(hitUnmoved, s.Unmoved)
	h.set(hitKnown, known)
	return h
}

// got is when a hit was shown.
func (x *hits) got(h *hit) sock.Instant { return x.gots[h.got] }

// socket returns what was packed.
func (x *hits) socket(h *hit) sock.Socket {
	ms := func(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
	t := &x.traits[h.traits]
	s := sock.Socket{
		ID:    sock.ID{Family: h.family, SPort: h.sport, DPort: h.dport, Src: h.src, Dst: h.dst, Iface: h.iface, Netns: t.netns, Cookie: h.cookie},
		Timer: h.timer, Retrans: h.retrans, MPTCP: t.mptcp, Expires: ms(h.expires), RQueue: h.rqueue, WQueue: h.wqueue, UID: t.uid, NetnsNames: t.netnsNames, Inode: h.inode,
		Info: sock.Info{
			Has: h.has, Unacked: h.unacked, NotSent: h.notSent, SegsIn: h.segsIn, LastDataSent: ms(h.sinceDataSent), LastDataRecv: ms(h.sinceDataRecv),
			LastAckRecv: ms(h.sinceAckRecv), BytesAcked: h.acked, BytesReceived: h.received,
		},
		Entered: h.entered, Unmoved: h.is(hitUnmoved),
	}
	s.Conn = ssfilter.Conn{
		State: ssfilter.State(h.state), Src: s.ID.Local(), Dst: s.ID.Peer(), Iface: h.iface, Device: t.device, AltNames: t.altNames,
		Mark: t.mark, HasMark: t.hasMark, Cgroup: t.cgroup, Autobound: h.autobound,
	}
	return s
}

// key is that of the socket.
func (x *hits) key(h *hit) sock.Key {
	return sock.Key{Netns: x.traits[h.traits].netns, Cookie: h.cookie}
}
