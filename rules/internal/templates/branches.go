package templates

import (
	"maps"
	"reflect"
	"text/template"
	"text/template/parse"
)

// checker refuses what has no place in a template, and lets each range check what it
// goes over.
type checker struct {
	*Language
	tree    *parse.Tree
	mistake *Mistake
}

func (c *checker) refuse(n parse.Node, text string) {
	if c.mistake == nil {
		c.mistake = &Mistake{int(n.Position()), text}
	}
}

func (c *checker) list(list *parse.ListNode, inRange bool) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch action := n.(type) {
		case *parse.ActionNode:
			c.pipe(action.Pipe)
		case *parse.TemplateNode:
			c.refuse(n, noOthers)
		}
		b := branching(n)
		if b == nil {
			continue
		}
		loops := b.NodeType == parse.NodeRange
		if loops && inRange {
			c.refuse(n, "a range is not allowed inside a range")
		}
		if loops {
			call(b.Pipe, rangeOver, b.Pos, c.tree)
		}
		c.pipe(b.Pipe)
		c.list(b.List, inRange || loops)
		c.list(b.ElseList, inRange)
	}
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

// pipe refuses an index by a key that a mapping lacks: the function says nothing of it.
func (c *checker) pipe(n *parse.PipeNode) {
	for _, cmd := range n.Cmds {
		f, isFunction := cmd.Args[0].(*parse.IdentifierNode)
		for _, arg := range cmd.Args {
			switch arg := arg.(type) {
			case *parse.PipeNode:
				c.pipe(arg)
			case *parse.ChainNode:
				if inner, ok := arg.Node.(*parse.PipeNode); ok {
					c.pipe(inner)
				}
			case *parse.StringNode:
				if isFunction && f.Ident == "index" && c.Key != nil {
					if text := c.Key(arg.Text); text != "" {
						c.refuse(arg, text)
					}
				}
			}
		}
	}
}

// call lets a pipeline end with a function.
func call(pipe *parse.PipeNode, name string, at parse.Pos, tree *parse.Tree) {
	f := parse.NewIdentifier(name).SetTree(tree).SetPos(at)
	pipe.Cmds = append(pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: at, Args: []parse.Node{f}})
}

// everyBranch returns a copy of a template that takes all branches, one after the
// other, and evaluates all that and and or are given.
func everyBranch(t *template.Template, funcs template.FuncMap, strict bool) *template.Template {
	tree := t.Tree.Copy()
	tree.Root.Nodes = flatten(tree, tree.Root)
	funcs = maps.Clone(funcs)
	funcs["and"], funcs["or"] = eager(false), eager(true)
	funcs[only] = func(v reflect.Value) reflect.Value {
		list := reflect.MakeSlice(reflect.SliceOf(v.Type()), 1, 1)
		list.Index(0).Set(v)
		return list
	}
	missing := "missingkey=zero"
	if strict {
		missing = "missingkey=error"
	}
	return template.Must(template.New("").Option(missing).Funcs(funcs).AddParseTree("", tree))
}

// only is a function that makes a list of one value: a range over that is a with that is
// always taken.
const only = "_only"

// eager is and, or or, as a function whose arguments are all evaluated.
func eager(until bool) func(v reflect.Value, more ...reflect.Value) reflect.Value {
	return func(v reflect.Value, more ...reflect.Value) reflect.Value {
		for _, next := range more {
			if truth, _ := template.IsTrue(v.Interface()); truth == until {
				break
			}
			v = next
		}
		return v
	}
}

// flatten replaces each branching by its branches, each behind the condition.
func flatten(tree *parse.Tree, list *parse.ListNode) []parse.Node {
	if list == nil {
		return nil
	}
	var nodes []parse.Node
	for _, n := range list.Nodes {
		if n.Type() == parse.NodeAction {
			nodes = append(nodes, n)
		}
		b := branching(n)
		if b == nil {
			continue
		}
		then := flatten(tree, b.List)
		first := scope(b, then)
		if b.NodeType != parse.NodeIf { // then sees another dot
			over := b.Pipe.CopyPipe()
			if b.NodeType == parse.NodeWith {
				call(over, only, b.Pos, tree)
			}
			each := &parse.ListNode{NodeType: parse.NodeList, Nodes: then}
			first = &parse.RangeNode{BranchNode: parse.BranchNode{NodeType: parse.NodeRange, Pos: b.Pos, Pipe: over, List: each}}
		}
		nodes = append(nodes, first, scope(b, flatten(tree, b.ElseList)))
	}
	return nodes
}

// scope evaluates a condition, and then nodes that see its variables.
func scope(b *parse.BranchNode, nodes []parse.Node) parse.Node {
	condition := &parse.ActionNode{NodeType: parse.NodeAction, Pos: b.Pos, Pipe: b.Pipe}
	list := &parse.ListNode{NodeType: parse.NodeList, Nodes: append([]parse.Node{condition}, nodes...)}
	return &parse.IfNode{BranchNode: parse.BranchNode{NodeType: parse.NodeIf, Pos: b.Pos, Pipe: constant(true), List: list}}
}

// constant is a condition that holds, or does not.
func constant(holds bool) *parse.PipeNode {
	b := &parse.BoolNode{NodeType: parse.NodeBool, True: holds}
	return &parse.PipeNode{NodeType: parse.NodePipe, Cmds: []*parse.CommandNode{{NodeType: parse.NodeCommand, Args: []parse.Node{b}}}}
}
