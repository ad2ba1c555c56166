package rules

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// longest bounds every duration, so that no sum of them overflows.
const longest = 366 * 24 * time.Hour

var duration = document.Scalar("a duration", ParseDuration)

// ParseDuration reads a duration as the rules file has it: in Go's form, with
// days before it.
func ParseDuration(text string) (time.Duration, error) {
	var days float64
	clock := text
	if number, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || !document.IsNumber(number) || strings.ContainsAny(number, "xXpPeE_") {
			return 0, badDuration(text)
		}
		days, clock = n, rest
	}
	d := time.Duration(0)
	if clock != "" {
		var err error
		if d, err = time.ParseDuration(clock); err != nil || !document.IsNumber(clock) {
			return 0, badDuration(text)
		}
	} else if days == 0 {
		return 0, badDuration(text)
	}
	if days > longest.Hours()/24 || d > longest || time.Duration(days*24*float64(time.Hour))+d > longest {
		return 0, message.Errorf("%s is too long: the maximum is 366d", text)
	}
	d += time.Duration(days * 24 * float64(time.Hour))
	if d < time.Millisecond {
		return 0, message.Errorf("%s is too short: the minimum is 1ms", text)
	}
	return d, nil
}

func badDuration(text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil && document.IsNumber(text) {
		return message.Errorf("%q has no unit: write %ss for seconds or %sm for minutes", text, text, text)
	}
	return message.Errorf("%q is not a duration: write numbers with units, such as 30s, 5m, 1h30m or 2d", text)
}

// maxRate bounds a limit, whose every action is remembered for its length.
const maxRate = 1_000_000

var rate = document.Scalar("a rate", parseRate)

// parseRate reads N/DURATION. The duration may be a unit alone: 10/m.
func parseRate(text string) (Limit, error) {
	count, per, ok := strings.Cut(text, "/")
	if !ok {
		return Limit{}, message.Errorf("%q is not a rate: write a number and a duration, such as 1000/1m", text)
	}
	n, err := document.Number(count, 1, maxRate)
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
var percent = document.Scalar("a percentage", func(text string) (float64, error) {
	digits, ok := strings.CutSuffix(text, "%")
	if !document.IsDecimal(digits) {
		return 0, message.Errorf("%q is not a percentage: write one such as 1%% or 0.5%%", text)
	}
	if err := document.Ambiguous(digits); err != nil {
		return 0, err
	}
	if !ok {
		return 0, message.Errorf("%q has no unit: write %s%%", text, text)
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n <= 0 || n > 100 || math.IsNaN(n) {
		return 0, message.Errorf("%s is out of range: it must be more than 0%% and at most 100%%", text)
	}
	return n / 100, nil
})

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
		return "", "", message.Errorf("%q is not an operator: write one of <, <=, >, >=, = and !=", written)
	}
	return "", "", message.Errorf("%q is not an operator: write %s", written, meant)
}

var threshold = document.Scalar("a comparison", func(text string) (*Threshold, error) {
	if strings.IndexAny(text, comparing) == 0 {
		op, digits, err := cutOperator(text)
		if err != nil {
			return nil, err
		}
		if bytes := strings.TrimRight(digits, " kKmMgGiIbB"); bytes != digits && document.IsDecimal(bytes) {
			return nil, message.Errorf("%q is not a number of bytes: write digits alone, such as \"> 1000000\"", digits)
		}
		n, err := document.Number(digits, 0, math.MaxUint32)
		return &Threshold{Op: op, Number: n}, err
	}
	return nil, message.Errorf("%q is not a comparison: write an operator and a number in quotes, such as \"> 1\" or \"= 0\"", text)
})
