package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
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

// What will keep a rule from a socket if that stays as it is, is said before the rule is due.
func TestForecastsSayWhatWillKeep(t *testing.T) {
	leaky, beside := process(2, "leaky"), process(3, "leaky")
	beside.Owner = &sock.Owner{ContainerID: sock.Fact{Text: "1", Known: true}, Container: "istio-proxy"}
	sidecar := rules.Match{States: ssfilter.AllStates, Containers: []string{"istio-proxy"}}
	unread := func(r *rules.Rule) { r.Match[0].Verdicts = []rules.Verdict{rules.UnreadData} }
	orLater := func(r *rules.Rule) {
		r.Match = append(r.Match, where("dport = 80"))
		r.Match[1].InStateFor = time.Minute
	}
	orNever := func(r *rules.Rule) {
		r.Match = append(r.Match, where("dport = 81"))
		r.Match[1].InStateFor = time.Minute
	}
	idle := func(r *rules.Rule) { r.Match[0].IdleFor = time.Minute }
	stalls := func(r *rules.Rule) { r.Match[0].InStateFor, r.Match[0].StalledFor = 0, 10*time.Second }
	byMany := func(r *rules.Rule) { r.When = []rules.Condition{more(9)} }
	sends := func(s *sim.Socket) { s.Queued = benchStart.Add(-time.Second) }
	for _, test := range []struct {
		name    string
		rule    rules.Rule
		protect []rules.Match
		holder  sock.Holder
		partial bool // a process cannot be read
		socket  func(*sim.Socket)
		want    string
	}{
		{name: "nothing", rule: killing("r"), want: "in 6s: "},
		{name: "excluded by its port", rule: killing("r", exclude(where("dport = 80"))), want: "in 6s: excluded"},
		{name: "another port is excluded", rule: killing("r", exclude(where("dport = 81"))), want: "in 6s: "},
		{name: "excluded by a container", rule: killing("r", exclude(sidecar)), holder: beside, want: "in 6s: excluded"},
		{name: "another container may be", rule: killing("r", exclude(sidecar)), want: "in 6s: owner_unknown"},
		{name: "who holds it may be excluded", rule: killing("r", exclude(anyOf("other"))), partial: true, want: "in 6s: holders_unknown"},
		{name: "excluded, and its time never begins", rule: killing("r", idle, exclude(where("dport = 80"))), socket: sends, want: "in 0s: excluded"},
		{name: "excluded, and its group is quiet", rule: killing("r", byMany, exclude(where("dport = 80"))), want: "in 0s: excluded"},
		{name: "its group is quiet", rule: killing("r", byMany), want: "in 0s: group_is_quiet"},
		{name: "its time never begins", rule: killing("r", idle), socket: sends, want: "in 0s: not_idle"},
		{name: "who holds it is not certain", rule: killing("r", ofProcess("leaky")), partial: true, want: "in 6s: holders_unknown"},
		{name: "it sends", rule: killing("r"), socket: sends, want: "in 6s: in_use"},
		{name: "a log does not mind that", rule: killing("r", logging), socket: sends, want: "in 6s: "},
		{name: "a verdict is another", rule: killing("r", unread), want: "in 6s: unmet"},
		{name: "it sends, which the rule means, and a verdict is another", rule: killing("r", stalls, unread), socket: sends, want: "in 10s: unmet"},
		{name: "a later match means it", rule: killing("r", unread, orLater), want: "in 56s: "},
		{name: "a later match does not", rule: killing("r", unread, orNever), want: "in 6s: unmet"},
		{name: "protected", rule: killing("r"), protect: []rules.Match{where("dport = 80")}, want: "in 6s: protected"},
		{name: "in an accept queue", rule: killing("r"), socket: func(s *sim.Socket) { s.Inode = 0 }, want: "in 6s: in_accept_queue"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			socket := b.add(1, 4*time.Second)
			if test.socket != nil {
				test.socket(socket)
			}
			if test.holder.PID == 0 {
				test.holder = leaky
			}
			s := set(test.rule)
			s.Protect = append(s.Protect, test.protect...)
			found := HoldersFound{Complete: !test.partial, Holders: map[uint32][]sock.Holder{1: {test.holder}}}
			result := b.scan(ScanAll(match.Compile(&s), benchJiffy)).Result
			all := Forecasts(result, b.e.config, match.Capabilities{}, Restored{}, found, nil, b.now)
			if len(all) != 1 {
				t.Fatalf("%d forecasts", len(all))
			}
			if got := fmt.Sprintf("in %v: %s", all[0].In.Round(time.Second), all[0].Not); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}
