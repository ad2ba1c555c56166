package rules

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// scalar is a single value that is read from its text.
func scalar[V any](want string, s schema, parse func(text string) (V, error)) value[V] {
	return value[V]{
		read: func(p *parser, n *yaml.Node) V {
			var none V
			if n = p.scalar(n, want); n == nil {
				return none
			}
			v, err := parse(n.Value)
			if err != nil {
				p.report(n, "%v", err)
				return none // half a value would lead to errors that are none
			}
			return v
		},
		schema: s,
	}
}

// text is any single value, as it is written.
var text = scalar("text", schema{"type": []string{"string", "number", "boolean"}}, func(text string) (string, error) {
	return text, nil
})

// boolean is true or false; YAML 1.1's other spellings are refused, as a parser
// of YAML 1.2 reads them as text.
var boolean = value[bool]{
	read: func(p *parser, n *yaml.Node) bool {
		const want = "true or false"
		if n = p.scalar(n, want); n == nil {
			return false
		}
		if n.Style&^yaml.FlowStyle == 0 && (n.Value == "true" || n.Value == "false") {
			return n.Value == "true"
		}
		switch strings.ToLower(n.Value) {
		case "true", "yes", "y", "on":
			p.report(n, "write true, in small letters and without quotes, for %q", n.Value)
		case "false", "no", "n", "off":
			p.report(n, "write false, in small letters and without quotes, for %q", n.Value)
		default:
			if p.mayQuote(n, n.Value) {
				p.report(n, "%s belongs here, not %q", want, n.Value)
			} else {
				p.report(n, "%s belongs here", want)
			}
		}
		return false
	},
	schema: schema{"type": "boolean"},
}

// number reads a decimal number. What YAML or C would read in another base is
// refused, not guessed at.
func number(text string, least, most uint64) (uint64, error) {
	if leadingZero(text) || strings.Contains(text, "_") {
		return 0, errManyWays(text)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && (n < least || n > most) {
		return 0, errorf("%s is out of range: it must be %d to %d", text, least, most)
	}
	if err != nil {
		return 0, errorf("%q is not a decimal number", text)
	}
	return n, nil
}

// leadingZero reports whether a number begins as one of another base may.
func leadingZero(text string) bool { return len(text) > 1 && text[0] == '0' && text[1] != '.' }

func errManyWays(text string) error {
	return errorf("%q could be read in several ways: write a decimal number without leading zeros and underscores", text)
}

// isNumber reports whether text begins as a number does, so that an error about
// it is one about numbers.
func isNumber(text string) bool {
	return text != "" && text[0] >= '0' && text[0] <= '9'
}

// oneOf is a word of a fixed choice.
func oneOf[V ~string](what string, words ...V) value[V] {
	names := make([]string, 0, len(words))
	for _, w := range words {
		names = append(names, string(w))
	}
	return scalar(what, schema{"enum": names}, func(text string) (V, error) {
		if !slices.Contains(names, text) {
			return "", unknown("value", text, phrase(what), names)
		}
		return V(text), nil
	})
}

// longest bounds every duration, so that no sum of them overflows.
const longest = 366 * 24 * time.Hour

var duration = scalar("a duration", schema{
	"type": "string", "pattern": `^([0-9]+(\.[0-9]*)?d)?([0-9]*\.?[0-9]*(ns|us|µs|ms|s|m|h))*$`, "examples": []string{"30s", "5m", "2h", "1d"},
}, ParseDuration)

// ParseDuration reads a duration as the rules file has it: in Go's form, with
// days before it.
func ParseDuration(text string) (time.Duration, error) {
	var days float64
	clock := text
	if number, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || !isNumber(number) || strings.ContainsAny(number, "xXpPeE_") {
			return 0, badDuration(text)
		}
		days, clock = n, rest
	}
	d := time.Duration(0)
	if clock != "" {
		var err error
		if d, err = time.ParseDuration(clock); err != nil || !isNumber(clock) {
			return 0, badDuration(text)
		}
	} else if days == 0 {
		return 0, badDuration(text)
	}
	if days > longest.Hours()/24 || d > longest || time.Duration(days*24*float64(time.Hour))+d > longest {
		return 0, errorf("%s is too long: 366d is the most", text)
	}
	d += time.Duration(days * 24 * float64(time.Hour))
	if d < time.Millisecond {
		return 0, errorf("%s is too short: 1ms is the least", text)
	}
	return d, nil
}

func badDuration(text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil && isNumber(text) {
		return errorf("%q has no unit: write %ss for seconds or %sm for minutes", text, text, text)
	}
	return errorf("%q is not a duration: write numbers with units, such as 30s, 5m, 1h30m or 2d", text)
}

// maxRate bounds a limit, whose every action is remembered for its length.
const maxRate = 1_000_000

var rate = scalar("a rate", schema{
	"type": "string", "pattern": `^[0-9]+/.+$`, "examples": []string{"1000/1m", "10/1h"},
}, parseRate)

// parseRate reads N/DURATION. The duration may be a unit alone: 10/m.
func parseRate(text string) (Limit, error) {
	count, per, ok := strings.Cut(text, "/")
	if !ok {
		return Limit{}, errorf("%q is not a rate: write a number and a duration, such as 1000/1m", text)
	}
	n, err := number(count, 1, maxRate)
	if err != nil {
		return Limit{}, err
	}
	if slices.Contains([]string{"ms", "s", "m", "h", "d"}, per) {
		per = "1" + per
	}
	d, err := ParseDuration(per)
	if err != nil {
		return Limit{}, err
	}
	return Limit{N: int(n), Per: d}, nil
}

// percent is a share of a whole, more than none, as a fraction.
var percent = scalar("a percentage", schema{
	"type": "string", "pattern": `^(0|[1-9][0-9]*)(\.[0-9]+)?%$`, "examples": []string{"1%", "0.5%"},
}, func(text string) (float64, error) {
	digits, ok := strings.CutSuffix(text, "%")
	if !decimal.MatchString(digits) {
		return 0, errorf("%q is not a percentage: write one such as 1%% or 0.5%%", text)
	}
	if leadingZero(digits) {
		return 0, errManyWays(digits)
	}
	if !ok {
		return 0, errorf("%q has no unit: write %s%%", text, text)
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n <= 0 || n > 100 || math.IsNaN(n) {
		return 0, errorf("%s is out of range: it must be more than 0%% and at most 100%%", text)
	}
	return n / 100, nil
})

var decimal = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

// operators by how they are written.
var operators = map[string]Op{
	"<=": LessEqual, ">=": GreaterEqual, "!=": NotEqual, "==": Equal, "<": Less, ">": Greater, "=": Equal,
}

// comparing are the characters of operators.
const comparing = "<>=!"

// cutOperator splits a comparison into its operator and the rest.
func cutOperator(text string) (Op, string, error) {
	rest := strings.TrimLeft(text, comparing+" \t")
	written := strings.TrimSpace(text[:len(text)-len(rest)])
	if op := operators[written]; op != "" {
		return op, strings.TrimSpace(rest), nil
	}
	meant := strings.NewReplacer("=>", ">=", "=<", "<=", "<>", "!=", " ", "", "\t", "").Replace(written)
	if operators[meant] == "" {
		return "", "", errorf("%q is no operator: write one of <, <=, >, >=, = and !=", written)
	}
	return "", "", errorf("%q is no operator: write %s", written, meant)
}

var threshold = scalar("a comparison", schema{
	"type": "string", "pattern": `^(<=|>=|!=|==|<|>|=) *[0-9]+$`, "examples": []string{"> 1", "= 0"},
}, func(text string) (*Threshold, error) {
	if strings.IndexAny(text, comparing) == 0 {
		op, digits, err := cutOperator(text)
		if err != nil {
			return nil, err
		}
		if bytes := strings.TrimRight(digits, " kKmMgGiIbB"); bytes != digits && decimal.MatchString(bytes) {
			return nil, errorf("%q is no number of bytes: write the digits alone, such as \"> 1000000\"", digits)
		}
		n, err := number(digits, 0, math.MaxUint32)
		return &Threshold{Op: op, Number: n}, err
	}
	return nil, errorf("%q is not a comparison: write an operator and a number in quotes, such as \"> 1\" or \"= 0\"", text)
})
