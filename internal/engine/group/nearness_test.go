package group

import (
	"testing"

	"github.com/sockdog/sockdog/rules"
)

func TestNearness(t *testing.T) {
	for _, test := range []struct {
		op            rules.Op
		number, value float64
		want          float64
	}{
		{rules.Greater, 200, 0, 0},
		{rules.Greater, 200, 50, 0.25},
		{rules.Greater, 200, 200, 1},
		{rules.Greater, 200, 900, 1},
		{rules.Greater, 0, 0, 0},
		{rules.GreaterEqual, 0, 0, 1},
		{rules.Less, 10, 40, 0.25},
		{rules.Less, 10, 0, 1},
		{rules.Equal, 10, 20, 0.5},
		{rules.Equal, 10, 5, 0.5},
	} {
		if got := Nearness(rules.Condition{Metric: rules.Count, Op: test.op, Number: test.number}, test.value); got != test.want {
			t.Errorf("%v is %v of the way to %s %v, want %v", test.value, got, test.op, test.number, test.want)
		}
	}
}
