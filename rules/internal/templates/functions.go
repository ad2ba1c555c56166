package templates

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"text/template"
	"time"
)

// function is one that a template can call, with at least and at most so many arguments;
// 0: any number.
type function struct {
	least, most int
	call        func(args []any) (any, error)
}

// functions are those of text/template, and json. What makes text bounds it: $x = print
// $x $x, forty times over, would fill the memory.
var functions = sync.OnceValue(func() map[string]function {
	text := func(f func(args ...any) string) function {
		return function{call: func(args []any) (any, error) { return short(f(args...)) }}
	}
	compare := func(f func(order int) bool) function {
		return function{2, 2, func(args []any) (any, error) {
			order, err := order(args[0], args[1])
			return f(order), err
		}}
	}
	return map[string]function{
		"and": {least: 1}, "or": {least: 1}, // which do not evaluate all of their arguments
		"not":  {1, 1, func(args []any) (any, error) { return !isTrue(args[0]), nil }},
		"call": {1, 0, func(args []any) (any, error) { return nil, fmt.Errorf("non-function of type %T", args[0]) }},
		"json": {1, 1, func(args []any) (any, error) { return toJSON(args[0]) }},
		"len": {1, 1, func(args []any) (any, error) {
			switch v := reflect.ValueOf(args[0]); v.Kind() {
			case reflect.String, reflect.Map, reflect.Slice:
				return v.Len(), nil
			}
			return nil, fmt.Errorf("len of type %T", args[0])
		}},
		"index": {1, 0, index}, "slice": {1, 3, slice},
		"print": text(fmt.Sprint), "println": text(fmt.Sprintln), "html": text(template.HTMLEscaper), "js": text(template.JSEscaper),
		"urlquery": text(template.URLQueryEscaper), "printf": {1, 0, printf},
		"eq": {1, 0, equal},
		"ne": {2, 2, func(args []any) (any, error) {
			same, err := equal(args)
			return same != true, err
		}},
		"lt": compare(func(o int) bool { return o < 0 }), "le": compare(func(o int) bool { return o <= 0 }),
		"gt": compare(func(o int) bool { return o > 0 }), "ge": compare(func(o int) bool { return o >= 0 }),
	}
})

// methods are those that a template can call, by the type of the value.
var methods = sync.OnceValue(func() map[reflect.Type]map[string]any {
	return map[reflect.Type]map[string]any{
		reflect.TypeFor[time.Time](): {
			"Add": time.Time.Add, "AddDate": time.Time.AddDate, "After": time.Time.After, "Before": time.Time.Before, "Compare": time.Time.Compare,
			"Day": time.Time.Day, "Equal": time.Time.Equal, "Format": time.Time.Format, "Hour": time.Time.Hour, "IsDST": time.Time.IsDST,
			"IsZero": time.Time.IsZero, "Local": time.Time.Local, "Minute": time.Time.Minute, "Month": time.Time.Month,
			"Nanosecond": time.Time.Nanosecond, "Round": time.Time.Round, "Second": time.Time.Second, "String": time.Time.String,
			"Sub": time.Time.Sub, "Truncate": time.Time.Truncate, "UTC": time.Time.UTC, "Unix": time.Time.Unix, "UnixMicro": time.Time.UnixMicro,
			"UnixMilli": time.Time.UnixMilli, "UnixNano": time.Time.UnixNano, "Weekday": time.Time.Weekday, "Year": time.Time.Year, "YearDay": time.Time.YearDay,
		},
		reflect.TypeFor[time.Duration](): {
			"Abs": time.Duration.Abs, "Hours": time.Duration.Hours, "Microseconds": time.Duration.Microseconds, "Milliseconds": time.Duration.Milliseconds,
			"Minutes": time.Duration.Minutes, "Nanoseconds": time.Duration.Nanoseconds, "Round": time.Duration.Round, "Seconds": time.Duration.Seconds,
			"String": time.Duration.String, "Truncate": time.Duration.Truncate,
		},
		reflect.TypeFor[time.Month]():   {"String": time.Month.String},
		reflect.TypeFor[time.Weekday](): {"String": time.Weekday.String},
	}
})

// call calls a method, whose receiver is the first argument.
func call(name string, method any, args []any) (any, error) {
	f := reflect.ValueOf(method)
	if want, got := f.Type().NumIn(), len(args); want != got {
		return nil, fmt.Errorf("wrong number of args for %s: want %d got %d", name, want-1, got-1)
	}
	in := make([]reflect.Value, len(args))
	for i, a := range args {
		want := f.Type().In(i)
		in[i] = reflect.ValueOf(a)
		if in[i].Kind() == reflect.Int && want.Kind() == reflect.Int64 { // a number that is written in the template
			in[i] = in[i].Convert(want)
		}
		if in[i].Type() != want {
			return nil, fmt.Errorf("wrong type for value; expected %s; got %T", want, a)
		}
	}
	return f.Call(in)[0].Interface(), nil
}

// errRange is the error of an index for which a value is not long enough, against which a
// branch may have a condition.
var errRange = errors.New("out of range")

// within reads an index, of what has room for so many.
func within(v any, most int) (int, error) {
	i := reflect.ValueOf(v)
	switch {
	case !i.CanInt():
		return 0, fmt.Errorf("cannot index slice/array with type %T", v)
	case i.Int() < 0 || i.Int() > int64(most):
		return 0, fmt.Errorf("index %w: %d", errRange, i.Int())
	}
	return int(i.Int()), nil
}

func index(args []any) (any, error) {
	item := args[0]
	for _, arg := range args[1:] {
		if mapping, ok := item.(map[string]string); ok {
			key, ok := arg.(string)
			if !ok {
				return nil, fmt.Errorf("value has type %T; should be string", arg)
			}
			item = mapping[key]
			continue
		}
		v := reflect.ValueOf(item)
		if v.Kind() != reflect.String && v.Kind() != reflect.Slice {
			return nil, fmt.Errorf("can't index item of type %T", item)
		}
		i, err := within(arg, v.Len()-1)
		if err != nil {
			return nil, err
		}
		item = v.Index(i).Interface()
	}
	return item, nil
}

func slice(args []any) (any, error) {
	v := reflect.ValueOf(args[0])
	if v.Kind() != reflect.String && v.Kind() != reflect.Slice {
		return nil, fmt.Errorf("can't slice item of type %T", args[0])
	}
	ends := [2]int{0, v.Len()}
	for i, arg := range args[1:] {
		var err error
		if ends[i], err = within(arg, v.Len()); err != nil {
			return nil, err
		}
	}
	if ends[0] > ends[1] {
		return nil, fmt.Errorf("index %w: %d > %d", errRange, ends[0], ends[1])
	}
	return v.Slice(ends[0], ends[1]).Interface(), nil
}

// order compares two values of a kind that has an order.
func order(a, b any) (int, error) {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	switch {
	case x.CanInt() && y.CanInt():
		return cmp.Compare(x.Int(), y.Int()), nil
	case x.CanFloat() && y.CanFloat():
		return cmp.Compare(x.Float(), y.Float()), nil
	case x.Kind() == reflect.String && y.Kind() == reflect.String:
		return cmp.Compare(x.String(), y.String()), nil
	case basic(x) && basic(y):
		return 0, incompatible(a, b)
	}
	return 0, errors.New("invalid type for comparison")
}

func basic(v reflect.Value) bool {
	return v.CanInt() || v.CanUint() || v.CanFloat() || v.Kind() == reflect.String || v.Kind() == reflect.Bool
}

func incompatible(a, b any) error {
	return fmt.Errorf(`incompatible types for comparison: %T and %T: write 95 beside a whole number, 95.0 beside one with a fraction, and "95" beside a text`, a, b)
}

// equal reports whether the first value is any of the others.
func equal(args []any) (any, error) {
	if len(args) == 1 {
		return false, errors.New("missing argument for comparison")
	}
	a := args[0]
	for _, b := range args[1:] {
		same, err := false, error(nil)
		switch x, y := reflect.ValueOf(a), reflect.ValueOf(b); {
		case x.CanInt() && y.CanInt():
			same = x.Int() == y.Int()
		case x.Type() != y.Type():
			err = incompatible(a, b)
		case !x.Comparable():
			err = fmt.Errorf("non-comparable type %T", a)
		default:
			same = a == b
		}
		if same || err != nil {
			return same, err
		}
	}
	return false, nil
}

var (
	badVerb  = lazy(`%!.?\([^)]*\)`) // what package fmt says of a verb and a value that do not go together
	wideVerb = lazy(`%[^%a-zA-Z]*([0-9]{4}|\*)`)
)

// lazy is a regular expression that is compiled when it is first needed.
func lazy(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

func printf(args []any) (any, error) {
	format, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("expected string; found %v", args[0])
	}
	args = args[1:]
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
