package templates

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

// run is one execution of a template. It means what text/template does, over values of
// the kinds that the data here has. Package text/template itself would keep every exported
// method of the whole program linked, as any of them may be named in a template.
type run struct {
	*Template
	text strings.Builder // what it says
	room int             // for so many bytes more
	vars []variable
	// every takes all branches, one after the other, evaluates all that and and or are
	// given, and says nothing. A key that a mapping lacks is a mistake, where Key words it.
	every bool
	trace *trace // nil: nobody wants to know
}

type variable struct {
	name  string
	value any
}

// failure ends a run, as a panic.
type failure struct {
	node parse.Node // at which it fails
	error
	// whole says that the error says all; else it stands behind what fails.
	whole bool
}

// ends end an iteration, or all of a range.
type ends parse.NodeType

// execute returns why the template fails, if it does.
func (r *run) execute(data any) (failed *failure) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *failure:
			failed = p
		default:
			panic(p)
		}
	}()
	dot := reflect.Indirect(reflect.ValueOf(data)).Interface()
	r.vars = []variable{{"$", dot}}
	r.list(dot, r.tree.Root)
	return nil
}

// must ends the run if there is an error.
func must(n parse.Node, err error) {
	if err != nil {
		panic(&failure{node: n, error: err})
	}
}

func fail(n parse.Node, format string, args ...any) { must(n, fmt.Errorf(format, args...)) }

// say appends to the text, as far as there is room.
func (r *run) say(n parse.Node, text string) {
	most := min(len(text), r.room)
	r.room -= most
	r.text.WriteString(text[:most])
	if most < len(text) {
		must(n, ErrLong)
	}
}

func (r *run) list(dot any, list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		r.trace.begin(r.text.Len(), n)
		switch n := n.(type) {
		case *parse.TextNode:
			if !r.every {
				r.say(n, string(n.Text))
			}
		case *parse.ActionNode:
			if v := r.pipeline(dot, n.Pipe); len(n.Pipe.Decl) == 0 {
				r.print(n, v)
			}
		case *parse.BreakNode, *parse.ContinueNode:
			if !r.every {
				panic(ends(n.Type()))
			}
		default:
			if b := branching(n); b != nil {
				r.branch(dot, b)
			}
		}
	}
}

// print says what an action has as its value.
func (r *run) print(n *parse.ActionNode, v any) {
	text := fmt.Sprint(v)
	if within, ok := r.quoted[n]; ok {
		var err error
		text, err = inJSON(v, within)
		must(n, err)
	}
	if !r.every {
		r.say(n, text)
	}
}

func (r *run) branch(dot any, b *parse.BranchNode) {
	defer func(n int) { r.vars = r.vars[:n] }(len(r.vars))
	v := r.pipeline(dot, b.Pipe)
	if b.NodeType == parse.NodeRange {
		if n := r.over(dot, b, v); n > 0 && !r.every {
			return
		}
		r.take(dot, b, false)
		return
	}
	then := r.trace.decide(b, isTrue(v))
	for _, way := range []bool{true, false} {
		switch {
		case way != then && !r.every:
		case way && b.NodeType == parse.NodeWith:
			r.take(v, b, way)
		default:
			r.take(dot, b, way)
		}
	}
}

// take goes one way at a condition.
func (r *run) take(dot any, b *parse.BranchNode, then bool) {
	r.trace.take(b, then)
	list := b.List
	if !then {
		list = b.ElseList
	}
	r.list(dot, list)
}

// over iterates over a list, or over a mapping in the order of its keys, and returns how
// many elements it has.
func (r *run) over(dot any, b *parse.BranchNode, of any) int {
	if reflect.TypeOf(of) != reflect.TypeOf(r.language.Range) {
		panic(&failure{b, fmt.Errorf("range is allowed over %s alone", r.language.Over), true})
	}
	if mapping, ok := of.(map[string]string); ok {
		for _, key := range slices.Sorted(maps.Keys(mapping)) {
			if !r.iterate(b, key, mapping[key]) {
				break
			}
		}
		return len(mapping)
	}
	list := reflect.ValueOf(of)
	for i := range list.Len() {
		if !r.iterate(b, i, list.Index(i).Interface()) {
			break
		}
	}
	return list.Len()
}

// iterate reports whether the range goes on.
func (r *run) iterate(b *parse.BranchNode, key, value any) (more bool) {
	switch d := b.Pipe.Decl; {
	case len(d) == 1:
		r.set(d[0], value)
	case len(d) == 2:
		r.set(d[0], key)
		r.set(d[1], value)
	}
	n := len(r.vars)
	defer func() {
		r.vars = r.vars[:n]
		switch p := recover(); p {
		case nil, ends(parse.NodeContinue):
			more = true
		case ends(parse.NodeBreak):
		default:
			panic(p)
		}
	}()
	r.take(value, b, true)
	return true
}

// pipeline is the value of a pipeline, whose variables then have it.
func (r *run) pipeline(dot any, p *parse.PipeNode) (v any) {
	for i, c := range p.Cmds {
		var final []any
		if i > 0 {
			final = []any{v}
		}
		v = r.command(dot, c, final)
	}
	for _, d := range p.Decl {
		if !p.IsAssign {
			r.vars = append(r.vars, variable{name: d.Ident[0]})
		}
		r.set(d, v)
	}
	return v
}

func (r *run) set(d *parse.VariableNode, v any) { r.variable(d).value = v }

func (r *run) variable(n *parse.VariableNode) *variable {
	for i := len(r.vars) - 1; i >= 0; i-- {
		if r.vars[i].name == n.Ident[0] {
			return &r.vars[i]
		}
	}
	fail(n, "undefined variable: %s", n.Ident[0])
	return nil
}

// command is the value of a command, which is given the one before it, if there is one,
// as its last argument.
func (r *run) command(dot any, c *parse.CommandNode, final []any) any {
	args := func() []any {
		all := make([]any, 0, len(c.Args)+len(final))
		for _, n := range c.Args[1:] {
			all = append(all, r.operand(dot, n))
		}
		return append(all, final...)
	}
	switch n := c.Args[0].(type) {
	case *parse.IdentifierNode:
		return r.function(dot, n, c, final)
	case *parse.FieldNode:
		return r.fields(dot, n, n.Ident, args)
	case *parse.ChainNode:
		return r.fields(r.operand(dot, n.Node), n, n.Field, args)
	case *parse.VariableNode:
		if len(n.Ident) > 1 {
			return r.fields(r.variable(n).value, n, n.Ident[1:], args)
		}
	}
	if len(c.Args)+len(final) > 1 {
		fail(c.Args[0], "this is a value, and takes no arguments")
	}
	return r.operand(dot, c.Args[0])
}

// operand is the value of a word.
func (r *run) operand(dot any, n parse.Node) any {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.BoolNode:
		return n.True
	case *parse.StringNode:
		return n.Text
	case *parse.NumberNode:
		switch {
		case n.IsComplex:
		case n.IsInt && !(n.IsFloat && strings.ContainsAny(n.Text, ".eEpP") && !strings.HasPrefix(strings.ToLower(n.Text), "0x")):
			return int(n.Int64)
		case n.IsFloat:
			return n.Float64
		}
		fail(n, "%s is not a number that can be used", n.Text)
	case *parse.PipeNode:
		return r.pipeline(dot, n)
	case *parse.FieldNode, *parse.ChainNode, *parse.VariableNode, *parse.IdentifierNode:
		if v, ok := n.(*parse.VariableNode); ok && len(v.Ident) == 1 {
			return r.variable(v).value
		}
		return r.command(dot, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Position(), Args: []parse.Node{n}}, nil)
	}
	fail(n, "%s is no value", n)
	return nil
}

// fields follows names into a value. The last may be a method, which is given the
// arguments.
func (r *run) fields(of any, n parse.Node, names []string, args func() []any) any {
	for i, name := range names {
		var given []any
		if i == len(names)-1 {
			given = args()
		}
		of = r.field(of, n, name, given)
	}
	return of
}

func (r *run) field(of any, n parse.Node, name string, args []any) any {
	if method := methods()[reflect.TypeOf(of)][name]; method != nil {
		v, err := call(name, method, append([]any{of}, args...))
		must(n, err)
		return v
	}
	v := reflect.ValueOf(of)
	var found any
	switch v.Kind() {
	case reflect.Map:
		value, ok := of.(map[string]string)[name]
		if !ok {
			r.missing(n, name)
		}
		found = value
	case reflect.Struct:
		if f, ok := v.Type().FieldByName(name); ok && f.IsExported() {
			found = v.FieldByIndex(f.Index).Interface()
		}
	}
	switch {
	case found == nil:
		panic(&failure{n, r.language.unknownField(name, v.Type()), true})
	case len(args) > 0:
		fail(n, "%s has arguments but cannot be invoked as function", name)
	}
	return found
}

// missing notes that a mapping lacks a key.
func (r *run) missing(n parse.Node, key string) {
	if r.every && r.language.Key != nil {
		if text := r.language.Key(key); text != "" {
			panic(&failure{n, errors.New(text), true})
		}
	}
}

// function is what a function makes of its arguments.
func (r *run) function(dot any, n *parse.IdentifierNode, c *parse.CommandNode, final []any) any {
	f, words := functions()[n.Ident], c.Args[1:]
	if given := len(words) + len(final); given < f.least || f.most > 0 && given > f.most {
		fail(n, "wrong number of args for %s: got %d", n.Ident, given)
	}
	var args []any
	for _, w := range words {
		args = append(args, r.operand(dot, w))
		if f.call == nil && !r.every && isTrue(args[len(args)-1]) == (n.Ident == "or") {
			break
		}
	}
	if args = append(args, final...); f.call == nil {
		i := slices.IndexFunc(args, func(v any) bool { return isTrue(v) == (n.Ident == "or") })
		return args[(i+len(args))%len(args)] // or else the last
	}
	if n.Ident == "index" {
		at := parse.Node(c)
		if len(words) > 1 {
			at = words[1]
		}
		r.seek(args, at)
	}
	v, err := f.call(args)
	must(c, err)
	return v
}

// seek notes that a mapping lacks the key that is looked for in it.
func (r *run) seek(args []any, at parse.Node) {
	mapping, isMapping := args[0].(map[string]string)
	if !isMapping || len(args) == 1 {
		return
	}
	key, isText := args[1].(string)
	if _, ok := mapping[key]; isText && !ok {
		r.missing(at, key)
	}
}

func isTrue(v any) bool {
	truth, _ := template.IsTrue(v)
	return truth
}
