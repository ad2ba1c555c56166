package status

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// What has nothing in it is an empty list or object: a reader need not ask first.
func TestEmptyJSON(t *testing.T) {
	s := Status{Rules: []Rule{{Name: "none"}}}
	text, err := json.Marshal(&s)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	rule := got["rules"].([]any)[0].(map[string]any)
	empty := map[string]any{
		"problems": got["problems"], "notes": got["notes"], "sockets": got["sockets"], "actions": got["actions"], "action_possible": got["action_possible"],
		"receivers": got["receivers"], "groups": rule["groups"], "rule's actions": rule["actions"], "held_back": rule["held_back"],
	}
	want := map[string]any{
		"problems": []any{}, "notes": []any{}, "sockets": map[string]any{}, "actions": []any{}, "action_possible": map[string]any{},
		"receivers": []any{}, "groups": []any{}, "rule's actions": map[string]any{}, "held_back": map[string]any{},
	}
	if diff := cmp.Diff(want, empty); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text)
	}
	if s.Rules[0].Groups != nil {
		t.Error("the value itself was changed")
	}
}

func TestStates(t *testing.T) {
	got := make(map[string]bool)
	for _, name := range States {
		got[name] = true
	}
	want := make(map[string]bool)
	for _, s := range ssfilter.AllStates.States() {
		want[s.String()] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("states that are counted (-want +got):\n%s", diff)
	}
}

func TestProblems(t *testing.T) {
	t0 := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	var none Problems
	one := none.With(Problem{Kind: "reload", Text: "first", Since: t0})
	two := one.With(Problem{Kind: "scans", Text: "second", Since: t0.Add(time.Second)})
	again := two.With(Problem{Kind: "reload", Text: "other words", Since: t0.Add(time.Minute)})
	for _, test := range []struct {
		name      string
		got, want Problems
	}{
		{"one", one, Problems{{Kind: "reload", Text: "first", Since: t0}}},
		{"a second", two, Problems{{Kind: "reload", Text: "first", Since: t0}, {Kind: "scans", Text: "second", Since: t0.Add(time.Second)}}},
		{"the first still stands", again, Problems{{Kind: "reload", Text: "other words", Since: t0}, {Kind: "scans", Text: "second", Since: t0.Add(time.Second)}}},
		{"the first is over", again.Without("reload"), Problems{{Kind: "scans", Text: "second", Since: t0.Add(time.Second)}}},
		{"what does not stand cannot be over", one.Without("scans"), one},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// A group that fires is never well, and one that is far from firing is not shown.
func TestVerdict(t *testing.T) {
	problem, firing := Problems{{Kind: "scans"}}, []Rule{{}, {Firing: 2}}
	paused, alone := &Pause{Reason: "deploy"}, Problems{{Kind: "paused"}}
	for want, s := range map[string]Status{
		"starting":               {},
		"all well":               {Ready: true, Rules: []Rule{{}}},
		"1 problem":              {Problems: problem},
		"2 problems · 2 firing":  {Ready: true, Problems: append(problem, problem...), Rules: firing},
		"no problems · 2 firing": {Ready: true, Rules: firing},

		"paused":                        {Ready: true, Paused: paused, Problems: alone},
		"paused · 1 problem · 2 firing": {Ready: true, Paused: paused, Problems: append(alone, problem...), Rules: firing},
	} {
		if got := s.Verdict(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestShown(t *testing.T) {
	at := func(phase Phase, near ...float64) *Group {
		g := &Group{Phase: phase}
		for _, n := range near {
			g.Conditions = append(g.Conditions, Condition{Near: n})
		}
		return g
	}
	for _, test := range []struct {
		group *Group
		want  bool
	}{
		{at(Quiet, 0.49), false}, {at(Quiet, 0.5), true}, {at(Quiet, 1, 0.4), false}, {at(Quiet, 1, 0.6), true},
		{at(Pending, 0.1), true}, {at(Firing, 0.1), true}, // on its way back: until has its own thresholds
	} {
		if got := test.group.Shown(); got != test.want {
			t.Errorf("%+v is shown: %v", test.group, got)
		}
	}
}

func TestGroupString(t *testing.T) {
	for want, labels := range map[string]map[string]string{
		"all sockets":            nil,
		"dport=443 dst=10.0.0.7": {"dst": "10.0.0.7", "dport": "443"},
	} {
		g := Group{Labels: labels}
		if got := g.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
