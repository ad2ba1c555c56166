// Package templates reads and executes the templates of a rules file: the language of
// package text/template without its loops and definitions. It tries each template when
// it is read, in every branch, and bounds what one can say and how long it takes.
//
// It stands in for the executor of text/template, which keeps every method of every type
// in the binary, because a template may name any.
package templates

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/sockdog/sockdog/rules/internal/message"
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

// Template is a template that was tried.
type Template struct {
	text string
	root *parse.ListNode
	json bool         // values are escaped within quotes, and elsewhere written as JSON
	over reflect.Type // what range may go over
	name string       // of that
}

// String is the template as it is written.
func (t *Template) String() string { return t.text }

// MarshalText returns the template as it is written.
func (t *Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// ErrLong says that a template makes more text than it may.
var ErrLong = errors.New("the template says too much")

// Execute returns what the template makes of the data. It fails with ErrLong after max
// bytes, and returns those.
func (t *Template) Execute(data any, max int) (string, error) {
	r := run{Template: t, max: max}
	switch m := r.execute(data); {
	case r.long:
		return r.out.String(), ErrLong
	case m != nil:
		return "", errors.New(m.Text)
	}
	return r.out.String(), nil
}

// Parse reads a template, and tries it in every branch and with every trial.
func (l *Language) Parse(text string) (*Template, *Mistake) {
	t, m := l.parse(text, nil)
	if m != nil {
		return nil, m
	}
	for _, trial := range l.Trials {
		r := run{Template: t, lang: l, when: trial.When, max: MaxBytes}
		if m := r.execute(trial.Data); m != nil {
			return nil, m
		}
	}
	return t, nil
}

// parse reads a template, and tries it in every branch; with a trial, as one that makes
// JSON.
func (l *Language) parse(text string, on *trial) (*Template, *Mistake) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, &Mistake{0, "this is empty: " + l.Blank}
	case len(text) > MaxBytes:
		return nil, &Mistake{0, "a " + l.What + " is at most 8 KiB long"}
	}
	known := functions()
	if on == nil {
		known = maps.Clone(known)
		delete(known, "json")
	}
	trees, err := parse.Parse("", text, "", "", known)
	if err != nil {
		return nil, misread(text, err)
	}
	t := &Template{text: text, root: trees[""].Root, json: on != nil, over: reflect.TypeOf(l.Range), name: l.Over}
	r := run{Template: t, every: true, lang: l, trial: on}
	if m := r.execute(l.Full); m != nil {
		return nil, m
	}
	for name, tree := range trees {
		if name != "" {
			return nil, &Mistake{int(tree.Root.Position()), noOthers}
		}
	}
	return t, nil
}

const noOthers = "define, block and template are not allowed here: write their text out"

// misread explains an error of package parse. That knows the line alone, so the mistake
// is where the line begins.
func misread(text string, err error) *Mistake {
	m := &Mistake{}
	number, msg, _ := strings.Cut(strings.TrimPrefix(err.Error(), "template: :"), ": ")
	line, _ := strconv.Atoi(number)
	for ; line > 1; line-- {
		m.Offset += strings.IndexByte(text[m.Offset:], '\n') + 1
	}
	rest := text[m.Offset:]
	m.Offset += len(rest) - len(strings.TrimLeft(rest, " \t"))
	switch msg, _, _ = strings.Cut(msg, " started at "); msg {
	case "unclosed action":
		msg = "{{ is not closed by }}"
	case "unexpected EOF":
		msg = "{{end}} is missing"
	}
	m.Text = "this is not a template: " + msg
	return m
}

// unknownField words that a value of that type has no such field; without a language, for
// the log.
func (l *Language) unknownField(name string, of reflect.Type) string {
	if l == nil {
		return fmt.Sprintf("%v has no .%s", of, name)
	}
	root, each := reflect.TypeOf(l.Full).Elem(), reflect.TypeOf(l.Range).Elem()
	switch known := fields(root); {
	case of == root:
		return message.Unknown("field", name, message.Phrase("a "+l.What), known).Error()
	case of == each && of.Kind() == reflect.Struct && !slices.Contains(known, name):
		return message.Unknown("field", name, "an alert", fields(each)).Error()
	case slices.Contains(known, name):
		return "inside range and with, the dot is another value: write $." + name
	}
	what := "a value of type " + of.String()
	switch of.String() {
	case "string":
		what = "a text"
	case "time.Time":
		what = "a time (time.Time in Go)"
	case "time.Duration":
		what = "a duration (time.Duration in Go)"
	}
	return message.Errorf("%s has no .%s", what, name).Error()
}

func fields(of reflect.Type) (names []string) {
	for _, f := range reflect.VisibleFields(of) {
		names = append(names, f.Name)
	}
	return names
}
