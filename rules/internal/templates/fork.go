package templates

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// maxConditions bounds what a template that makes JSON costs to try.
const maxConditions = 32

// tryJSON holds what a template makes to be JSON, with each trial and then in each
// branch that none of them has taken.
func (l *Language) tryJSON(t *Template, tries *int) *Mistake {
	plain := l.watch(t, -1)
	if len(plain.branches) > 2*maxConditions {
		at := plain.branches[2*maxConditions].Position()
		return &Mistake{int(at), fmt.Sprintf("a %s has at most %d conditions, and this has %d", l.What, maxConditions, len(plain.branches)/2)}
	}
	taken := map[int]bool{}
	for _, trial := range l.Trials {
		out, err := plain.run(trial.Data)
		if err != nil {
			return l.failure(t.text, trial.When, err)
		}
		if m := l.check(out, trial.When, t.text); m != nil {
			return m
		}
		maps.Copy(taken, out.taken)
	}
	for i, b := range plain.branches {
		if taken[i] || !b.forceable() {
			continue
		}
		if *tries--; *tries < 0 {
			return nil
		}
		if m := l.tryBranch(t, i, taken); m != nil {
			return m
		}
	}
	return nil
}

// tryBranch takes a branch whatever its condition says. It is wrong if what the template
// makes is JSON with none of the trials that reach it.
func (l *Language) tryBranch(t *Template, branch int, taken map[int]bool) (first *Mistake) {
	forced := l.watch(t, branch)
	for _, trial := range l.Trials {
		out, err := forced.run(trial.Data)
		if err != nil || !out.taken[branch] {
			continue // it may be right where it is meant to be taken
		}
		m := l.check(out, " in this branch", t.text)
		if m == nil {
			maps.Copy(taken, out.taken)
			return nil
		}
		if first == nil {
			first = m
		}
	}
	return first
}

// watched is a copy of a template that marks what it makes, by bytes that JSON never
// holds, with where it is in the template and which branches it takes.
type watched struct {
	*template.Template
	branches []branch // by twos, of one condition each
}

// branch is one way to go at a condition.
type branch struct {
	*parse.BranchNode
	then    bool
	written bool // it is not an else that is left out
	within  int  // the branch that it is in; -1: none
}

// forceable reports whether a constant condition takes the branch.
func (b branch) forceable() bool {
	return b.written && (b.NodeType == parse.NodeIf || b.NodeType == parse.NodeWith && !b.then)
}

// watch copies a template. Where force is a branch, the conditions on the way to it are
// as it needs them, as far as they can be.
func (l *Language) watch(t *Template, force int) *watched {
	tree := t.tree.Tree.Copy()
	w := &watched{}
	w.list(tree.Root, -1)
	for i := force; i >= 0; i = w.branches[i].within {
		if b := w.branches[i]; b.NodeType == parse.NodeIf || b.NodeType == parse.NodeWith && !b.then {
			b.Pipe = constant(b.then)
		}
	}
	funcs := l.funcs()
	maps.Copy(funcs, jsonFuncs)
	w.Template = template.Must(template.New("").Option("missingkey=zero").Funcs(funcs).AddParseTree("", tree))
	return w
}

func (w *watched) list(list *parse.ListNode, within int) {
	var nodes []parse.Node
	for _, n := range list.Nodes {
		nodes = append(nodes, mark("at %d", n.Position()), n)
		if b := branching(n); b != nil {
			w.fork(b, within)
		}
	}
	list.Nodes = nodes
}

func (w *watched) fork(n *parse.BranchNode, within int) {
	then, written := len(w.branches), n.ElseList != nil
	if !written {
		n.ElseList = &parse.ListNode{NodeType: parse.NodeList}
	}
	w.branches = append(w.branches, branch{n, true, true, within}, branch{n, false, written, within})
	for i, list := range []*parse.ListNode{n.List, n.ElseList} {
		w.list(list, then+i)
		list.Nodes = append([]parse.Node{mark("in %d", then+i)}, list.Nodes...)
	}
}

func mark(format string, number any) *parse.TextNode {
	return &parse.TextNode{NodeType: parse.NodeText, Text: fmt.Appendf(nil, "\x00"+format+"\x01", number)}
}

// output is what a watched template makes, without the marks.
type output struct {
	text  string
	from  []origin
	taken map[int]bool // branches
}

// origin is where output comes from: the byte of the template from that byte on.
type origin struct{ output, template int }

func (w *watched) run(data any) (*output, error) {
	var b strings.Builder // of no more than a template and a trial make, as no range is in a range
	if err := w.Execute(&b, data); err != nil {
		return nil, err
	}
	out := &output{taken: map[int]bool{}}
	var text strings.Builder
	for i, part := range strings.Split(b.String(), "\x00") {
		if i > 0 {
			mark, rest, _ := strings.Cut(part, "\x01")
			kind, digits, _ := strings.Cut(mark, " ")
			number, _ := strconv.Atoi(digits)
			if part = rest; kind == "at" {
				out.from = append(out.from, origin{text.Len(), number})
			} else {
				out.taken[number] = true
			}
		}
		text.WriteString(part)
	}
	out.text = text.String()
	return out, nil
}

// check refuses output that is no JSON, at the byte of the template where that shows.
func (l *Language) check(out *output, when, text string) *Mistake {
	var v any
	err := json.Unmarshal([]byte(out.text), &v)
	if err == nil {
		return nil
	}
	at := len(out.text)
	if bad := (*json.SyntaxError)(nil); errors.As(err, &bad) && bad.Offset > 0 {
		at = int(bad.Offset) - 1
	}
	i := sort.Search(len(out.from), func(i int) bool { return out.from[i].output > at }) - 1
	offset := 0
	if i >= 0 {
		offset = min(out.from[i].template+at-out.from[i].output, len(text))
		if i+1 < len(out.from) { // an action says more, or less, than it is long
			offset = min(offset, out.from[i+1].template)
		}
	}
	return &Mistake{offset, "the " + l.What + " is not JSON" + when + ": " + err.Error()}
}
