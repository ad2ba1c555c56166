package rules

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/schematest"
)

// unavoidable are the warnings that examples bring, for they show what is warned of.
var unavoidable = []string{
	"dry_run is on",
	"any certificate is accepted",
	"net.", // what a sysctl really does
}

// tryExample holds a whole file to the schema and to Parse, and to what lint says of it.
func tryExample(t *testing.T, schema *jsonschema.Schema, file *yaml.Node) error {
	t.Helper()
	text := []byte(blockYAML(t, file))
	if err := schematest.Validate(t, schema, text); err != nil {
		return fmt.Errorf("the schema refuses it: %w", err)
	}
	if _, err := Parse(bytes.NewReader(text)); err != nil {
		return fmt.Errorf("Parse refuses it: %w", err)
	}
	warnings, err := Lint(bytes.NewReader(text))
	for _, w := range warnings {
		if !slices.ContainsFunc(unavoidable, func(begin string) bool { return strings.HasPrefix(w.Msg, begin) }) {
			err = errors.Join(err, fmt.Errorf("lint: line %d: %s", w.Line, w.Msg))
		}
	}
	return err
}

// The whole files that the schema and the reference show are good, and each key of the
// format stands in one of them.
func TestExampleFiles(t *testing.T) {
	f, schema := readFormat(t), schematest.Compile(t, Schema())
	stand := map[string]bool{}
	for i := range f.root.Examples {
		file := &f.root.Examples[i]
		if err := tryExample(t, schema, file); err != nil {
			t.Errorf("%v\n%s", err, blockYAML(t, file))
		}
		f.walk(file, func(at place) { stand[at.section+"."+at.key] = true })
	}
	for _, s := range f.sections() {
		for _, key := range s.keys {
			if !stand[s.name+"."+key.name] {
				t.Errorf("the key %s of %s stands in no file of the schema's examples", key.name, s.name)
			}
		}
	}
}

// Every key says what it is, and each example of a value is good in one of the whole files,
// in the place of the value that stands there.
func TestExampleValues(t *testing.T) {
	f, schema := readFormat(t), schematest.Compile(t, Schema())
	places := map[string][]place{}
	for i := range f.root.Examples {
		f.walk(&f.root.Examples[i], func(at place) {
			name := at.section + "." + at.key
			places[name] = append(places[name], at)
		})
	}
	for _, s := range f.sections() {
		for _, key := range s.keys {
			name := s.name + "." + key.name
			t.Run(name, func(t *testing.T) {
				if key.Description == "" {
					t.Error("it has no description")
				}
				if len(key.Examples) == 0 {
					t.Error("it has no example")
				}
				for i := range key.Examples {
					tryValue(t, schema, places[name], &key.Examples[i])
				}
			})
		}
	}
	for _, v := range f.values() {
		if v.Description == "" {
			t.Errorf("%s has no description", v.name)
		}
	}
}

// tryValue puts a value at each of the places, until one is good.
func tryValue(t *testing.T, schema *jsonschema.Schema, places []place, value *yaml.Node) {
	t.Helper()
	var all error
	for _, at := range places {
		kept := at.holder.Content[at.index]
		at.holder.Content[at.index] = value
		err := tryExample(t, schema, at.file)
		at.holder.Content[at.index] = kept
		if err == nil {
			return
		}
		all = errors.Join(all, err)
	}
	t.Errorf("the example %s is good in no file: %v", flowYAML(t, value), all)
}

// Where a key is absent, what the schema says of that holds, if it is a value: to write it changes
// nothing.
func TestSchemaOfDefaults(t *testing.T) {
	f, schema := readFormat(t), schematest.Compile(t, Schema())
	tried := 0
	for i := range f.root.Examples {
		file := &f.root.Examples[i]
		f.walk(file, func(at place) {
			s := f.sections()[slices.IndexFunc(f.sections(), func(s section) bool { return s.name == at.section })]
			_, absent := f.meaning(s, s.keys[slices.IndexFunc(s.keys, func(k schemaNode) bool { return k.name == at.key })])
			value, kept := &yaml.Node{}, at.holder.Content
			if absent == "" || strings.Contains(absent, " ") || yaml.Unmarshal([]byte(absent), value) != nil || len(value.Content) != 1 {
				return
			}
			defer func() { at.holder.Content = kept }()
			at.holder.Content = slices.Concat(kept[:at.index], value.Content, kept[at.index+1:])
			if tryExample(t, schema, file) != nil {
				return // these are words, and no value
			}
			written := filledIn(mustParse(t, blockYAML(t, file)))
			at.holder.Content = slices.Concat(kept[:at.index-1], kept[at.index+1:])
			left := filledIn(mustParse(t, blockYAML(t, file)))
			if !reflect.DeepEqual(left, written) {
				t.Errorf("%s.%s: absent is not %s", at.section, at.key, absent)
			}
			tried++
		})
	}
	if tried < 20 {
		t.Errorf("of %d keys only it was tried", tried)
	}
}

// filledIn is a set in which the options of actions stand as they are understood, and not as they
// were written.
func filledIn(set *Set) *Set {
	for i := range set.Rules {
		r := &set.Rules[i]
		r.Sum = ""
		for j := range r.Then {
			a := &r.Then[j]
			a.Options = map[string]any{"via": a.Via(), "keepalive": KeepaliveOf(a.Options)}
		}
	}
	return set
}

// What the schema says of settings is what lint says of them, and their bounds are Parse's.
func TestSchemaOfSysctls(t *testing.T) {
	f := readFormat(t)
	for _, s := range f.sections() {
		for _, key := range s.keys {
			i := slices.IndexFunc(sysctls, func(known setting) bool { return s.name == "sysctls" && known.name == key.name })
			if i < 0 {
				continue
			}
			known := sysctls[i]
			if key.Description != string(known.does) {
				t.Errorf("%s: the schema says %q, and lint %q", key.name, key.Description, known.does)
			}
			if known.numbers == 1 && (key.Minimum == nil || key.Maximum == nil || *key.Minimum != known.least || *key.Maximum != known.most) {
				t.Errorf("%s: the schema has other bounds than %d and %d", key.name, known.least, known.most)
			}
		}
	}
}

// The reference and the man page are made of the schema.
func TestReference(t *testing.T) {
	f := readFormat(t)
	golden(t, "../docs/reference.md", []byte(f.page(t)))
	golden(t, "../docs/man/sockdog-rules.5", []byte(f.manual(t)))
}
