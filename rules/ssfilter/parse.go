package ssfilter

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what ParseExpr reads. They are far above what a person writes, and
// keep a hostile text from exhausting the stack.
const (
	maxLength = 64 << 10
	maxDepth  = 100
)

// SyntaxError says what ParseExpr expected and did not find.
type SyntaxError struct {
	Offset int // in bytes from the start of the text
	Msg    string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("filter, at byte %d: %s", e.Offset+1, e.Msg)
}

// ParseExpr reads an expression in the language of ss(8). It differs from ss
// where ss would guess: "and" beside "or" needs parentheses (ss gives both the
// same precedence), names of hosts are refused, and so is an IPv6 address
// without brackets that could end in a port. It also takes "src != ADDRESS", and
// needs no blanks around operators and parentheses. Its error is a *SyntaxError.
func ParseExpr(text string) (Expr, error) {
	if len(text) > maxLength {
		return nil, &SyntaxError{maxLength, fmt.Sprintf("the filter is longer than %d bytes: use lists of ports and addresses, or several rules", maxLength)}
	}
	p := &parser{text: text}
	p.next()
	x, err := p.list(0)
	if err != nil {
		return nil, err
	}
	if p.tok == ")" {
		return nil, p.errorf("this ) closes nothing: no ( stands before it")
	}
	return x, nil
}

// parser reads text from left to right, one token ahead.
type parser struct {
	text  string
	tok   string // "" at the end
	start int    // where tok begins in text
	end   int    // where tok ends
	last  int    // where the token before tok ended
}

// marks are the bytes of parentheses and operators.
const marks = "()=!<>&|"

// next reads the next token: a parenthesis, an operator, or a word, which ends
// at the next blank, parenthesis or operator.
func (p *parser) next() {
	const blanks = " \t\r\n"
	p.last = p.end
	rest := strings.TrimLeft(p.text[p.end:], blanks)
	p.start = len(p.text) - len(rest)
	n := strings.IndexAny(rest, blanks+marks)
	switch {
	case n < 0:
		n = len(rest)
	case n == 0 && len(rest) > 1 && slices.Contains([]string{"==", "!=", "<=", ">=", "&&", "||"}, rest[:2]):
		n = 2
	case n == 0:
		n = 1
	}
	p.tok, p.end = rest[:n], p.start+n
}

func (p *parser) errorf(format string, args ...any) error {
	return &SyntaxError{p.start, fmt.Sprintf(format, args...)}
}

// found names the present token in an error.
func (p *parser) found() string {
	if p.tok == "" {
		return "the end"
	}
	return quote(p.tok)
}

// junction is the word that String prints for a spelling of and or or.
func junction(tok string) (word string, ok bool) {
	switch tok {
	case "and", "&", "&&":
		return "and", true
	case "or", "|", "||":
		return "or", true
	}
	return "", false
}

// list = unary { [ AND | OR ] unary }, up to a ")" or the end.
func (p *parser) list(depth int) (Expr, error) {
	var exprs []Expr
	var sources []string // of exprs, for the error
	var first, word string
	var at int // where word stands
	for {
		start := p.start
		x, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		exprs, sources = append(exprs, x), append(sources, p.text[start:p.last])
		if word != first {
			return nil, &SyntaxError{at, mixed(sources, first, word)}
		}
		if p.tok == "" || p.tok == ")" {
			break
		}
		at = p.start
		var written bool
		if word, written = junction(p.tok); written {
			p.next()
		} else {
			word = "and"
		}
		if first == "" {
			first = word
		}
	}
	if first == "or" {
		return Or(exprs...), nil
	}
	return And(exprs...), nil
}

// mixed is the complaint about sources that are joined by first, but for the
// last one, which is joined by last. It shows both readings.
func mixed(sources []string, first, last string) string {
	for i, s := range sources {
		sources[i] = clip(s)
	}
	n := len(sources) - 1
	joined := strings.Join(sources[:n], " "+first+" ")
	head := strings.Join(sources[:n-1], " "+first+" ")
	const longest = 300
	if len(joined) > longest {
		head = sources[0] + " " + first + " ..."
		joined = head + " " + first + " " + sources[n-1]
	}
	return fmt.Sprintf("and and or stand side by side: say by parentheses whether you mean"+
		" ( %s ) %s %s (as ss reads it, left to right) or %s %s ( %s %s %s )",
		joined, last, sources[n], head, first, sources[n-1], last, sources[n])
}

// unary = { NOT } ( "(" list ")" | predicate ).
func (p *parser) unary(depth int) (Expr, error) {
	if depth > maxDepth {
		return nil, p.errorf("the filter nests deeper than %d levels", maxDepth)
	}
	switch p.tok {
	case "!", "not":
		p.next()
		x, err := p.unary(depth + 1)
		if err != nil {
			return nil, err
		}
		return Not(x), nil
	case "(":
		open := p.start
		p.next()
		x, err := p.list(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.tok != ")" {
			return nil, p.errorf("expected ) to close the ( at byte %d, found %s", open+1, p.found())
		}
		p.next()
		return x, nil
	case "src":
		return p.host(Src)
	case "dst":
		return p.host(Dst)
	case "sport":
		return p.port(Src)
	case "dport":
		return p.port(Dst)
	case "dev", "fwmark", "cgroup", "autobound":
		return nil, p.errorf("%s is not supported yet", p.tok)
	case "state", "exclude", "excl":
		return nil, p.errorf("%s cannot stand in an expression: use the rule's state key", p.tok)
	}
	if strings.HasPrefix(p.tok, `\`) {
		return nil, p.errorf(`the backslash is for a shell: write parentheses and operators without it`)
	}
	return nil, p.errorf("expected src, dst, sport, dport, not or (, found %s", p.found())
}

// operator reads an optional comparison operator; without one it is "=".
func (p *parser) operator() string {
	op := "="
	switch p.tok {
	case "=", "==", "eq":
	case "!=", "ne", "neq":
		op = "!="
	case ">=", "ge", "geq":
		op = ">="
	case "<=", "le", "leq":
		op = "<="
	case ">", "gt":
		op = ">"
	case "<", "lt":
		op = "<"
	default:
		return op
	}
	p.next()
	return op
}

// value returns the present token, which must be a word.
func (p *parser) value(want string) (string, error) {
	if p.tok == "" || strings.Contains(marks, p.tok[:1]) {
		return "", p.errorf("expected %s, found %s", want, p.found())
	}
	return p.tok, nil
}

// port = ( "sport" | "dport" ) [ operator ] [ ":" ] ( port | "*" ).
func (p *parser) port(side Side) (Expr, error) {
	key := p.tok
	p.next()
	op := p.operator()
	word, err := p.value("a port")
	if err != nil {
		return nil, err
	}
	word = strings.TrimPrefix(word, ":")
	var in PortRange
	if word == "*" {
		if op != "=" && op != "!=" {
			return nil, p.errorf("* stands for every port: it can follow = or !=, and not %s", op)
		}
		in = PortRange{0, math.MaxUint16}
	} else {
		port, err := ParsePort(word)
		if from, to, ok := strings.Cut(word, "-"); err != nil && ok && isNumber(from) && isNumber(to) {
			return nil, p.errorf("a range of ports is written %s >= %s and %s <= %s", key, clip(from), key, clip(to))
		}
		if err != nil {
			return nil, p.errorf("%v", err)
		}
		in = compared(op, port)
	}
	p.next()
	if op == "!=" {
		return Not(Ports(side, in)), nil
	}
	return Ports(side, in), nil
}

// compared is the ports that stand to port as op says, where op is not "!=".
func compared(op string, port uint16) PortRange {
	none := PortRange{1, 0}
	switch {
	case op == ">=":
		return PortRange{port, math.MaxUint16}
	case op == "<=":
		return PortRange{0, port}
	case op == ">" && port == math.MaxUint16, op == "<" && port == 0:
		return none
	case op == ">":
		return PortRange{port + 1, math.MaxUint16}
	case op == "<":
		return PortRange{0, port - 1}
	}
	return PortRange{port, port}
}

// host = ( "src" | "dst" ) [ "=" | "!=" ] endpoint.
func (p *parser) host(side Side) (Expr, error) {
	key := p.tok
	p.next()
	at := p.start
	op := p.operator()
	if op != "=" && op != "!=" {
		return nil, &SyntaxError{at, fmt.Sprintf("%s takes = or !=, and not %s: addresses have no order", key, op)}
	}
	word, err := p.value("an address")
	if err != nil {
		return nil, err
	}
	x, err := parseEndpoint(side, word)
	if err != nil {
		return nil, p.errorf("%v", err)
	}
	p.next()
	if op == "!=" {
		return Not(x), nil
	}
	return x, nil
}

// parseEndpoint reads what follows src and dst: an address or prefix, a port
// after a colon, or both.
func parseEndpoint(side Side, word string) (Expr, error) {
	rest, family := word, hosts{side, []netip.Prefix{anyIPv4, anyIPv6}}
	if kind, after, ok := strings.Cut(word, ":"); ok {
		switch kind {
		case "inet":
			rest, family.prefixes = after, []netip.Prefix{anyIPv4}
		case "inet6":
			rest, family.prefixes = after, []netip.Prefix{anyIPv6}
		case "unix", "link", "netlink", "vsock":
			return nil, fmt.Errorf("%s: sockets are not TCP sockets: write an address", kind)
		}
	}
	addr, port, err := splitEndpoint(rest)
	if err != nil {
		return nil, err
	}
	where := Expr(family)
	if addr != "*" {
		prefix, err := ParsePrefix(addr)
		if err != nil {
			return nil, err
		}
		if !family.prefixes[0].Overlaps(prefix) && !family.prefixes[len(family.prefixes)-1].Overlaps(prefix) {
			return nil, fmt.Errorf("%s is not of the family that %s names", clip(addr), quote(word[:len(word)-len(rest)]))
		}
		where = Hosts(side, prefix)
	}
	if port == "*" {
		return where, nil
	}
	n, err := ParsePort(port)
	if err != nil {
		return nil, err
	}
	if addr == "*" && family.all() {
		return Ports(side, PortRange{n, n}), nil
	}
	return And(where, Ports(side, PortRange{n, n})), nil
}

// splitEndpoint parts an address from a port; "*" stands for the one that is
// not given.
func splitEndpoint(word string) (addr, port string, err error) {
	if inner, ok := strings.CutPrefix(word, "["); ok {
		addr, rest, ok := strings.Cut(inner, "]")
		switch {
		case !ok:
			return "", "", fmt.Errorf("%s has no ] after its address", quote(word))
		case rest == "":
			return addr, "*", nil
		case rest[0] == ':':
			return addr, rest[1:], nil
		}
		return "", "", fmt.Errorf("expected : and a port after the ] of %s; the length of a prefix stands inside the brackets", quote(word))
	}
	// The colon before a port is the last one, but never within a prefix.
	colon := strings.LastIndexByte(word, ':')
	if slash := strings.IndexByte(word, '/'); colon < slash {
		colon = -1
	}
	if colon < 0 {
		return word, "*", nil
	}
	addr, port = word[:colon], word[colon+1:]
	_, notWhole := netip.ParseAddr(word)
	_, notAddr := netip.ParseAddr(addr)
	_, notPort := ParsePort(port)
	switch {
	case notWhole == nil && notAddr == nil && notPort == nil:
		return "", "", fmt.Errorf("%s can be read in two ways: write [%s] or [%s]:%s", quote(word), word, addr, port)
	case notWhole == nil:
		return word, "*", nil
	case addr == "":
		addr = "*"
	}
	return addr, port, nil
}

// quote quotes a piece of the text for an error.
func quote(text string) string { return strconv.Quote(clip(text)) }

// clip shortens a piece of the text for an error.
func clip(text string) string {
	const longest = 60
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "..."
}
