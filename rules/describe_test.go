package rules_test

import (
	"strings"
	"testing"

	"github.com/sockdog/sockdog/rules"
)

func TestText(t *testing.T) {
	for rule, want := range map[string]string{
		"match: {state: close-wait, dport: 5432, in_state_for: 5m}\n    then: kill":                                                      "close-wait, dport = :5432, in_state_for 5m: kill",
		"match: {state: [close-wait, last-ack], dst: 10.0.0.0/8}":                                                                        "close-wait,last-ack, dst 10.0.0.0/8: log",
		"match: {filter: 'dport = 80'}":                                                                                                  "dport = :80: log",
		"match: [{state: close-wait, in_state_for: 90s}, {state: last-ack, dport: 80, stalled_for: 1h}]\n    then: [log, kill]":          "(close-wait, in_state_for 1m30s) or (last-ack, dport = :80, stalled_for 1h): log, kill",
		"match: {state: close-wait, user: 0, unread: '> 1', verdict: eof-unread, in_backlog: false, keepalive: true, idle_for: 1h30m}\n": "close-wait, user 0, unread > 1, in_backlog false, keepalive true, verdict eof-unread, idle_for 1h30m: log",
		"match: {state: time-wait}\n    exclude: {dport: 22}\n    group_by: [dst, dport]\n    when: [count > 20000, growth > 10/m]\n    for: 1m": "time-wait; not dport = :22; " +
			"when count > 20000 and growth > 10/m by dst, dport for 1m: log",
		"match: {state: close-wait, dport: 1, in_state_for: 5m}\n    then: {kill: {after: 10m}}":              "close-wait, dport = :1, in_state_for 5m: kill after 10m",
		"match: {state: close-wait, dport: 1, in_state_for: 5m}\n    then: {kill: {via: holder, after: 10m}}": "close-wait, dport = :1, in_state_for 5m: kill via holder after 10m",
		"match: {state: established, dport: 1}\n    then: [keepalive: {count: 4, idle: 90s}]":                 "established, dport = :1: keepalive idle 1m30s count 4",
		"match: {state: all}": "all sockets: log",
		"when: [orphans > 80%, tcp_memory > 90%]\n    for: 5m": "when orphans > 80% and tcp_memory > 90% for 5m: log",
		"match: {state: close-wait, pod: [payments/*, shop/*], unit: '*.service', process: java, cmdline: '-jar x', container: app}\n    group_by: [pod, container, unit]\n    when: count > 5": "close-wait, process java, cmdline -jar x, " +
			"unit *.service, container app, pod payments/*,shop/*; when count > 5 by pod, container, unit: log",
	} {
		set, err := rules.Parse(strings.NewReader("rules:\n  - name: r\n    " + rule))
		if err != nil {
			t.Errorf("%s: %v", rule, err)
			continue
		}
		if got := set.Rules[0].Text(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", rule, got, want)
		}
	}
}
