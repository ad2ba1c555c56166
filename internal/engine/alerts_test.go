package engine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules"
)

// TestAlarmCreditsOtherRules: an alert says what rules beside its own did to the
// sockets that it is about, since it began to fire, and nothing of other sockets.
func TestAlarmCreditsOtherRules(t *testing.T) {
	named := func(name string, p uint16) func(*rules.Rule) {
		return func(r *rules.Rule) {
			r.Name, r.For, r.Match[0].Where = name, 0, port(p)
			r.GroupBy, r.When = nil, nil
		}
	}
	grouped := func(r *rules.Rule) {
		r.GroupBy, r.When = []rules.GroupKey{rules.ByDport}, []rules.Condition{more(2)}
	}
	one := func(r *rules.Rule) { r.Then[0].Limit = rules.Limit{N: 1, Per: 5 * time.Second} }
	dry := func(r *rules.Rule) { r.DryRun = true }
	tests := map[string]struct {
		rules []rules.Rule
		alarm string
		want  map[string]Results
	}{
		"groups":          {[]rules.Rule{above(2, keepFiring(time.Hour), named("watch", 80), grouped), above(0, kills, named("cure", 80))}, "watch alert 0 dport=80", map[string]Results{"cure": {{rules.Kill, Done}: 5}}},
		"single sockets":  {[]rules.Rule{above(0, keepFiring(time.Hour), lasting10s, named("watch", 80)), above(0, kills, named("cure", 80))}, "watch alert 0", map[string]Results{"cure": {{rules.Kill, Done}: 5}}},
		"by turns":        {[]rules.Rule{above(2, keepFiring(time.Hour), named("watch", 80), grouped), above(0, kills, named("cure", 80), one)}, "watch alert 0 dport=80", map[string]Results{"cure": {{rules.Kill, Done}: 5}}},
		"in a dry run":    {[]rules.Rule{above(2, keepFiring(time.Hour), named("watch", 80), grouped), above(0, kills, named("cure", 80), dry)}, "watch alert 0 dport=80", map[string]Results{"cure": {{rules.Kill, Would}: 5}}},
		"other sockets":   {[]rules.Rule{above(2, keepFiring(time.Hour), named("watch", 80), grouped), above(0, kills, named("cure", 81))}, "watch alert 0 dport=80", nil},
		"not old enough":  {[]rules.Rule{above(0, keepFiring(time.Hour), lasting10s, named("watch", 80), grouped), above(0, kills, named("cure", 80), func(r *rules.Rule) { r.Match[0].InStateFor = 5 * time.Second })}, "", nil},
		"its own are not": {[]rules.Rule{above(2, named("watch", 80), lasting10s, func(r *rules.Rule) { r.Then = append(above(0, kills).Then, above(0, keepFiring(time.Hour)).Then...) })}, "watch alert 1", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.many(1, 5, 0)
			b.many(10, 5, 0, toPort(81))
			b.rule(eachSecond(tt.rules...))
			b.until(40 * time.Second)
			a, fires := b.alarms[tt.alarm]
			if fires != (tt.alarm != "") {
				t.Fatalf("%q fires: %v; there are %v", tt.alarm, fires, b.events)
			}
			if len(tt.want) == 0 && len(a.ByOthers) == 0 {
				return
			}
			if diff := cmp.Diff(tt.want, a.ByOthers); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
