package ssfilter

import "net/netip"

// Endpoint is an address and a port. An IPv4-mapped IPv6 address is held as
// IPv4, and a zone is never set: the interface stands beside it.
type Endpoint = netip.AddrPort

// Conn is what an expression can ask of a socket. What the kernel does not tell
// of it, or not to everybody, is unknown and never zero.
type Conn struct {
	State     State
	Src, Dst  Endpoint
	Iface     uint32 // index of the device it is bound to, sk_bound_dev_if; 0: to none
	Device    string // name of that device at the time; "": not bound, or the name is not known
	AltNames  string // the other names of that device, each between blanks; UnknownNames: not known
	Mark      uint32 // SO_MARK
	HasMark   bool   // the kernel told the mark, which takes CAP_NET_ADMIN
	Cgroup    string // path below the cgroup2 root, "/" for the root itself; "": not known
	Autobound Tri    // the kernel chose its local port
}

// UnknownNames stands in Conn.AltNames where the device may have other names. No
// device has that one: it lacks the blanks.
const UnknownNames = "?"

// Side is one end of a connection.
type Side uint8

// The sides, as ss names them.
const (
	Src Side = iota // this host
	Dst             // the peer
)

// String is src or dst.
func (s Side) String() string {
	if s == Src {
		return "src"
	}
	return "dst"
}

// of returns that end of c.
func (s Side) of(c *Conn) Endpoint {
	if s == Src {
		return c.Src
	}
	return c.Dst
}

// Tri is a three-valued truth (Kleene): what cannot be read is Unknown, and not
// Unknown is Unknown.
type Tri int8

// The order False < Unknown < True makes min the conjunction and max the
// disjunction.
const (
	False   Tri = -1
	Unknown Tri = 0
	True    Tri = 1
)

// TriOf is True or False.
func TriOf(b bool) Tri {
	if b {
		return True
	}
	return False
}

// Not is the negation.
func (t Tri) Not() Tri { return -t }
