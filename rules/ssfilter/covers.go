package ssfilter

import "net/netip"

// Covers reports whether outer certainly holds wherever inner does, both about ports
// and addresses. It may miss that where the two say the same in different words.
func Covers(outer, inner Expr) bool {
	if outer == nil {
		return true
	}
	if list, ok := inner.(or); ok {
		for _, x := range list {
			if !Covers(outer, x) {
				return false
			}
		}
		return true
	}
	list, ok := outer.(or)
	if !ok {
		return coversOne(outer, inner)
	}
	for _, x := range list {
		if coversOne(x, inner) {
			return true
		}
	}
	return false
}

// coversOne is Covers for conditions that are no lists.
func coversOne(outer, inner Expr) bool {
	switch outer := outer.(type) {
	case ports:
		inner, ok := inner.(ports)
		return ok && inner.side == outer.side && within(inner.ranges, outer.ranges, func(a, b PortRange) bool {
			return b.First <= a.First && a.Last <= b.Last
		})
	case hosts:
		inner, ok := inner.(hosts)
		return ok && inner.side == outer.side && within(inner.prefixes, outer.prefixes, func(a, b netip.Prefix) bool {
			return b.Bits() <= a.Bits() && b.Contains(a.Addr())
		})
	}
	return false
}

// within reports whether each of few is in one of many; both are sorted and disjoint.
func within[T any](few, many []T, in func(a, b T) bool) bool {
	for _, a := range few {
		for len(many) > 0 && !in(a, many[0]) {
			many = many[1:]
		}
		if len(many) == 0 {
			return false
		}
	}
	return true
}
