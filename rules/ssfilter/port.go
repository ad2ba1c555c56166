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

func (p ports) intersect(q ports) ports {
	var common []PortRange
	for i, j := 0, 0; i < len(p.ranges) && j < len(q.ranges); {
		a, b := p.ranges[i], q.ranges[j]
		common = append(common, PortRange{max(a.First, b.First), min(a.Last, b.Last)})
		if a.Last < b.Last {
			i++
		} else {
			j++
		}
	}
	return newPorts(p.side, common)
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

func (p ports) String() string { return text(p) }

func (p ports) print(b *strings.Builder, outer form) {
	switch len(p.ranges) {
	case 0:
		p.printOp(b, "<", 0)
	case 1:
		p.printRange(b, p.ranges[0], outer)
	default:
		printList(b, p.ranges, disjunction, outer, func(b *strings.Builder, r PortRange) {
			p.printRange(b, r, disjunction)
		})
	}
}

func (p ports) printRange(b *strings.Builder, r PortRange, outer form) {
	switch {
	case r.First == r.Last:
		p.printOp(b, "=", r.First)
	case r.Last == math.MaxUint16:
		p.printOp(b, ">=", r.First)
	case r.First == 0:
		p.printOp(b, "<=", r.Last)
	default:
		printList(b, []PortRange{{r.First, math.MaxUint16}, {0, r.Last}}, conjunction, outer,
			func(b *strings.Builder, r PortRange) { p.printRange(b, r, conjunction) })
	}
}

func (p ports) printOp(b *strings.Builder, op string, port uint16) {
	fmt.Fprintf(b, "%cport %s :%d", p.side.String()[0], op, port)
}

// ParsePort reads a port as ss does: a decimal number, a hexadecimal one after
// 0x, an octal one after 0, or the name of a TCP service in /etc/services.
func ParsePort(text string) (uint16, error) {
	if isNumber(text) {
		n, err := strconv.ParseUint(text, 0, 16)
		if err == nil {
			return uint16(n), nil
		}
		if errors.Is(err, strconv.ErrRange) {
			return 0, fmt.Errorf("%s is not a port: ports go from 0 to %d", clip(text), math.MaxUint16)
		}
	}
	if text == "" || text[0] == '-' || text[0] == '+' {
		return 0, fmt.Errorf("%s is not a port: write a number from 0 to %d or the name of a service", quote(text), math.MaxUint16)
	}
	// The C resolver would ask whatever nsswitch.conf names, even a network.
	services := net.Resolver{PreferGo: true}
	n, err := services.LookupPort(context.Background(), "tcp", text)
	if err != nil {
		return 0, fmt.Errorf("%s is neither a port number nor a TCP service in /etc/services", quote(text))
	}
	return uint16(n), nil
}

// isNumber reports whether text begins a number as C writes one: strconv's base
// 0 knows 0b, 0o and underscores too.
func isNumber(text string) bool {
	if text == "" || text[0] < '0' || text[0] > '9' || strings.Contains(text, "_") {
		return false
	}
	return len(text) < 2 || text[0] != '0' || !strings.ContainsRune("bBoO", rune(text[1]))
}
