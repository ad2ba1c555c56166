// Package templates reads the text/templates of a rules file. It tries each when it is
// read, in every branch, and bounds what one can say and how long it takes.
package templates

import (
	"cmp"
	"errors"
	"strings"
	"text/template/parse"
)

// MaxBytes bounds a template and each text that it makes.
const MaxBytes = 8 << 10

// Mistake is what is wrong with a template, at a byte of its text.
type Mistake struct {
	Offset int
	Text   string
}

// Trial is data to try a template with.
type Trial struct {
	When string // in words, such as " where all is 0"
	Data any
}

// Language is what one kind of template can say.
type Language struct {
	What   string // "template", say
	Blank  string // what to write instead of nothing
	Trials []Trial
	Full   any    // data in which nothing is empty: every branch is tried with it
	Range  any    // a value of the one type that range goes over
	Over   string // its name, such as ".Group"

	// Key words the mistake of a key that a mapping lacks; nil: a key may be missing.
	Key func(name string) string
}

// Template is a text/template that was tried.
type Template struct {
	source   string
	language *Language
	tree     *parse.Tree
	// quoted says of each action whether its value is written within quotes of JSON; nil: it
	// is text.
	quoted map[*parse.ActionNode]bool
}

// String is the template as it is written.
func (t *Template) String() string { return t.source }

// MarshalText returns the template as it is written.
func (t *Template) MarshalText() ([]byte, error) { return []byte(t.source), nil }

// Execute returns what the template makes of the data. It fails with ErrLong after max
// bytes, and returns those.
func (t *Template) Execute(data any, max int) (string, error) {
	r := run{Template: t, room: max}
	f := r.execute(data)
	switch {
	case f == nil:
		return r.text.String(), nil
	case errors.Is(f.error, ErrLong):
		return r.text.String(), ErrLong
	}
	return "", errors.New(f.at())
}

// ErrLong says that a template makes more text than it may.
var ErrLong = errors.New("the template says too much")

// Parse reads a template, and tries it in every branch and with every trial.
func (l *Language) Parse(text string) (*Template, *Mistake) {
	t, m := l.parse(text, "json")
	if m != nil {
		return nil, m
	}
	for _, trial := range l.Trials {
		r := run{Template: t, room: MaxBytes}
		if f := r.execute(trial.Data); f != nil && !errors.Is(f.error, ErrLong) {
			return nil, l.failure(trial.When, f)
		}
	}
	return t, nil
}

// parse reads a template without a function, and tries it in every branch.
func (l *Language) parse(text, without string) (*Template, *Mistake) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, &Mistake{0, "this is empty: " + l.Blank}
	case len(text) > MaxBytes:
		return nil, &Mistake{0, "a " + l.What + " is at most 8 KiB long"}
	}
	known := make(map[string]any)
	for name := range functions() {
		known[name] = true
	}
	delete(known, without)
	trees, err := parse.Parse("", text, "", "", known)
	if err != nil {
		return nil, explain(text, err)
	}
	t := &Template{source: text, language: l, tree: trees[""]}
	if n := outOfPlace(t.tree.Root, false); n != nil {
		return nil, n
	}
	for name, other := range trees {
		if name != "" {
			return nil, &Mistake{int(other.Root.Position()), noOthers}
		}
	}
	r := run{Template: t, every: true}
	if f := r.execute(l.Full); f != nil && !errors.Is(f.error, errRange) {
		return nil, l.failure("", f)
	}
	return t, nil
}

const noOthers = "define, block and template are not allowed here: write their text out"

// outOfPlace finds what has no place in a template.
func outOfPlace(list *parse.ListNode, inRange bool) *Mistake {
	if list == nil {
		return nil
	}
	for _, n := range list.Nodes {
		b := branching(n)
		loops := b != nil && b.NodeType == parse.NodeRange
		switch {
		case n.Type() == parse.NodeTemplate:
			return &Mistake{int(n.Position()), noOthers}
		case loops && inRange:
			return &Mistake{int(n.Position()), "a range is not allowed inside a range"}
		case b != nil:
			if m := cmp.Or(outOfPlace(b.List, inRange || loops), outOfPlace(b.ElseList, inRange)); m != nil {
				return m
			}
		}
	}
	return nil
}

// branching returns the condition of an if, with or range, and its branches; nil for any
// other node.
func branching(n parse.Node) *parse.BranchNode {
	switch n := n.(type) {
	case *parse.IfNode:
		return &n.BranchNode
	case *parse.WithNode:
		return &n.BranchNode
	case *parse.RangeNode:
		return &n.BranchNode
	}
	return nil
}
