package engine

import (
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/table"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// holderCache is who holds sockets, by the last walk for them. It is never changed, but
// replaced by that of the next walk: scans read it on their thread.
type holderCache struct {
	sockets *table.Cookies[heldSocket]
	holders []*subject.Holders // that sockets have in common
	fds     map[spin.Process]float64
}

// heldSocket is a socket of which it was looked for who holds it.
type heldSocket struct{ inode, holders uint32 }

// askedSocket is one of which rules ask who holds it.
type askedSocket struct {
	cookie uint64
	inode  uint32
}

// maxAsked bounds the sockets that one scan asks for, and so the cache. The rules that ask
// for more are not counted.
const maxAsked = 1 << 20

// nobody holds a socket that no descriptor stands for: one in an accept queue, an orphan
// or a minisocket.
var nobody = &subject.Holders{Complete: true, At: never}

// of returns who holds a socket; nil: nobody has looked.
func (x *holderCache) of(cookie uint64, inode uint32) *subject.Holders {
	if inode == 0 {
		return nobody
	}
	if x.sockets == nil {
		return nil
	}
	if at, ok := x.sockets.Slot(cookie); ok {
		if h := x.sockets.Value(at); h.inode == inode {
			return x.holders[h.holders]
		}
	}
	return nil
}

// fdUsage returns the highest usage of descriptors among holders; false: that is not known.
func (x *holderCache) fdUsage(h *subject.Holders) (highest float64, known bool) {
	if h == nil {
		return 0, false
	}
	known = len(h.Processes) == 0
	for i := range h.Processes {
		p := &h.Processes[i]
		if usage, ok := x.fds[spin.Process{PID: p.PID, Start: p.Start}]; ok {
			highest, known = max(highest, usage), true
		}
	}
	return highest, known
}

// newHolderCache returns what a walk that began then has found of sockets.
func newHolderCache(in *HoldersFound, lists [][]askedSocket, began sock.Instant) *holderCache {
	n := 0
	for _, list := range lists {
		n += len(list)
	}
	x := &holderCache{sockets: table.NewCookies[heldSocket](n), fds: in.FDUsage}
	shared, numbers := make(sharedHolders), make(map[*subject.Holders]uint32)
	alone := make(map[*sock.Holder]uint32) // a walk names a process once for all that it alone holds
	number := func(inode uint32) uint32 {
		h := in.Of(inode)
		h.At = began
		h = shared.of(h)
		n, ok := numbers[h]
		if !ok {
			n = uint32(len(x.holders))
			numbers[h], x.holders = n, append(x.holders, h)
		}
		return n
	}
	for _, list := range lists {
		for _, s := range list {
			held := in.Holders[s.inode]
			if len(held) != 1 {
				x.sockets.Put(s.cookie, heldSocket{s.inode, number(s.inode)})
				continue
			}
			n, ok := alone[&held[0]]
			if !ok {
				n = number(s.inode)
				alone[&held[0]] = n
			}
			x.sockets.Put(s.cookie, heldSocket{s.inode, n})
		}
	}
	return x
}

// askedHolders is what a scan makes of sockets of which rules ask who holds them.
type askedHolders struct {
	// asked are those of which that matters: all of which it is known, and those that a
	// rule may match.
	asked   []askedSocket
	unknown bool // it is not known of all of them, or was found out long ago
	// Those that are counted once it is known. A rule that has any is counted as a whole, or
	// not at all.
	uncounted table.List[waitingSocket]
	postponed bool // the socket that is being counted is one
	overflow  bool // there were too many of those
	tooMany   bool // too many to ask for
	recounts  bool // it is those that are being counted
}

// waitingSocket is a socket to be counted, and what was known of its times.
type waitingSocket struct {
	hit
	track.Times
}

// maxWaiting bounds what is kept of sockets that are counted later: a few megabytes. Where
// there are more, the table is scanned again once it is known who holds them.
const maxWaiting = 1 << 15

// subject is a socket, and who holds it if a rule asks for that and it was known when
// the scan began.
func (l *Scan) subject(s *sock.Socket) subject.Subject {
	if l.holders == nil {
		return subject.Of(s)
	}
	return l.heldSubject(s)
}

// heldSubject is a socket of which a rule may ask who holds it.
func (l *Scan) heldSubject(s *sock.Socket) subject.Subject {
	h := l.holders.of(s.ID.Cookie, s.Inode)
	if h != nil && h.At < l.believed {
		h = nil
	}
	return subject.Subject{Socket: s, Holders: h}
}

// askHolders has it looked for who holds a socket, if it is known, so that it stays so, or
// if a rule that the scan is for may mean the socket by that.
func (f *ScanResult) askHolders(s subject.Subject, t *track.Times, asks bool) {
	switch {
	case s.Inode == 0 || s.Holders == nil && !asks:
	case len(f.asked) == maxAsked:
		f.tooMany = true
	default:
		f.asked = append(f.asked, askedSocket{s.ID.Cookie, s.Inode})
		f.unknown = f.unknown || s.Holders == nil || f.outdated(s, t)
	}
}

// outdated reports whether it is to be looked for again who holds a socket: what nothing is
// decided by before the next scan may become old, where walks cost much.
func (f *ScanResult) outdated(s subject.Subject, t *track.Times) bool {
	l := f.scan
	switch {
	case s.Holders.At >= l.renew:
		return false
	case s.Holders.At < l.renewShown, l.live != nil:
		return true
	}
	for r, m := range l.program.Candidates(subject.Of(s.Socket)) {
		if r.NeedsHolders && l.of.Has(r.Class) && (r.Grouped || match.EarlyDueAt(m, t) <= l.lookahead) {
			return true
		}
	}
	return false
}

// postpones reports whether a socket does not count for a rule now: it is not known who
// holds it, or it was counted before that was.
func (f *ScanResult) postpones(r *match.Rule, m *rules.Match, s subject.Subject) bool {
	c := &f.scan.counts[r.Position]
	switch {
	case !r.NeedsHolders:
		return f.recounts
	case f.recounts && !c.postponed:
		return true
	case s.HoldersKnown(), match.AtPresent(m, s) == ssfilter.False, match.Any(r.Exclude, s) == ssfilter.True:
		return false
	case f.recounts, s.Holders != nil && s.Holders.At >= f.scan.renew:
		c.unseen = true
	default:
		c.postponed, f.postponed = true, true
	}
	return true
}

// postpone keeps a socket to be counted later.
func (f *ScanResult) postpone(s *sock.Socket, t *track.Times, got sock.Instant) {
	f.postponed = false
	if f.uncounted.Len() == maxWaiting {
		f.overflow = true
		return
	}
	f.uncounted.Add(waitingSocket{f.hits.pack(s, got, false), *t})
}

// countFDs counts how many descriptors those use who hold a socket. If that is not known of
// any, the rule waits.
func (f *ScanResult) countFDs(r *match.Rule, s subject.Subject) {
	c := &f.scan.counts[r.Position]
	if usage, known := f.scan.holders.fdUsage(s.Holders); known {
		c.groups.UseDescriptors(s, usage)
	} else {
		c.unseen = true
	}
}
