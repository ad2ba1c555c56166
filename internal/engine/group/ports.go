package group

import (
	"cmp"
	"math"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/subject"
	hashed "github.com/sockdog/sockdog/internal/engine/table"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Ports counts, in one scan, the local ports that a further connect(2) could not
// have, in each network namespace by itself.
//
// A port that connect(2) chose is used up on its path alone: towards other peers it
// is chosen again. A port that a bind(2) named or chose, before a connection or for
// a listener, is passed over by every connect(2) of the namespace, whatever the
// addresses (__inet_hash_connect skips a bucket whose fastreuse or fastreuseport is
// not negative). The kernel tells only whether a program named the port. What it
// chose itself gives its origin away by the parity: connect(2) takes ports of the
// range's first parity for as long as there are any on the path, and bind(2) takes
// the other first (inet_csk_find_open_port), for the very reason that the two should
// not get into each other's way.
type Ports struct {
	known  map[uint32]sock.Ports // by network namespace
	spaces []*space              // of those that use some, by number
	number map[uint32]uint16     // of a namespace's, counted from one
	last   *space                // which may be asked for again
	ranges []*portRange          // most namespaces have the same
	paths  table[pathUse]
	key    []byte // of the last path
}

// space is what is used in one network namespace.
type space struct {
	*portRange
	netns  uint32
	number uint16
	few    []usedPort  // until there are many
	ports  []portState // from low on; nil: there are few
	bound  int         // ports that are taken on every path; after Finish
}

// mostFew is how many used ports are looked for one by one: a pod has hardly ever more.
const mostFew = 64

// usedPort is a port that is used, as one of few.
type usedPort struct {
	at    uint16 // from low on
	state portState
}

// portRange is what connect(2) may choose from in a namespace.
type portRange struct {
	sock.Ports
	low       uint16
	n, half   int         // how many there are; how many bind(2) tries first for a socket with SO_REUSEADDR
	free      hashed.Bits // those that connect(2) may choose, from low on
	all       int         // how many that are
	preferred int         // of those, the ones of the parity that it prefers
	others    [2]int      // and the ones of the other parity, in either half
}

// portState is what is known of a port: the number of the path of its first
// connection, and flags; 0: it is not used.
type portState uint32

const (
	isBound portState = 1 << 30 // by a bind(2), for certain
	several portState = 1 << 29 // there is more than one connection
	pathOf  portState = 1<<numberBits - 1
)

// lone is the path of the only connection on a port that nobody is known to have
// bound; 0: that is not so.
func (p portState) lone() uint32 {
	if p&(isBound|several) != 0 {
		return 0
	}
	return uint32(p & pathOf)
}

// pathUse is what is used of a path, which leads from an address to an address and
// port of one namespace.
type pathUse struct {
	used   uint16 // ports of its connections, but for those that a program named
	first  uint16 // of those, the ones of the parity that connect(2) prefers
	shared uint16 // of those, the ones that count as bound
	binds  bool   // a bind(2) chose some of them
}

// pathBy is what makes a path, beside the number of its namespace.
var pathBy = subject.KeyOf([]rules.GroupKey{rules.BySrc, rules.ByDst, rules.ByDport})

// spaceWidth is how long that number is in a key.
const spaceWidth = 2

// NewPorts counts from zero, in the namespaces whose ports are known. Expect is about
// how many paths there will be.
func NewPorts(known map[uint32]sock.Ports, expect int) *Ports {
	return &Ports{known: known, number: make(map[uint32]uint16), paths: newTable[pathUse](spaceWidth+pathBy.Width(), MaxGroups, expect)}
}

// newPortRange returns the ports of a namespace.
func newPortRange(p sock.Ports) *portRange {
	n := chosen(p.Ephemeral)
	r := &portRange{Ports: p, low: p.Ephemeral.First, n: n, half: n >> 2 << 1, free: make(hashed.Bits, (n+63)/64)}
	for _, free := range p.Free {
		for i := int(free.First) - int(r.low); i <= int(free.Last)-int(r.low) && i < n; i++ {
			r.free.Set(i)
			r.all++
			if i&1 == 0 {
				r.preferred++
			} else {
				r.others[r.halfOf(i)]++
			}
		}
	}
	return r
}

// chooses reports whether connect(2) may choose a port, from low on.
func (r *portRange) chooses(i int) bool { return i >= 0 && i < r.n && r.free.Has(i) }

// chosen is how many ports of a range connect(2) chooses from: of an odd number, the
// last one is never chosen.
func chosen(ephemeral ssfilter.PortRange) int {
	n := int(ephemeral.Last) - int(ephemeral.First) + 1
	if n > 1 {
		n &^= 1
	}
	return n
}

func (r *portRange) halfOf(i int) int {
	if i < r.half {
		return 0
	}
	return 1
}

// spaceOf is what is used in a namespace; nil: its ports are not known.
func (u *Ports) spaceOf(netns uint32) *space {
	if u.last != nil && u.last.netns == netns {
		return u.last
	}
	if n := u.number[netns]; n != 0 {
		u.last = u.spaces[n-1]
		return u.last
	}
	ports, known := u.known[netns]
	if !known || len(u.spaces) == math.MaxUint16 {
		return nil
	}
	i := slices.IndexFunc(u.ranges, func(r *portRange) bool {
		return r.Ephemeral == ports.Ephemeral && slices.Equal(r.Free, ports.Free)
	})
	if i < 0 {
		i = len(u.ranges)
		u.ranges = append(u.ranges, newPortRange(ports))
	}
	u.last = &space{portRange: u.ranges[i], netns: netns, number: uint16(len(u.spaces) + 1)}
	u.spaces = append(u.spaces, u.last)
	u.number[netns] = u.last.number
	return u.last
}

// at is what is known of a port, from low on. It stands there until the next call.
func (s *space) at(i int) *portState {
	if s.ports != nil {
		return &s.ports[i]
	}
	for j := range s.few {
		if int(s.few[j].at) == i {
			return &s.few[j].state
		}
	}
	if len(s.few) < mostFew {
		s.few = append(s.few, usedPort{uint16(i), 0})
		return &s.few[len(s.few)-1].state
	}
	s.ports = make([]portState, s.n)
	for _, p := range s.few {
		s.ports[p.at] = p.state
	}
	s.few = nil
	return &s.ports[i]
}

// used calls do for each port that is used.
func (s *space) used(do func(i int, p portState)) {
	for _, p := range s.few {
		do(int(p.at), p.state)
	}
	for i, p := range s.ports {
		if p != 0 {
			do(i, p)
		}
	}
}

// Use counts a socket, and returns the number of its path; 0: it uses none of the
// ports, or there is no room for its path, and then omitted.
func (u *Ports) Use(s *sock.Socket) (path uint32, omitted bool) {
	in := u.spaceOf(s.ID.Netns)
	if in == nil {
		return 0, false
	}
	i := int(s.Src.Port()) - int(in.low)
	if !in.chooses(i) {
		return 0, false
	}
	p := in.at(i)
	named := s.Autobound == ssfilter.False
	connected := ssfilter.Connected.Has(s.State)
	if named || !connected {
		*p |= isBound
	}
	if !connected {
		return 0, false
	}
	u.key = pathBy.Append(append(u.key[:0], byte(in.number>>8), byte(in.number)), subject.Subject{Socket: s})
	path, use := u.paths.at(u.key)
	if use == nil {
		*p |= several
		return 0, true
	}
	if named {
		return path, false
	}
	use.used = oneMore(use.used)
	if i&1 == 0 {
		use.first = oneMore(use.first)
	}
	if *p&(pathOf|several) == 0 {
		*p |= portState(path)
	} else {
		*p |= several
	}
	return path, false
}

// Finish finds out which ports are bound, when all sockets are counted.
func (u *Ports) Finish() {
	for _, s := range u.spaces {
		u.finish(s)
	}
}

func (u *Ports) finish(s *space) {
	taken := 0         // of the parity that connect(2) prefers, those that are bound for certain
	others := s.others // of the other parity in either half, those that nobody uses
	s.used(func(i int, p portState) {
		if p&isBound != 0 {
			u.bind(s, p)
			taken += 1 - i&1
		}
		if i&1 == 1 {
			others[s.halfOf(i)]--
		}
	})
	// connect(2) would not have gone to the other parity while its own was there.
	s.used(func(i int, p portState) {
		if path := p.lone(); i&1 == 1 && path != 0 && int(u.paths.value(path).first)+taken < s.preferred {
			u.bind(s, p)
			u.paths.value(path).binds = true
		}
	})
	// Nor would bind(2), but once none was left it had to.
	s.used(func(i int, p portState) {
		if path := p.lone(); i&1 == 0 && path != 0 && others[s.halfOf(i)] == 0 && u.paths.value(path).binds {
			u.bind(s, p)
		}
	})
}

// bind counts a port as taken on every path of its namespace, and no more on its own.
func (u *Ports) bind(s *space, p portState) {
	s.bound++
	if path := uint32(p & pathOf); path != 0 {
		u.paths.value(path).shared++
	}
}

// on is the share of the ports that is used up on a path, in percent; after Finish.
func (u *Ports) on(path uint32) float64 {
	use, key := u.paths.value(path), u.paths.key(path)
	s := u.spaces[int(key[0])<<8+int(key[1])-1]
	return s.percent(int(use.used) - int(use.shared) + s.bound)
}

// beside is the share that is used up on a path without connections, where that is the
// highest.
func (u *Ports) beside() (most float64) {
	for _, s := range u.spaces {
		most = max(most, s.percent(s.bound))
	}
	return most
}

// percent is a share of the ports.
func (s *space) percent(n int) float64 {
	if s.all == 0 {
		return 0
	}
	return 100 * float64(min(n, s.all)) / float64(s.all)
}

// Widen makes a question tell of every socket on one of the ports.
func (u *Ports) Widen(where ssfilter.Expr) ssfilter.Expr {
	var all []ssfilter.PortRange
	for _, p := range u.known {
		if n := chosen(p.Ephemeral); n > 0 {
			all = append(all, ssfilter.PortRange{First: p.Ephemeral.First, Last: p.Ephemeral.First + uint16(n-1)})
		}
	}
	if where == nil || len(all) == 0 {
		return where
	}
	slices.SortFunc(all, func(a, b ssfilter.PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	return ssfilter.Or(where, ssfilter.Ports(ssfilter.Src, slices.Compact(all)...))
}

// oneMore counts a port: there are 65,535. A socket that a scan came upon twice may
// have been counted twice.
func oneMore(n uint16) uint16 { return min(n, math.MaxUint16-1) + 1 }
