package templates

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// lazy is a regular expression that is compiled when it is first needed.
func lazy(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

var (
	badVerb  = lazy(`%!.?\([^)]*\)`) // what package fmt says of a verb and a value that do not go together
	wideVerb = lazy(`%[^%a-zA-Z]*([0-9]{4}|\*)`)

	// What package text/template says.
	errorAt      = lazy(`^template: :(\d+)(?::(\d+))?: ?(?:executing "" at )?`)
	startedAt    = lazy(` started at :\d+$`)
	longAction   = lazy(`(?s)^<(.{60}).+>: `)
	unknownField = lazy(`can't evaluate field (\S+) in type (.+)$`)
	missingKey   = lazy(`map has no entry for key "(.+)"$`)
	ranges       = lazy(`(?s)^.*(range is allowed over .+)$`)
	calling      = lazy(`>: error calling \w+: `)
	notCallable  = lazy(`can't give argument to non-function .*$`)
)

// explain says what an error of package text/template means, and finds the byte of the
// text that it is about: where the error knows the line alone, the beginning of that.
func explain(text string, err error) *Mistake {
	m := &Mistake{Text: err.Error()}
	if found := errorAt().FindStringSubmatch(m.Text); found != nil {
		m.Text = m.Text[len(found[0]):]
		line, _ := strconv.Atoi(found[1])
		for ; line > 1; line-- {
			m.Offset += strings.IndexByte(text[m.Offset:], '\n') + 1
		}
		if column, err := strconv.Atoi(found[2]); err == nil {
			m.Offset += column
		} else {
			rest := text[m.Offset:]
			m.Offset += len(rest) - len(strings.TrimLeft(rest, " \t"))
		}
	}
	m.Text = longAction().ReplaceAllString(m.Text, "<$1...>: ")
	switch m.Text = startedAt().ReplaceAllString(m.Text, ""); m.Text {
	case "unclosed action":
		m.Text = "{{ is not closed by }}"
	case "unexpected EOF":
		m.Text = "{{end}} is missing"
	}
	return m
}

// failure words why a template fails.
func (l *Language) failure(text, when string, err error) *Mistake {
	m := explain(text, err)
	if found := unknownField().FindStringSubmatch(m.Text); found != nil {
		m.Text = l.unknownField(found[1], found[2])
		return m
	}
	if found := missingKey().FindStringSubmatch(m.Text); found != nil && l.Key != nil {
		m.Text = l.Key(found[1])
		return m
	}
	if found := ranges().FindStringSubmatch(m.Text); found != nil {
		m.Text = found[1]
		return m
	}
	if strings.Contains(m.Text, "incompatible types for comparison") {
		m.Text += `: write 95 beside a whole number, 95.0 beside one with a fraction, and "95" beside a text`
	}
	m.Text = calling().ReplaceAllString(m.Text, ">: ")
	m.Text = notCallable().ReplaceAllString(m.Text, "this is a value, and takes no arguments")
	m.Text = "the " + l.What + " fails" + when + ": " + m.Text
	return m
}

// unknownField words that a value of that type has no such field.
func (l *Language) unknownField(name, of string) string {
	root, each := reflect.TypeOf(l.Full).Elem(), reflect.TypeOf(l.Range).Elem()
	switch known := fields(root); {
	case of == "*"+root.String() || of == root.String():
		return message.Unknown("field", name, message.Phrase("a "+l.What), known).Error()
	case of == each.String() && each.Kind() == reflect.Struct && !slices.Contains(known, name):
		return message.Unknown("field", name, "an alert", fields(each)).Error()
	case slices.Contains(known, name):
		return "inside range and with, the dot is another value: write $." + name
	}
	switch of {
	case "string":
		of = "a text"
	case "time.Time":
		of = "a time (time.Time in Go)"
	case "time.Duration":
		of = "a duration (time.Duration in Go)"
	default:
		of = "a value of type " + of
	}
	return message.Errorf("%s has no .%s", of, name).Error()
}

func fields(of reflect.Type) (names []string) {
	for _, f := range reflect.VisibleFields(of) {
		names = append(names, f.Name)
	}
	return names
}
