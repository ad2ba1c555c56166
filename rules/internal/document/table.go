package document

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// Table names the keys of one mapping: the mapping is read by it, and what is suggested
// for an unknown key comes from it.
type Table[T any] struct {
	What string // such as "a rule"
	Keys []Key[T]
	Root bool   // it is the whole document: keys that begin with x- are ignored
	Cure string // what to write where it is no mapping; "": nothing helps

	Synonyms map[string][]string // keys by what else they are called
}

// Key is one key of a mapping that is read into a T.
type Key[T any] struct {
	name     string
	required string   // what it says, if it must be given
	refused  bool     // it is a key of the format that is always an error
	below    []string // the keys of its own mapping
	read     func(r *Reader, key, value *yaml.Node, into *T)
}

// Value reads one kind of value. What cannot be read is reported, and is the zero value:
// a document with a problem is refused as a whole.
type Value[V any] func(r *Reader, n *yaml.Node) V

// Field is a key whose value is stored as it was read.
func Field[T, V any](name string, v Value[V], at func(*T) *V) Key[T] {
	return Func(name, func(r *Reader, _, n *yaml.Node, into *T) { *at(into) = v(r, n) })
}

// Func is a key whose value is read by a function.
func Func[T any](name string, read func(r *Reader, key, value *yaml.Node, into *T)) Key[T] {
	return Key[T]{name: name, read: read}
}

// Refused is a key of the format that is always an error here, and why.
func Refused[T any](name string, why message.Phrase) Key[T] {
	k := Func(name, func(r *Reader, key, _ *yaml.Node, _ *T) { r.Report(key, "%s %s", name, why) })
	k.refused = true
	return k
}

// Ignored is a key whose value is for somebody else.
func Ignored[T any](name string) Key[T] {
	return Func(name, func(*Reader, *yaml.Node, *yaml.Node, *T) {})
}

// Required is the key as one that must be given; doc is what it says.
func (k Key[T]) Required(doc string) Key[T] {
	k.required = doc
	return k
}

// Below is the key as one whose value is a mapping with these keys, which people may have
// forgotten to indent.
func (k Key[T]) Below(keys []string) Key[T] {
	k.below = keys
	return k
}

// Given are the keys that stand in a mapping, their values good or not.
type Given map[string]*yaml.Node

// Has reports whether the key stands there, or was probably meant by a misspelt one.
func (g Given) Has(name string) bool { return g[name] != nil }

// Wrote reports whether the key itself stands there. Of a misspelt one nobody has read
// the value.
func (g Given) Wrote(name string) bool { return g.Has(name) && g[name].Value == name }

// ReadMapping reads the mapping n by its table. It returns nil where n is none.
func ReadMapping[T any](r *Reader, n *yaml.Node, t Table[T], into *T) Given {
	n = r.Resolve(n)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		if word, _, joined := strings.Cut(n.Value, ":"); joined && slices.Contains(t.Names(), word) {
			r.Report(n, "%s", missingBlank(word))
			return nil
		}
		cure := ""
		if t.Cure != "" {
			cure = ": " + t.Cure
		}
		r.Report(n, "%s is a mapping of keys to values, not %s%s", t.What, KindName(n), cure)
		return nil
	}
	found := make(Given, min(len(n.Content)/2, len(t.Keys)))
	read := make(map[string]bool, len(found))
	names := t.Names()
	entries := r.Entries(n, 0)
	for at, e := range entries {
		name := e.Key.Value
		if t.Root && strings.HasPrefix(name, "x-") || read[name] {
			continue
		}
		read[name] = true
		if i := slices.Index(names, name); i >= 0 {
			found[name] = e.Key
			if beside := t.Keys[i].beside(e.Value, entries[at+1:], names); len(beside) > 0 {
				r.reportBeside(name, beside, read)
				continue
			}
			t.Keys[i].read(r, e.Key, e.Value, into)
			continue
		}
		if meant := t.reportUnknown(r, e.Key); meant != "" && !found.Has(meant) {
			found[meant] = e.Key // that it is missing is no news
		}
	}
	for _, k := range t.Keys {
		if k.required != "" && !found.Has(k.name) {
			r.Report(n, "%s needs the key %q: %s", t.What, k.name, message.Phrase(k.required))
		}
	}
	return found
}

// beside returns the keys that stand behind a key without a value, and belong below it; own
// are those of the mapping that they stand in.
func (k Key[T]) beside(value *yaml.Node, rest []Entry, own []string) (keys []*yaml.Node) {
	if n := Target(value); n.Kind != yaml.ScalarNode || !IsNull(n) {
		return nil
	}
	for _, e := range rest {
		if name := e.Key.Value; !slices.Contains(k.below, name) || slices.Contains(own, name) {
			break
		}
		keys = append(keys, e.Key)
	}
	return keys
}

func (r *Reader) reportBeside(name string, keys []*yaml.Node, read map[string]bool) {
	var names []string
	for _, key := range keys {
		names = append(names, key.Value)
		read[key.Value] = true
	}
	if len(names) == 1 {
		r.Report(keys[0], "%s belongs below %s: indent it", message.List(names), message.Phrase(name))
		return
	}
	r.Report(keys[0], "%s belong below %s: indent them", message.List(names), message.Phrase(name))
}

// reportUnknown reports a key that is none of the mapping's, and returns the one that may
// have been meant.
func (t Table[T]) reportUnknown(r *Reader, key *yaml.Node) (meant string) {
	name, what, accepted := key.Value, message.Phrase(t.What), t.Accepted()
	if word, _, joined := strings.Cut(name, ":"); joined && slices.Contains(accepted, word) {
		r.Report(key, "%s", missingBlank(word))
		return word
	}
	near := t.Synonyms[strings.ToLower(name)]
	if near == nil {
		near = message.Nearest(name, t.Names())
	}
	good := slices.DeleteFunc(slices.Clone(near), func(name string) bool { return !slices.Contains(accepted, name) })
	switch {
	case !r.MayQuote(key, name):
		r.Report(key, "this is not a key of %s: choose one of %s", what, message.List(accepted))
	case len(good) > 0:
		r.Report(key, "unknown key %q in %s: did you mean %s?", name, what, message.Either(good))
	case len(near) > 0:
		r.Report(key, "unknown key %q in %s, and %s is not supported here", name, what, message.List(near))
	case t.Root && !r.words[name] && Only(name, Letters+Digits+"_-"):
		r.words[name] = true // the message has it, and so may the excerpt
		r.Report(key, "%v; one of your own begins with x-, such as x-%s", message.Unknown("key", name, what, accepted), name)
	default:
		r.Report(key, "%v", message.Unknown("key", name, what, accepted))
	}
	if len(near) == 0 {
		return ""
	}
	return near[0]
}

// Names are the names of all keys.
func (t Table[T]) Names() []string {
	names := make([]string, 0, len(t.Keys))
	for _, k := range t.Keys {
		names = append(names, k.name)
	}
	return names
}

// Accepted are the names of the keys that may stand in the mapping.
func (t Table[T]) Accepted() (names []string) {
	for _, k := range t.Keys {
		if !k.refused {
			names = append(names, k.name)
		}
	}
	return names
}
