package templates

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/template/parse"
	"time"
)

// written is a value that is written as JSON already.
type written string

// inJSON is how a value is written, within quotes or elsewhere.
func inJSON(v any, quoted bool) (string, error) {
	if quoted {
		return toText(v)
	}
	text, err := toJSON(v)
	return string(text), err
}

func toJSON(v any) (written, error) {
	if text, ok := v.(written); ok {
		return text, nil
	}
	text, err := json.Marshal(v)
	return written(text), err
}

func toText(v any) (string, error) {
	var text string
	switch v := v.(type) {
	case time.Time:
		text = v.Format(time.RFC3339)
	case written, string, bool, int, float64:
		text = fmt.Sprint(v)
	default:
		return "", errors.New("quotes cannot hold a mapping or a list: write json before it, or leave the quotes out")
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return "", err
	}
	return string(quoted[1 : len(quoted)-1]), nil
}

// ParseJSON reads a template that makes JSON: values within quotes are escaped there, and
// values elsewhere are written as JSON. It is tried as Parse does, and what it makes must
// be JSON, whichever branches it takes; each branch that no trial takes costs one of
// tries, and is not tried where there is none left.
func (l *Language) ParseJSON(text string, tries *int) (*Template, *Mistake) {
	if at := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\n\r\t", r) }); at >= 0 {
		return nil, &Mistake{at, "JSON holds no control characters: write \\u and its number"}
	}
	t, m := l.parse(text, "")
	if m != nil {
		return nil, m
	}
	t.quoted = make(map[*parse.ActionNode]bool)
	e := escaper{quoted: t.quoted}
	if e.list(t.tree.Root); e.within && e.mistake == nil {
		e.mistake = &Mistake{e.opened, "this quote is not closed"}
	}
	if e.mistake != nil {
		return nil, e.mistake
	}
	if m := l.tryJSON(t, tries); m != nil {
		return nil, m
	}
	return t, nil
}

// escaper finds which actions stand within quotes.
type escaper struct {
	quoted  map[*parse.ActionNode]bool
	within  bool // quotes
	escaped bool // the next character is, by a backslash
	opened  int  // where the quote is
	looped  bool // whether the range that it is in began within quotes
	mistake *Mistake
}

func (e *escaper) refuse(n parse.Node, text string) {
	if e.mistake == nil { // what follows may follow from it
		e.mistake = &Mistake{int(n.Position()), text}
	}
}

func (e *escaper) list(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			e.text(n)
		case *parse.ActionNode:
			e.action(n)
		case *parse.BreakNode, *parse.ContinueNode:
			if e.within != e.looped || e.escaped {
				e.refuse(n, unevenRange)
			}
		}
		switch b := branching(n); {
		case b == nil:
		case b.NodeType == parse.NodeRange:
			outside := e.looped
			e.looped = e.within
			e.turn(b, b.List)
			e.looped = outside
			e.turn(b, b.ElseList)
		default:
			e.branches(b)
		}
	}
}

func (e *escaper) text(n *parse.TextNode) {
	for i, c := range n.Text {
		switch {
		case e.escaped:
			e.escaped = false
		case e.within && c == '\\':
			e.escaped = true
		case c == '"':
			e.within = !e.within
			e.opened = int(n.Pos) + i
		}
	}
}

func (e *escaper) action(n *parse.ActionNode) {
	if len(n.Pipe.Decl) > 0 {
		return
	}
	if e.escaped {
		e.refuse(n, "the backslash before this would escape what it says: write \\\\ for a backslash")
		e.escaped = false
	}
	e.quoted[n] = e.within
}

// branches end the same: what comes next stands within quotes or not.
func (e *escaper) branches(n *parse.BranchNode) {
	before := *e
	e.list(n.List)
	after := *e
	e.within, e.escaped, e.opened = before.within, before.escaped, before.opened
	e.list(n.ElseList)
	if e.within != after.within || e.escaped != after.escaped {
		e.refuse(n, "one branch of this ends inside quotes, and the other does not")
	}
}

const unevenRange = "each iteration of range must close the quotes that it opens"

// turn ends as it begins.
func (e *escaper) turn(n parse.Node, list *parse.ListNode) {
	before := *e
	e.list(list)
	if e.within != before.within || e.escaped {
		e.refuse(n, unevenRange)
	}
	e.within, e.escaped, e.opened = before.within, before.escaped, before.opened
}
