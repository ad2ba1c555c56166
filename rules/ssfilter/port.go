package ssfilter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
)

// PortRange is the ports from First to Last, both included; none where First
// is above Last.
type PortRange struct{ First, Last uint16 }

// ports holds where the port of one side is in any of its ranges, which are
// sorted and neither touch nor overlap.
type ports struct {
	side   Side
	ranges []PortRange
}

// Ports holds where the port of that side is in any of the ranges; without any
// it holds for no socket.
func Ports(side Side, ranges ...PortRange) Expr {
	return newPorts(side, slices.Clone(ranges))
}

// newPorts takes over ranges.
func newPorts(side Side, ranges []PortRange) ports {
	ranges = slices.DeleteFunc(ranges, func(r PortRange) bool { return r.First > r.Last })
	slices.SortFunc(ranges, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	var merged []PortRange
	for _, r := range ranges {
		if n := len(merged); n > 0 && int(r.First) <= int(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	return ports{side, merged}
}

// PortsOf returns the ports of that side outside of which x is certainly False.
// Where ok is false x may hold for any port. The ranges are sorted, and neither
// touch nor overlap.
func PortsOf(x Expr, side Side) (ranges []PortRange, ok bool) {
	p, ok := portsOf(x, side)
	return slices.Clone(p.ranges), ok
}

func portsOf(x Expr, side Side) (all ports, ok bool) {
	switch x := x.(type) {
	case ports:
		if x.side == side || len(x.ranges) == 0 { // for no socket: the side does not matter
			return ports{side, x.ranges}, true
		}
	case not:
		if p, isPorts := x.x.(ports); isPorts && p.side == side {
			return p.complement(), true
		}
	case and:
		for _, y := range x {
			if p, known := portsOf(y, side); known && ok {
				all = all.intersect(p)
			} else if known {
				all, ok = p, true
			}
		}
	case or:
		for _, y := range x {
			p, known := portsOf(y, side)
			if !known {
				return ports{}, false
			}
			all.ranges = append(all.ranges, p.ranges...)
		}
		return newPorts(side, all.ranges), true
	}
	return all, ok
}

// NamesPort reports whether a condition of x is about that very port, as in
// "dport = 22", and not about a range of ports or about all but that one. Two
// neighbours, as in "dport = 22 or dport = 23", are a range.
func NamesPort(x Expr, port uint16) bool {
	return NamesPortOf(x, Src, port) || NamesPortOf(x, Dst, port)
}

// NamesPortOf is NamesPort for the port of one side.
func NamesPortOf(x Expr, side Side, port uint16) bool {
	names := func(x Expr) bool { return NamesPortOf(x, side, port) }
	switch x := x.(type) {
	case ports:
		return x.side == side && slices.Contains(x.ranges, PortRange{port, port})
	case and:
		return slices.ContainsFunc(x, names)
	case or:
		return slices.ContainsFunc(x, names)
	}
	return false
}

// complement holds where p does not.
func (p ports) complement() ports {
	var rest []PortRange
	first := 0
	for _, r := range p.ranges {
		if int(r.First) > first {
			rest = append(rest, PortRange{uint16(first), r.First - 1})
		}
		first = int(r.Last) + 1
	}
	if first <= math.MaxUint16 {
		rest = append(rest, PortRange{uint16(first), math.MaxUint16})
	}
	return ports{p.side, rest}
}

func (p ports) intersect(q ports) ports {
	return newPorts(p.side, append(p.complement().ranges, q.complement().ranges...)).complement()
}

func (p ports) Eval(c *Conn) Tri {
	port := p.side.of(c).Port()
	_, in := slices.BinarySearchFunc(p.ranges, port, func(r PortRange, port uint16) int {
		switch {
		case r.Last < port:
			return -1
		case r.First > port:
			return 1
		}
		return 0
	})
	return TriOf(in)
}

func (p ports) spelled() Expr {
	switch len(p.ranges) {
	case 0:
		return p
	case 1:
		r := p.ranges[0]
		if r.First == r.Last || r.First == 0 || r.Last == math.MaxUint16 {
			return p
		}
		return and{Ports(p.side, PortRange{r.First, math.MaxUint16}), Ports(p.side, PortRange{0, r.Last})}
	}
	var list or
	for i := range p.ranges {
		list = append(list, ports{p.side, p.ranges[i : i+1]})
	}
	return list
}

func (p ports) words() []string {
	op, port := "<", uint16(0) // none is
	for _, r := range p.ranges {
		switch {
		case r.First == r.Last:
			op, port = "=", r.First
		case r.Last == math.MaxUint16:
			op, port = ">=", r.First
		default:
			op, port = "<=", r.Last
		}
	}
	return []string{p.side.String()[:1] + "port", op, fmt.Sprintf(":%d", port)}
}

// ParsePort reads a port as ss does: a decimal number, a hexadecimal one after
// 0x, an octal one after 0, or the name of a TCP service in /etc/services.
func ParsePort(text string) (uint16, error) {
	n, err := number(text, 16)
	switch {
	case err == nil:
		return uint16(n), nil
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%s is not a port: ports go from 0 to %d", clip(text), math.MaxUint16)
	case isDecimal(text):
		return 0, fmt.Errorf("%s is not a port: a number that begins with 0 is octal", clip(text))
	case text == "", text[0] == '-', text[0] == '+':
		return 0, fmt.Errorf("%s is not a port: write a number from 0 to %d or the name of a service", quote(text), math.MaxUint16)
	}
	// The C resolver would ask whatever nsswitch.conf names, even a network.
	services := net.Resolver{PreferGo: true}
	port, err := services.LookupPort(context.Background(), "tcp", text)
	if err != nil {
		return 0, fmt.Errorf("%s is neither a port number nor a TCP service in /etc/services", quote(text))
	}
	return uint16(port), nil
}

// number reads a number as C writes one.
func number(text string, bits int) (uint64, error) {
	if !isNumber(text) {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(text, 0, bits)
}

func isDecimal(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

// isNumber reports whether text begins a number as C writes one: strconv's base
// 0 knows 0b, 0o and underscores too.
func isNumber(text string) bool {
	if text == "" || text[0] < '0' || text[0] > '9' || strings.Contains(text, "_") {
		return false
	}
	return len(text) < 2 || text[0] != '0' || !strings.ContainsRune("bBoO", rune(text[1]))
}
