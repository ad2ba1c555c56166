package group_test

import (
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

// TestPIDGivenAway: of two processes with one pid, that the group of the first has ended is
// said before that the one of the second fires, whose labels are the same: so say the alerts.
func TestPIDGivenAway(t *testing.T) {
	const start = sock.Instant(1000 * time.Second)
	rule := &match.Compile(&rules.Set{Rules: []rules.Rule{{
		Enabled: true, Match: []rules.Match{{States: ssfilter.AllStates}}, GroupBy: []rules.GroupKey{rules.ByPID},
		When: []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 0}}, For: time.Second,
		Then: []rules.Action{{Kind: rules.Alert, Alert: &rules.AlertOptions{KeepFiringFor: time.Second}}},
	}}}).Rules[0]
	for range 50 { // a map has no order
		groups := group.NewSet(rule)
		alerts := alerting.New(rule, groups, sock.Never)
		scan := func(now sock.Instant, starts ...uint64) (said []string) {
			tally := groups.Tally()
			tally.Begin()
			for _, started := range starts {
				s := sock.Socket{ID: sock.ID{Cookie: started}, Inode: uint32(started)}
				s.State = ssfilter.Established
				tally.Add(subject.Subject{Socket: &s, Holders: &subject.Holders{Complete: true, Processes: []sock.Holder{{PID: 7, Start: started}}}}, now)
			}
			for _, c := range groups.Take(tally, nil, now, now, time.Minute).Transitions {
				said = append(said, string(c.To)+" "+c.Group[0].Value)
			}
			alerts.Sampled()
			for _, a := range alerts.Update(now, func(*group.Group) {}).Alerts {
				if a.Ended != 0 {
					said = append(said, "ended "+a.Group[0].Value)
				} else {
					said = append(said, "alert "+a.Group[0].Value)
				}
			}
			return said
		}
		scan(start, 1)
		scan(start.Add(time.Second), 1, 2)
		got := [][]string{scan(start.Add(2*time.Second), 2), scan(start.Add(3*time.Second), 2)}
		if diff := cmp.Diff([][]string{{"quiet 7", "firing 7", "alert 7", "alert 7"}, {"ended 7", "alert 7"}}, got); diff != "" {
			t.Fatal(diff)
		}
	}
}
