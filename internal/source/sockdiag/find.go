package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Find asks for the socket that is connected from local to peer, and returns it, or
// false where this network namespace has none. Who holds it now need not be who
// held it before: it is for telling whose it is, and not for acting on it.
func (c *Conn) Find(local, peer netip.AddrPort) (sock.Socket, bool, error) {
	id := idOf(local, peer)
	c.cgroupNames = c.cgroups.Batch()
	answer := []sock.Answer{{ID: id, Err: errUnanswered}}
	_, err := c.exchange(nl.SOCK_DIAG_BY_FAMILY, 0, answer)
	s := &answer[0].Socket
	switch {
	case err != nil:
		return sock.Socket{}, false, fmt.Errorf("ask for the socket from %s to %s: %w", local, peer, err)
	case answer[0].Gone:
		return sock.Socket{}, false, nil
	case answer[0].Err != nil:
		return sock.Socket{}, false, fmt.Errorf("ask for the socket from %s to %s: %w", local, peer, answer[0].Err)
	}
	// Where no socket has both ends, the kernel answers with the listener.
	same := s.State != ssfilter.Listening && s.Src == unmapped(local) && s.Dst == unmapped(peer)
	return *s, same, nil
}

// idOf is the ID of whatever socket has these ends.
func idOf(local, peer netip.AddrPort) sock.ID {
	id := sock.ID{Family: unix.AF_INET6, Cookie: noCookie}
	local, peer = unmapped(local), unmapped(peer)
	if local.Addr().Is4() {
		id.Family = unix.AF_INET
	}
	copy(id.Src[:], local.Addr().AsSlice())
	copy(id.Dst[:], peer.Addr().AsSlice())
	binary.BigEndian.PutUint16(id.SPort[:], local.Port())
	binary.BigEndian.PutUint16(id.DPort[:], peer.Port())
	return id
}

// unmapped is an address as sock_diag's answers have it here: an IPv4-mapped one as
// IPv4, and without its zone.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
