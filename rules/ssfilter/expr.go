package ssfilter

import (
	"net/netip"
	"strings"
)

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

	// print writes the expression so that it can stand inside outer.
	print(b *strings.Builder, outer form)
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
	add := func(x Expr) {
		if x, ok := x.(ports); ok {
			if at := portsAt[x.side]; at >= 0 {
				list[at] = list[at].(ports).intersect(x)
				return
			}
			portsAt[x.side] = len(list)
		}
		list = append(list, x)
	}
	for _, x := range exprs {
		switch x := x.(type) {
		case nil:
		case and:
			for _, y := range x {
				add(y)
			}
		default:
			add(x)
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
	var flat []Expr
	for _, x := range exprs {
		switch x := x.(type) {
		case nil:
			return nil
		case or:
			flat = append(flat, x...)
		default:
			flat = append(flat, x)
		}
	}
	// Ports and addresses are gathered first and united once: in pairs, a long
	// list would take quadratic time.
	var list or
	var ranges [2][]PortRange
	var prefixes [2][]netip.Prefix
	portsAt, hostsAt := [2]int{-1, -1}, [2]int{-1, -1}
	for _, x := range flat {
		at := -1
		switch x := x.(type) {
		case ports:
			at = portsAt[x.side]
			if at < 0 {
				portsAt[x.side] = len(list)
			}
			ranges[x.side] = append(ranges[x.side], x.ranges...)
		case hosts:
			at = hostsAt[x.side]
			if at < 0 {
				hostsAt[x.side] = len(list)
			}
			prefixes[x.side] = append(prefixes[x.side], x.prefixes...)
		}
		if at < 0 {
			list = append(list, x)
		}
	}
	for _, side := range []Side{Src, Dst} {
		if at := portsAt[side]; at >= 0 {
			list[at] = newPorts(side, ranges[side])
		}
		if at := hostsAt[side]; at >= 0 {
			list[at] = newHosts(side, prefixes[side])
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

// form is how a printed expression reads: as one word with its value, or as a
// list that needs parentheses inside any list of another form.
type form uint8

const (
	whole form = iota // nothing around it
	single
	conjunction
	disjunction
)

func text(x Expr) string {
	var b strings.Builder
	x.print(&b, whole)
	return b.String()
}

func (list and) String() string { return text(list) }
func (list or) String() string  { return text(list) }
func (n not) String() string    { return text(n) }

func (list and) print(b *strings.Builder, outer form) {
	printList(b, list, conjunction, outer, func(b *strings.Builder, x Expr) { x.print(b, conjunction) })
}

func (list or) print(b *strings.Builder, outer form) {
	printList(b, list, disjunction, outer, func(b *strings.Builder, x Expr) { x.print(b, disjunction) })
}

func (n not) print(b *strings.Builder, _ form) {
	switch x := n.x.(type) {
	case ports:
		if port, ok := x.single(); ok {
			x.printOp(b, "!=", port)
			return
		}
	case device:
		x.printOp(b, "!=")
		return
	case mark:
		x.printOp(b, "!=")
		return
	case cgroup:
		x.printOp(b, "!=")
		return
	}
	b.WriteString("not ")
	n.x.print(b, single)
}

// printList writes items as a conjunction or disjunction, in parentheses unless
// it stands alone or in a list of its own form.
func printList[T any](b *strings.Builder, items []T, f, outer form, print func(*strings.Builder, T)) {
	word := " and "
	if f == disjunction {
		word = " or "
	}
	bare := outer == whole || outer == f
	if !bare {
		b.WriteString("( ")
	}
	for i, item := range items {
		if i > 0 {
			b.WriteString(word)
		}
		print(b, item)
	}
	if !bare {
		b.WriteString(" )")
	}
}
