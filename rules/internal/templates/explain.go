package templates

import (
	"cmp"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/sockdog/sockdog/rules/internal/message"
)

var (
	errorAt   = lazy(`^template: :(\d+): ?`)
	startedAt = lazy(` started at :\d+$`)
)

// explain says what an error of package text/template/parse means, at the beginning of
// the line that it is about.
func explain(text string, err error) *Mistake {
	m := &Mistake{Text: err.Error()}
	if found := errorAt().FindStringSubmatch(m.Text); found != nil {
		m.Text = m.Text[len(found[0]):]
		line, _ := strconv.Atoi(found[1])
		for ; line > 1; line-- {
			m.Offset += strings.IndexByte(text[m.Offset:], '\n') + 1
		}
		rest := text[m.Offset:]
		m.Offset += len(rest) - len(strings.TrimLeft(rest, " \t"))
	}
	switch m.Text = startedAt().ReplaceAllString(m.Text, ""); m.Text {
	case "unclosed action":
		m.Text = "{{ is not closed by }}"
	case "unexpected EOF":
		m.Text = "{{end}} is missing"
	}
	m.Text = "this is not a template: " + m.Text
	return m
}

// failure words why a template fails.
func (l *Language) failure(when string, f *failure) *Mistake {
	m := &Mistake{int(f.node.Position()), f.Error()}
	if !f.whole {
		m.Text = "the " + l.What + " fails" + when + ": " + f.at()
	}
	return m
}

// at is the error behind what fails.
func (f *failure) at() string {
	if f.whole {
		return f.Error()
	}
	what := f.node.String()
	if len(what) > maxQuoted {
		what = strings.ToValidUTF8(what[:maxQuoted], "") + "..."
	}
	return "<" + what + ">: " + f.Error()
}

// maxQuoted is how much is repeated of what fails, in bytes.
const maxQuoted = 60

// unknownField says that a value of that type has no such field.
func (l *Language) unknownField(name string, of reflect.Type) error {
	root, each := reflect.TypeOf(l.Full).Elem(), reflect.TypeOf(l.Range).Elem()
	switch known := fields(root); {
	case of == root:
		return message.Unknown("field", name, message.Phrase("a "+l.What), known)
	case of == each && each.Kind() == reflect.Struct && !slices.Contains(known, name):
		return message.Unknown("field", name, "an alert", fields(each))
	case slices.Contains(known, name):
		return errors.New("inside range and with, the dot is another value: write $." + name)
	}
	what := map[string]string{"string": "a text", "time.Time": "a time (time.Time in Go)", "time.Duration": "a duration (time.Duration in Go)"}
	return message.Errorf("%s has no .%s", cmp.Or(what[of.String()], "a value of type "+of.String()), name)
}

func fields(of reflect.Type) (names []string) {
	for _, f := range reflect.VisibleFields(of) {
		names = append(names, f.Name)
	}
	return names
}
