package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// escaper has every value of a body written as JSON, where it stands outside quotes,
// or escaped for a text of JSON, where it stands within.
type escaper struct {
	tree    *parse.Tree
	within  bool // quotes
	escaped bool // the next character is, by a backslash
	opened  int  // where the quote is
	looped  bool // whether the loop that it is in began within quotes
	slips   []slip
}

func (e *escaper) slip(offset int, text string) { e.slips = append(e.slips, slip{offset, text}) }

// quoted reports whether what comes next stands within quotes.
func (e *escaper) quoted() bool { return e.within }

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
		case *parse.IfNode:
			e.branch(&n.BranchNode)
		case *parse.WithNode:
			e.branch(&n.BranchNode)
		case *parse.RangeNode:
			e.loop(n)
		case *parse.BreakNode:
			e.leave(n)
		case *parse.ContinueNode:
			e.leave(n)
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

// action writes the value of an action that has one.
func (e *escaper) action(n *parse.ActionNode) {
	if len(n.Pipe.Decl) > 0 {
		return
	}
	if e.escaped {
		e.slip(int(n.Pos), "the backslash before this would escape what it says: write \\\\ for a backslash")
		e.escaped = false
	}
	name := writeValue
	if e.within {
		name = writeText
	}
	f := parse.NewIdentifier(name).SetTree(e.tree).SetPos(n.Pos)
	n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{f}})
}

// branch has both branches end the same: what comes next stands within quotes or not.
func (e *escaper) branch(n *parse.BranchNode) {
	before := *e
	e.list(n.List)
	after := *e
	e.within, e.escaped, e.opened = before.within, before.escaped, before.opened
	e.list(n.ElseList)
	if e.within != after.within || e.escaped != after.escaped {
		e.slip(int(n.Pos), "one branch of this ends within quotes, and the other does not")
	}
}

func (e *escaper) loop(n *parse.RangeNode) {
	before := *e
	e.looped = before.within
	e.list(n.List)
	if e.within != before.within || e.escaped {
		e.slip(int(n.Pos), "each turn of this must close the quotes that it opens")
	}
	e.within, e.escaped, e.opened, e.looped = before.within, before.escaped, before.opened, before.looped
	e.list(n.ElseList)
	if e.within != before.within || e.escaped {
		e.slip(int(n.Pos), "each turn of this must close the quotes that it opens")
	}
}

// leave is where a turn of a loop ends early.
func (e *escaper) leave(n parse.Node) {
	if e.within != e.looped || e.escaped {
		e.slip(int(n.Position()), "each turn of a range must close the quotes that it opens")
	}
}

// maxConditions bounds what a body costs to check.
const maxConditions = 32

// tryBody has a body say what trials have, and then each branch that none of them has
// taken: what it says must be JSON.
func (p *parser) tryBody(text string, t *template.Template) *slip {
	plain := instrument(t, nil)
	if n := len(plain.forks); n > maxConditions {
		return &slip{int(plain.forks[maxConditions].Position()), fmt.Sprintf("a body has at most %d conditions, and this has %d", maxConditions, n)}
	}
	taken := map[turn]bool{}
	for _, trial := range bodyTrials() {
		run, err := plain.run(&trial.Notification)
		if err != nil {
			offset, msg := explainTemplate(text, err)
			return &slip{offset, "the body fails" + trial.when + ": " + msg}
		}
		if s := run.check(trial.when, len(text)); s != nil {
			return s
		}
		maps.Copy(taken, run.taken)
	}
	left := func() []turn { return slices.DeleteFunc(plain.turns(), func(way turn) bool { return taken[way] }) }
	// All at once, and only then one by one, of which each costs as much.
	for _, then := range []bool{true, false} {
		ways := slices.DeleteFunc(left(), func(way turn) bool { return way.then != then })
		maps.Copy(taken, takeTurns(t, ways, len(text)).taken)
	}
	for _, way := range left() {
		if p.bodyTries++; p.bodyTries > maxBodyTries {
			break
		}
		if tried := takeTurns(t, []turn{way}, len(text)); tried.taken[way] {
			maps.Copy(taken, tried.taken)
		} else if tried.wrong != nil {
			return tried.wrong
		}
	}
	return nil
}

// maxBodyTries bounds what all bodies of a file cost to check. What is left then shows
// when it is said.
const maxBodyTries = 100

// tried is what came of taking branches whatever their conditions say.
type tried struct {
	taken map[turn]bool // by what was JSON
	wrong *slip         // nil: there was JSON, or the branches could not be taken
}

// takeTurns has the trials take branches. They are wrong if what is said is JSON with
// none of the trials.
func takeTurns(t *template.Template, ways []turn, length int) tried {
	out := tried{taken: map[turn]bool{}}
	if len(ways) == 0 {
		return out
	}
	in := instrument(t, ways)
	for _, trial := range bodyTrials() {
		run, err := in.run(&trial.Notification)
		if err != nil || !slices.ContainsFunc(ways, func(way turn) bool { return run.taken[way] }) {
			continue // it may be right where it is meant to be taken
		}
		s := run.check(" in this branch", length)
		if s == nil {
			out.wrong = nil
			out.taken = run.taken
			return out
		}
		if out.wrong == nil {
			out.wrong = s
		}
	}
	return out
}

// turn is one way to go at a condition, of which each has its number.
type turn struct {
	condition int
	then      bool
}

// fork is a condition in an instrumented body.
type fork struct {
	*parse.BranchNode
	kind    parse.NodeType
	hasElse bool
	within  *turn // of the condition around it
}

// instrumented is a copy of a body that says where it is in the template, and which
// branches it takes, between the two characters that JSON never has in a text.
type instrumented struct {
	*template.Template
	forks []fork
}

// instrument copies a body. The conditions on the way to the turns are as these take,
// so far as they can be.
func instrument(t *template.Template, ways []turn) *instrumented {
	tree := t.Tree.Copy()
	in := &instrumented{}
	in.list(tree.Root, nil)
	for i := range ways {
		for way := &ways[i]; way != nil; way = in.forks[way.condition].within {
			f := in.forks[way.condition]
			if f.kind == parse.NodeIf || f.kind == parse.NodeWith && !way.then {
				f.Pipe = constantly(way.then)
			}
		}
	}
	in.Template = template.Must(template.New("").Option("missingkey=zero").Funcs(bodyFuncs).AddParseTree("", tree))
	return in
}

// constantly is a condition that holds, or does not.
func constantly(holds bool) *parse.PipeNode {
	b := &parse.BoolNode{NodeType: parse.NodeBool, True: holds}
	return &parse.PipeNode{NodeType: parse.NodePipe, Cmds: []*parse.CommandNode{{NodeType: parse.NodeCommand, Args: []parse.Node{b}}}}
}

func (in *instrumented) list(list *parse.ListNode, within *turn) {
	var nodes []parse.Node
	for _, n := range list.Nodes {
		nodes = append(nodes, mark("at %d", n.Position()), n)
		switch n := n.(type) {
		case *parse.IfNode:
			in.fork(&n.BranchNode, parse.NodeIf, within)
		case *parse.WithNode:
			in.fork(&n.BranchNode, parse.NodeWith, within)
		case *parse.RangeNode:
			in.fork(&n.BranchNode, parse.NodeRange, within)
		}
	}
	list.Nodes = nodes
}

func (in *instrumented) fork(n *parse.BranchNode, kind parse.NodeType, within *turn) {
	number := len(in.forks)
	in.forks = append(in.forks, fork{n, kind, n.ElseList != nil, within})
	if n.ElseList == nil {
		n.ElseList = &parse.ListNode{NodeType: parse.NodeList}
	}
	in.list(n.List, &turn{number, true})
	in.list(n.ElseList, &turn{number, false})
	n.List.Nodes = append([]parse.Node{mark("then %d", number)}, n.List.Nodes...)
	n.ElseList.Nodes = append([]parse.Node{mark("else %d", number)}, n.ElseList.Nodes...)
}

// turns are those that are written out and can be taken at will.
func (in *instrumented) turns() (all []turn) {
	for i, f := range in.forks {
		if f.kind == parse.NodeIf {
			all = append(all, turn{i, true})
		}
		if f.hasElse && f.kind != parse.NodeRange {
			all = append(all, turn{i, false})
		}
	}
	return all
}

func mark(format string, args ...any) *parse.TextNode {
	return &parse.TextNode{NodeType: parse.NodeText, Text: fmt.Appendf(nil, "\x00"+format+"\x01", args...)}
}

// said is what an instrumented body says, without the marks.
type said struct {
	text  string
	at    []place
	taken map[turn]bool
}

// place is where what is said comes from: the byte of the template from that byte on.
type place struct{ said, template int }

func (in *instrumented) run(n *Notification) (*said, error) {
	var b strings.Builder // of no more than a template and a trial make, as no loop is in a loop
	if err := in.Execute(&b, n); err != nil {
		return nil, err
	}
	s := &said{taken: map[turn]bool{}}
	var text strings.Builder
	for i, part := range strings.Split(b.String(), "\x00") {
		if i > 0 {
			var mark string
			mark, part, _ = strings.Cut(part, "\x01")
			kind, digits, _ := strings.Cut(mark, " ")
			number, _ := strconv.Atoi(digits)
			if kind == "at" {
				s.at = append(s.at, place{text.Len(), number})
			} else {
				s.taken[turn{number, kind == "then"}] = true
			}
		}
		text.WriteString(part)
	}
	s.text = text.String()
	return s, nil
}

// check holds what a template of that length says to be JSON.
func (s *said) check(when string, length int) *slip {
	var v any
	err := json.Unmarshal([]byte(s.text), &v)
	if err == nil {
		return nil
	}
	offset := len(s.text)
	if bad := (*json.SyntaxError)(nil); errors.As(err, &bad) && bad.Offset > 0 {
		offset = int(bad.Offset) - 1
	}
	i := sort.Search(len(s.at), func(i int) bool { return s.at[i].said > offset }) - 1
	at := 0
	if i >= 0 {
		at = min(s.at[i].template+offset-s.at[i].said, length)
		if i+1 < len(s.at) { // an action says more, or less, than it is long
			at = min(at, s.at[i+1].template)
		}
	}
	return &slip{at, "the body is no JSON" + when + ": " + err.Error()}
}
