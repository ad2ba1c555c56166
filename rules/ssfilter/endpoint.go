package ssfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// host = ( "src" | "dst" ) [ "=" | "!=" ] endpoint.
func (p *parser) host(side Side) (Expr, error) {
	return p.equal("an address", func(word string) (Expr, error) { return p.endpoint(side, word) })
}

// endpoint reads what follows src and dst: an address or prefix, a port after a
// colon, or both. Behind the address a device may stand after a %, as in what ss
// prints.
func (p *parser) endpoint(side Side, word string) (Expr, error) {
	rest, family := word, []netip.Prefix{anyIPv4, anyIPv6}
	if kind, after, ok := strings.Cut(word, ":"); ok {
		switch kind {
		case "inet":
			rest, family = after, []netip.Prefix{anyIPv4}
		case "inet6":
			rest, family = after, []netip.Prefix{anyIPv6}
		case "unix", "link", "netlink", "vsock":
			return nil, fmt.Errorf("%s: sockets are not TCP sockets: write an address", kind)
		}
	}
	host, zone, port, err := splitEndpoint(rest)
	if err != nil {
		return nil, err
	}
	var conditions []Expr // any address of any family is one only where no other stands
	if !slices.Contains([]string{"*", "any", "all", "default"}, host) {
		prefixes, err := p.addresses(host)
		if err != nil {
			return nil, err
		}
		prefixes = slices.DeleteFunc(prefixes, func(q netip.Prefix) bool { return !slices.ContainsFunc(family, q.Overlaps) })
		if len(prefixes) == 0 {
			return nil, fmt.Errorf("%s is not of the family that %s names", clip(host), quote(word[:len(word)-len(rest)]))
		}
		conditions = append(conditions, Hosts(side, prefixes...))
	} else if len(family) == 1 || port == "*" && zone == "" {
		conditions = append(conditions, Hosts(side, family...))
	}
	if port != "*" {
		n, err := ParsePort(port)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, Ports(side, PortRange{n, n}))
	}
	if zone != "" {
		device, err := parseDevice(zone[1:])
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, device)
	}
	return And(conditions...), nil
}

// addresses reads an address, a prefix or, where it can look it up, the name of a
// host.
func (p *parser) addresses(host string) ([]netip.Prefix, error) {
	if p.lookup == nil || !isHostName(host) {
		prefix, err := parseNetwork(host)
		return []netip.Prefix{prefix}, err
	}
	addrs, err := p.lookup(host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not an address, and looking it up failed: %w", quote(host), err)
	}
	var prefixes []netip.Prefix
	for _, addr := range addrs {
		addr = addr.Unmap().WithZone("")
		prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return prefixes, nil
}

// splitEndpoint parts an address from a zone, which keeps its %, and from a port;
// "*" stands for the port that is not given, and for the address.
func splitEndpoint(word string) (addr, zone, port string, err error) {
	if inner, ok := strings.CutPrefix(word, "["); ok {
		addr, rest, ok := strings.Cut(inner, "]")
		if !ok {
			return "", "", "", fmt.Errorf("%s has no ] after its address", quote(word))
		}
		before, port, ok := strings.Cut(rest, ":")
		if !ok {
			port = "*"
		}
		if inside := strings.IndexByte(addr, '%'); inside >= 0 && before == "" {
			addr, before = addr[:inside], addr[inside:]
		}
		if before != "" && before[0] != '%' {
			return "", "", "", fmt.Errorf("expected : and a port after the ] of %s; the length of a prefix stands inside the brackets", quote(word))
		}
		return addr, before, port, nil
	}
	if at := strings.IndexByte(word, '%'); at >= 0 {
		zone, port, ok := strings.Cut(word[at:], ":")
		if !ok {
			port = "*"
		}
		return word[:at], zone, port, nil
	}
	// The colon before a port is the last one, but never within a prefix.
	colon := strings.LastIndexByte(word, ':')
	if slash := strings.IndexByte(word, '/'); colon < slash {
		colon = -1
	}
	if colon < 0 {
		return word, "", "*", nil
	}
	addr, port = word[:colon], word[colon+1:]
	_, notWhole := netip.ParseAddr(word)
	_, notAddr := netip.ParseAddr(addr)
	_, notPort := ParsePort(port)
	switch {
	case notWhole == nil && notAddr == nil && notPort == nil:
		return "", "", "", fmt.Errorf("%s can be read in two ways: write [%s] or [%s]:%s", quote(word), word, addr, port)
	case notWhole == nil:
		return word, "", "*", nil
	case addr == "":
		addr = "*"
	}
	return addr, "", port, nil
}

// parseNetwork reads what ss takes for an address: beside what ParsePrefix reads,
// an IPv4 prefix whose last parts are left out, such as 10/8, or whose length is
// written as a mask, such as 10.0.0.0/255.0.0.0.
func parseNetwork(text string) (netip.Prefix, error) {
	addr, length, sliced := strings.Cut(text, "/")
	parts := strings.Split(addr, ".")
	if missing := 4 - len(parts); missing > 0 && !slices.ContainsFunc(parts, func(part string) bool { return !isDecimal(part) }) {
		addr += strings.Repeat(".0", missing)
		_, err := netip.ParseAddr(addr)
		switch {
		case sliced:
		case err != nil && missing == 3:
			return netip.Prefix{}, fmt.Errorf("%s is not an address: write :%s for the port", quote(text), clip(text))
		case err == nil:
			return netip.Prefix{}, fmt.Errorf("%s is not a whole address: write %s for the address or %s/%d for the network", quote(text), addr, text, 8*len(parts))
		}
	}
	if mask, err := netip.ParseAddr(length); err == nil && mask.Is4() && !strings.Contains(addr, ":") {
		octets := mask.As4()
		ones := bits.LeadingZeros32(^binary.BigEndian.Uint32(octets[:]))
		if netip.PrefixFrom(mask, ones).Masked().Addr() != mask {
			return netip.Prefix{}, fmt.Errorf("%s is not the mask of a network: its ones must stand before its zeros", mask)
		}
		length = strconv.Itoa(ones)
	}
	if p, err := netip.ParsePrefix(addr + "/" + length); err == nil && sliced {
		return unmap(p).Masked(), nil
	}
	return ParsePrefix(text)
}
