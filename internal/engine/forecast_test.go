package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// forecasts are those of a set for four sockets, of which the last is not due, each as its
// cookie, rule and what keeps it.
func forecasts(t *testing.T, known Restored, list ...rules.Rule) (got []string) {
	t.Helper()
	s := set(list...)
	b := newBench(t)
	holders := map[uint32][]sock.Holder{}
	for i, age := range []time.Duration{time.Minute, 3 * time.Minute, 2 * time.Minute, 0} {
		b.add(uint64(i+1), age)
		holders[uint32(i+1)] = []sock.Holder{{PID: 2}}
	}
	f := b.scan(ScanAll(match.Compile(&s), benchJiffy)).Result
	for _, f := range Forecasts(f, b.e.config, match.Capabilities{}, known, HoldersFound{Complete: true, Holders: holders}, nil, b.now) {
		if f.In <= 0 {
			got = append(got, fmt.Sprintf("%d %s %s", f.Socket.ID.Cookie, f.Rule, f.Not))
		}
	}
	slices.Sort(got)
	return got
}

// What is due now is held back by limits in the order of the rule, and is the first rule's
// that takes it; what a limit holds back waits for that rule.
func TestForecastsHoldBack(t *testing.T) {
	now := benchStart
	for _, test := range []struct {
		name  string
		rules []rules.Rule
		known Restored
		want  []string
	}{
		{name: "no limit", rules: []rules.Rule{killing("a")}, want: []string{"1 a ", "2 a ", "3 a "}},
		{name: "the oldest first", rules: []rules.Rule{killing("a", limited(2, time.Minute))}, want: []string{"1 a limit", "2 a ", "3 a "}},
		{name: "the newest first", rules: []rules.Rule{killing("a", limited(1, time.Minute), newest)}, want: []string{"1 a ", "2 a limit", "3 a limit"}},
		{
			name: "some of the limit is spent", rules: []rules.Rule{killing("a", limited(2, time.Minute))},
			known: Restored{Spent: []sock.Spent{{Rule: sock.RuleSum("a"), N: 1, At: now, Expires: now.Add(time.Minute)}}},
			want:  []string{"1 a limit", "2 a ", "3 a limit"},
		},
		{
			name: "the first rule takes it", rules: []rules.Rule{killing("a", limited(1, time.Minute)), killing("b")},
			want: []string{"1 a limit", "1 b taken", "2 a ", "2 b taken", "3 a limit", "3 b taken"},
		},
		{
			name: "a dry run takes it from dry runs alone", rules: []rules.Rule{killing("a", dryRun), killing("b", dryRun), killing("c", limited(1, time.Minute))},
			want: []string{"1 a ", "1 b taken", "1 c limit", "2 a ", "2 b taken", "2 c ", "3 a ", "3 b taken", "3 c limit"},
		},
		{name: "a log takes nothing", rules: []rules.Rule{killing("a", logging), killing("b")}, want: []string{"1 a ", "1 b ", "2 a ", "2 b ", "3 a ", "3 b "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, forecasts(t, test.known, test.rules...)); diff != "" {
				t.Errorf("forecasts (-want +got):\n%s", diff)
			}
		})
	}
}
