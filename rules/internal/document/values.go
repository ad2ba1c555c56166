package document

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// Scalar is a single value that is read from its text.
func Scalar[V any](want string, parse func(text string) (V, error)) Value[V] {
	return func(r *Reader, n *yaml.Node) V {
		var none V
		if n = r.Scalar(n, want); n == nil {
			return none
		}
		v, err := parse(n.Value)
		if err != nil {
			r.Report(n, "%v", err)
			return none // half a value would lead to errors that are none
		}
		return v
	}
}

// Text is any single value, as it is written.
func Text(r *Reader, n *yaml.Node) string {
	if n = r.Scalar(n, "text"); n == nil {
		return ""
	}
	return n.Value
}

// Boolean is true or false; YAML 1.1's other spellings are refused, as a parser of YAML
// 1.2 reads them as text.
func Boolean(r *Reader, n *yaml.Node) bool {
	const want = "true or false"
	if n = r.Scalar(n, want); n == nil {
		return false
	}
	if n.Style&^yaml.FlowStyle == 0 && (n.Value == "true" || n.Value == "false") {
		return n.Value == "true"
	}
	switch strings.ToLower(n.Value) {
	case "true", "yes", "y", "on":
		r.Report(n, "write true, in small letters and without quotes, for %q", n.Value)
	case "false", "no", "n", "off":
		r.Report(n, "write false, in small letters and without quotes, for %q", n.Value)
	default:
		if r.MayQuote(n, n.Value) {
			r.Report(n, "%s belongs here, not %q", want, n.Value)
		} else {
			r.Report(n, "%s belongs here", want)
		}
	}
	return false
}

// OneOf is a word of a fixed choice.
func OneOf[V ~string](what string, words ...V) Value[V] {
	return Scalar(what, func(text string) (V, error) {
		if !slices.Contains(words, V(text)) {
			return "", message.Unknown("value", text, message.Phrase(what), Strings(words))
		}
		return V(text), nil
	})
}

// Strings are words as strings.
func Strings[V ~string](words []V) []string {
	all := make([]string, 0, len(words))
	for _, w := range words {
		all = append(all, string(w))
	}
	return all
}

// Convert turns a value into one of another type.
func Convert[V, W any](v Value[V], to func(V) W) Value[W] {
	return func(r *Reader, n *yaml.Node) W { return to(v(r, n)) }
}

// Placed is a value and where it stands.
type Placed[V any] struct {
	Value V
	At    *yaml.Node
}

// WithPlace is a value with its place.
func WithPlace[V any](v Value[V]) Value[Placed[V]] {
	return func(r *Reader, n *yaml.Node) Placed[V] { return Placed[V]{v(r, n), n} }
}

// Unplaced are the values alone.
func Unplaced[V any](all []Placed[V]) (values []V) {
	for _, v := range all {
		values = append(values, v.Value)
	}
	return values
}

// ListOf is a list, which may be empty.
func ListOf[V any](one Value[V]) Value[[]V] {
	return func(r *Reader, n *yaml.Node) []V {
		if n = r.Resolve(n); n == nil {
			return nil
		}
		if n.Kind != yaml.SequenceNode {
			r.Report(n, "a list belongs here, not %s: begin each entry with \"- \"", KindName(n))
			return nil
		}
		all := make([]V, 0, len(n.Content))
		for _, item := range n.Content {
			all = append(all, one(r, item))
		}
		return all
	}
}

// AnyOf is one value or a list of them.
func AnyOf[V any](one Value[V]) Value[[]V] {
	list := ListOf(one)
	return func(r *Reader, n *yaml.Node) []V {
		items := Target(n)
		if items.Kind != yaml.SequenceNode {
			return []V{one(r, n)}
		}
		if len(items.Content) == 0 {
			r.Report(items, "an empty list says nothing: fill it, or remove its key")
		}
		return list(r, n)
	}
}

// SeveralOf is AnyOf for values that hold no comma.
func SeveralOf[V any](one Value[V]) Value[[]V] { return AnyOf(Single(one)) }

// Single is a value that holds no comma: where several stand in one, it says how to write
// them.
func Single[V any](one Value[V]) Value[V] {
	return func(r *Reader, n *yaml.Node) V {
		if s := Target(n); s.Kind == yaml.ScalarNode {
			if words := splitWords(s.Value); len(words) > 1 {
				r.Report(s, "%q reads as one value: write a list, [%s]", s.Value, message.List(words))
				var none V
				return none
			}
		}
		return one(r, n)
	}
}

// splitWords parts a text at what people write between several values.
func splitWords(text string) (words []string) {
	if len(text) > message.MaxValue || !strings.ContainsAny(text, ",|; ") {
		return nil
	}
	for word := range strings.SplitSeq(between.Replace(text), ",") {
		if word = strings.Trim(word, " "); word != "" {
			words = append(words, word)
		}
	}
	return words
}

// between makes commas of what people write between several values.
var between = strings.NewReplacer("|", ",", ";", ",", " or ", ",", " and ", ",")

// Characters that names are made of.
const (
	Lower   = "abcdefghijklmnopqrstuvwxyz"
	Letters = Lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	Digits  = "0123456789"
)

// Only reports whether a text has characters, and only those.
func Only(text, characters string) bool {
	return text != "" && strings.Trim(text, characters) == ""
}

// IsName reports whether a text can name a rule: short enough for a label and a line.
func IsName(text string) bool { return len(text) <= 100 && Only(text, Lower+Digits+"-") }

// IsIdentifier reports whether a text is made of letters, digits and _, no digit first.
func IsIdentifier(text string) bool { return Only(text, Letters+Digits+"_") && !IsNumber(text) }

// IsNumber reports whether text begins as a number does, so that an error about it is
// one about numbers.
func IsNumber(text string) bool { return text != "" && text[0] >= '0' && text[0] <= '9' }

// IsDecimal reports whether text is digits, with a point between them or none.
func IsDecimal(text string) bool {
	whole, fraction, dotted := strings.Cut(text, ".")
	return Only(whole, Digits) && (!dotted || Only(fraction, Digits))
}

// Ambiguous is the error that a number could be one of another base, or nil.
func Ambiguous(text string) error {
	if len(text) > 1 && text[0] == '0' && text[1] != '.' || strings.Contains(text, "_") {
		return message.Errorf("%q could be read in several ways: write a decimal number without leading zeros and underscores", text)
	}
	return nil
}

// Number reads a decimal number. What YAML or C would read in another base is refused,
// not guessed at.
func Number(text string, least, most uint64) (uint64, error) {
	if err := Ambiguous(text); err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && (n < least || n > most) {
		return 0, message.Errorf("%s is out of range: it must be %d to %d", text, least, most)
	}
	if err != nil {
		return 0, message.Errorf("%q is not a decimal number", text)
	}
	return n, nil
}
