package rules

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules/internal/templates"
)

func TestGroups(t *testing.T) {
	set := mustParse(t, `
receivers:
  oncall: {alertmanager: {url: "http://alertmanager:9093"}}
  chat: {webhook: {url: "http://chat"}}
rules:
  - name: flood
    match: {state: time-wait}
    group_by: [dst, dport]
    when: count > 20000
    until: count < 10000
    for: 1m
    labels: {team: data}
    then:
      - alert: {to: oncall, severity: page, summary: "{{.Count}} to {{.Group.dst}}", labels: {area: net}, after: 5m}
      - alert
  - name: all-of-it
    match: {state: close-wait, in_state_for: 1m}
    when: [growth>=1.5/m, "port_usage != 80 %", count = 7]
    until: count <= 3
    then: [kill, {alert: {keep_firing_for: 1s}}, {alert: {severity: page}}]
`)
	flood, all := set.Rules[0], set.Rules[1]
	if diff := cmp.Diff([]GroupKey{ByDst, ByDport}, flood.GroupBy); diff != "" {
		t.Errorf("group_by (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Condition{{Count, Greater, 20000}}, flood.When); diff != "" || flood.For != time.Minute {
		t.Errorf("for %v, when (-want +got):\n%s", flood.For, diff)
	}
	first := flood.Then[0]
	text, err := first.Alert.Summary.Render(&Event{Count: 3, Group: map[string]string{"dst": "192.0.2.1"}})
	if want := "3 to 192.0.2.1"; text != want || err != nil || first.After != 5*time.Minute {
		t.Errorf("after %v: %q, %v; want %q", first.After, text, err, want)
	}
	first.Alert.Summary = nil
	if diff := cmp.Diff(&AlertOptions{To: []string{"oncall"}, Severity: "page", Labels: map[string]string{"area": "net"}}, first.Alert); diff != "" {
		t.Errorf("alert (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&AlertOptions{Severity: "warning"}, flood.Then[1].Alert); diff != "" {
		t.Errorf("alert by default (-want +got):\n%s", diff)
	}
	want := []Condition{{Growth, GreaterEqual, 1.5}, {PortUsage, NotEqual, 80}, {Count, Equal, 7}}
	if diff := cmp.Diff(want, all.When); diff == "" {
		for i, keep := range []time.Duration{time.Second, defaultKeepFiringFor} { // because the rule also kills
			if got := all.Then[1+i].Alert.KeepFiringFor; got != keep {
				t.Errorf("alert %d is kept firing for %v, want %v", i, got, keep)
			}
		}
	} else {
		t.Errorf("when (-want +got):\n%s", diff)
	}
}

// An alert beside something that may cure its group for a while does not flap, unless the rule
// says so.
func TestKeepFiringFor(t *testing.T) {
	const five = 5 * time.Minute
	for then, want := range map[string]time.Duration{
		"alert":                               0,
		"log, alert":                          0,
		"alert, kill":                         five,
		"keepalive, alert":                    five,
		"alert, exec: {command: [/bin/true]}": five,
		"alert, sysctl: {set: {net.ipv4.tcp_fin_timeout: 30}}": five,
		"alert: {keep_firing_for: 1s}, kill":                   time.Second,
	} {
		rule := mustParse(t, "receivers: {a: {webhook: {url: 'http://a'}}}\nrules: [{name: a, match: {state: close-wait, in_state_for: 5m}, when: count > 1, then: ["+then+"]}]").Rules[0]
		i := slices.IndexFunc(rule.Then, func(a Action) bool { return a.Kind == Alert })
		if got := rule.Then[i].Alert.KeepFiringFor; got != want {
			t.Errorf("%s: %v, want %v", then, got, want)
		}
	}
}

func TestSumOfGroups(t *testing.T) {
	sum := func(rule string) string {
		return mustParse(t, "receivers: {a: {webhook: {url: 'http://a'}}, b: {webhook: {url: 'http://b'}}}\nrules: [{name: a, match: {state: close-wait}, "+rule+"}]").Rules[0].Sum
	}
	seen := map[string]string{}
	for _, rule := range []string{
		"when: count > 1, then: [alert]", "when: count > 2, then: [alert]", "when: count < 1, then: [alert]", "when: growth > 1/m, then: [alert]",
		"when: count > 1, for: 1m, then: [alert]", "when: count > 1, until: count < 1, then: [alert]",
		"when: count > 1, group_by: dst, then: [alert]", "when: count > 1, labels: {a: b}, then: [alert]",
		"when: count > 1, then: [{alert: {to: a}}]", "when: count > 1, then: [{alert: {severity: page}}]", "when: count > 1, then: [{alert: {labels: {a: b}}}]",
		"when: count > 1, then: [{alert: {summary: x}}]", "when: count > 1, then: [{alert: {summary: y}}]", "when: count > 1, then: [{alert: {description: x}}]",
		"when: count > 1, then: [{alert: {keep_firing_for: 1m}}]", "when: count > 1, then: [{alert: {after: 1m}}]",
	} {
		s := sum(rule)
		if other, taken := seen[s]; taken {
			t.Errorf("the sums of %q and %q are the same", rule, other)
		}
		seen[s] = rule
	}
	if sum("when: count > 1, then: [alert]") != sum("when: 'count>1', then: alert") {
		t.Error("written in another form: the sum differs")
	}
}

// TestRenderIsBounded: a text that is too long is cut off.
func TestRenderIsBounded(t *testing.T) {
	set := mustParse(t, `
receivers: {a: {webhook: {url: "http://a"}}}
rules: [{name: a, match: {state: close-wait}, when: count > 1, then: [{alert: {summary: '{{.About}}{{.About}}'}}]}]
`)
	e := Event{About: strings.Repeat("x", templates.MaxBytes-1)}
	text, err := set.Rules[0].Then[0].Alert.Summary.Render(&e)
	if len(text) != templates.MaxBytes+len("...") || err != nil {
		t.Errorf("%d bytes, %v; want %d", len(text), err, templates.MaxBytes+3)
	}
}

func FuzzCondition(f *testing.F) {
	for _, text := range []string{"count > 20000", "growth>=1.5/m", "port_usage != 80 %", "backlog_usage == 0%", "cout > 3", "count"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCondition(text)
		if err != nil {
			return
		}
		again, err := parseCondition(c.String())
		if err != nil || again != c {
			t.Fatalf("%q is %v, and that is %v, %v", text, c, again, err)
		}
	})
}
