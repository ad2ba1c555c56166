package ssfilter

import "strings"

// A condition is what one key of the language says, such as "sport >= :22".
type condition interface {
	// words are the key and, where there are such, the operator and the value.
	words() []string
}

// A set is one Expr that the language may have to say in several conditions.
type set interface {
	// spelled is a condition, or a list of sets.
	spelled() Expr
}

func (list and) String() string    { return text(list, "") }
func (list or) String() string     { return text(list, "") }
func (n not) String() string       { return text(n, "") }
func (p ports) String() string     { return text(p, "") }
func (h hosts) String() string     { return text(h, "") }
func (d device) String() string    { return text(d, "") }
func (m mark) String() string      { return text(m, "") }
func (g cgroup) String() string    { return text(g, "") }
func (a autobound) String() string { return text(a, "") }

// text prints x where the word outer stands beside it, "" where nothing does: a list
// that another word joins needs parentheses.
func text(x Expr, outer string) string {
	switch x := spelled(x).(type) {
	case and:
		return joined(x, " and ", outer)
	case or:
		return joined(x, " or ", outer)
	case not:
		if c, ok := spelled(x.x).(condition); ok {
			if words := c.words(); len(words) == 3 && words[1] == "=" {
				words[1] = "!="
				return strings.Join(words, " ")
			}
		}
		return "not " + text(x.x, "not ")
	case condition:
		return strings.Join(x.words(), " ")
	}
	panic("an expression of no known kind")
}

func spelled(x Expr) Expr {
	if s, ok := x.(set); ok {
		return s.spelled()
	}
	return x
}

func joined(list []Expr, word, outer string) string {
	var parts []string
	for _, x := range list {
		parts = append(parts, text(x, word))
	}
	all := strings.Join(parts, word)
	if outer != "" && outer != word {
		return "( " + all + " )"
	}
	return all
}
