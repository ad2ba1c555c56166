package recording

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The fields of a socket, in the order of their columns.
const (
	state = iota
	family
	sport
	dport
	srcHigh // an IPv4 address as a whole
	srcLow
	dstHigh
	dstLow
	iface
	netns
	cookie
	timer
	retrans
	flags
	expires // when the timer fires, in stampUnit
	rqueue
	wqueue
	uid
	inode
	mark
	has
	unacked
	notSent
	segsIn
	lastDataSent // when that was, in stampUnit, and the next two
	lastDataRecv
	lastAckRecv
	bytesAcked
	bytesReceived
	device // the number of a text, and the next three
	altNames
	cgroup
	netnsNames

	numFields
)

// row is a socket as its fields.
type row [numFields]uint64

func (r *row) key() sock.Key { return sock.Key{Netns: uint32(r[netns]), Cookie: r[cookie]} }

// The bits of flags.
const (
	isMPTCP = 1 << iota
	hasMark
	isAutobound
	notAutobound
)

// stampUnit is what the instants are counted in that the kernel's times lead to. They are
// rounded up: a time elapsed is never too long by that.
const stampUnit = time.Millisecond

func stampOf(at sock.Instant) uint64 {
	if at <= 0 {
		return 0
	}
	return uint64((time.Duration(at) + stampUnit - 1) / stampUnit)
}

// since is the time from a stamp to an instant.
func since(stamp uint64, got sock.Instant) time.Duration {
	return max(0, time.Duration(got)-time.Duration(stamp)*stampUnit)
}

// fill sets the row to a socket that was got then. Its texts get numbers from text.
func (r *row) fill(s *sock.Socket, got sock.Instant, text func(string) uint64) {
	id := &s.ID
	r[state], r[family] = uint64(s.State), uint64(id.Family)
	r[sport], r[dport] = uint64(binary.BigEndian.Uint16(id.SPort[:])), uint64(binary.BigEndian.Uint16(id.DPort[:]))
	r[srcHigh], r[srcLow] = halves(id.Family, &id.Src)
	r[dstHigh], r[dstLow] = halves(id.Family, &id.Dst)
	r[iface], r[netns], r[cookie] = uint64(id.Iface), uint64(id.Netns), id.Cookie
	r[timer], r[retrans] = uint64(s.Timer), uint64(s.Retrans)
	r[flags] = 0
	for _, f := range [...]struct {
		bit uint64
		set bool
	}{{isMPTCP, s.MPTCP}, {hasMark, s.HasMark}, {isAutobound, s.Autobound == ssfilter.True}, {notAutobound, s.Autobound == ssfilter.False}} {
		if f.set {
			r[flags] |= f.bit
		}
	}
	r[expires] = 0
	if s.Timer != sock.TimerOff {
		r[expires] = stampOf(got.Add(s.Expires))
	}
	r[rqueue], r[wqueue], r[uid], r[inode], r[mark] = uint64(s.RQueue), uint64(s.WQueue), uint64(s.UID), uint64(s.Inode), uint64(s.Mark)
	r.fillInfo(&s.Info, got)
	r[device], r[altNames], r[cgroup], r[netnsNames] = text(s.Device), text(s.AltNames), text(s.Cgroup), text(s.NetnsNames)
}

func (r *row) fillInfo(info *sock.Info, got sock.Instant) {
	r[has], r[unacked], r[notSent], r[segsIn] = uint64(info.Has), uint64(info.Unacked), uint64(info.NotSent), uint64(info.SegsIn)
	r[bytesAcked], r[bytesReceived] = info.BytesAcked, info.BytesReceived
	r[lastDataSent], r[lastDataRecv], r[lastAckRecv] = 0, 0, 0
	if info.Has&sock.HasLastDataSent != 0 {
		r[lastDataSent] = stampOf(got.Add(-info.LastDataSent))
	}
	if info.Has&sock.HasLastDataRecv != 0 {
		r[lastDataRecv] = stampOf(got.Add(-info.LastDataRecv))
	}
	if info.Has&sock.HasLastAckRecv != 0 {
		r[lastAckRecv] = stampOf(got.Add(-info.LastAckRecv))
	}
}

const afInet = 2 // AF_INET

// halves are an address as two numbers.
func halves(family uint8, a *[16]byte) (high, low uint64) {
	if family == afInet {
		return uint64(binary.BigEndian.Uint32(a[:])), 0
	}
	return binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(a[8:])
}

// address undoes halves.
func address(family uint8, high, low uint64) (a [16]byte) {
	if family == afInet {
		binary.BigEndian.PutUint32(a[:], uint32(high))
		return a
	}
	binary.BigEndian.PutUint64(a[:], high)
	binary.BigEndian.PutUint64(a[8:], low)
	return a
}

// socket is the socket as it was at that instant, with the texts of those numbers.
func (r *row) socket(s *sock.Socket, got sock.Instant, texts []string) {
	f := uint8(r[family])
	id := sock.ID{
		Family: f, Src: address(f, r[srcHigh], r[srcLow]), Dst: address(f, r[dstHigh], r[dstLow]),
		Iface: uint32(r[iface]), Netns: uint32(r[netns]), Cookie: r[cookie],
	}
	binary.BigEndian.PutUint16(id.SPort[:], uint16(r[sport]))
	binary.BigEndian.PutUint16(id.DPort[:], uint16(r[dport]))
	*s = sock.Socket{
		ID: id, Timer: uint8(r[timer]), Retrans: uint8(r[retrans]), MPTCP: r[flags]&isMPTCP != 0,
		RQueue: uint32(r[rqueue]), WQueue: uint32(r[wqueue]), UID: uint32(r[uid]), Inode: uint32(r[inode]),
		NetnsNames: texts[r[netnsNames]],
	}
	s.Conn = ssfilter.Conn{
		State: ssfilter.State(r[state]), Src: id.Local(), Dst: id.Peer(), Iface: id.Iface, Device: texts[r[device]], AltNames: texts[r[altNames]],
		Mark: uint32(r[mark]), HasMark: r[flags]&hasMark != 0, Cgroup: texts[r[cgroup]],
	}
	switch {
	case r[flags]&isAutobound != 0:
		s.Autobound = ssfilter.True
	case r[flags]&notAutobound != 0:
		s.Autobound = ssfilter.False
	}
	if s.Timer != sock.TimerOff {
		s.Expires = max(0, time.Duration(r[expires])*stampUnit-time.Duration(got))
	}
	s.Info = sock.Info{
		Has: sock.Has(r[has]), Unacked: uint32(r[unacked]), NotSent: uint32(r[notSent]), SegsIn: uint32(r[segsIn]),
		BytesAcked: r[bytesAcked], BytesReceived: r[bytesReceived],
	}
	if s.Info.Has&sock.HasLastDataSent != 0 {
		s.Info.LastDataSent = since(r[lastDataSent], got)
	}
	if s.Info.Has&sock.HasLastDataRecv != 0 {
		s.Info.LastDataRecv = since(r[lastDataRecv], got)
	}
	if s.Info.Has&sock.HasLastAckRecv != 0 {
		s.Info.LastAckRecv = since(r[lastAckRecv], got)
	}
}

// steady takes over the instants of before where they are the same but for the kernel's
// resolution and the time that answers took. Every one that was told of the same event is good
// for it, and the counters tell that there was no other one.
func (r *row) steady(before *row, within uint64) {
	for _, f := range [...]int{state, sport, dport, srcHigh, srcLow, dstHigh, dstLow, timer, has, unacked, notSent, segsIn, bytesAcked, bytesReceived} {
		if r[f] != before[f] {
			return
		}
	}
	stamps := []int{expires, lastDataSent, lastDataRecv, lastAckRecv}
	if r[has]&uint64(sock.HasSegsIn) == 0 { // no counter tells of a segment: only a minisocket's timer is good for more
		stamps = stamps[:1]
	}
	for _, f := range stamps {
		if max(r[f], before[f])-min(r[f], before[f]) <= within {
			r[f] = before[f]
		}
	}
}

var errRow = errors.New("no socket is like that")

// bounds are what the fields may be at most that are narrower than 64 bits.
var bounds = func() (most row) {
	for f := range most {
		most[f] = math.MaxUint64
	}
	most[state] = uint64(ssfilter.BoundInactive)
	most[timer], most[retrans] = math.MaxUint8, math.MaxUint8
	most[sport], most[dport], most[has] = math.MaxUint16, math.MaxUint16, math.MaxUint16
	for _, f := range [...]int{iface, netns, rqueue, wqueue, uid, inode, mark, unacked, notSent, segsIn} {
		most[f] = math.MaxUint32
	}
	most[flags] = isMPTCP | hasMark | isAutobound | notAutobound
	for _, f := range [...]int{expires, lastDataSent, lastDataRecv, lastAckRecv} {
		most[f] = math.MaxInt64 / uint64(stampUnit)
	}
	return most
}()

// check reports whether there can be such a socket, with that many texts.
func (r *row) check(texts int) error {
	const afInet6 = 10
	for f, most := range bounds {
		if r[f] > most {
			return errRow
		}
	}
	for _, f := range [...]int{device, altNames, cgroup, netnsNames} {
		if r[f] >= uint64(texts) {
			return errRow
		}
	}
	four := r[family] == afInet && r[srcHigh] <= math.MaxUint32 && r[dstHigh] <= math.MaxUint32 && r[srcLow]|r[dstLow] == 0
	if r[state] == 0 || !four && r[family] != afInet6 {
		return errRow
	}
	return nil
}
