package alerting_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/alerting"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const start = sock.Instant(1000 * time.Second)

// told is what updates said of alerts, and what was begun.
type told struct {
	lines []string
	began int
}

func (t *told) hear(at sock.Instant, alerts []alerting.Alert) {
	var lines []string
	for _, a := range alerts {
		peer := "all"
		if len(a.Group) > 0 {
			peer = a.Group[0].Value
		}
		if a.Overflow > 0 {
			peer = fmt.Sprint(a.Overflow, " more")
		}
		line := fmt.Sprintf("%v action %d %s count %d", at.Sub(start), a.Action, peer, a.Count)
		if a.Ended != 0 {
			line += fmt.Sprintf(" ended %v", a.Ended.Sub(start))
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	t.lines = append(t.lines, lines...)
}

// TestUpdate: an alert begins with its group, or so long after, is said with each
// sample, and ends so long after the group as keep_firing_for says.
func TestUpdate(t *testing.T) {
	alert := func(after, keep time.Duration) rules.Action {
		return rules.Action{Kind: rules.Alert, After: after, Alert: &rules.AlertOptions{KeepFiringFor: keep}}
	}
	for _, test := range []struct {
		name   string
		then   []rules.Action
		dry    bool
		counts []int // sockets, second by second; below 0: there is no sample
		want   []string
		began  int
	}{
		{"begins and ends", []rules.Action{alert(0, 0)}, false, []int{0, 3, 4, 0}, []string{"1s action 0 all count 3", "2s action 0 all count 4", "3s action 0 all count 0 ended 3s"}, 1},
		{"goes on for a while", []rules.Action{alert(0, 2*time.Second)}, false, []int{3, 0, -1, -1}, []string{"0s action 0 all count 3", "1s action 0 all count 0", "3s action 0 all count 0 ended 3s"}, 1},
		{"begins later", []rules.Action{alert(2*time.Second, 0)}, false, []int{3, -1, -1}, []string{"2s action 0 all count 3"}, 1},
		{"does not begin", []rules.Action{alert(2*time.Second, 0)}, false, []int{3, 0, -1}, nil, 0},
		{"two of them", []rules.Action{alert(0, 0), {Kind: rules.Log}, alert(time.Second, 0)}, false, []int{3, -1}, []string{"0s action 0 all count 3", "1s action 2 all count 3"}, 2},
		{"a dry run sends nothing", []rules.Action{alert(0, 0)}, true, []int{3, 0}, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			rule := &match.Rule{Rule: rules.Rule{DryRun: test.dry, Then: test.then}}
			groups := group.NewSet(rule)
			alerts := alerting.New(rule, groups, sock.Never)
			groups.Scanned(start)
			var got told
			for i, n := range test.counts {
				now := start.Add(time.Duration(i) * time.Second)
				if n >= 0 {
					groups.TakeDue(n, 0, nil, now)
					alerts.Sampled()
				}
				if alerts.Pending(now) {
					u := alerts.Update(now, func(*group.Group) {})
					got.hear(now, u.Alerts)
					got.began += u.Began
				}
			}
			if diff := cmp.Diff(test.want, got.lines); diff != "" || got.began != test.began {
				t.Errorf("%d began, want %d; said (-want +got):\n%s", got.began, test.began, diff)
			}
		})
	}
}

// TestOverflow: of many groups the first ones alert one by one and the rest as one,
// and all end with their rule.
func TestOverflow(t *testing.T) {
	p := match.Compile(&rules.Set{Rules: []rules.Rule{{
		Enabled: true, GroupBy: []rules.GroupKey{rules.ByDport}, Match: []rules.Match{{States: ssfilter.AllStates}},
		When: []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 0}},
		Then: []rules.Action{{Kind: rules.Alert, Alert: &rules.AlertOptions{}}},
	}}})
	groups := group.NewSet(&p.Rules[0])
	tally := groups.Tally()
	tally.Begin()
	for port := range uint16(group.MaxAlerts + 7) {
		s := sock.Socket{ID: sock.ID{Cookie: uint64(port) + 1}}
		s.State = ssfilter.Established
		s.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), port)
		tally.Add(subject.Of(&s), start)
	}
	groups.Take(tally, nil, start, start, time.Minute)
	alerts := alerting.New(&p.Rules[0], groups, sock.Never)
	alerts.Sampled()
	u := alerts.Update(start, func(*group.Group) {})
	if n := len(u.Alerts); n != group.MaxAlerts+1 || u.Alerts[n-1].Overflow != 7 || u.Alerts[n-1].Count != 7 || u.Began != n {
		t.Errorf("%d alerts, %d began, the last is %+v", n, u.Began, u.Alerts[n-1])
	}
	ended := alerts.Resolve(start.Add(time.Second), func(*group.Group) {})
	var got told
	got.hear(start.Add(time.Second), ended)
	if len(ended) != group.MaxAlerts+1 || slices.ContainsFunc(got.lines, func(l string) bool { return !strings.HasSuffix(l, "ended 1s") }) {
		t.Errorf("%d alerts end with the rule: %v", len(ended), got.lines)
	}
}
