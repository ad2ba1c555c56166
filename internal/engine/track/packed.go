package track

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Packed is a Connection in 104 bytes, of which hundreds of thousands are kept.
// It is as good as the Connection but for the device of its ID, which is not in it, for
// the Early bounds, which are up to a millisecond earlier and within a minute of the Safe
// ones (that of Heard by as much as that of Quiet), and for Queued, which
// is up to a millisecond later, and not before Quiet: before that, it counts for
// nothing. Heard is up to a millisecond later, and neither after Base nor over 49 days
// before.
type Packed struct {
	Cookie                       uint64 // 0: of no connection
	entered, quiet               sock.Instant
	acked, received              uint64
	Inode                        uint32
	segsIn                       uint32
	queued                       uint32 // milliseconds after quiet
	Print                        uint32 // of the last answer, see Fingerprint; 0: not known
	earlyEntered, earlyQuiet     uint16 // milliseconds before entered, and before quiet
	heard                        uint32 // milliseconds before the later of the two
	src, dst                     [16]byte
	sport, dport                 [2]byte
	family, state, retrans, bits uint8
}

const (
	packedBacklog = 1 << iota
	packedAccepted
	packedCounted
	packedAutobound    // it is
	packedNotAutobound // it is not; neither: not known
)

const notQueued = math.MaxUint32

// Pack returns c in its small form.
func (c *Connection) Pack() Packed {
	id := &c.ID
	p := Packed{
		Cookie: id.Cookie, entered: c.Entered.Safe, quiet: c.Quiet.Safe, acked: c.Acked, received: c.Received,
		Inode: c.Inode, segsIn: c.SegsIn, queued: notQueued, earlyEntered: c.Entered.lead(), earlyQuiet: c.Quiet.lead(),
		src: id.Src, dst: id.Dst, sport: id.SPort, dport: id.DPort, family: id.Family, state: uint8(c.State), retrans: c.Retrans,
	}
	if c.Queued != Never {
		p.queued = uint32(min(inMs(c.Queued.Sub(c.Quiet.Safe)), notQueued-1))
	}
	p.heard = uint32(min(max(0, c.Base().Sub(c.Heard.Safe))/time.Millisecond, math.MaxUint32))
	p.set(packedBacklog, c.Backlog)
	p.set(packedAccepted, c.Accepted)
	p.set(packedCounted, c.Counted)
	p.set(packedAutobound, c.Autobound == ssfilter.True)
	p.set(packedNotAutobound, c.Autobound == ssfilter.False)
	return p
}

func (p *Packed) set(bit uint8, is bool) {
	if is {
		p.bits |= bit
	}
}

// lead is by how many milliseconds Early is before Safe.
func (b Bound) lead() uint16 { return uint16(min(inMs(b.Safe.Sub(b.Early)), math.MaxUint16)) }

// inMs rounds up, and what is negative to nothing.
func inMs(d time.Duration) int64 {
	return int64((max(0, d) + time.Millisecond - 1) / time.Millisecond)
}

// Unpack returns what was packed.
func (p *Packed) Unpack() Connection {
	c := Connection{
		ID:    p.ID(),
		State: p.State(), Times: p.Times(), Backlog: p.Backlog(), Accepted: p.Accepted(), Counted: p.bits&packedCounted != 0,
		Acked: p.acked, Received: p.received, SegsIn: p.segsIn, Retrans: p.retrans, Inode: p.Inode,
	}
	switch {
	case p.bits&packedAutobound != 0:
		c.Autobound = ssfilter.True
	case p.bits&packedNotAutobound != 0:
		c.Autobound = ssfilter.False
	}
	return c
}

// ID is the connection's, without its device and network namespace.
func (p *Packed) ID() sock.ID {
	return sock.ID{Family: p.family, SPort: p.sport, DPort: p.dport, Src: p.src, Dst: p.dst, Cookie: p.Cookie}
}

// State is the one that the connection is in.
func (p *Packed) State() ssfilter.State { return ssfilter.State(p.state) }

// Backlog reports whether the last answer showed it in an accept queue.
func (p *Packed) Backlog() bool { return p.bits&packedBacklog != 0 }

// InUse reports whether the last answer showed something left to send.
func (p *Packed) InUse() bool { return p.queued != notQueued }

// Accepted reports whether it was seen in one before.
func (p *Packed) Accepted() bool { return p.bits&packedAccepted != 0 }

// Entered is since when the connection is in its state, at the latest.
func (p *Packed) Entered() sock.Instant { return p.entered }

func (p *Packed) heardSafe() sock.Instant { return heardSafe(p.entered, p.quiet, p.heard) }

func heardSafe(entered, quiet sock.Instant, ms uint32) sock.Instant {
	return max(entered, quiet).Add(-time.Duration(ms) * time.Millisecond)
}

// Times are the connection's.
func (p *Packed) Times() Times {
	early := func(safe sock.Instant, lead uint16) Bound {
		return Bound{Safe: safe, Early: safe.Add(-time.Duration(lead) * time.Millisecond)}
	}
	t := Times{Entered: early(p.entered, p.earlyEntered), Quiet: early(p.quiet, p.earlyQuiet), Heard: early(p.heardSafe(), p.earlyQuiet), Queued: Never}
	if p.queued != notQueued {
		t.Queued = p.quiet.Add(time.Duration(p.queued) * time.Millisecond)
	}
	return t
}
