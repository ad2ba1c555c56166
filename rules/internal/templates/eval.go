package templates

import (
	"errors"
	"reflect"
	"strings"
	"text/template/parse"
)

// pipe returns what the last command of a pipeline makes of those before it.
func (r *run) pipe(dot reflect.Value, p *parse.PipeNode) reflect.Value {
	value := absent
	for _, cmd := range p.Cmds {
		value = r.eval(dot, cmd, cmd.Args, value)
	}
	for _, v := range p.Decl {
		if p.IsAssign {
			r.variable(v.Ident[0]).value = value
		} else {
			r.vars = append(r.vars, variable{v.Ident[0], value})
		}
	}
	return value
}

// variable returns the innermost variable of that name. The parser has seen it declared,
// but maybe in another branch.
func (r *run) variable(name string) *variable {
	for i := len(r.vars) - 1; i >= 0; i-- {
		if r.vars[i].name == name {
			return &r.vars[i]
		}
	}
	r.fail("undefined variable: %s", name)
	return nil
}

// eval returns what the first of args makes of the others and of what the pipeline hands
// on to it, last. They are those of a command, or a single node.
func (r *run) eval(dot reflect.Value, cmd parse.Node, args []parse.Node, last reflect.Value) reflect.Value {
	r.at = args[0]
	switch n := args[0].(type) {
	case *parse.IdentifierNode:
		return r.call(dot, cmd, n.Ident, reflect.ValueOf(functions()[n.Ident]), nil, args[1:], last)
	case *parse.FieldNode:
		return r.fields(dot, dot, n.Ident, args, last)
	case *parse.ChainNode:
		of := r.eval(dot, n.Node, []parse.Node{n.Node}, absent)
		r.at = n
		return r.fields(dot, of, n.Field, args, last)
	case *parse.VariableNode:
		if len(n.Ident) > 1 {
			return r.fields(dot, r.variable(n.Ident[0]).value, n.Ident[1:], args, last)
		}
	}
	r.noArguments(args, last)
	switch n := args[0].(type) {
	case *parse.VariableNode:
		return r.variable(n.Ident[0]).value
	case *parse.PipeNode:
		return r.pipe(dot, n)
	case *parse.DotNode:
		return dot
	case *parse.BoolNode:
		return reflect.ValueOf(n.True)
	case *parse.StringNode:
		return reflect.ValueOf(n.Text)
	case *parse.NumberNode:
		return r.number(n)
	}
	r.fail("nil stands for nothing here")
	return reflect.Value{}
}

func (r *run) noArguments(args []parse.Node, last reflect.Value) {
	if len(args) > 1 || given(last) {
		r.fail("this is a value, and takes no arguments")
	}
}

// number is a number of the type that its spelling says, as in Go.
func (r *run) number(n *parse.NumberNode) reflect.Value {
	lower := strings.ToLower(n.Text)
	hex := strings.HasPrefix(lower, "0x") && !strings.Contains(lower, "p")
	switch {
	case n.IsComplex:
		return reflect.ValueOf(n.Complex128)
	case n.IsFloat && !hex && n.Text[0] != '\'' && strings.ContainsAny(lower, ".ep"):
		return reflect.ValueOf(n.Float64)
	case !n.IsInt:
		r.fail("the number is too large")
	}
	return reflect.ValueOf(int(n.Int64))
}

// fields follows names from a value, the last of which may be a method with arguments.
func (r *run) fields(dot, of reflect.Value, names []string, args []parse.Node, last reflect.Value) reflect.Value {
	inner := len(names) - 1
	for _, name := range names[:inner] {
		of = r.field(dot, of, name, args[:1], absent)
	}
	return r.field(dot, of, names[inner], args, last)
}

func (r *run) field(dot, of reflect.Value, name string, args []parse.Node, last reflect.Value) (found reflect.Value) {
	if !of.IsValid() {
		return of
	}
	if m := method(of.Type(), name); m.IsValid() {
		return r.call(dot, args[0], name, m, []reflect.Value{of}, args[1:], last)
	}
	switch of = reflect.Indirect(of); of.Kind() {
	case reflect.Struct:
		found = of.FieldByName(name)
	case reflect.Map:
		if found = of.MapIndex(reflect.ValueOf(name)); !found.IsValid() {
			r.lacks(args[0], name)
			found = reflect.Zero(of.Type().Elem())
		}
	}
	if !found.IsValid() || !found.CanInterface() {
		r.refuse(args[0], r.lang.unknownField(name, of.Type()))
	}
	r.noArguments(args, last)
	return found
}

// lacks refuses a key that a mapping lacks, where the language says which there are.
func (r *run) lacks(n parse.Node, key string) {
	if r.every && r.lang.Key != nil {
		if text := r.lang.Key(key); text != "" {
			r.refuse(n, text)
		}
	}
}

// call calls a function or a method with the values that it has first, with arguments,
// and with what the pipeline hands on. Those of and and or are evaluated up to the one
// that decides.
func (r *run) call(dot reflect.Value, cmd parse.Node, name string, f reflect.Value, in []reflect.Value, args []parse.Node, last reflect.Value) reflect.Value {
	t := f.Type()
	want, got := t.NumIn()-len(in), len(args)
	if given(last) {
		got++
	}
	switch {
	case t.IsVariadic() && got < want-1:
		r.fail("wrong number of args for %s: want at least %d got %d", name, want-1, got)
	case !t.IsVariadic() && got != want:
		r.fail("wrong number of args for %s: want %d got %d", name, want, got)
	case t.NumOut() > 2 || t.NumOut() == 2 && t.Out(1) != reflect.TypeFor[error]():
		r.fail("%s returns more than one value", name)
	}
	next := func() reflect.Type {
		if t.IsVariadic() && len(in) >= t.NumIn()-1 {
			return t.In(t.NumIn() - 1).Elem()
		}
		return t.In(len(in))
	}
	for _, n := range args {
		v := r.arg(dot, n, next())
		in = append(in, v)
		if decides := name == "or"; (decides || name == "and") && !r.every && truth(v) == decides {
			return content(v)
		}
		if key, ok := n.(*parse.StringNode); ok && name == "index" {
			r.lacks(n, key.Text)
		}
	}
	if given(last) {
		in = append(in, r.fit(last, next()))
	}
	r.at = cmd
	defer func() { // such as that a time has no such place
		p := recover()
		if m, ok := p.(*Mistake); ok {
			panic(m)
		} else if p != nil {
			r.fail("%v", p)
		}
	}()
	out := f.Call(in)
	if len(out) > 1 && !out[1].IsNil() {
		err := out[1].Interface().(error)
		if beyond := outOfRange(0); !errors.As(err, &beyond) || !r.every {
			r.fail("%v", err)
		}
	}
	return content(out[0])
}

// content is what a value of an interface type holds.
func content(v reflect.Value) reflect.Value {
	if v.Kind() == reflect.Interface {
		return v.Elem()
	}
	return v
}

// arg is an argument for a parameter of that type.
func (r *run) arg(dot reflect.Value, n parse.Node, t reflect.Type) reflect.Value {
	r.at = n
	switch n := n.(type) {
	case *parse.NilNode:
		return r.fit(reflect.Value{}, t)
	case *parse.NumberNode:
		if v := reflect.New(t).Elem(); v.CanInt() && n.IsInt {
			v.SetInt(n.Int64)
			return v
		}
	}
	return r.fit(r.eval(dot, n, []parse.Node{n}, absent), t)
}

// fit is a value for a parameter of that type.
func (r *run) fit(v reflect.Value, t reflect.Type) reflect.Value {
	switch {
	case !v.IsValid() && (t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer):
		return reflect.Zero(t)
	case !v.IsValid():
		r.fail("expected %s; got nil", t)
	case !v.Type().AssignableTo(t):
		r.fail("expected %s; got %s", t, v.Type())
	}
	return v
}
