package engine

import "github.com/sockdog/sockdog/internal/engine/table"

// known are the sockets, by their cookies, that are tracked, and those of which
// observation may know more than the kernel does: for each, what is known.
// They may be of several network namespaces, see sock.Key; where two had the same cookie,
// one more would be brought by a scan, and no other be taken for it.
type known struct {
	*table.Cookies[uint32]
	shown table.Bits // where those stand that a scan showed as they were
}

// What is known of a socket. Any other number is the fingerprint of its last answer,
// of which the kernel knows all times as well.
const (
	knownBefore uint32 = iota // an earlier run knew it, or it was seen in an accept queue
	knownNow                  // it is tracked
)

// newKnown makes room for n sockets, and for one more: the table grows where it could not
// take another, and shown would not.
func newKnown(n int) known {
	k := known{Cookies: table.NewCookies[uint32](n + 1)}
	k.shown = make(table.Bits, (k.Slots()+63)/64)
	return k
}

// get returns what is known of a socket, and where it stands.
func (k *known) get(cookie uint64) (at int, print uint32, ok bool) {
	if k.Cookies == nil {
		return 0, 0, false
	}
	at, ok = k.Slot(cookie)
	return at, k.Value(at), ok
}
