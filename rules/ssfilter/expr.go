package ssfilter

import "net/netip"

// Expr is an expression over a Conn, immutable once made. ParseExpr, And, Or,
// Not, Ports, Hosts and Autobound make them, always in one normal form: lists are flat,
// and conditions on the same ports or addresses are one condition. Where an
// Expr is nil, it holds for every socket.
type Expr interface {
	// Eval says whether the expression holds for c. It does not allocate.
	Eval(c *Conn) Tri
	// String prints the expression in the language that ParseExpr reads; parsed
	// again it gives the same tree, unless it is too long or deep for ParseExpr.
	String() string

	// compile appends code that falls through where the expression holds and
	// jumps to reject where it does not.
	compile(p *program, reject label)
}

// never is the expression that holds for no socket.
var never Expr = ports{side: Src}

type (
	and []Expr // two or more, none of them an and
	or  []Expr // two or more, none of them an or
	not struct{ x Expr }
)

// And holds where every one of exprs holds; And() is nil and holds for every
// socket.
func And(exprs ...Expr) Expr {
	var list and
	portsAt := [2]int{-1, -1} // those of one side are one condition
	for _, x := range flat[and](exprs) {
		p, ok := x.(ports)
		switch {
		case x == nil:
		case ok && portsAt[p.side] >= 0:
			at := portsAt[p.side]
			list[at] = list[at].(ports).intersect(p)
		default:
			if ok {
				portsAt[p.side] = len(list)
			}
			list = append(list, x)
		}
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return list
}

// Or holds where any one of exprs holds; Or() holds for no socket.
func Or(exprs ...Expr) Expr {
	// Ports and addresses are gathered first and united once: in pairs, a long
	// list would take quadratic time.
	var list or
	var ranges [2][]PortRange
	var prefixes [2][]netip.Prefix
	for _, x := range flat[or](exprs) {
		known := false
		switch x := x.(type) {
		case nil:
			return nil
		case ports:
			if len(x.ranges) == 0 {
				continue // it holds for no socket
			}
			known = ranges[x.side] != nil
			ranges[x.side] = append(ranges[x.side], x.ranges...)
		case hosts:
			known = prefixes[x.side] != nil
			prefixes[x.side] = append(prefixes[x.side], x.prefixes...)
		}
		if !known {
			list = append(list, x)
		}
	}
	for i, x := range list {
		switch x := x.(type) {
		case ports:
			list[i] = newPorts(x.side, ranges[x.side])
		case hosts:
			list[i] = newHosts(x.side, prefixes[x.side])
		}
	}
	switch len(list) {
	case 0:
		return never
	case 1:
		return list[0]
	}
	return list
}

// flat puts the members of lists of one kind in the place of these.
func flat[List and | or](exprs []Expr) (all []Expr) {
	for _, x := range exprs {
		if list, ok := x.(List); ok {
			all = append(all, list...)
		} else {
			all = append(all, x)
		}
	}
	return all
}

// Not holds where x certainly does not.
func Not(x Expr) Expr {
	switch x := x.(type) {
	case nil:
		return never
	case not:
		return x.x
	}
	return not{x}
}

func (list and) Eval(c *Conn) Tri {
	t := True
	for _, x := range list {
		if t = min(t, x.Eval(c)); t == False {
			break
		}
	}
	return t
}

func (list or) Eval(c *Conn) Tri {
	t := False
	for _, x := range list {
		if t = max(t, x.Eval(c)); t == True {
			break
		}
	}
	return t
}

func (n not) Eval(c *Conn) Tri { return n.x.Eval(c).Not() }
