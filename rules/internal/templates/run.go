package templates

import (
	"cmp"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// run is one execution of a template. Its values are what package text/template has
// there too; the zero Value is nil. A mistake ends it by a panic.
type run struct {
	*Template
	out    strings.Builder
	max    int  // bytes of it; 0: any number
	long   bool // that was too little
	vars   []variable
	at     parse.Node // what is evaluated
	looped bool       // within a range

	// With every, all branches are taken, one after the other, and nothing comes out.
	every bool
	lang  *Language // to word mistakes; nil: it was tried
	when  string    // of what data, in words

	// Of JSON:
	quotes quotes // where the text so far ends
	begun  quotes // where the iteration began
	opened int    // where the template opens the last quote
	trial  *trial // nil: it is none
}

type variable struct {
	name  string
	value reflect.Value
}

// absent stands for what no pipeline hands on.
var absent = reflect.ValueOf(absence{})

type absence struct{}

func given(v reflect.Value) bool { return !v.IsValid() || v.Type() != absent.Type() }

// execute runs the template on the data.
func (r *run) execute(data any) (mistake *Mistake) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case ErrLong:
			r.long = true
		default:
			var ok bool
			if mistake, ok = p.(*Mistake); !ok {
				panic(p)
			}
		}
	}()
	dot := reflect.ValueOf(data)
	r.vars = []variable{{"$", dot}}
	r.list(dot, r.root)
	if r.quotes.within {
		panic(&Mistake{r.opened, "this quote is not closed"})
	}
	return nil
}

// fail ends the run for what is evaluated.
func (r *run) fail(format string, args ...any) {
	text := "<" + message.Cut(r.at.String(), 60) + ">: " + fmt.Sprintf(format, args...)
	if r.lang != nil {
		text = "the " + r.lang.What + " fails" + r.when + ": " + text
	}
	r.refuse(r.at, text)
}

// refuse ends the run for what is not in the language.
func (r *run) refuse(n parse.Node, text string) {
	panic(&Mistake{int(n.Position()), text})
}

// list runs nodes, up to a break or a continue, which it returns.
func (r *run) list(dot reflect.Value, list *parse.ListNode) (exit parse.Node) {
	if list == nil {
		return nil
	}
	defer func(outer int) { r.vars = r.vars[:outer] }(len(r.vars))
	for _, n := range list.Nodes {
		r.at = n
		r.trial.comesTo(n, r.out.Len())
		switch n := n.(type) {
		case *parse.TextNode:
			r.write(string(n.Text))
			r.quote(n)
		case *parse.ActionNode:
			if v := r.pipe(dot, n.Pipe); len(n.Pipe.Decl) == 0 {
				r.at = n
				r.write(r.say(v))
			}
		case *parse.BreakNode, *parse.ContinueNode:
			if !r.every {
				return n
			}
			r.closes(n)
		case *parse.TemplateNode:
			r.refuse(n, noOthers)
		}
		if b := branching(n); b != nil {
			if exit := r.branch(dot, b); exit != nil {
				return exit
			}
		}
	}
	return nil
}

func (r *run) write(text string) {
	if r.every {
		return
	}
	if left := r.max - r.out.Len(); r.max > 0 && len(text) > left {
		r.out.WriteString(text[:left])
		panic(ErrLong)
	}
	r.out.WriteString(text)
}

// say is a value as it is printed.
func (r *run) say(v reflect.Value) string {
	switch {
	case r.json:
		return r.sayJSON(v)
	case !v.IsValid():
		return "<no value>"
	}
	if _, ok := v.Interface().(fmt.Stringer); !ok {
		v = reflect.Indirect(v)
	}
	return fmt.Sprint(v)
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

func (r *run) branch(dot reflect.Value, b *parse.BranchNode) (exit parse.Node) {
	defer func(outer int) { r.vars = r.vars[:outer] }(len(r.vars))
	v := r.pipe(dot, b.Pipe)
	if b.NodeType == parse.NodeRange {
		r.loop(dot, v, b)
		return nil
	}
	then := dot
	if b.NodeType == parse.NodeWith {
		then = v
	}
	taken := r.trial.takes(b, truth(v))
	if r.every {
		before := r.quotes
		r.list(then, b.List)
		after := r.quotes
		r.quotes = before
		r.list(dot, b.ElseList)
		if r.quotes != after {
			r.refuse(b, "one branch of this ends inside quotes, and the other does not")
		}
		return nil
	}
	if taken {
		return r.list(then, b.List)
	}
	return r.list(dot, b.ElseList)
}

// loop runs a range, none of which is long or within another.
func (r *run) loop(dot, over reflect.Value, b *parse.BranchNode) {
	switch {
	case r.looped:
		r.refuse(b, "a range is not allowed inside a range")
	case !over.IsValid() || over.Type() != r.over:
		r.refuse(b, "range is allowed over "+r.name+" alone")
	}
	some := r.trial.takes(b, over.Len() > 0)
	outside := r.begun
	r.begun, r.looped = r.quotes, true
	for key, value := range inOrder(over) {
		switch decl := b.Pipe.Decl; len(decl) {
		case 1:
			r.variable(decl[0].Ident[0]).value = value
		case 2:
			r.variable(decl[0].Ident[0]).value = key
			r.variable(decl[1].Ident[0]).value = value
		}
		exit := r.list(value, b.List)
		r.closes(b)
		if exit != nil && exit.Type() == parse.NodeBreak {
			break
		}
	}
	r.looped = false
	if !some || r.every {
		r.list(dot, b.ElseList)
		r.closes(b)
	}
	r.begun = outside
}

// inOrder yields what is in a mapping, in the order of its keys, or in a list.
func inOrder(over reflect.Value) iter.Seq2[reflect.Value, reflect.Value] {
	if over.Kind() != reflect.Map {
		return over.Seq2()
	}
	keys := over.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
	return func(yield func(key, value reflect.Value) bool) {
		for _, key := range keys {
			if !yield(key, over.MapIndex(key)) {
				return
			}
		}
	}
}
