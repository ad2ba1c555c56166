package metrics_test

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/realtest"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestMetrics(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 500e6, time.UTC)
	text := string(metrics.Text(statustest.Lively(now)))
	for _, want := range []string{
		`sockdog_build_info{goversion="go[^"]+",version="v0.4.0"} 1`,
		`sockdog_paused 0`,
		`sockdog_sockets{state="close-wait"} 46`,
		`sockdog_sockets{state="last-ack"} 0`,
		`sockdog_sockets_timestamp_seconds 1.7778637185e\+09`,
		`sockdog_rule_sockets{rule="postgres-close-wait"} 3`,
		`sockdog_rule_candidates{rule="postgres-close-wait"} 46`,
		`sockdog_rule_holder_sockets{process="java",rule="postgres-close-wait"} 2`,
		`sockdog_rule_holder_sockets{process="unknown",rule="postgres-close-wait"} 1`,
		`sockdog_rule_netns_sockets{netns="4026532387",netns_name="payments",rule="postgres-close-wait"} 2`,
		`sockdog_rule_netns_sockets{netns="other",netns_name="",rule="postgres-close-wait"} 1`,
		`sockdog_rule_oldest_seconds{rule="postgres-close-wait"} 311`,
		`sockdog_rule_firing{rule="time-wait-flood"} 1`,
		`sockdog_rule_firing{rule="postgres-close-wait"} 0`,
		`sockdog_rule_stopped{rule="dead-cache"} 1`,
		`sockdog_rule_stopped{rule="idle-backend"} 0`,
		`sockdog_rule_acts{rule="postgres-close-wait"} 1`,
		`sockdog_rule_acts{rule="dead-cache"} 0`,
		`sockdog_actions_total{action="kill",result="done",rule="postgres-close-wait"} 1284`,
		// Zeros of what has not happened yet, or increase() would miss its first time.
		`sockdog_actions_total{action="kill",result="interrupted",rule="postgres-close-wait"} 0`,
		`sockdog_actions_total{action="sysctl",result="failed",rule="ports-run-out"} 0`,
		`sockdog_held_back_total{reason="limit",rule="postgres-close-wait"} 12`,
		`sockdog_held_back_total{reason="limit_of_all_rules",rule="postgres-close-wait"} 0`,
		`sockdog_held_back_total{reason="protected",rule="postgres-close-wait"} 30`,
		`sockdog_held_back_total{reason="mptcp_subflow",rule="dead-cache"} 0`,
		`sockdog_action_possible{action="kill"} 1`,
		`sockdog_action_possible{action="shutdown"} 0`,
		`sockdog_action_lateness_seconds_bucket{le="0.001"} 1`,
		`sockdog_action_lateness_seconds_bucket{le="0.01"} 3`,
		`sockdog_action_lateness_seconds_bucket{le="\+Inf"} 4`,
		`sockdog_action_lateness_seconds_sum 0.0254`,
		`sockdog_action_lateness_seconds_count 4`,
		`sockdog_scans_total{result="ok"} 6240`,
		`sockdog_scans_total{result="failed"} 2`,
		`sockdog_scan_duration_seconds_count 4`,
		`sockdog_scan_interval_seconds 15`,
		`sockdog_scan_interval_wanted_seconds 15`,
		`sockdog_source{kind="events"} 1`,
		`sockdog_source{kind="sock_diag"} 0`,
		`sockdog_namespaces 12`,
		`sockdog_namespaces_left_out 0`,
		`sockdog_namespaces_older 3`,
		`sockdog_events_lost_total 2`,
		`sockdog_events_missed_total 1`,
		`sockdog_rules_last_reload_successful 0`,
		`sockdog_rules_last_reload_success_timestamp_seconds 1.7778529215e\+09`,
		`sockdog_alerts_total{receiver="chat",result="dropped"} 1`,
		`sockdog_alerts_total{receiver="oncall",result="failed"} 0`,
		`process_open_fds \d+`,
		`go_goroutines \d+`,
	} {
		if !regexp.MustCompile("(?m)^" + want + "$").MatchString(text) {
			t.Errorf("no line %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// Why acting is paused stands in a label, as somebody wrote it.
func TestPause(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	s := statustest.Lively(now)
	if text := string(metrics.Text(s)); strings.Contains(text, "sockdog_pause_info") {
		t.Error("there is a reason without a pause")
	}
	s.Paused = &status.Pause{Reason: `the "new" database`, By: "uid 0", Since: now}
	text := string(metrics.Text(s))
	for _, want := range []string{"sockdog_paused 1\n", `sockdog_pause_info{by="uid 0",reason="the \"new\" database"} 1` + "\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %s", want)
		}
	}
}

// What was not read is not zero.
func TestUnreadStates(t *testing.T) {
	text := string(metrics.Text(&status.Status{Sockets: status.Sockets{"close-wait": 0}}))
	if !strings.Contains(text, "sockdog_sockets{state=\"close-wait\"} 0\n") {
		t.Error("the zero of a state that was read is missing")
	}
	if strings.Contains(text, "sockdog_sockets_timestamp_seconds") {
		t.Error("the time of a count that was not made has a number")
	}
	if strings.Contains(text, "time-wait") {
		t.Error("a state that was not read has a number")
	}
}

// The built-in rules were loaded from nowhere.
func TestBuiltInRules(t *testing.T) {
	text := string(metrics.Text(&status.Status{File: status.RulesFile{BuiltIn: true, Loaded: time.Now()}}))
	if !strings.Contains(text, "sockdog_rules_last_reload_success_timestamp_seconds 0\n") {
		t.Errorf("a file was loaded:\n%s", text)
	}
}

func TestBeforeTheFirstStatus(t *testing.T) {
	text := string(metrics.Text(nil))
	if strings.Contains(text, "sockdog_") || !strings.Contains(text, "process_start_time_seconds") {
		t.Errorf("want the metrics of the process and no others:\n%s", text)
	}
}

func TestPromtool(t *testing.T) {
	promtool := realtest.Need(t, "promtool")
	for name, s := range map[string]*status.Status{
		"lively": statustest.Lively(time.Now()),
		"empty":  {},
		"none":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			check := exec.Command(promtool, "check", "metrics")
			check.Stdin = strings.NewReader(string(metrics.Text(s)))
			if out, err := check.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("promtool check metrics: %v\n%s", err, out)
			}
		})
	}
}

func BenchmarkScrape(b *testing.B) {
	s := statustest.Lively(time.Now())
	b.ReportAllocs()
	for b.Loop() {
		metrics.Text(s)
	}
}
