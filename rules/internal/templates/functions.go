package templates

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"
)

// functions are those of the language. Those of package text/template that make text do
// not bound it: $x = print $x $x, forty times over, would fill the memory.
var functions = sync.OnceValue(func() map[string]any {
	return map[string]any{
		"print":    func(args ...any) (string, error) { return short(fmt.Sprint(args...)) },
		"println":  func(args ...any) (string, error) { return short(fmt.Sprintln(args...)) },
		"printf":   printf,
		"html":     func(args ...any) (string, error) { return short(template.HTMLEscaper(args...)) },
		"js":       func(args ...any) (string, error) { return short(template.JSEscaper(args...)) },
		"urlquery": func(args ...any) (string, error) { return short(template.URLQueryEscaper(args...)) },
		"and":      first(false),
		"or":       first(true),
		"not":      func(v any) bool { return !truth(reflect.ValueOf(v)) },
		"eq":       equalsAny,
		"ne":       func(a, b any) (bool, error) { same, err := equal(a, b); return !same, err },
		"lt":       ordered(func(order int) bool { return order < 0 }),
		"le":       ordered(func(order int) bool { return order <= 0 }),
		"gt":       ordered(func(order int) bool { return order > 0 }),
		"ge":       ordered(func(order int) bool { return order >= 0 }),
		"len":      length,
		"index":    index,
		"slice":    slice,
		"json":     toJSON, // in templates that make JSON
		"call": func(f any, _ ...any) (any, error) {
			return nil, fmt.Errorf("non-function of type %T", f) // no value is a function
		},
	}
})

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

// badVerb is what package fmt says of a verb and a value that do not go together.
var (
	badVerb  = lazy(`%!.?\([^)]*\)`)
	wideVerb = lazy(`%[^%a-zA-Z]*([0-9]{4}|\*)`)
)

// lazy is a regular expression that is compiled when it is first needed.
func lazy(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

func short(text string) (string, error) {
	if len(text) > MaxBytes {
		return "", errors.New("a text is at most 8 KiB long")
	}
	return text, nil
}

// truth reports whether a value is true: neither zero nor empty.
func truth(v reflect.Value) bool {
	if v = content(v); !v.IsValid() {
		return false
	}
	is, _ := template.IsTrue(v.Interface())
	return is
}

// first returns the first value that is true, or the first that is not; else the last.
func first(wanted bool) func(v any, more ...any) any {
	return func(v any, more ...any) any {
		for _, next := range more {
			if truth(reflect.ValueOf(v)) == wanted {
				break
			}
			v = next
		}
		return v
	}
}

func equalsAny(a any, more ...any) (bool, error) {
	if len(more) == 0 {
		return false, errors.New("missing argument for comparison")
	}
	for _, b := range more {
		if same, err := equal(a, b); same || err != nil {
			return same, err
		}
	}
	return false, nil
}

func equal(a, b any) (bool, error) {
	order, err := compare(a, b)
	if err == nil {
		return order == 0, nil
	}
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	switch {
	case x.IsValid() && y.IsValid() && x.Kind() != y.Kind():
		return false, err
	case isNil(x) || isNil(y):
		return isNil(x) == isNil(y), nil
	case !y.Comparable():
		return false, err
	}
	return a == b, nil
}

func isNil(v reflect.Value) bool {
	return !v.IsValid() || (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.IsNil()
}

func ordered(holds func(order int) bool) func(a, b any) (bool, error) {
	return func(a, b any) (bool, error) {
		order, err := compare(a, b)
		return err == nil && holds(order), err
	}
}

// compare puts two numbers or texts in order, if they are of one kind.
func compare(a, b any) (order int, err error) {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	m, whole := integer(x)
	n, both := integer(y)
	switch {
	case whole && both:
		return cmp.Compare(m, n), nil
	case x.CanFloat() && y.CanFloat():
		return cmp.Compare(x.Float(), y.Float()), nil
	case x.Kind() == reflect.String && y.Kind() == reflect.String:
		return cmp.Compare(x.String(), y.String()), nil
	case x.Kind() == y.Kind():
		return 0, fmt.Errorf("invalid type for comparison: %T", a)
	}
	return 0, fmt.Errorf(`incompatible types for comparison: %T and %T: write 95 beside a whole number, 95.0 beside one with a fraction, and "95" beside a text`, a, b)
}

// integer is a whole number; the only one without a sign is a byte of a text.
func integer(v reflect.Value) (n int64, ok bool) {
	if v.CanUint() {
		return int64(v.Uint()), true
	}
	if v.CanInt() {
		return v.Int(), true
	}
	return 0, false
}

func length(of any) (int, error) {
	switch v := reflect.ValueOf(of); v.Kind() {
	case reflect.Map, reflect.Slice, reflect.String:
		return v.Len(), nil
	}
	return 0, fmt.Errorf("len of type %T", of)
}

// outOfRange is the error that a value is not long enough, against which a branch may have
// a condition.
type outOfRange int

func (index outOfRange) Error() string { return fmt.Sprintf("index out of range: %d", int(index)) }

// position is an index of a value that goes up to most.
func position(index any, most int) (int, error) {
	n, ok := integer(reflect.ValueOf(index))
	switch {
	case !ok:
		return 0, fmt.Errorf("cannot index slice/array with type %T", index)
	case n < 0 || n > int64(most):
		return 0, outOfRange(n)
	}
	return int(n), nil
}

// index returns what is in a value at an index or a key, in that by the next, and so on.
// Where nothing is, that is the zero value.
func index(of any, indexes ...any) (any, error) {
	for _, by := range indexes {
		v := reflect.ValueOf(of)
		switch v.Kind() {
		case reflect.Map:
			key, ok := by.(string)
			if !ok {
				return nil, fmt.Errorf("value has type %T; should be string", by)
			}
			found := v.MapIndex(reflect.ValueOf(key))
			if !found.IsValid() {
				found = reflect.Zero(v.Type().Elem())
			}
			of = found.Interface()
			continue
		case reflect.String:
			v = reflect.ValueOf([]byte(v.String()))
		case reflect.Slice:
		default:
			return nil, fmt.Errorf("can't index item of type %T", of)
		}
		i, err := position(by, v.Len()-1)
		if err != nil {
			return reflect.Zero(v.Type().Elem()).Interface(), err
		}
		of = v.Index(i).Interface()
	}
	return of, nil
}

// slice returns a part of a text or a list, as slices in Go have it.
func slice(of any, indexes ...any) (any, error) {
	v := reflect.ValueOf(of)
	var most int
	switch {
	case len(indexes) > 3 || len(indexes) == 3 && v.Kind() == reflect.String:
		return nil, fmt.Errorf("too many slice indexes: %d", len(indexes))
	case v.Kind() == reflect.String:
		most = v.Len()
	case v.Kind() == reflect.Slice:
		most = v.Cap()
	default:
		return nil, fmt.Errorf("can't slice item of type %T", of)
	}
	at := []int{0, v.Len(), most}
	for i, by := range indexes {
		var err error
		if at[i], err = position(by, most); err != nil {
			return of, err
		}
	}
	switch {
	case !slices.IsSorted(at):
		return of, outOfRange(at[0])
	case v.Kind() == reflect.String:
		return v.Slice(at[0], at[1]).Interface(), nil
	}
	return v.Slice3(at[0], at[1], at[2]).Interface(), nil
}

// method returns a method of a type, whose receiver is its first parameter, or nothing.
func method(of reflect.Type, name string) reflect.Value { return reflect.ValueOf(methods()[of][name]) }

// methods are those of the types that values in a template have.
var methods = sync.OnceValue(func() map[reflect.Type]map[string]any {
	return map[reflect.Type]map[string]any{
		reflect.TypeFor[time.Time](): {
			"Add": time.Time.Add, "AddDate": time.Time.AddDate, "After": time.Time.After, "Before": time.Time.Before,
			"Clock": time.Time.Clock, "Compare": time.Time.Compare, "Date": time.Time.Date, "Day": time.Time.Day,
			"Equal": time.Time.Equal, "Format": time.Time.Format, "GoString": time.Time.GoString, "Hour": time.Time.Hour,
			"ISOWeek": time.Time.ISOWeek, "In": time.Time.In, "IsDST": time.Time.IsDST, "IsZero": time.Time.IsZero,
			"Local": time.Time.Local, "Location": time.Time.Location, "MarshalJSON": time.Time.MarshalJSON,
			"MarshalText": time.Time.MarshalText, "Minute": time.Time.Minute, "Month": time.Time.Month,
			"Nanosecond": time.Time.Nanosecond, "Round": time.Time.Round, "Second": time.Time.Second, "String": time.Time.String,
			"Sub": time.Time.Sub, "Truncate": time.Time.Truncate, "UTC": time.Time.UTC, "Unix": time.Time.Unix,
			"UnixMicro": time.Time.UnixMicro, "UnixMilli": time.Time.UnixMilli, "UnixNano": time.Time.UnixNano,
			"Weekday": time.Time.Weekday, "Year": time.Time.Year, "YearDay": time.Time.YearDay,
			"Zone": time.Time.Zone, "ZoneBounds": time.Time.ZoneBounds,
		},
		reflect.TypeFor[time.Duration](): {
			"Abs": time.Duration.Abs, "Hours": time.Duration.Hours, "Microseconds": time.Duration.Microseconds,
			"Milliseconds": time.Duration.Milliseconds, "Minutes": time.Duration.Minutes, "Nanoseconds": time.Duration.Nanoseconds,
			"Round": time.Duration.Round, "Seconds": time.Duration.Seconds, "String": time.Duration.String, "Truncate": time.Duration.Truncate,
		},
		reflect.TypeFor[time.Month]():     {"String": time.Month.String},
		reflect.TypeFor[time.Weekday]():   {"String": time.Weekday.String},
		reflect.TypeFor[*time.Location](): {"String": (*time.Location).String},
	}
})
