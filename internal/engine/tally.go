package engine

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"strconv"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// maxGroups bounds the groups of a rule. What one look finds beyond is not
// counted, and that is said.
const maxGroups = 100_000

// groupID is what a rule's group_by makes of a socket; what it does not name is
// zero. Addresses are held as bytes, an IPv4 one mapped: there may be 100,000.
type groupID struct {
	src, dst     [16]byte
	user         uint32
	sport, dport uint16
	state        ssfilter.State
	ownerless    bool // no user is known: a minisocket, or in an accept queue
}

// groupOf is the group that the socket belongs to.
func groupOf(by []rules.GroupKey, s *sock.Socket) groupID {
	var id groupID
	for _, key := range by {
		switch key {
		case rules.BySrc:
			id.src = s.Src.Addr().As16()
		case rules.ByDst:
			id.dst = s.Dst.Addr().As16()
		case rules.BySport:
			id.sport = s.Src.Port()
		case rules.ByDport:
			id.dport = s.Dst.Port()
		case rules.ByState:
			id.state = s.State
		case rules.ByUser:
			if s.Inode == 0 {
				id.ownerless = true
			} else {
				id.user = s.UID
			}
		}
	}
	return id
}

// key is the group as it is kept on disk.
func (id *groupID) key() (k sock.GroupKey) {
	le := binary.LittleEndian
	copy(k[0:], id.src[:])
	copy(k[16:], id.dst[:])
	le.PutUint32(k[32:], id.user)
	le.PutUint16(k[36:], id.sport)
	le.PutUint16(k[38:], id.dport)
	k[40] = uint8(id.state)
	if id.ownerless {
		k[41] = 1
	}
	return k
}

// groupOfKey is the group that was kept.
func groupOfKey(k *sock.GroupKey) groupID {
	le := binary.LittleEndian
	return groupID{
		src: [16]byte(k[0:]), dst: [16]byte(k[16:]), user: le.Uint32(k[32:]),
		sport: le.Uint16(k[36:]), dport: le.Uint16(k[38:]), state: ssfilter.State(k[40]), ownerless: k[41] == 1,
	}
}

// A Label is one property of a group.
type Label struct{ Name, Value string }

// labels are the group's properties, in the order of group_by.
func (id *groupID) labels(by []rules.GroupKey) []Label {
	labels := make([]Label, 0, len(by))
	for _, key := range by {
		l := Label{Name: string(key)}
		switch key {
		case rules.BySrc:
			l.Value = netip.AddrFrom16(id.src).Unmap().String()
		case rules.ByDst:
			l.Value = netip.AddrFrom16(id.dst).Unmap().String()
		case rules.BySport:
			l.Value = strconv.Itoa(int(id.sport))
		case rules.ByDport:
			l.Value = strconv.Itoa(int(id.dport))
		case rules.ByState:
			l.Value = id.state.String()
		case rules.ByUser:
			if id.ownerless {
				l.Value = "unknown"
			} else {
				l.Value = strconv.FormatUint(uint64(id.user), 10)
			}
		}
		labels = append(labels, l)
	}
	return labels
}

// tally is what one look counts of a group.
type tally struct {
	oldest  sock.Instant // when the oldest that matches entered its state, at the latest
	count   uint32       // sockets that match
	fresh   uint32       // of those, not there at the look before
	backlog float32      // the fullest accept queue, in percent of its limit
	usage   float32      // the fullest path, in percent of the local ports that there are
}

// tallies are those of many groups: a hash table with open addressing. A map of
// Go would take twice the memory for 100,000 of them, and as much again while it
// grows.
type tallies struct {
	seed   maphash.Seed
	slots  []slot // a power of two
	chunks [][]talliedGroup
	n      int
}

type talliedGroup struct {
	id groupID
	tally
}

// slot is where a group's number stands. With its hash beside it, hardly ever
// another group's entry must be fetched only to see that it is another.
type slot struct {
	hash   uint32
	number uint32 // of the entry, and one; 0: empty
}

const (
	tallyChunk = 1 << 10
	leastSlots = 1 << 6
)

func newTallies() tallies {
	return tallies{seed: maphash.MakeSeed(), slots: make([]slot, leastSlots)}
}

// at is the tally of a group, made where there is none: nil if that would be one
// too many.
func (t *tallies) at(id groupID) *tally {
	hash := uint32(maphash.Comparable(t.seed, id))
	s := t.find(hash, &id)
	if s.number > 0 {
		return &t.entry(s.number).tally
	}
	if t.n >= maxGroups {
		return nil
	}
	if 5*(t.n+1) > 4*len(t.slots) {
		t.grow()
		s = t.find(hash, &id)
	}
	if t.n%tallyChunk == 0 {
		room := tallyChunk
		if t.n == 0 {
			room = 1 // most rules have one group, or a few
		}
		t.chunks = append(t.chunks, make([]talliedGroup, 0, room))
	}
	last := &t.chunks[len(t.chunks)-1]
	*last = append(*last, talliedGroup{id: id})
	t.n++
	*s = slot{hash, uint32(t.n)}
	return &t.entry(s.number).tally
}

func (t *tallies) entry(number uint32) *talliedGroup {
	return &t.chunks[(number-1)/tallyChunk][(number-1)%tallyChunk]
}

// find returns the slot of a group, or the empty one that is to be its.
func (t *tallies) find(hash uint32, id *groupID) *slot {
	mask := uint32(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.number == 0 || s.hash == hash && t.entry(s.number).id == *id {
			return s
		}
	}
}

// grow doubles the slots.
func (t *tallies) grow() {
	old := t.slots
	t.slots = make([]slot, 2*len(old))
	mask := uint32(len(t.slots) - 1)
	for _, s := range old {
		if s.number == 0 {
			continue
		}
		i := s.hash & mask
		for t.slots[i].number > 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = s
	}
}

// all calls do for each group.
func (t *tallies) all(do func(id groupID, c *tally)) {
	for _, chunk := range t.chunks {
		for i := range chunk {
			do(chunk[i].id, &chunk[i].tally)
		}
	}
}

// path is what local ports are used up on: each connection from one address to
// one address and port needs a port of its own.
type path struct {
	src, dst [16]byte
	dport    uint16
}

// groupTally is what one look counts for one rule about groups.
type groupTally struct {
	rule    *rule
	groups  tallies
	omitted int // sockets of groups beyond maxGroups

	firing map[groupID]struct{} // groups whose sockets are to be acted on

	// inodes are some of those that an alert may be about: nil where the rule has
	// none. Groups of fewer sockets than worth are far from one.
	inodes map[groupID][]uint32
	worth  int

	// Only where a condition asks for it:
	before map[uint64]struct{} // cookies of the look before; nil: there was none
	now    map[uint64]struct{}
	ports  []ssfilter.PortRange // the local ports that a connect(2) may get
	paths  map[path]uint32      // how many of those are in use on each
}

// newGroupTally counts from zero for what is known of the rule's groups.
func newGroupTally(r *rule, rg *ruleGroups, ports []ssfilter.PortRange) *groupTally {
	t := &groupTally{rule: r, groups: newTallies(), before: rg.seen, ports: ports}
	for id, g := range rg.groups {
		t.groups.at(id) // it is sampled, also where no socket of it is left
		if r.destroys && g.firing != never {
			if t.firing == nil {
				t.firing = make(map[groupID]struct{})
			}
			t.firing[id] = struct{}{}
		}
	}
	if r.alerts {
		t.inodes, t.worth = make(map[groupID][]uint32), r.near()
	}
	if len(r.GroupBy) == 0 {
		t.groups.at(groupID{}) // it is there, sockets or not
	}
	if r.measures(rules.Growth) {
		t.now = make(map[uint64]struct{}, len(rg.seen))
	}
	if r.measures(rules.PortUsage) && len(ports) > 0 {
		t.paths = make(map[path]uint32)
	}
	return t
}

// fires reports whether the socket's group does, and its rule acts on sockets.
func (t *groupTally) fires(s *sock.Socket) bool {
	if len(t.firing) == 0 {
		return false
	}
	_, fires := t.firing[groupOf(t.rule.GroupBy, s)]
	return fires
}

// add counts a socket that matches, and has been in its state since entered.
func (t *groupTally) add(s *sock.Socket, entered sock.Instant) {
	id := groupOf(t.rule.GroupBy, s)
	g := t.groups.at(id)
	if g == nil {
		t.omitted++
		return
	}
	if g.count == 0 || entered < g.oldest {
		g.oldest = entered
	}
	g.count++
	if t.inodes != nil && s.Inode != 0 && int(g.count) > t.worth {
		t.keep(id, s.Inode)
	}
	if t.now != nil {
		t.now[s.ID.Cookie] = struct{}{}
		if _, seen := t.before[s.ID.Cookie]; !seen && t.before != nil {
			g.fresh++
		}
	}
	if s.State == ssfilter.Listening {
		// One of listen(fd, 0) takes one connection (sk_acceptq_is_full).
		g.backlog = max(g.backlog, 100*float32(s.RQueue)/float32(max(1, s.WQueue)))
	}
}

// keep keeps the inode of a socket of the group, of the first few.
func (t *groupTally) keep(id groupID, inode uint32) {
	some, known := t.inodes[id]
	if len(some) < mostInodes && (known || len(t.inodes) < mostAlarms) {
		t.inodes[id] = append(some, inode)
	}
}

// near is how many sockets are almost as many as the rule fires at.
func (r *rule) near() int {
	for _, c := range r.When {
		if c.Metric == rules.Count && (c.Op == rules.Greater || c.Op == rules.GreaterEqual) {
			return max(0, int(c.Number)-2*mostInodes)
		}
	}
	return 0
}

// usePort counts the local port of a socket, which may be in any state.
func (t *groupTally) usePort(s *sock.Socket) {
	port := s.Src.Port()
	for _, r := range t.ports {
		if r.First <= port && port <= r.Last {
			p := path{s.Src.Addr().As16(), s.Dst.Addr().As16(), s.Dst.Port()}
			if n, known := t.paths[p]; known || len(t.paths) < maxGroups {
				t.paths[p] = n + 1
			} else {
				t.omitted++
			}
			return
		}
	}
}

// settle brings what was counted by path to the groups that the paths are in.
func (t *groupTally) settle() {
	all := 0
	for _, r := range t.ports {
		all += int(r.Last) - int(r.First) + 1
	}
	for p, used := range t.paths {
		var id groupID
		for _, key := range t.rule.GroupBy {
			switch key {
			case rules.BySrc:
				id.src = p.src
			case rules.ByDst:
				id.dst = p.dst
			case rules.ByDport:
				id.dport = p.dport
			}
		}
		if g := t.groups.at(id); g != nil {
			g.usage = max(g.usage, 100*float32(used)/float32(all))
		} else {
			t.omitted += int(used)
		}
	}
}
