package ssfilter

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

var (
	anyIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	anyIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	// mapped is where IPv4 addresses lie in a dual-stack socket (RFC 4291, 2.5.5.2).
	mapped = netip.MustParsePrefix("::ffff:0:0/96")
)

// hosts holds where the address of one side is in any of its prefixes, which
// are masked, sorted and disjoint.
type hosts struct {
	side     Side
	prefixes []netip.Prefix
}

// Hosts holds where the address of that side is in any of the prefixes; without
// any it holds for no socket. A prefix of IPv4-mapped addresses is the IPv4
// prefix, and no other IPv6 prefix holds an IPv4 address, not even ::/0.
func Hosts(side Side, prefixes ...netip.Prefix) Expr {
	h := newHosts(side, slices.Clone(prefixes))
	if len(h.prefixes) == 0 {
		return never
	}
	return h
}

// newHosts takes over prefixes.
func newHosts(side Side, prefixes []netip.Prefix) hosts {
	for i, p := range prefixes {
		prefixes[i] = unmap(p).Masked()
	}
	prefixes = slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() })
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	// Two prefixes are nested or disjoint, and the outer one sorts first.
	var disjoint []netip.Prefix
	for _, p := range prefixes {
		if n := len(disjoint); n == 0 || !disjoint[n-1].Contains(p.Addr()) {
			disjoint = append(disjoint, p)
		}
	}
	return hosts{side, disjoint}
}

// all reports whether h holds every address.
func (h hosts) all() bool {
	return slices.Equal(h.prefixes, []netip.Prefix{anyIPv4, anyIPv6})
}

func (h hosts) Eval(c *Conn) Tri {
	addr := h.side.of(c).Addr()
	if !addr.IsValid() {
		return Unknown
	}
	i, found := slices.BinarySearchFunc(h.prefixes, addr, func(p netip.Prefix, addr netip.Addr) int {
		return p.Addr().Compare(addr)
	})
	return TriOf(found || i > 0 && h.prefixes[i-1].Contains(addr))
}

func (h hosts) spelled() Expr {
	if len(h.prefixes) == 1 || h.all() {
		return h
	}
	var list or
	for i := range h.prefixes {
		list = append(list, hosts{h.side, h.prefixes[i : i+1]})
	}
	return list
}

func (h hosts) words() []string {
	p := h.prefixes[0]
	address := p.String()
	if p.IsSingleIP() {
		address = p.Addr().String()
	}
	switch {
	case h.all():
		address = "*"
	case p.Addr().Is6():
		address = "[" + address + "]"
	}
	return []string{h.side.String(), address}
}

// unmap turns a prefix of IPv4-mapped addresses into the IPv4 prefix.
func unmap(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= mapped.Bits() {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped.Bits())
	}
	return p
}

// isHostName reports whether text, which is no address, can be the name of a host.
func isHostName(text string) bool {
	return !strings.ContainsAny(text, ":/") && strings.ContainsFunc(text, unicode.IsLetter)
}

// ParsePrefix reads an address, which becomes a prefix of its full length, or a
// prefix in CIDR form, whose host bits do not matter. Names of hosts are
// refused: what they stand for may change between the rule and the act.
func ParsePrefix(text string) (netip.Prefix, error) {
	var p netip.Prefix
	var err error
	if strings.Contains(text, "/") {
		p, err = netip.ParsePrefix(text)
	} else {
		var addr netip.Addr
		addr, err = netip.ParseAddr(text)
		if addr.Zone() != "" {
			return p, fmt.Errorf("%s names an interface: write the address without %s", quote(text), quote("%"+addr.Zone()))
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	switch {
	case err == nil:
		return unmap(p).Masked(), nil
	case isHostName(text):
		return p, fmt.Errorf("%s is not an address, and host names are not looked up: write the address", quote(text))
	}
	return p, fmt.Errorf("%s is not an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32", quote(text))
}
