package rules

import (
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// A table names the keys of one mapping of the format. It is what the parser
// reads by, what it suggests from and what the JSON Schema is made of.
type table[T any] struct {
	what string // such as "a rule"
	keys []key[T]
	open bool // keys that begin with x- are ignored
}

// key is one key of a mapping that is read into a T.
type key[T any] struct {
	name     string
	doc      string
	required bool
	read     func(p *parser, key, value *yaml.Node, into *T)
	schema   schema // nil: no value is accepted
}

// value is one kind of value: how it is read, and what the schema says of it.
// What cannot be read is reported, and read as the zero value: a file with a
// problem is refused as a whole.
type value[V any] struct {
	read   func(p *parser, n *yaml.Node) V
	schema schema
}

// field is a key whose value is stored as it was read.
func field[T, V any](name, doc string, v value[V], at func(*T) *V) key[T] {
	return key[T]{
		name: name,
		doc:  doc,
		read: func(p *parser, _, n *yaml.Node, into *T) {
			*at(into) = v.read(p, n)
		},
		schema: v.schema,
	}
}

// refused is a key of the format that is always an error here.
func refused[T any](name string, why phrase) key[T] {
	return key[T]{name: name, read: func(p *parser, key, _ *yaml.Node, _ *T) {
		p.report(key, "%s %s", name, why)
	}}
}

// later is a key of the format whose feature is not built.
func later[T any](name string) key[T] {
	return refused[T](name, "is not supported yet")
}

// require makes a key one that must be given.
func require[T any](k key[T]) key[T] {
	k.required = true
	return k
}

// given are the keys that stand in a mapping, their values good or not.
type given map[string]*yaml.Node

func (g given) has(name string) bool { return g[name] != nil }

// wrote reports whether the key itself stands there. has is also true of one that
// was probably meant by a misspelt key, whose value nobody has read.
func (g given) wrote(name string) bool { return g.has(name) && g[name].Value == name }

// readMapping reads the mapping n by its table. It returns nil where n is none.
func readMapping[T any](p *parser, n *yaml.Node, t table[T], into *T) given {
	n = p.resolve(n)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		cure := ""
		if t.open { // the file as a whole
			cure = ": write the rules below a line \"rules:\""
		}
		p.report(n, "%s is a mapping of keys to values, not %s%s", t.what, kindName(n), cure)
		return nil
	}
	found := make(given, min(len(n.Content)/2, len(t.keys)))
	read := make(map[string]bool, len(found))
	names, lost := t.names(), false
	for _, e := range p.entries(n, 0) {
		name := e.key.Value
		if t.open && strings.HasPrefix(name, "x-") || read[name] {
			continue
		}
		read[name] = true
		if i := slices.Index(names, name); i >= 0 {
			found[name] = e.key
			t.keys[i].read(p, e.key, e.value, into)
			continue
		}
		if !p.shows(e.key) {
			p.report(e.key, "unknown key")
			lost = true // which key was meant is not asked for any more
			continue
		}
		unknown := unknownKey{name, phrase(t.what), t.accepted(), names}
		if p.mayQuote(e.key, name) {
			p.report(e.key, "%s", unknown)
		} else {
			p.report(e.key, "this key is none of %s: there are %s", t.what, list(t.accepted()))
		}
		if near := unknown.near(); len(near) > 0 && !found.has(near[0]) {
			found[near[0]] = e.key // was meant: that it is missing is no news
		}
	}
	for _, k := range t.keys {
		if k.required && !found.has(k.name) && !lost {
			p.report(n, "%s needs the key %q: %s", t.what, k.name, phrase(k.doc))
		}
	}
	return found
}

func (t table[T]) names() []string {
	names := make([]string, 0, len(t.keys))
	for _, k := range t.keys {
		names = append(names, k.name)
	}
	return names
}

// accepted are the names of the keys that may stand in the mapping.
func (t table[T]) accepted() []string {
	var names []string
	for _, k := range t.keys {
		if k.schema != nil {
			names = append(names, k.name)
		}
	}
	return names
}

// schema describes the mapping and every key that is accepted in it.
func (t table[T]) schema() schema {
	properties := schema{}
	var required []string
	for _, k := range t.keys {
		if k.schema == nil {
			continue
		}
		property := schema{"description": k.doc}
		for name, v := range k.schema {
			property[name] = v
		}
		properties[k.name] = property
		if k.required {
			required = append(required, k.name)
		}
	}
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	}
	if t.open {
		s["patternProperties"] = schema{"^x-": true}
	}
	return s
}

// convert turns a value into one of another type.
func convert[V, W any](v value[V], to func(V) W) value[W] {
	return value[W]{
		read:   func(p *parser, n *yaml.Node) W { return to(v.read(p, n)) },
		schema: v.schema,
	}
}

// placed is a value and where it stands.
type placed[V any] struct {
	value V
	at    *yaml.Node
}

func withPlace[V any](v value[V]) value[placed[V]] {
	return value[placed[V]]{
		read:   func(p *parser, n *yaml.Node) placed[V] { return placed[V]{v.read(p, n), n} },
		schema: v.schema,
	}
}

// unplaced are the values alone.
func unplaced[V any](all []placed[V]) []V {
	var values []V
	for _, v := range all {
		values = append(values, v.value)
	}
	return values
}

// anyOf is one value or a list of them.
func anyOf[V any](one value[V]) value[[]V] {
	list := listOf(one)
	return value[[]V]{
		read: func(p *parser, n *yaml.Node) []V {
			items := target(n)
			if items.Kind != yaml.SequenceNode {
				return []V{one.read(p, n)}
			}
			if len(items.Content) == 0 {
				p.report(items, "an empty list says nothing: fill it, or remove its key")
			}
			return list.read(p, n)
		},
		schema: schema{"anyOf": []schema{one.schema, {"type": "array", "items": one.schema, "minItems": 1}}},
	}
}

// severalOf is anyOf for values that hold no comma.
func severalOf[V any](one value[V]) value[[]V] { return anyOf(single(one)) }

// single is a value that holds no comma: where several stand in one, it says how to
// write them.
func single[V any](one value[V]) value[V] {
	return value[V]{
		read: func(p *parser, n *yaml.Node) V {
			if s := target(n); s.Kind == yaml.ScalarNode {
				if words := splitWords(s.Value); len(words) > 1 {
					p.report(s, "%q is taken for one value: write a list, [%s]", s.Value, list(words))
					var none V
					return none
				}
			}
			return one.read(p, n)
		},
		schema: one.schema,
	}
}

var between = regexp.MustCompile(` *(?:,|\||;| or | and ) *`)

// splitWords parts a text at what people write between several values.
func splitWords(text string) []string {
	if len(text) > maxShown || !strings.ContainsAny(text, ",|; ") {
		return nil
	}
	return slices.DeleteFunc(between.Split(text, -1), func(word string) bool { return word == "" })
}

// dashed reports whether entries of a list are mappings of one key each, and no key twice:
// what a dash before each key of a mapping makes of it.
func dashed(entries []*yaml.Node) bool {
	seen := map[string]bool{}
	for _, n := range entries {
		if n.Kind != yaml.MappingNode || len(n.Content) != 2 || seen[n.Content[0].Value] {
			return false
		}
		seen[n.Content[0].Value] = true
	}
	return len(entries) > 1
}

// listOf is a list, which may be empty.
func listOf[V any](one value[V]) value[[]V] {
	return value[[]V]{
		read: func(p *parser, n *yaml.Node) []V {
			if n = p.resolve(n); n == nil {
				return nil
			}
			if n.Kind != yaml.SequenceNode {
				p.report(n, "a list belongs here, not %s: begin each entry with \"- \"", kindName(n))
				return nil
			}
			all := make([]V, 0, len(n.Content))
			for _, item := range n.Content {
				all = append(all, one.read(p, item))
			}
			return all
		},
		schema: schema{"type": "array", "items": one.schema},
	}
}

// wholes leaves out of a list what could not be read.
func wholes[V any](list value[[]*V]) value[[]*V] {
	return convert(list, func(all []*V) []*V {
		return slices.DeleteFunc(all, func(v *V) bool { return v == nil })
	})
}

// unknownKey is unknownName for a key: some are known, and not accepted yet.
type unknownKey struct {
	name            string
	where           phrase
	accepted, known []string
}

func (u unknownKey) Error() string {
	near := u.near()
	meant := slices.DeleteFunc(slices.Clone(near), func(name string) bool { return !slices.Contains(u.accepted, name) })
	switch {
	case len(meant) > 0:
		return errorf("unknown key %q in %s: did you mean %s?", u.name, u.where, phrase(message.Either(meant))).Error()
	case len(near) > 0:
		return errorf("unknown key %q in %s, and %s is not supported here", u.name, u.where, list(near)).Error()
	}
	return unknown("key", u.name, u.where, u.accepted).Error()
}

// near are the keys that may have been meant, accepted or not.
func (u unknownKey) near() []string {
	if sides := synonyms[strings.ToLower(u.name)]; sides != nil && slices.Contains(u.known, sides[0]) {
		return sides
	}
	return nearest(u.name, u.known)
}

// synonyms are what people call an address.
var synonyms = map[string][]string{"address": sides, "addr": sides, "ip": sides, "host": sides, "network": sides, "cidr": sides}

var sides = []string{"src", "dst"}
