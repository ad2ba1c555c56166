package ssfilter

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sockdog/sockdog/rules/internal/message"
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
// without brackets that could end in a port. It also takes "src != ADDRESS" and
// "dst ADDRESS%DEVICE", and needs no blanks around operators and parentheses. Its
// error is a *SyntaxError.
func ParseExpr(text string) (Expr, error) {
	p := &parser{text: text, stateKey: true}
	if err := p.begin(); err != nil {
		return nil, err
	}
	return p.expr()
}

// parser reads text from left to right, one token ahead.
type parser struct {
	text     string
	lookup   Lookup // nil: names of hosts are refused
	stateKey bool   // states have a key of their own, and are no part of the text

	tok   string // "" at the end
	start int    // where tok begins in text
	end   int    // where tok ends
	last  int    // where the token before tok ended
}

// begin reads the first token.
func (p *parser) begin() error {
	if len(p.text) > maxLength {
		return &SyntaxError{maxLength, fmt.Sprintf("the filter is longer than %d bytes: use lists of ports and addresses, or several rules", maxLength)}
	}
	p.next()
	return nil
}

// expr reads an expression up to the end.
func (p *parser) expr() (Expr, error) {
	x, err := p.list(0)
	if err != nil {
		return nil, err
	}
	if p.tok == ")" {
		return nil, p.errorf("this ) has no ( before it")
	}
	return x, nil
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
	expected := "expected " + beginnings
	for {
		start := p.start
		x, err := p.unary(depth, expected)
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
			expected = "expected " + beginnings
		} else {
			word = "and"
			expected = "expected and, or, or the next condition"
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
	return fmt.Sprintf("and and or are mixed: use parentheses to say whether you mean"+
		" ( %s ) %s %s (as ss reads it, left to right) or %s %s ( %s %s %s )",
		joined, last, sources[n], head, first, sources[n-1], last, sources[n])
}

// unary = { NOT } ( "(" list ")" | predicate ). What was expected where there is
// neither is told by expected.
func (p *parser) unary(depth int, expected string) (Expr, error) {
	if depth > maxDepth {
		return nil, p.errorf("the filter nests deeper than %d levels", maxDepth)
	}
	switch p.tok {
	case "!", "not":
		p.next()
		x, err := p.unary(depth+1, "expected "+beginnings)
		if err != nil {
			return nil, err
		}
		return Not(x), nil
	case "(":
		open := p.start
		p.next()
		if p.tok == ")" {
			return nil, p.errorf("there is nothing between the ( at byte %d and this )", open+1)
		}
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
	case "dev":
		return p.equal("the name or index of a device", parseDevice)
	case "fwmark":
		return p.equal("a mark", parseMark)
	case "cgroup":
		return p.equal("the path of a cgroup", func(word string) (Expr, error) { return cleanCgroup(word), nil })
	case "autobound":
		p.next()
		if _, ok := comparisons[p.tok]; ok {
			return nil, p.errorf("autobound takes no value: write autobound or not autobound")
		}
		return Autobound(), nil
	case "state", "exclude", "excl":
		return nil, p.errorf("%s cannot stand in an expression: %s", p.tok, p.stateHint(p.tok+" S"))
	}
	if strings.HasPrefix(p.tok, `\`) {
		return nil, p.errorf(`the backslash is for a shell: write parentheses and operators without it`)
	}
	return nil, p.errorf("%s, found %s%s", expected, p.found(), p.suggestion())
}

// stateHint tells where states belong; words are how they are written.
func (p *parser) stateHint(words string) string {
	if p.stateKey {
		return "use the rule's state key"
	}
	return "write " + words + " before the first condition"
}

// predicates are the words that begin a condition, beginnings what else does.
var (
	predicates = []string{"src", "dst", "sport", "dport", "dev", "fwmark", "cgroup", "autobound"}
	beginnings = strings.Join(predicates, ", ") + ", not or ("
)

// reserved reports whether a word of the language cannot be a value.
func reserved(tok string) bool {
	_, joins := junction(tok)
	_, compares := comparisons[tok]
	return joins || compares || slices.Contains(predicates, tok) || slices.Contains([]string{"not", "state", "exclude", "excl"}, tok)
}

// comparisons are the spellings of the operators.
var comparisons = map[string]string{
	"=": "=", "==": "=", "eq": "=",
	"!=": "!=", "ne": "!=", "neq": "!=",
	">=": ">=", "ge": ">=", "geq": ">=",
	"<=": "<=", "le": "<=", "leq": "<=",
	">": ">", "gt": ">",
	"<": "<", "lt": "<",
}

// compare = key [ operator ] word, whose word is read by parse. Operators other than
// = and != are for what has an order.
func (p *parser) compare(want string, ordered bool, parse func(op, word string) (Expr, error)) (Expr, error) {
	key, op := p.tok, "="
	p.next()
	if written, ok := comparisons[p.tok]; ok {
		if op = written; op != "=" && op != "!=" && !ordered {
			return nil, p.errorf("%s takes = or !=, and not %s", key, op)
		}
		p.next()
	}
	word, err := p.value(want)
	if err != nil {
		return nil, err
	}
	x, err := parse(op, word)
	if err != nil {
		return nil, p.errorf("%v", err)
	}
	p.next()
	if op == "!=" {
		return Not(x), nil
	}
	return x, nil
}

// equal is compare for what has no order.
func (p *parser) equal(want string, parse func(word string) (Expr, error)) (Expr, error) {
	return p.compare(want, false, func(_, word string) (Expr, error) { return parse(word) })
}

// value returns the present token, which must be a word.
func (p *parser) value(want string) (string, error) {
	if p.tok == "" || strings.Contains(marks, p.tok[:1]) || reserved(p.tok) {
		return "", p.errorf("expected %s, found %s", want, p.found())
	}
	return p.tok, nil
}

// port = ( "sport" | "dport" ) [ operator ] [ ":" ] ( port | "*" ).
func (p *parser) port(side Side) (Expr, error) {
	key := p.tok
	return p.compare("a port", true, func(op, word string) (Expr, error) {
		word = strings.TrimPrefix(word, ":")
		if word == "*" {
			if op != "=" && op != "!=" {
				return nil, fmt.Errorf("* stands for every port: it can follow = or !=, and not %s", op)
			}
			return Ports(side, PortRange{0, math.MaxUint16}), nil
		}
		port, err := ParsePort(word)
		if err == nil {
			return compared(side, op, port), nil
		}
		if from, to, ok := strings.Cut(word, "-"); ok && isNumber(from) && isNumber(to) {
			return nil, fmt.Errorf("a range of ports is written %s >= %s and %s <= %s", key, clip(from), key, clip(to))
		}
		if several := strings.Split(word, ","); len(several) > 1 {
			return nil, fmt.Errorf("several ports are written %s = %s or %s = %s", key, clip(several[0]), key, clip(several[1]))
		}
		return nil, err
	})
}

// compared holds where a port stands to another as op says, and for "!=" where it
// does not.
func compared(side Side, op string, port uint16) Expr {
	above, below := PortRange{port, math.MaxUint16}, PortRange{0, port}
	switch op {
	case ">=":
		return Ports(side, above)
	case "<=":
		return Ports(side, below)
	case ">":
		return newPorts(side, []PortRange{below}).complement()
	case "<":
		return newPorts(side, []PortRange{above}).complement()
	}
	return Ports(side, PortRange{port, port})
}

// quote quotes a piece of the text for an error.
func quote(text string) string { return strconv.Quote(clip(text)) }

// clip shortens a piece of the text for an error.
func clip(text string) string { return message.Cut(text, 60) }
