// Package statustest makes a Status in which everything occurs, for the tests of
// what shows one.
package statustest

import (
	"math"
	"net/netip"
	"time"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/status"
)

// Lively is the status of a daemon that has been busy for the hour before now: a
// leak that is cured each few minutes, a flood that nears its threshold, a rule
// that was stopped, and some trouble. The same now gives the same status.
func Lively(now time.Time) *status.Status {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	return &status.Status{
		Version: "v0.4.0", Host: "shop-7f9c", Netns: "4026531840",
		Time: now, Started: ago(26 * time.Hour), Ready: true,
		Problems: status.Problems{
			{
				Kind: "receiver", Text: "receiver chat: 3 alerts wait: POST: 503 Service Unavailable",
				Cure: "see whether it is up; alerts that still fire are sent as soon as it answers", Since: ago(7 * time.Minute),
			},
			{
				Kind: "reload", Text: "rules.yaml:12:7: unknown key \"dprot\": did you mean dport?",
				Cure: "the rules of before stay in force; sockdog check shows the mistakes", Since: ago(95 * time.Second),
			},
		},
		Notes: status.Problems{{
			Kind: "holders", Text: "the descriptors of 1 of 12 processes cannot be read, of pause[1] for one", Since: ago(26 * time.Hour),
		}},
		File: status.RulesFile{
			Path: "/etc/sockdog/rules.yaml", Error: "12:7: unknown key \"dprot\": did you mean dport?", Loaded: ago(3 * time.Hour),
		},
		Rules:   lively(ago),
		Sockets: socketsAt(now, now), SocketsAt: ago(3 * time.Second), SocketsEverySeconds: 5,
		History: history(now),
		Actions: actions(ago),
		ActionPossible: map[string]bool{
			"alert": true, "exec": true, "kill": true, "log": true, "shutdown": false, "signal": true, "sysctl": true,
		},
		Lateness: histogram(status.NewLateness(), 400*time.Microsecond, 3*time.Millisecond, 8*time.Millisecond, 14*time.Millisecond),
		Scans: status.Scans{
			OK: 6240, Failed: 2, IntervalSeconds: 15, WantedSeconds: 15,
			Duration: histogram(status.NewScanDurations(), 3*time.Millisecond, 4*time.Millisecond, 4*time.Millisecond, 33*time.Millisecond),
		},
		Receivers: []status.Receiver{{Name: "oncall", Sent: 184}, {Name: "chat", Sent: 12, Failed: 9, Dropped: 1}},
	}
}

func histogram(h status.Histogram, observed ...time.Duration) status.Histogram {
	for _, d := range observed {
		h.Observe(d)
	}
	return h
}

func lively(ago func(time.Duration) time.Time) []status.Rule {
	above := func(metric string, value, threshold float64, unit string) []status.Condition {
		return []status.Condition{{Metric: metric, Op: ">", Threshold: threshold, Unit: unit, Value: value, Near: min(1, value/threshold)}}
	}
	backend := func(dst string) map[string]string { return map[string]string{"dport": "443", "dst": dst} }
	firstDue := 34.0
	return []status.Rule{
		{
			Name: "postgres-close-wait", Description: "The pool forgets to close what the database has closed", Mode: status.Enabled,
			Text:    "close-wait, dport = :5432, in_state_for 5m: kill",
			Sockets: 3, Candidates: 46, OldestSeconds: 311, Held: 2, FirstDueSeconds: &firstDue,
			Actions:  map[string]status.Tally{"kill": {"done": 1284, "gone": 31, "held": 12}},
			HeldBack: map[string]uint64{"limit": 12, "protected": 30, "in_use": 2},
		},
		{
			Name: "time-wait-flood", Mode: status.Enabled, Text: "time-wait; when count > 20000 by dst, dport for 1m: alert",
			Sockets: 27114, Candidates: 27114, OldestSeconds: 59.4, Firing: 1, Pending: 1,
			Groups: []status.Group{
				{Labels: backend("10.20.0.14"), Phase: status.Firing, Since: ago(11 * time.Minute), Conditions: above("count", 21304, 20000, "")},
				{Labels: backend("10.20.0.15"), Phase: status.Pending, Since: ago(20 * time.Second), Conditions: above("count", 20011, 20000, "")},
				{Labels: backend("2001:db8::15"), Phase: status.Quiet, Conditions: above("count", 4102, 20000, "")},
			},
			Actions: map[string]status.Tally{"alert": {"done": 11}},
		},
		{
			Name: "ports-run-out", Description: "Ephemeral ports in use towards one backend", Mode: status.Enabled,
			Text:    "all sockets; when port_usage > 80% and growth > 10/m by dst: alert, sysctl",
			Sockets: 912, Candidates: 912, OldestSeconds: 5400,
			Groups: []status.Group{{
				Labels: map[string]string{"dst": "10.20.0.14"}, Phase: status.Quiet,
				Conditions: append(above("port_usage", 76.5, 80, "%"), above("growth", 38, 10, "/m")...),
			}},
			Actions: map[string]status.Tally{"alert": {}, "sysctl": {}},
		},
		{
			Name: "dead-cache", Mode: status.Stopped, Text: "established, dport = :6379, stalled_for 30m: kill", Sockets: 18, Candidates: 18, OldestSeconds: 9312,
			Actions:  map[string]status.Tally{"kill": {"done": 1}},
			HeldBack: map[string]uint64{"limit_of_all_rules": 2},
		},
		{
			Name: "idle-backend", Mode: status.DryRun, Text: "established, dport = :8080, idle_for 20m: shutdown", Candidates: 7, OldestSeconds: 1210,
			Actions: map[string]status.Tally{"shutdown": {"would": 5}},
		},
		{Name: "old-rule", Mode: status.Disabled, Text: "syn-sent: log", Actions: map[string]status.Tally{"log": {}}},
	}
}

// socketsAt is how many sockets there were at an instant of the hour before now.
func socketsAt(at, now time.Time) status.Sockets {
	m := now.Sub(at).Minutes()
	wave := func(period float64) float64 { return math.Sin(2 * math.Pi * m / period) }
	saw := func(period float64) float64 { return 1 - math.Mod(m, period)/period }
	return status.Sockets{
		"close-wait":  uint64(46 * saw(11)),
		"time-wait":   uint64(18000 + 9000*wave(25) + 114*wave(3)),
		"established": uint64(880 + 60*wave(40) + 25*wave(7)),
		"fin-wait-1":  uint64(3 + 3*wave(5)),
		"fin-wait-2":  uint64(12 + 8*wave(9)),
		"last-ack":    0,
		"closing":     0,
		"syn-sent":    uint64(max(0, 14*wave(31)-9)),
		"syn-recv":    0,
		"listening":   9,
		"closed":      0,
	}
}

// history is the hour before now. For three minutes of it nothing was read.
func history(now time.Time) *status.History {
	var r status.Recorder
	for at := now.Add(-time.Hour + 15*time.Second); !at.After(now); at = at.Add(15 * time.Second) {
		if ago := now.Sub(at); ago < 21*time.Minute || ago >= 24*time.Minute {
			r.Record(at, socketsAt(at, now))
		}
	}
	return r.History(now)
}

func actions(ago func(time.Duration) time.Time) []journal.Record {
	client := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("10.1.4.22"), port)
	}
	database := netip.MustParseAddrPort("10.20.0.9:5432")
	leaked := journal.Record{
		Time: ago(41 * time.Second), Rule: "postgres-close-wait", Action: "kill", Result: journal.Done,
		Reason: "close-wait for 5m0.01s (at least 5m0s)", Netns: "4026531840", Src: client(40312), Dst: database, State: "close-wait",
		InStateFor: 5 * time.Minute, IdleFor: 5 * time.Minute, Cookie: 7341, Inode: 918273, UID: 1000, PID: 4711, Comm: "java",
	}
	gone, changed, would, failed := leaked, leaked, leaked, leaked
	gone.Time, gone.Result, gone.Reason, gone.Src = ago(44*time.Second), journal.Gone, "it ended by itself", client(40310)
	changed.Time, changed.Result, changed.Reason, changed.Src = ago(58*time.Second), journal.Changed, "it is in use again", client(40308)
	would.Time, would.Rule, would.Action, would.Result, would.DryRun = ago(4*time.Minute), "idle-backend", "shutdown", journal.Would, true
	would.Reason, would.State, would.Src = "idle for 20m10s (at least 20m0s)", "established", client(51822)
	would.Dst = netip.MustParseAddrPort("[2001:db8::15]:8080")
	failed.Time, failed.Rule, failed.Result = ago(31*time.Minute), "dead-cache", journal.Failed
	failed.Reason = "the canary's owner spins: 4711 (java) took 98% of a core after the kill"
	fired := journal.Record{
		Time: ago(11 * time.Minute), Rule: "time-wait-flood", Action: "group", Result: journal.Firing, Reason: "count 20412 (count > 20000), for 1m0s",
		Netns: "4026531840", Group: map[string]string{"dst": "10.20.0.14", "dport": "443"}, Sockets: 20412,
	}
	return []journal.Record{leaked, gone, changed, would, fired, failed}
}
