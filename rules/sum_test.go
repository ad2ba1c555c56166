package rules

import (
	"testing"
)

func TestSum(t *testing.T) {
	const base = `
rules:
  - name: a
    match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}
    then: [kill]
`
	sum := func(text string) string { return mustParse(t, text).Rules[0].Sum }
	same := map[string]string{
		"written in another form": `
version: 1
rules:
  # comment
  - match:
      - in_state_for: 300s
        dport: ["80-81"]
        state: [CLOSE_WAIT]
        user: [1, 0]
    enabled: true
    dry_run: false
    then:
      - kill: {limit: 1000/1m, order: oldest}
    name: a
`,
		"described": "rules: [{name: a, description: b, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [kill]}]",
	}
	for name, text := range same {
		if sum(text) != sum(base) {
			t.Errorf("%s: the sum differs", name)
		}
	}

	seen := map[string]string{sum(base): "base"}
	different := map[string]string{
		"name":         "rules: [{name: b, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [kill]}]",
		"enabled":      "rules: [{name: a, enabled: false, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [kill]}]",
		"dry_run":      "rules: [{name: a, dry_run: true, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [kill]}]",
		"state":        "rules: [{name: a, match: {state: [close-wait, time-wait], dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [kill]}]",
		"port":         "rules: [{name: a, match: {state: close-wait, dport: [80, 82], user: [0, 1], in_state_for: 5m}, then: [kill]}]",
		"no port":      "rules: [{name: a, match: {state: close-wait, user: [0, 1], in_state_for: 5m}, then: [kill]}]",
		"user":         "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 2], in_state_for: 5m}, then: [kill]}]",
		"in_state_for": "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 6m}, then: [kill]}]",
		"idle_for":     "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], idle_for: 5m}, then: [kill]}]",
		"stalled_for":  "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], stalled_for: 5m}, then: [kill]}]",
		"unread":       "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m, unread: '> 1'}, then: [kill]}]",
		"unread op":    "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m, unread: '< 1'}, then: [kill]}]",
		"in_backlog":   "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m, in_backlog: false}, then: [kill]}]",
		"backlog true": "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m, in_backlog: true}, then: [kill]}]",
		"verdict":      "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m, verdict: eof-unread}, then: [kill]}]",
		"exclude":      "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, exclude: {dst: 10.0.0.1}, then: [kill]}]",
		"then":         "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [log]}]",
		"limit":        "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [{kill: {limit: 1/1m}}]}]",
		"order":        "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [{kill: {order: newest}}]}]",
		"after":        "rules: [{name: a, match: {state: close-wait, dport: [80, 81], user: [0, 1], in_state_for: 5m}, then: [{kill: {after: 1m}}]}]",
	}
	for name, text := range different {
		s := sum(text)
		if other := seen[s]; other != "" {
			t.Errorf("%s has the sum of %s", name, other)
		}
		seen[s] = name
	}
}
