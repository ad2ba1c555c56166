package alert

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/alerting"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

var update = flag.Bool("update", false, "write the golden file anew")

// noticed are the rules that the alerts are of, by name.
func noticed(t *testing.T) map[string]*rules.Rule {
	t.Helper()
	set, err := rules.Parse(strings.NewReader(`
receivers: {oncall: {webhook: {url: "http://oncall"}}}
rules:
  - name: plain
    description: The shop opens a connection for each request.
    match: {state: time-wait}
    group_by: [dst, dport]
    when: count > 20000
    then: [alert]
  - name: several
    match: {state: established}
    group_by: [src, dst, dport]
    when: [port_usage > 80%, growth > 10/m]
    labels: {team: data, tier: rule}
    then: [{alert: {severity: critical, labels: {area: net}}}]
  - name: single
    match: {state: close-wait, in_state_for: 5m}
    then: [alert, kill]
  - name: drops
    description: A program accepts too slowly.
    group_by: netns
    when: listen_drops > 10/m
    then: [alert]
  - name: host
    when: [orphans > 80%, tcp_memory > 90%]
    then: [{alert: {description: "{{.Orphans}} and {{.TCPMemory}}, not {{.ListenDrops}}"}}]
  - name: templates
    match: {state: close-wait}
    group_by: [state, user]
    when: count > 2
    then:
      - alert: {summary: "{{.Status}}: {{.Count}} {{.Group.state}} of {{.Group.user}} on {{.Instance}}", description: '{{slice .Rule 0 4}}, {{.Lasted}} since {{.Since}}: {{index .Group "state" | len}}{{slice .Holders 0 5}}'}
`))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*rules.Rule)
	for i := range set.Rules {
		all[set.Rules[i].Name] = &set.Rules[i]
	}
	return all
}

// What is read at three in the morning is read here first.
func TestTexts(t *testing.T) {
	since := time.Date(2026, 11, 22, 3, 0, 0, 123e6, time.FixedZone("", 0))
	all := noticed(t)
	alarm := func(rule string, m group.Measured, group ...subject.Label) engine.Alert {
		r := all[rule]
		return engine.Alert{Rule: r.Name, About: r.Description, Labels: r.Labels, When: r.When, Options: r.Then[0].Alert, Alert: alerting.Alert{Group: group, Measured: m}}
	}
	ended := func(a engine.Alert) engine.Alert {
		a.Ended = 1
		return a
	}
	lapsing := func(a engine.Alert) engine.Alert {
		a.Over = 1
		return a
	}
	others := func(a engine.Alert, n int) engine.Alert {
		a.Overflow = n
		return a
	}
	examples := func(a engine.Alert, peers ...string) engine.Alert {
		for _, p := range peers {
			a.Examples = append(a.Examples, group.Example{Peer: netip.MustParseAddrPort(p)})
		}
		return a
	}
	killed := func(a engine.Alert, from sock.Instant, peak int, done engine.Results) engine.Alert {
		a.Takes, a.DoneFrom, a.Done, a.Peak = true, from, done, peak
		return a
	}
	byOthers := func(a engine.Alert, names ...string) engine.Alert {
		a.DoneFrom, a.ByOthers = 1, map[string]engine.Results{}
		for i, name := range names {
			a.ByOthers[name] = engine.Results{{Kind: rules.Kill, Result: engine.Done}: uint64(i) + 2, {Kind: rules.Kill, Result: engine.Gone}: uint64(i)}
		}
		return a
	}
	const db = "10.0.9.2:5432"
	tests := []struct {
		name    string
		alarm   engine.Alert
		holders string
	}{
		{"a flood", alarm("plain", group.Measured{Count: 20001, Oldest: 59900 * time.Millisecond}, subject.Label{Name: "dst", Value: "10.0.0.7"}, subject.Label{Name: "dport", Value: "5432"}), "unknown"},
		{"the same, over", ended(alarm("plain", group.Measured{Count: 12}, subject.Label{Name: "dst", Value: "2001:db8::7"}, subject.Label{Name: "dport", Value: "5432"})), "unknown"},
		{"groups beyond the first hundred", others(alarm("plain", group.Measured{Count: 70000}), 12), "unknown"},
		{"several metrics", alarm("several", group.Measured{Count: 1, Growth: 12.04, PortUsage: float64(float32(83.3))}, subject.Label{Name: "src", Value: "10.0.0.1"}, subject.Label{Name: "dst", Value: "10.0.0.7"}, subject.Label{Name: "dport", Value: "443"}), "nginx[12] 1"},
		{"single sockets", examples(killed(alarm("single", group.Measured{Count: 3, Oldest: 5 * time.Minute}), 1, 3, nil), db, db, db), "java[7] 2, unknown 1"},
		{"single sockets, cured", examples(killed(lapsing(alarm("single", group.Measured{})), 1, 3, engine.Results{{Kind: rules.Kill, Result: engine.Done}: 3, {Kind: rules.Kill, Result: engine.Held}: 0}), db, db, db), "java[7] 3"},
		{"single sockets, cured and over", examples(killed(ended(alarm("single", group.Measured{})), 1, 3, engine.Results{{Kind: rules.Kill, Result: engine.Done}: 3, {Kind: rules.Kill, Result: engine.Gone}: 1}), db, db, db), "java[7] 3"},
		{"a dry run", examples(killed(alarm("single", group.Measured{Count: 3}), 1, 3, engine.Results{{Kind: rules.Kill, Result: engine.Would}: 3}), db), "java[7] 1"},
		{"after a restart", examples(killed(alarm("single", group.Measured{Count: 1}), 0, 1, nil), db), "java[7] 1"},
		{"killed by another rule", examples(byOthers(lapsing(alarm("plain", group.Measured{})), "close-wait-kill"), db), "java[7] 1"},
		{"killed by both", examples(byOthers(killed(alarm("single", group.Measured{Count: 1}), 1, 3, engine.Results{{Kind: rules.Kill, Result: engine.Done}: 2}), "b", "a"), db), "java[7] 1"},
		{"killed by many rules", examples(byOthers(killed(alarm("single", group.Measured{Count: 1}), 1, 3, nil), "a", "b", "c", "d", "e"), db), "java[7] 1"},
		{"several peers", examples(alarm("single", group.Measured{Count: 4}), db, "10.0.9.3:5432", "[2001:db8::7]:443", db), "java[7] 4"},
		{"many peers", examples(alarm("single", group.Measured{Count: 6}), db, "10.0.9.2:5433", "10.0.9.3:5432", "10.0.9.4:5432", "10.0.9.5:5432", "10.0.9.6:5432"), "java[7] 6"},
		{"clients", examples(alarm("single", group.Measured{Count: 2}), "10.0.9.2:48270", "10.0.9.2:48284"), "nginx[12] 2"},
		{"listeners", examples(alarm("single", group.Measured{Count: 1}), "0.0.0.0:0"), "nginx[12] 1"},
		{"dropped connections", alarm("drops", group.Measured{ListenDrops: 120}, subject.Label{Name: "netns", Value: "4026531840"}), "unknown"},
		{"the same in all namespaces, over", ended(alarm("drops", group.Measured{})), "unknown"},
		{"short of memory", alarm("host", group.Measured{Orphans: 81.25, TCPMemory: 99.96}), "unknown"},
		{"templates", alarm("templates", group.Measured{Count: 3}, subject.Label{Name: "state", Value: "close-wait"}, subject.Label{Name: "user", Value: "33"}), "nginx[12] 3"},
		{"a template that fails", alarm("templates", group.Measured{Count: 3}, subject.Label{Name: "state", Value: "close-wait"}, subject.Label{Name: "user", Value: "33"}), "-"},
	}
	var got strings.Builder
	for _, test := range tests {
		said, err := Annotations(&test.alarm, Facts{Instance: "web-1", Since: since, Until: since.Add(90 * time.Second), Holders: test.holders})
		fmt.Fprintf(&got, "=== %s\n", test.name)
		writeTexts(&got, Labels(&test.alarm, "web-1"), said)
		if err != nil {
			fmt.Fprintf(&got, "error: %v\n\n", err)
		}
	}
	compareGolden(t, "testdata/texts.golden", got.String())
}

func compareGolden(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatalf("%v; run go test ./internal/alert -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("texts (-want +got):\n%s", diff)
	}
}

// writeTexts writes the labels and annotations of an alert.
func writeTexts(b *strings.Builder, all ...map[string]string) {
	for _, texts := range all {
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			fmt.Fprintf(b, "%s: %s\n", name, strings.ReplaceAll(texts[name], "\n", "\n    "))
		}
		fmt.Fprintln(b)
	}
}

// A value that changes must not make another alert of it.
func TestLabelsHoldNoValue(t *testing.T) {
	r := noticed(t)["several"]
	a := engine.Alert{Rule: r.Name, Labels: r.Labels, When: r.When, Options: r.Then[0].Alert, Alert: alerting.Alert{Measured: group.Measured{Count: 1}}}
	before := Labels(&a, "web-1")
	a.Measured, a.Since, a.Started, a.Ended, a.Overflow = group.Measured{Count: 2, Growth: 3, PortUsage: 4, Oldest: 5}, 6, 7, 8, 9
	if diff := cmp.Diff(before, Labels(&a, "web-1")); diff != "" {
		t.Errorf("labels (-before +after):\n%s", diff)
	}
}
