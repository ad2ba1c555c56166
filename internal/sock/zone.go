package sock

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Zoned is an end of the socket as people read it: a link-local address means
// another host on every link, and has the zone that it is in (RFC 4007, 11). Where
// addresses are compared there are no zones: the device stands beside them.
//
// The zone is the name of the device that the socket is bound to, which the kernel does
// where it uses a link-local address; its number where the device has no name any
// more, or one that is more than a word.
func (s *Socket) Zoned(e ssfilter.Endpoint) ssfilter.Endpoint {
	a := e.Addr()
	if s.Iface == 0 || !a.Is6() || a.Is4In6() || !a.IsLinkLocalUnicast() {
		return e
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@"
	zone := s.Device
	if zone == "" || strings.Trim(zone, letters) != "" {
		zone = strconv.FormatUint(uint64(s.Iface), 10)
	}
	return netip.AddrPortFrom(a.WithZone(zone), e.Port())
}
