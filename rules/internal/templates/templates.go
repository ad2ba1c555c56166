// Package templates reads the text/templates of a rules file. It tries each when it is
// read, in every branch, and bounds what one can say and how long it takes.
package templates

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"text/template"
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

// Template is a text/template that was tried.
type Template struct {
	text string
	tree *template.Template
}

// String is the template as it is written.
func (t *Template) String() string { return t.text }

// MarshalText returns the template as it is written.
func (t *Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// Execute returns what the template makes of the data. It fails with ErrLong after max
// bytes, and returns those.
func (t *Template) Execute(data any, max int) (string, error) {
	b := bounded{left: max}
	err := t.tree.Execute(&b, data)
	if b.left == 0 {
		return b.String(), ErrLong
	}
	if err != nil {
		return "", errors.New(explain(t.text, err).Text)
	}
	return b.String(), nil
}

// ErrLong says that a template makes more text than it may.
var ErrLong = errors.New("the template says too much")

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

// Parse reads a template, and tries it in every branch and with every trial.
func (l *Language) Parse(text string) (*Template, *Mistake) {
	t, m := l.parse(text, nil)
	if m != nil {
		return nil, m
	}
	for _, trial := range l.Trials {
		b := bounded{left: MaxBytes}
		if err := t.tree.Execute(&b, trial.Data); err != nil && b.left > 0 {
			return nil, l.failure(text, trial.When, err)
		}
	}
	return t, nil
}

// parse reads a template, and tries it in every branch.
func (l *Language) parse(text string, more template.FuncMap) (*Template, *Mistake) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, &Mistake{0, "this is empty: " + l.Blank}
	case len(text) > MaxBytes:
		return nil, &Mistake{0, "a " + l.What + " is at most 8 KiB long"}
	}
	funcs := l.funcs()
	maps.Copy(funcs, more)
	// A key that is missing reads as empty: an alert about many groups has none.
	t, err := template.New("").Option("missingkey=zero").Funcs(funcs).Parse(text)
	if err != nil {
		m := explain(text, err)
		m.Text = "this is not a template: " + m.Text
		return nil, m
	}
	c := checker{Language: l, tree: t.Tree}
	if c.list(t.Root, false); c.mistake != nil {
		return nil, c.mistake
	}
	for _, other := range t.Templates() {
		if other.Tree != nil && other.Name() != t.Name() {
			return nil, &Mistake{int(other.Root.Position()), noOthers}
		}
	}
	if err := everyBranch(t, funcs, l.Key != nil).Execute(io.Discard, l.Full); err != nil && !outOfRange(err) {
		return nil, l.failure(text, "", err)
	}
	return &Template{text, t}, nil
}

const noOthers = "define, block and template are not allowed here: write their text out"

// outOfRange reports whether a template failed for want of a long enough value, against
// which a branch may have a condition.
func outOfRange(err error) bool {
	return strings.Contains(err.Error(), "out of range") || strings.Contains(err.Error(), "invalid slice index")
}

// funcs are functions that stand in for those of the language that make text, which
// do not bound it: $x = print $x $x, forty times over, would fill the memory.
func (l *Language) funcs() template.FuncMap {
	return template.FuncMap{
		"print":    func(args ...any) (string, error) { return short(fmt.Sprint(args...)) },
		"println":  func(args ...any) (string, error) { return short(fmt.Sprintln(args...)) },
		"printf":   printf,
		"html":     func(args ...any) (string, error) { return short(template.HTMLEscaper(args...)) },
		"js":       func(args ...any) (string, error) { return short(template.JSEscaper(args...)) },
		"urlquery": func(args ...any) (string, error) { return short(template.URLQueryEscaper(args...)) },
		rangeOver: func(v reflect.Value) (reflect.Value, error) {
			if v.Type() != reflect.TypeOf(l.Range) {
				return v, fmt.Errorf("range is allowed over %s alone", l.Over)
			}
			return v, nil
		},
	}
}

// rangeOver is a function that every range calls, so that none is long.
const rangeOver = "_range"

func printf(format string, args ...any) (string, error) {
	// A percent sign that is meant is not where a verb begins.
	if wideVerb().MatchString(strings.ReplaceAll(format, "%%", "")) {
		return "", errors.New("a width or precision is at most 999, and in digits")
	}
	said, err := short(fmt.Sprintf(format, args...))
	// What the arguments themselves say, such as the name of a process, is not complained of.
	if bad := badVerb().FindString(said); err == nil && bad != "" && !strings.Contains(fmt.Sprint(args...), "%!") {
		return "", fmt.Errorf("it prints %q: %%d is for whole numbers, %%.0f for others, %%v for everything, and each takes one value", bad)
	}
	return said, err
}

func short(text string) (string, error) {
	if len(text) > MaxBytes {
		return "", errors.New("a text is at most 8 KiB long")
	}
	return text, nil
}
