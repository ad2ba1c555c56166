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
		switch n := n.(type) {
		case *parse.ActionNode:
			c.pipe(n.Pipe)
		case *parse.IfNode:
			c.branch(&n.BranchNode, inRange)
		case *parse.WithNode:
			c.branch(&n.BranchNode, inRange)
		case *parse.RangeNode:
			if inRange {
				c.refuse(n, "a range has no place within a range")
			}
			call(n.Pipe, rangeOver, n.Pos, c.tree)
			c.pipe(n.Pipe)
			c.list(n.List, true)
			c.list(n.ElseList, inRange)
		case *parse.TemplateNode:
			c.refuse(n, noOthers)
		}
	}
}

func (c *checker) branch(n *parse.BranchNode, inRange bool) {
	c.pipe(n.Pipe)
	c.list(n.List, inRange)
	c.list(n.ElseList, inRange)
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
	flatten(tree, tree.Root)
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

// flatten replaces each branching by its branches.
func flatten(tree *parse.Tree, list *parse.ListNode) {
	if list == nil {
		return
	}
	var nodes []parse.Node
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			nodes = append(nodes, n)
		case *parse.IfNode:
			nodes = append(nodes, scope(tree, n.Pipe, n.List), scope(tree, n.Pipe, n.ElseList))
		case *parse.WithNode:
			each := n.Pipe.CopyPipe()
			call(each, only, n.Pos, tree)
			nodes = append(nodes, loop(tree, n.BranchNode, each), scope(tree, n.Pipe, n.ElseList))
		case *parse.RangeNode:
			nodes = append(nodes, loop(tree, n.BranchNode, n.Pipe), scope(tree, n.Pipe, n.ElseList))
		}
	}
	list.Nodes = nodes
}

// scope evaluates a condition, and then a branch that sees its variables.
func scope(tree *parse.Tree, pipe *parse.PipeNode, list *parse.ListNode) parse.Node {
	flatten(tree, list)
	said := &parse.ListNode{NodeType: parse.NodeList, Nodes: []parse.Node{&parse.ActionNode{NodeType: parse.NodeAction, Pos: pipe.Pos, Pipe: pipe}}}
	if list != nil {
		said.Nodes = append(said.Nodes, list.Nodes...)
	}
	return &parse.IfNode{BranchNode: parse.BranchNode{NodeType: parse.NodeIf, Pos: pipe.Pos, Pipe: constant(true), List: said}}
}

func loop(tree *parse.Tree, n parse.BranchNode, over *parse.PipeNode) parse.Node {
	flatten(tree, n.List)
	return &parse.RangeNode{BranchNode: parse.BranchNode{NodeType: parse.NodeRange, Pos: n.Pos, Pipe: over, List: n.List}}
}

// constant is a condition that holds, or does not.
func constant(holds bool) *parse.PipeNode {
	b := &parse.BoolNode{NodeType: parse.NodeBool, True: holds}
	return &parse.PipeNode{NodeType: parse.NodePipe, Cmds: []*parse.CommandNode{{NodeType: parse.NodeCommand, Args: []parse.Node{b}}}}
}
