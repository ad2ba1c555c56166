package ssfilter

import "net/netip"

// Endpoint is an address and a port. An IPv4-mapped IPv6 address is held as
// IPv4, and a zone is never set: the interface stands beside it.
type Endpoint = netip.AddrPort

// Conn is what an expression can ask of a socket.
type Conn struct {
	State    State
	Src, Dst Endpoint
}

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
