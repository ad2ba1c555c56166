package testrun_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/testrun"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

// parse reads a file of tests with rules in it.
func parse(t testing.TB, text string) *ruletest.File {
	t.Helper()
	f, err := ruletest.Parse(strings.NewReader(text), ruletest.Config{
		Kinds: action.InRules(action.Kinds()), KeptBy: testrun.Reasons(), Load: func(string) (*rules.Set, error) { return nil, errors.New("no other file") },
	})
	if problems, ok := errors.AsType[rules.Problems](err); ok {
		t.Fatal(problems.Report("test"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// failures are those of the one test of a file, without what stood against them.
func failures(t testing.TB, text string) (all []string) {
	t.Helper()
	f := parse(t, text)
	for i := range f.Cases {
		for _, failure := range testrun.Run(f.Rules, &f.Cases[i]).Failures {
			line := failure.Happened
			if failure.Expected != "" {
				line = failure.Expected + " | " + line
			}
			all = append(all, line)
		}
	}
	return all
}

const leakRules = `
receivers: {oncall: {alertmanager: {urls: ["http://127.0.0.1:9093"]}}}
rules:
  - {name: leak, match: {state: close-wait, dport: 80, in_state_for: 5m}, then: [{kill: {limit: 100/1m, canary: off}}]}
  - {name: trial, dry_run: true, match: {state: close-wait, dport: 81, in_state_for: 5m}, then: [kill]}
  - name: flood
    match: {state: close-wait, dport: 82}
    group_by: [dst]
    when: count > 3
    for: 1m
    then: [alert: {to: oncall}]
tests:
  - name: a
`

// Each test asks for something that does not happen, or leaves out something that does.
func TestFailures(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"all is as expected", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    expect: [{at: 5m, rule: leak, socket: a}]`, nil},
		{"there is no socket", `
    until: 5m
    expect: [{at: 5m, rule: leak}]`, []string{"5m0s leak kill done | nothing by 5m2s"}},
		{"something is not expected", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    until: 1h
    expect: []`, []string{"5m0s leak kill done a"}},
		{"it comes too late", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    until: 1h
    expect: [{at: 4m57s, rule: leak, socket: a}]`, []string{"5m0s leak kill done a", "4m57s leak kill done a | nothing by 4m59s"}},
		{"it comes too early", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    until: 1h
    expect: [{at: 5m1s, rule: leak, socket: a}]`, []string{"5m0s leak kill done a", "5m1s leak kill done a | nothing by 5m3s"}},
		{"it may take that long", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    until: 1h
    expect: [{at: 4m, within: 1m1s, rule: leak, socket: a}]`, nil},
		{"another socket", `
    sockets: [{name: a, state: close-wait, dport: 80}, {name: b, state: close-wait, dport: 80}]
    until: 5m
    expect: [{at: 5m, rule: leak, socket: b}]`, []string{"5m0s leak kill done a"}},
		{"any socket", `
    sockets: [{name: a, state: close-wait, dport: 80}, {name: b, state: close-wait, dport: 80}]
    until: 5m
    expect: [{at: 5m, rule: leak, count: 2}]`, nil},
		{"fewer of them", `
    sockets: [{name: a, state: close-wait, dport: 80, count: 7}]
    until: 5m
    expect: [{at: 5m, rule: leak, count: 8}]`, []string{"5m0s leak kill done 8 sockets | 7 of 8 by 5m2s"}},
		{"more of them", `
    sockets: [{name: a, state: close-wait, dport: 80, count: 7}]
    until: 5m
    expect: [{at: 5m, rule: leak, socket: a, count: 5}]`, []string{"5m0s leak kill done a (2)"}},
		{"one after the other", `
    sockets: [{name: a, state: close-wait, dport: 80, count: 12, every: 4s}]
    until: 10m
    expect: []`, []string{"5m0s to 5m44s leak kill done a (12)"}},
		{"one after the other, in time", `
    sockets: [{name: a, state: close-wait, dport: 80, count: 12, every: 4s}]
    until: 10m
    expect: [{at: 5m, within: 1m, rule: leak, socket: a}]`, nil},
		{"what a limit holds back need not be expected", `
    sockets: [{name: a, state: close-wait, dport: 80, count: 150}]
    until: 6m
    expect: [{at: 5m, rule: leak, socket: a, count: 100}, {at: 6m, rule: leak, socket: a, count: 50}]`, nil},
		{"what a limit holds back may be expected", `
    sockets: [{name: a, state: close-wait, dport: 80, count: 150}]
    until: 5m
    expect: [{at: 5m, rule: leak, socket: a, count: 100}, {at: 5m, rule: leak, socket: a, count: 51, result: held}]`,
			[]string{"5m0s leak kill held a (51) | 50 of 51 by 5m2s"}},
		{"a dry run does nothing", `
    sockets: [{name: a, state: close-wait, dport: 81}]
    expect: [{at: 5m, rule: trial, socket: a}]`, []string{"5m0s trial kill would a", "5m0s trial kill done a | nothing by 5m2s"}},
		{"a dry run says so once", `
    sockets: [{name: a, state: close-wait, dport: 81}]
    until: 1h
    expect: [{at: 5m, rule: trial, socket: a, result: would}]`, nil},
		{"an alert of a group", `
    sockets: [{state: close-wait, dst: 10.0.0.7, dport: 82, count: 4}, {state: close-wait, dst: 10.0.0.8, dport: 82, count: 3}]
    until: 1h
    expect: [{at: 1m, rule: flood, group: {dst: 10.0.0.7}}]`, nil},
		{"an alert of another group", `
    sockets: [{state: close-wait, dst: 10.0.0.7, dport: 82, count: 4}, {state: close-wait, dst: 10.0.0.8, dport: 82, count: 3}]
    until: 1h
    expect: [{at: 1m, rule: flood, group: {dst: 10.0.0.8}}]`,
			[]string{"1m0s flood alert firing dst=10.0.0.7", "1m0s flood alert firing dst=10.0.0.8 | nothing by 1m5.8s"}},
		{"an alert ends", `
    sockets: [{name: a, state: close-wait, dst: 10.0.0.7, dport: 82, count: 4}]
    changes: [{at: 5m, socket: a, closed: true}]
    until: 1h
    expect: [{at: 1m, rule: flood}, {at: 5m, rule: flood, result: resolved}]`, nil},
		{"nothing happens to a socket, and for another reason", `
    sockets: [{name: a, state: close-wait, dport: 80, queued: 1}]
    until: 1h
    expect: [{at: 10m, rule: leak, socket: a, kept_by: not_due}]`, []string{"10m0s leak leaves a alone: kept by not_due | kept by in_use"}},
		{"something happened to it", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    until: 1h
    expect: [{at: 5m, rule: leak, socket: a}, {at: 10m, rule: leak, socket: a, kept_by: in_use}]`, []string{"10m0s leak leaves a alone: kept by in_use | it is gone"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, failures(t, leakRules+test.text)); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
		})
	}
}

// What stands against an expectation is about the sockets that it lacks.
func TestWhy(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"one after the other", `
    sockets: [{name: a, state: close-wait, dport: 80, count: 12, every: 4s}]
    expect: [{at: 5m, within: 41s, rule: leak, socket: a}]`, []string{
			"they appear over 44s, and fall due so: write within: 50s to wait for all",
			"a: is due in 3s: close-wait for 4m57s, eof-read-not-closed",
		}},
		{"it was killed before", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    expect: [{at: 5m, rule: leak, socket: a}, {at: 6m, rule: leak, socket: a}]`, []string{"a: is gone: kill, by leak at 5m0s"}},
		{"it was closed", `
    sockets: [{name: a, state: close-wait, dport: 80}]
    changes: [{at: 1m, socket: a, closed: true}]
    expect: [{at: 5m, rule: leak, socket: a}]`, []string{"a: is gone"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := parse(t, leakRules+test.text)
			failures := testrun.Run(f.Rules, &f.Cases[0]).Failures
			if len(failures) != 1 {
				t.Fatalf("%d failures, want 1: %+v", len(failures), failures)
			}
			if diff := cmp.Diff(test.want, failures[0].Why); diff != "" {
				t.Errorf("why (-want +got):\n%s", diff)
			}
		})
	}
}

// keptBy has for each word of kept_by a socket that is kept by that.
var keptBy = map[string]string{
	"not_due":         "{state: close-wait, dport: 80}",
	"no_match":        "{state: close-wait, dport: 99}",
	"limit":           "{state: close-wait, dport: 83, in_state_for: 1h}",
	"in_use":          "{state: close-wait, dport: 80, in_state_for: 1h, queued: 1}",
	"protected":       "{state: close-wait, dport: 80, sport: 22, in_state_for: 1h}",
	"in_accept_queue": "{state: close-wait, dport: 80, in_state_for: 1h, in_backlog: true}",
	"mptcp_subflow":   "{state: close-wait, dport: 80, in_state_for: 1h, mptcp: true}",
	"held_by_kernel":  "{state: close-wait, dport: 80, in_state_for: 1h, holder: kernel}",
	"own":             "{state: close-wait, dport: 80, in_state_for: 1h, holder: sockdog}",
	"excluded":        "{state: close-wait, dport: 80, dst: 10.9.9.9, in_state_for: 1h}",
	"taken":           "{state: close-wait, dport: 88, in_state_for: 4m30s}",
	"not_idle":        "{state: established, dport: 80, stalled_for: 1h}",
	"not_stalled":     "{state: established, dport: 81, idle_for: 1h}",
	"unmet":           "{state: close-wait, dport: 84, in_state_for: 1h, unread: 5}",
	"holders_unknown": "{state: close-wait, dport: 85, in_state_for: 1h, holder: unknown}",
	"owner_unknown":   "{state: close-wait, dport: 86, in_state_for: 1h, pod: shop/web}",
	"group_is_quiet":  "{state: close-wait, dport: 87, in_state_for: 1h}",
}

const keptRules = `
rules:
  - {name: close-wait, match: {state: close-wait, dport: 80, in_state_for: 5m}, exclude: {dst: 10.9.9.9}, then: [kill]}
  - {name: idle, match: {state: established, dport: 80, idle_for: 5m}, then: [kill]}
  - {name: stalled, match: {state: established, dport: 81, stalled_for: 5m}, then: [kill]}
  - {name: limited, match: {state: close-wait, dport: 83, in_state_for: 5m}, then: [{kill: {limit: 1/1d}}]}
  - {name: unread, match: {state: close-wait, dport: 84, in_state_for: 5m, unread: "= 0"}, then: [kill]}
  - {name: process, match: {state: close-wait, dport: 85, in_state_for: 5m, process: app}, then: [kill]}
  - {name: container, match: {state: close-wait, dport: 86, in_state_for: 5m, container: app}, then: [kill]}
  - {name: first, match: {state: close-wait, dport: 88, in_state_for: 5m}, then: [{kill: {limit: 1/1d}}]}
  - {name: second, match: {state: close-wait, dport: 88, in_state_for: 5m}, then: [kill]}
  - {name: group, match: {state: close-wait, dport: 87, in_state_for: 5m}, when: count > 10, for: 1m, then: [kill]}
tests:
  - name: a
    until: 2m
    sockets:
      - {state: close-wait, dport: 83, in_state_for: 2h}
      - {state: close-wait, dport: 88, in_state_for: 2h}
`

// Whatever keeps a socket is told by its own word, and nothing else happens.
func TestKeptBy(t *testing.T) {
	for _, word := range testrun.Reasons() {
		t.Run(word, func(t *testing.T) {
			socket, ok := keptBy[word]
			if !ok {
				t.Fatal("no socket is kept by that")
			}
			rule := map[string]string{
				"limit": "limited", "not_idle": "idle", "not_stalled": "stalled", "unmet": "unread", "holders_unknown": "process", "owner_unknown": "container", "group_is_quiet": "group", "taken": "second",
			}[word]
			if rule == "" {
				rule = "close-wait"
			}
			text := fmt.Sprintf("%s      - {name: a, %s\n    expect:\n      - {at: 0s, rule: limited, count: 1}\n      - {at: 0s, rule: first, count: 1}\n      - {at: 1m, rule: %s, socket: a, kept_by: %s}\n", keptRules, strings.TrimPrefix(socket, "{"), rule, word)
			if diff := cmp.Diff([]string(nil), failures(t, text)); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
		})
	}
}

// Every key of a test has its effect.
func TestWorld(t *testing.T) {
	text, err := os.ReadFile("testdata/world_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f := parse(t, string(text))
	for i := range f.Cases {
		c := &f.Cases[i]
		t.Run(c.Name, func(t *testing.T) {
			r := testrun.FileResult{Name: "world_test.yaml", Results: []testrun.Result{testrun.Run(f.Rules, c)}}
			if r.Failed() > 0 {
				var b strings.Builder
				r.Print(&b)
				t.Error(b.String())
			}
		})
	}
}
