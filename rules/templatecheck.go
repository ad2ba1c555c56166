package rules

import (
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

// templateChecker finds what no event has, in every branch of a template: a trial
// takes only some. It also refuses what could go on for ever.
type templateChecker struct {
	about  *vocabulary
	vars   []variable
	ranges bool // it is within a range
	slips  []slip
	keys   []slip
}

// vocabulary is what a kind of template can say.
type vocabulary struct {
	what  string // it is, such as "a template"
	root  reflect.Type
	over  string // what range may go over
	funcs template.FuncMap
}

// spoken is the vocabulary of what an alert says.
var spoken = &vocabulary{"a template", eventType, ".Group", templateFuncs}

// variable is one of the template's, and its type; nil: not known.
type variable struct {
	name string
	of   reflect.Type
}

var (
	notificationType = reflect.TypeFor[Notification]()
	eventType        = reflect.TypeFor[Event]()
	alertsType       = reflect.TypeFor[[]NotifiedAlert]()
	groupType        = reflect.TypeFor[map[string]string]()
	stringType       = reflect.TypeFor[string]()
	boolType         = reflect.TypeFor[bool]()
	intType          = reflect.TypeFor[int]()
	errorType        = reflect.TypeFor[error]()
)

const noOthers = "define, block and template have no place in a message: write out what it says"

// checkTemplate checks a template in every branch.
func checkTemplate(t *template.Template, about *vocabulary) *templateChecker {
	c := &templateChecker{about: about, vars: []variable{{"$", about.root}}}
	c.list(t.Root, about.root)
	for _, other := range t.Templates() {
		if len(c.slips) == 0 && other.Tree != nil && other.Name() != t.Name() {
			c.slip(int(other.Root.Position()), noOthers)
		}
	}
	return c
}

func (c *templateChecker) slip(offset int, format string, args ...any) {
	c.slips = append(c.slips, slip{offset, fmt.Sprintf(format, args...)})
}

func (c *templateChecker) list(list *parse.ListNode, dot reflect.Type) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			c.pipe(n.Pipe, dot)
		case *parse.IfNode:
			c.branch(&n.BranchNode, dot, func(reflect.Type) reflect.Type { return dot })
		case *parse.WithNode:
			c.branch(&n.BranchNode, dot, func(of reflect.Type) reflect.Type { return of })
		case *parse.RangeNode:
			c.rangeOver(n, dot)
		case *parse.TemplateNode:
			c.slip(int(n.Position()), noOthers)
		}
	}
}

// branch checks both branches; inner is the dot of the first, by what was asked.
func (c *templateChecker) branch(n *parse.BranchNode, dot reflect.Type, inner func(of reflect.Type) reflect.Type) {
	outside := len(c.vars)
	of := c.pipe(n.Pipe, dot)
	c.list(n.List, inner(of))
	c.list(n.ElseList, dot)
	c.vars = c.vars[:outside]
}

func (c *templateChecker) rangeOver(n *parse.RangeNode, dot reflect.Type) {
	outside, within := len(c.vars), c.ranges
	of := c.commands(n.Pipe, dot)
	var key, each reflect.Type
	switch {
	case of == groupType && c.about.root == eventType:
		key, each = stringType, stringType
	case of == alertsType:
		key, each = intType, of.Elem()
	default:
		c.slip(int(n.Position()), "range goes over %s and nothing else", c.about.over)
	}
	if within && each != nil {
		c.slip(int(n.Position()), "a range has no place within a range")
	}
	for i, v := range n.Pipe.Decl { // the key, if there are two, and the value
		if i < len(n.Pipe.Decl)-1 {
			c.declare(v, key, n.Pipe.IsAssign)
		} else {
			c.declare(v, each, n.Pipe.IsAssign)
		}
	}
	c.ranges = true
	c.list(n.List, each)
	c.ranges = within
	c.list(n.ElseList, dot)
	c.vars = c.vars[:outside]
}

// declare notes the type of a variable, which is not known any more where it had
// another.
func (c *templateChecker) declare(v *parse.VariableNode, of reflect.Type, assigned bool) {
	if !assigned {
		c.vars = append(c.vars, variable{v.Ident[0], of})
	} else if known := c.variable(v); known.of != of {
		known.of = nil
	}
}

// variable is the innermost of that name. The parser lets pass what is assigned to
// and was never declared.
func (c *templateChecker) variable(v *parse.VariableNode) *variable {
	for i := len(c.vars) - 1; i >= 0; i-- {
		if c.vars[i].name == v.Ident[0] {
			return &c.vars[i]
		}
	}
	c.slip(int(v.Position()), "there is no variable %s here: write %s := for a new one", v.Ident[0], v.Ident[0])
	return &variable{}
}

// pipe returns the type of a pipeline's value; nil: not known.
func (c *templateChecker) pipe(n *parse.PipeNode, dot reflect.Type) reflect.Type {
	of := c.commands(n, dot)
	for _, v := range n.Decl {
		c.declare(v, of, n.IsAssign)
	}
	return of
}

func (c *templateChecker) commands(n *parse.PipeNode, dot reflect.Type) reflect.Type {
	var last argument
	for i, cmd := range n.Cmds {
		var args []argument
		for _, arg := range cmd.Args[1:] {
			args = append(args, argument{c.operand(arg, dot, nil), constant(arg)})
		}
		if i > 0 {
			args = append(args, last)
		}
		last = argument{c.operand(cmd.Args[0], dot, args), constant(cmd.Args[0])}
	}
	return last.of
}

// argument is what a function or a method is given.
type argument struct {
	of       reflect.Type // nil: not known
	constant parse.Node   // nil: it is none
}

// constant returns the number, text or word that a node is, or nil.
func constant(n parse.Node) parse.Node {
	switch n := n.(type) {
	case *parse.NumberNode, *parse.StringNode, *parse.BoolNode, *parse.NilNode:
		return n
	case *parse.PipeNode:
		if len(n.Decl) == 0 && len(n.Cmds) == 1 && len(n.Cmds[0].Args) == 1 {
			return constant(n.Cmds[0].Args[0])
		}
	}
	return nil
}

// function returns the type of a function's result.
func (c *templateChecker) function(n *parse.IdentifierNode, args []argument) reflect.Type {
	// A format that is not written out could not be told from a wrong one.
	if n.Ident != "printf" || len(args) == 0 || args[0].constant != nil || args[0].of != stringType {
		c.try(int(n.Position()), n.Ident, args)
	}
	if len(args) == 0 {
		return nil
	}
	switch n.Ident {
	case "print", "printf", "println", "html", "js", "urlquery":
		return stringType
	case "not", "eq", "ne", "lt", "le", "gt", "ge":
		return boolType
	case "len":
		return intType
	case "json":
		return reflect.TypeFor[rawJSON]()
	case "slice":
		if args[0].of == stringType || args[0].of == alertsType {
			return args[0].of
		}
	case "and", "or":
		if !slices.ContainsFunc(args, func(a argument) bool { return a.of != args[0].of }) {
			return args[0].of
		}
	case "index":
		if args[0].of == groupType {
			for _, a := range args {
				if key, ok := a.constant.(*parse.StringNode); ok {
					c.keys = append(c.keys, slip{int(key.Position()), key.Text})
				}
			}
			return stringType
		}
		if args[0].of == alertsType && len(args) == 2 {
			return alertsType.Elem()
		}
	}
	return nil
}

// try calls a function, or with a dot before its name a method of the first
// argument. Constants are what they are, and all else is the zero value of its type:
// what fails with that fails whatever the event is, but for an index that is too high.
func (c *templateChecker) try(at int, name string, args []argument) {
	var words []string
	var values []any
	for i, a := range args {
		switch {
		case a.constant != nil:
			words = append(words, a.constant.String())
			continue
		case a.of == nil:
			return
		}
		switch a.of.Kind() {
		case reflect.Pointer, reflect.Interface, reflect.Func, reflect.Chan:
			return // nil is no value to try with
		}
		for len(values) <= i {
			values = append(values, nil)
		}
		values[i] = reflect.Zero(a.of).Interface()
		words = append(words, fmt.Sprintf("(index . %d)", i))
	}
	call := append([]string{name}, words...)
	if strings.HasPrefix(name, ".") {
		call = append([]string{words[0] + name}, words[1:]...)
	}
	t, err := template.New("").Funcs(c.about.funcs).Parse("{{" + strings.Join(call, " ") + "}}")
	if err == nil {
		err = t.Execute(io.Discard, values)
	}
	if err == nil || strings.Contains(err.Error(), "out of range") || strings.Contains(err.Error(), "invalid slice index") {
		return
	}
	msg := callError.ReplaceAllString(err.Error(), "")
	if better := meant(args); better != "" && strings.Contains(msg, "incompatible types") {
		msg += ": write " + better
	}
	c.slip(at, "%s fails: %s", name, msg)
}

// callError is what package text/template says before what is wrong with a call.
var callError = regexp.MustCompile(`(?s)^template: .*?>: (error calling [a-z]+: )?`)

// meant is how the constant of a comparison would be of the kind of what it is
// compared with, or "".
func meant(args []argument) string {
	var with reflect.Kind
	number, quoted := "", false
	for _, a := range args {
		switch n := a.constant.(type) {
		case *parse.NumberNode:
			number = n.Text
		case *parse.StringNode:
			number, quoted = n.Text, true
		case nil:
			with = a.of.Kind()
		}
	}
	switch whole := !strings.Contains(number, "."); {
	case !decimal.MatchString(number):
		return ""
	case with == reflect.String && !quoted:
		return strconv.Quote(number)
	case with == reflect.Float64 && whole:
		return number + ".0"
	case with == reflect.Float64 && quoted, with == reflect.Int && whole && quoted:
		return number
	case with == reflect.Int && !whole:
		return "a whole number"
	}
	return ""
}

// operand returns the type of an operand that is given arguments.
func (c *templateChecker) operand(n parse.Node, dot reflect.Type, args []argument) reflect.Type {
	at, value := int(n.Position()), true
	var of reflect.Type
	switch n := n.(type) {
	case *parse.IdentifierNode:
		value, of = false, c.function(n, args)
	case *parse.FieldNode:
		if len(n.Ident) > 1 { // the position is that of the second name
			at -= len(".") + len(n.Ident[0])
		}
		value, of = false, c.fields(dot, n.Ident, at, args)
	case *parse.VariableNode:
		value, of = len(n.Ident) == 1, c.fields(c.variable(n).of, n.Ident[1:], at, args)
	case *parse.ChainNode:
		value, of = false, c.fields(c.operand(n.Node, dot, nil), n.Field, at, args)
	case *parse.DotNode:
		of = dot
	case *parse.PipeNode:
		of = c.pipe(n, dot)
	case *parse.StringNode:
		of = stringType
	case *parse.BoolNode:
		of = boolType
	case *parse.NumberNode:
		of = intType
		if n.IsComplex && !n.IsFloat {
			of = reflect.TypeFor[complex128]()
		} else if strings.ContainsAny(n.Text, ".eEpP") && !strings.ContainsAny(n.Text, "xX'") {
			of = reflect.TypeFor[float64]()
		}
	}
	if value && len(args) > 0 {
		c.slip(at, "this is a value, and takes no arguments")
	}
	return of
}

// fields follows names from a value on; the first stands at that byte.
func (c *templateChecker) fields(of reflect.Type, names []string, at int, args []argument) reflect.Type {
	for i, name := range names {
		var given []argument
		if i == len(names)-1 {
			given = args
		}
		of = c.field(of, name, at, given)
		at += len(".") + len(name)
	}
	return of
}

// field returns the type of a field, of what is under a key, or of a method's result.
func (c *templateChecker) field(of reflect.Type, name string, at int, args []argument) reflect.Type {
	if of == nil {
		return nil
	}
	if method, ok := of.MethodByName(name); ok {
		m := method.Type
		switch takes := m.NumIn() - 1; { // without the receiver
		case m.NumOut() != 1 && (m.NumOut() != 2 || m.Out(1) != errorType):
			c.slip(at, ".%s gives %d results, and a template can take one", name, m.NumOut())
		case takes != len(args) && !m.IsVariadic():
			c.slip(at, "the number of arguments of .%s is %d, not %d", name, takes, len(args))
		default:
			c.try(at, "."+name, append([]argument{{of: of}}, args...))
			return m.Out(0)
		}
		return nil
	}
	field, known := reflect.StructField{}, of == groupType
	if of.Kind() == reflect.Struct {
		field, known = of.FieldByName(name)
		known = known && field.IsExported()
	}
	switch {
	case !known:
		c.unknownField(of, name, at)
	case len(args) > 0:
		c.slip(at, ".%s takes no arguments", name)
	case of == groupType:
		c.keys = append(c.keys, slip{at, name})
		return stringType
	default:
		return field.Type
	}
	return nil
}

func (c *templateChecker) unknownField(of reflect.Type, name string, at int) {
	var names []string
	for _, f := range reflect.VisibleFields(c.about.root) {
		names = append(names, f.Name)
	}
	switch {
	case of == c.about.root:
		c.slip(at, "%s", unknown("field", name, phrase(c.about.what), names))
	case of == alertsType.Elem() && !slices.Contains(names, name):
		names = nil
		for _, f := range reflect.VisibleFields(of) {
			names = append(names, f.Name)
		}
		c.slip(at, "%s", unknown("field", name, "an alert", names))
	case slices.Contains(names, name):
		c.slip(at, "within range and with, the dot is something else: write $.%s", name)
	default:
		c.slip(at, "%s has no .%s", inWords(of), name)
	}
}

// inWords is what a template's value is, for whoever does not know Go.
func inWords(of reflect.Type) string {
	switch {
	case of == stringType:
		return "a text"
	case of == reflect.TypeFor[time.Time]():
		return "a time (time.Time in Go)"
	case of == alertsType:
		return "a list of alerts"
	case of == groupType:
		return "a mapping"
	case of == reflect.TypeFor[time.Duration]():
		return "a duration (time.Duration in Go)"
	default:
		return "a value of type " + of.String()
	}
}
