package group

import (
	"math"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Ports counts, in one scan, the local ports that a further connect(2) could not
// have.
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
	low   uint16
	half  int         // how many of the ports bind(2) tries first for a socket with SO_REUSEADDR
	ports []portState // from low on
	all   int         // of those, the ones that connect(2) may choose
	paths table[pathUse]
	key   []byte // of the last path
	bound int    // ports that are taken on every path; after Finish
}

// portState is what is known of a port: the number of the path of its first
// connection, and flags.
type portState uint32

const (
	chooses portState = 1 << 31 // connect(2) may choose it
	isBound portState = 1 << 30 // by a bind(2), for certain
	several portState = 1 << 29 // there is more than one connection
	pathOf  portState = 1<<numberBits - 1
)

// lone is the path of the only connection on a port that nobody is known to have
// bound; 0: that is not so.
func (p portState) lone() uint32 {
	if p&(chooses|isBound|several) != chooses {
		return 0
	}
	return uint32(p & pathOf)
}

// pathUse is what is used of a path, which leads from an address to an address and
// port.
type pathUse struct {
	used   uint16 // ports of its connections, but for those that a program named
	first  uint16 // of those, the ones of the parity that connect(2) prefers
	shared uint16 // of those, the ones that count as bound
	binds  bool   // a bind(2) chose some of them
}

// pathBy is what makes a path.
var pathBy = subject.KeyOf([]rules.GroupKey{rules.BySrc, rules.ByDst, rules.ByDport})

// NewPorts counts from zero. Expect is about how many paths there will be.
func NewPorts(ephemeral ssfilter.PortRange, free []ssfilter.PortRange, expect int) *Ports {
	n := int(ephemeral.Last) - int(ephemeral.First) + 1
	if n > 1 {
		n &^= 1 // of an odd number, the last one is never chosen
	}
	u := &Ports{
		low: ephemeral.First, half: n >> 2 << 1, ports: make([]portState, n),
		paths: newTable[pathUse](pathBy.Width(), MaxGroups, expect),
	}
	for _, r := range free {
		for i := int(r.First) - int(u.low); i <= int(r.Last)-int(u.low) && i < n; i++ {
			u.ports[i] = chooses
			u.all++
		}
	}
	return u
}

// Use counts a socket, and returns the number of its path; 0: it uses none of the
// ports, or there is no room for its path, and then omitted.
func (u *Ports) Use(s *sock.Socket) (path uint32, omitted bool) {
	i := int(s.Src.Port()) - int(u.low)
	if i < 0 || i >= len(u.ports) || u.ports[i]&chooses == 0 {
		return 0, false
	}
	p := &u.ports[i]
	named := s.Autobound == ssfilter.False
	connected := ssfilter.Connected.Has(s.State)
	if named || !connected {
		*p |= isBound
	}
	if !connected {
		return 0, false
	}
	u.key = pathBy.Append(u.key[:0], subject.Subject{Socket: s})
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
	var preferred, taken int // of the parity that connect(2) prefers: all, and those that are bound for certain
	var others [2]int        // of the other parity in either half, those that nobody uses
	for i, p := range u.ports {
		switch {
		case p&chooses == 0:
			continue
		case p&isBound != 0:
			u.bind(i)
		case p == chooses && i&1 == 1:
			others[u.halfOf(i)]++
		}
		if i&1 == 0 {
			preferred++
			if p&isBound != 0 {
				taken++
			}
		}
	}
	// connect(2) would not have gone to the other parity while its own was there.
	for i := 1; i < len(u.ports); i += 2 {
		if path := u.ports[i].lone(); path != 0 && int(u.paths.value(path).first)+taken < preferred {
			u.bind(i)
			u.paths.value(path).binds = true
		}
	}
	// Nor would bind(2), but once none was left it had to.
	for i := 0; i < len(u.ports); i += 2 {
		if path := u.ports[i].lone(); path != 0 && others[u.halfOf(i)] == 0 && u.paths.value(path).binds {
			u.bind(i)
		}
	}
}

func (u *Ports) halfOf(i int) int {
	if i < u.half {
		return 0
	}
	return 1
}

// bind counts a port as taken on every path, and no more on its own.
func (u *Ports) bind(i int) {
	u.bound++
	if path := uint32(u.ports[i] & pathOf); path != 0 {
		u.paths.value(path).shared++
	}
}

// on is how many ports are used up on a path; after Finish.
func (u *Ports) on(path uint32) uint16 {
	use := u.paths.value(path)
	return uint16(min(int(use.used)-int(use.shared)+u.bound, u.all))
}

// percent is a share of the ports.
func (u *Ports) percent(n uint16) float64 {
	if u.all == 0 {
		return 0
	}
	return 100 * float64(n) / float64(u.all)
}

// Widen makes a question tell of every socket on one of the ports.
func (u *Ports) Widen(where ssfilter.Expr) ssfilter.Expr {
	if where == nil || len(u.ports) == 0 {
		return where
	}
	last := u.low + uint16(len(u.ports)-1)
	return ssfilter.Or(where, ssfilter.Ports(ssfilter.Src, ssfilter.PortRange{First: u.low, Last: last}))
}

// oneMore counts a port: there are 65,535. A socket that a scan came upon twice may
// have been counted twice.
func oneMore(n uint16) uint16 { return min(n, math.MaxUint16-1) + 1 }
