package ssfilter

import "slices"

// Asked is what an expression asks of a socket beside its addresses and ports.
type Asked struct {
	// Devices and Cgroups are those that it calls by their names. Where there is none of
	// that name, no socket is in it, and each is outside of it.
	Devices, Cgroups []string

	Mark      bool // which the kernel tells to CAP_NET_ADMIN only
	Autobound bool // which the kernel tells of no socket: it takes part in a program only

	// Volatile: the truth may change while the connection stays as it is and no segment
	// arrives. A program may set SO_MARK and SO_BINDTODEVICE at any time, and an
	// administrator may rename a device.
	Volatile bool
}

// Asks returns what the truth of x may hang on.
func Asks(x Expr) (a Asked) {
	visit(x, func(x Expr) {
		switch x := x.(type) {
		case device:
			a.Volatile = true
			if x.name != "" {
				a.Devices = append(a.Devices, x.name)
			}
		case cgroup:
			a.Cgroups = append(a.Cgroups, string(x))
		case mark:
			a.Mark, a.Volatile = true, true
		case autobound:
			a.Autobound = true
		}
	})
	return a
}

// WithinCgroups reports whether x holds for no socket outside of the cgroups that it names.
func WithinCgroups(x Expr) bool { return withinCgroups(x, true) }

// withinCgroups is WithinCgroups of x or, where holds is false, of its negation.
func withinCgroups(x Expr, holds bool) bool {
	within := func(x Expr) bool { return withinCgroups(x, holds) }
	beyond := func(x Expr) bool { return !withinCgroups(x, holds) }
	switch x := x.(type) {
	case cgroup:
		return holds && x != "/" // which may be that of all
	case not:
		return withinCgroups(x.x, !holds)
	case and:
		if holds {
			return slices.ContainsFunc(x, within)
		}
		return !slices.ContainsFunc(x, beyond)
	case or:
		if holds {
			return !slices.ContainsFunc(x, beyond)
		}
		return slices.ContainsFunc(x, within)
	}
	return false
}

// visit shows each condition that x is made of.
func visit(x Expr, show func(Expr)) {
	var list []Expr
	switch x := x.(type) {
	case and:
		list = x
	case or:
		list = x
	case not:
		list = []Expr{x.x}
	default:
		show(x)
	}
	for _, y := range list {
		visit(y, show)
	}
}
