package sockettable

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Fields are those keys of a socket that -o json is to have. The zero Fields are all.
type Fields struct {
	kind  reflect.Type // of what is printed: a struct of those fields
	index [][]int      // of each in listed
	Held  bool         // it takes a walk through /proc to know one
}

// heldFields take a walk through /proc.
var heldFields = []string{"pid", "comm", "holders", "unit", "container", "pod"}

// fieldName is the key that a field has in JSON; empty: it has none.
func fieldName(f *reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// FieldNames are the keys that a socket may have.
func FieldNames() (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[listed]()) {
		if name := fieldName(&f); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// ParseFields reads --fields: keys, with commas between them; empty: all.
func ParseFields(text string) (Fields, error) {
	if text == "" {
		return Fields{Held: true}, nil
	}
	var fields Fields
	var chosen []reflect.StructField
	all := reflect.VisibleFields(reflect.TypeFor[listed]())
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		at := slices.IndexFunc(all, func(f reflect.StructField) bool { return name != "" && fieldName(&f) == name })
		if at < 0 {
			return Fields{}, &UnknownColumn{name, "print", FieldNames()}
		}
		f := all[at]
		if slices.ContainsFunc(chosen, func(c reflect.StructField) bool { return c.Name == f.Name }) {
			return Fields{}, fmt.Errorf("--fields names %s twice", name)
		}
		fields.index = append(fields.index, f.Index)
		fields.Held = fields.Held || slices.Contains(heldFields, name)
		chosen = append(chosen, reflect.StructField{Name: f.Name, Type: f.Type, Tag: f.Tag})
	}
	fields.kind = reflect.StructOf(chosen)
	return fields, nil
}

// of returns what is printed of a socket.
func (f *Fields) of(l *listed) any {
	if f.kind == nil {
		return l
	}
	from, to := reflect.ValueOf(l).Elem(), reflect.New(f.kind)
	for i, index := range f.index {
		to.Elem().Field(i).Set(from.FieldByIndex(index))
	}
	return to.Interface()
}
