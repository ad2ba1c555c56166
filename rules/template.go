package rules

import (
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"gopkg.in/yaml.v3"
)

// Event is what the templates of an alert can say, such as {{.Count}}. Where a
// rule does not measure something, it is zero.
type Event struct {
	Status       string            // "firing" or "resolved"
	Rule         string            // its name
	About        string            // its description
	Instance     string            // this host's name
	Group        map[string]string // by what the rule groups, such as {{.Group.dst}}; empty where an alert is about many groups
	When         string            // the rule's conditions, as it says them
	Count        int               // sockets that match
	Growth       float64           // sockets a minute
	PortUsage    float64           // percent
	BacklogUsage float64           // percent
	Since        time.Time         // the conditions have held since
	Lasted       time.Duration     // for so long
	Oldest       time.Duration     // of the sockets that match, in its state
	Holders      string            // who holds them, as far as is known
	Done         string            // what was done about them
	Peak         int               // the highest count since it fires
	Peers        string            // towards whom most of the sockets are, as far as is known
}

// trial is an event to try a template with.
type trial struct {
	when string // in words
	Event
}

// trials are events of the usual kind and of the extremes.
func trials() []trial {
	firing := Event{
		Status: "firing", Rule: "rule", About: "description", Instance: "host", When: "count > 1",
		Group: map[string]string{
			string(ByDst): "192.0.2.17", string(ByDport): "5432", string(BySrc): "192.0.2.18", string(BySport): "40000",
			string(ByState): "close-wait", string(ByUser): "1000",
		},
		Count: 2, Growth: 1, PortUsage: 1, BacklogUsage: 1, Since: time.Unix(0, 0).UTC(), Lasted: time.Minute, Oldest: time.Minute, Holders: "nginx[1]", Done: "nothing", Peak: 2, Peers: "192.0.2.17:5432",
	}
	least := Event{Status: "firing", Rule: "rule", Instance: "host", Holders: "unknown", Done: "nothing"} // which are never empty
	most := firing
	most.Count, most.Peak, most.Growth, most.PortUsage, most.BacklogUsage = math.MaxUint32, math.MaxUint32, math.MaxUint32, 100, 1000
	most.Lasted, most.Oldest = longest, longest
	both := func(when string, e Event) []trial {
		over := e
		over.Status = "resolved"
		return []trial{{when, e}, {when, over}}
	}
	return slices.Concat(both("", firing), both(" where all is 0 or empty", least), both(" where numbers are large", most))
}

// Template is a text/template over an Event that was tried when it was read. It
// says at most 8 KiB, in a time that its length bounds: there is no loop but over
// the keys of a group.
type Template struct {
	text string
	*template.Template
}

// String is the template as the rule has it.
func (t *Template) String() string { return t.text }

// MarshalText is how a rule's fingerprint knows the template.
func (t *Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// maxMessage bounds a template and what it says, in bytes.
const maxMessage = 8 << 10

// Render says what the template makes of the event, cut off where it is too long.
func (t *Template) Render(e *Event) (string, error) {
	b := bounded{left: maxMessage}
	err := t.Execute(&b, e)
	if b.left == 0 {
		return b.String() + "...", nil
	}
	if err != nil {
		_, msg := explainTemplate(t.text, err)
		return "", fmt.Errorf("the template fails: %s", msg)
	}
	return b.String(), nil
}

// bounded is a text that takes no more than so many bytes.
type bounded struct {
	strings.Builder
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	b.Builder.Write(p[:n])
	if n < len(p) {
		return n, io.ErrShortWrite // ends the execution
	}
	return n, nil
}

// templateFuncs stand in for those of the language that make text, which put no
// bound to it: $x = print $x $x, forty times over, would be more than the memory.
var templateFuncs = template.FuncMap{
	"print":   func(args ...any) (string, error) { return short(fmt.Sprint(args...)) },
	"println": func(args ...any) (string, error) { return short(fmt.Sprintln(args...)) },
	"printf": func(format string, args ...any) (string, error) {
		// A percent sign that is meant is not where a verb begins.
		if wideVerb.MatchString(strings.ReplaceAll(format, "%%", "")) {
			return "", errors.New("a width or precision is at most 999, and in digits")
		}
		said, err := short(fmt.Sprintf(format, args...))
		// What the arguments themselves say, such as the name of a process, is not complained of.
		if bad := badVerb.FindString(said); err == nil && bad != "" && !strings.Contains(fmt.Sprint(args...), "%!") {
			return "", fmt.Errorf("it says %q: %%d is for whole numbers, %%.0f for others, %%v for everything, and each takes one value", bad)
		}
		return said, err
	},
	"html":     func(args ...any) (string, error) { return short(template.HTMLEscaper(args...)) },
	"js":       func(args ...any) (string, error) { return short(template.JSEscaper(args...)) },
	"urlquery": func(args ...any) (string, error) { return short(template.URLQueryEscaper(args...)) },
}

// badVerb is what package fmt says of a verb and a value that do not go together.
var badVerb = regexp.MustCompile(`%!.?\([^)]*\)`)

var wideVerb = regexp.MustCompile(`%[^%a-zA-Z]*([0-9]{4}|\*)`)

func short(text string) (string, error) {
	if len(text) > maxMessage {
		return "", errors.New("a text is at most 8 KiB long")
	}
	return text, nil
}

// message is a template as it stands in the file.
type message struct {
	*Template
	at   *yaml.Node
	keys []slip // of .Group, that it names
}

// slip is something at a byte of a template.
type slip struct {
	offset int
	text   string
}

var messageTemplate = value[*message]{
	read: func(p *parser, n *yaml.Node) *message {
		if n = p.scalar(n, "a template"); n == nil {
			return nil
		}
		m, slips := readTemplate(n.Value)
		for _, s := range slips {
			line, column := p.within(n, s.offset)
			p.reportAt(line, column, "%s", s.text)
		}
		if m != nil {
			m.at = n
		}
		return m
	},
	schema: schema{"type": "string", "minLength": 1, "maxLength": maxMessage, "examples": []string{
		"{{.Count}} sockets towards {{.Group.dst}}, the oldest for {{.Oldest}}",
	}},
}

// readTemplate returns what is wrong with a template, or else the template.
func readTemplate(text string) (*message, []slip) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, []slip{{0, "this says nothing: write what to say, or remove the key for sockdog's own words"}}
	case len(text) > maxMessage:
		return nil, []slip{{0, "a template is at most 8 KiB long"}}
	}
	// A key that its rule groups by is empty where an alert is about many groups.
	parsed, err := template.New("").Option("missingkey=zero").Funcs(templateFuncs).Parse(text)
	if err != nil {
		offset, msg := explainTemplate(text, err)
		return nil, []slip{{offset, "this is no template: " + msg}}
	}
	c := templateChecker{vars: []variable{{"$", eventType}}}
	c.list(parsed.Root, eventType)
	for _, other := range parsed.Templates() {
		if len(c.slips) == 0 && other.Tree != nil && other.Name() != parsed.Name() {
			c.slip(int(other.Root.Position()), noOthers)
		}
	}
	if len(c.slips) > 0 {
		return nil, c.slips
	}
	t := &Template{text, parsed}
	for _, trial := range trials() {
		b := bounded{left: maxMessage}
		if err := t.Execute(&b, &trial.Event); err != nil && b.left > 0 {
			offset, msg := explainTemplate(text, err)
			return nil, []slip{{offset, "the template fails" + trial.when + ": " + msg}}
		}
	}
	return &message{Template: t, keys: c.keys}, nil
}

const noOthers = "define, block and template have no place in a message: write out what it says"

var (
	templateError = regexp.MustCompile(`^template: :(\d+)(?::(\d+))?: ?(?:executing "" at )?`)
	startedAt     = regexp.MustCompile(` started at :\d+$`)
	longAction    = regexp.MustCompile(`(?s)^<(.{60}).+>: `)
)

// explainTemplate is what package text/template says, and the byte of the text at
// which it says so: where it knows the line alone, at the beginning of that.
func explainTemplate(text string, err error) (offset int, msg string) {
	msg = err.Error()
	if found := templateError.FindStringSubmatch(msg); found != nil {
		msg = msg[len(found[0]):]
		line, _ := strconv.Atoi(found[1])
		for ; line > 1; line-- {
			offset += strings.IndexByte(text[offset:], '\n') + 1
		}
		if column, err := strconv.Atoi(found[2]); err == nil {
			offset += column
		} else {
			offset += len(indentation(text[offset:]))
		}
	}
	msg = longAction.ReplaceAllString(msg, "<$1...>: ")
	switch msg = startedAt.ReplaceAllString(msg, ""); msg {
	case "unclosed action":
		msg = "{{ is not closed by }}"
	case "unexpected EOF":
		msg = "{{end}} is missing"
	}
	return offset, msg
}

// templateChecker finds what no event has, in every branch of a template: a trial
// takes only some. It also refuses what could go on for ever.
type templateChecker struct {
	vars   []variable
	ranges bool // it is within a range
	slips  []slip
	keys   []slip
}

// variable is one of the template's, and its type; nil: not known.
type variable struct {
	name string
	of   reflect.Type
}

var (
	eventType  = reflect.TypeFor[Event]()
	groupType  = reflect.TypeFor[map[string]string]()
	stringType = reflect.TypeFor[string]()
	boolType   = reflect.TypeFor[bool]()
	intType    = reflect.TypeFor[int]()
	errorType  = reflect.TypeFor[error]()
)

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
	of, each := c.commands(n.Pipe, dot), stringType
	switch {
	case of != groupType:
		c.slip(int(n.Position()), "range goes over .Group and nothing else")
		each = nil
	case within:
		c.slip(int(n.Position()), "a range has no place within a range")
	}
	for _, v := range n.Pipe.Decl { // the key, if there are two, and the value
		c.declare(v, each, n.Pipe.IsAssign)
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
	case "slice":
		if args[0].of == stringType {
			return stringType
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
	t, err := template.New("").Funcs(templateFuncs).Parse("{{" + strings.Join(call, " ") + "}}")
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
	for _, f := range reflect.VisibleFields(eventType) {
		names = append(names, f.Name)
	}
	switch {
	case of == eventType:
		c.slip(at, "%s", unknown("field", name, "a template", names))
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
	case of == reflect.TypeFor[time.Duration]():
		return "a duration (time.Duration in Go)"
	default:
		return "a value of type " + of.String()
	}
}

// checkKeys refuses a template's key of .Group by which the rule does not group:
// it would say nothing.
func (p *parser) checkKeys(d *draft, m *message) {
	if m == nil || d.given.has("group_by") && !d.given.wrote("group_by") {
		return
	}
	var keys []string
	for _, k := range d.groupBy {
		if k.value == "" {
			return // reported: what was meant is not known
		}
		keys = append(keys, string(k.value))
	}
	for _, used := range m.keys {
		if slices.Contains(keys, used.text) {
			continue
		}
		line, column := p.within(m.at, used.offset)
		if _, other := trials()[0].Group[used.text]; other {
			p.reportAt(line, column, "the rule does not group by %s: add it to group_by, or leave it out here", used.text)
			continue
		}
		p.reportAt(line, column, "%s", unknown("key", used.text, ".Group", keys))
	}
}
