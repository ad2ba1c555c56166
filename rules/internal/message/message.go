// Package message words what is wrong with a text that somebody wrote: it cuts the
// values that it repeats, and finds the known name nearest to an unknown one.
package message

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	MaxValue = 100  // bytes of a value that a message repeats
	MaxBytes = 1000 // of a message
)

// Phrase is a part of a message that is never cut: text of our own.
type Phrase string

// worded is an error whose words are put together only where they are shown.
type worded struct {
	format string
	args   []any
}

// Errorf is fmt.Errorf for text of any length: strings among args are cut to MaxValue
// bytes, and the message to MaxBytes.
func Errorf(format string, args ...any) error {
	if false {
		_ = fmt.Sprintf(format, args...) // for go vet
	}
	return worded{format, args}
}

func (w worded) Error() string {
	args := slices.Clone(w.args)
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			args[i] = Cut(text, MaxValue)
		}
	}
	return Cut(fmt.Sprintf(w.format, args...), MaxBytes)
}

// Cut shortens a text that has more than that many bytes.
func Cut(text string, length int) string {
	if len(text) <= length {
		return text
	}
	for length > 0 && !utf8.RuneStart(text[length]) {
		length--
	}
	return text[:length] + "..."
}

// Or joins names of which one is to be chosen.
func Or(names []string) Phrase {
	last := len(names) - 1
	if last < 1 {
		return List(names)
	}
	return List(names[:last]) + " or " + Phrase(names[last])
}

// List joins names with commas, as many as a message takes.
func List(names []string) Phrase {
	const most = 30
	if more := len(names) - most; more > 0 {
		return Phrase(fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more))
	}
	return Phrase(strings.Join(names, ", "))
}
