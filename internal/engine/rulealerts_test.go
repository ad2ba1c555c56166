package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules"
)

// hearOfRules takes in what a plan says of rules themselves.
func (b *bench) hearOfRules(p *Plan) {
	b.t.Helper()
	for _, a := range p.RuleAlerts {
		key := a.Rule + " " + string(a.Kind)
		before, fires := b.problems[key]
		line := fmt.Sprintf("%v %s", b.since(b.now).Truncate(time.Second), key)
		switch {
		case a.Ended != 0 && !fires:
			b.t.Errorf("%s has ended, and did not fire", line)
		case a.Ended != 0:
			b.ofRules = append(b.ofRules, line+" ended")
			delete(b.problems, key)
			continue
		case !fires:
			b.ofRules = append(b.ofRules, line)
		case a.Since != before.Since:
			b.t.Errorf("%s: since %v, and before that since %v", line, b.since(a.Since), b.since(before.Since))
		}
		b.problems[key] = a
	}
}

// Receivers are alerted of a rule that has stopped itself, until somebody sees to it.
func TestAlertOfStoppedRule(t *testing.T) {
	r, changed := killing("r"), killing("r", limited(999, time.Minute))
	for _, test := range []struct {
		name string
		do   func(b *bench) // a minute later
		want []string
	}{
		{"nobody comes", func(*bench) {}, []string{"5s r stopped"}},
		{"it is reset", func(b *bench) { b.step(RuleReset{Rule: "r"}) }, []string{"5s r stopped", "1m0s r stopped ended"}},
		{"it is changed", func(b *bench) { b.rule(set(changed)) }, []string{"5s r stopped", "1m0s r stopped ended"}},
		{"it is removed", func(b *bench) { b.rule(set()) }, []string{"5s r stopped", "1m0s r stopped ended"}},
		{"it becomes a dry run", func(b *bench) { b.rule(set(killing("r", dryRun))) }, []string{"5s r stopped", "1m0s r stopped ended"}},
		{"other rules are loaded beside it", func(b *bench) { b.rule(set(killing("q"), r)) }, []string{"5s r stopped"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.rule(set(r))
			b.until(5 * time.Second)
			b.step(harm{})
			b.until(time.Minute)
			test.do(b)
			b.until(20 * time.Minute)
			if diff := cmp.Diff(test.want, b.ofRules); diff != "" {
				t.Errorf("said (-want +got):\n%s", diff)
			}
		})
	}
}

// It goes on over a restart, since the same instant, and is said to receivers that are new.
func TestAlertOfStoppedRuleIsSaidAgain(t *testing.T) {
	b := newBench(t)
	b.rule(set(killing("r")))
	b.step(harm{})
	stopped := b.problems["r stopped"]
	for name, do := range map[string]func(){
		"restart":                 func() { b.restart(set(killing("r"))) },
		"reload":                  func() { b.rule(set(killing("r"))) },
		"a minute without either": func() {},
	} {
		clear(b.problems)
		do()
		b.until(b.since(b.now) + 61*time.Second)
		if diff := cmp.Diff(stopped, b.problems["r stopped"]); diff != "" {
			t.Errorf("%s: said again (-before +after):\n%s", name, diff)
		}
	}
}

// A rule that comes and goes beyond max_matches is one alert, which ends some time after it
// has stayed below.
func TestAlertOfTooManyMatches(t *testing.T) {
	for _, test := range []struct {
		dry  bool
		want []string
	}{{false, []string{"0s r max_matches", "10m1s r max_matches ended"}}, {true, nil}} {
		b := newBench(t)
		r := killing("r", func(r *rules.Rule) { r.Then[0].MaxMatches, r.DryRun = 20, test.dry })
		b.many(1, 30, time.Minute)
		b.rule(set(r))
		b.until(time.Second)
		if a := b.problems["r max_matches"]; !test.dry && (a.Sockets != 30 || a.MaxSockets != 20) {
			t.Errorf("said %+v", a)
		}
		for minute := range 6 { // above it in each even one
			b.until(time.Duration(minute) * time.Minute)
			for c := range uint64(30) {
				delete(b.sockets, 1+c)
			}
			if minute%2 == 0 {
				b.many(1, 30, time.Minute)
			}
		}
		b.until(20 * time.Minute)
		if diff := cmp.Diff(test.want, b.ofRules); diff != "" {
			t.Errorf("said in a dry run %v (-want +got):\n%s", test.dry, diff)
		}
	}
}

// That killing is not the cure is said once for all programs of a rule, and ends when their
// leaks have not come back for long.
func TestAlertOfLeaksThatReturn(t *testing.T) {
	b := newPrograms(t, 0.1, 0.1)
	for i := range uint64(5) {
		at := time.Duration(i) * 10 * time.Minute
		b.add(1+i, -at)
		b.add(101+i, -at-time.Minute)
	}
	b.rule(set(killing("r")))
	b.until(45 * time.Minute)
	if a := b.problems["r leak"]; len(a.LeaksReturn) != 2 || a.LeaksReturn[0].PID != 101 || a.LeaksReturn[0].Returns != 4 {
		t.Errorf("said %+v", a.LeaksReturn)
	}
	b.until(4 * time.Hour)
	want := []string{"30m10s r leak", "1h26m10s r leak ended"}
	if diff := cmp.Diff(want, b.ofRules); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
}

// Programs that spin after kills are alerted of until they have been quiet for a while, but not
// beside that the rule stopped itself for that.
func TestAlertOfSpinningPrograms(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*rules.Rule)
		want   []string
	}{
		{"the rule leaves them alone", func(*rules.Rule) {}, []string{"11s r spin", "5m44s r spin ended"}},
		{"the rule stops itself", canaries(), []string{"11s r stopped"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newPrograms(t, 0.002)
			b.spinsWhenKilled(101, 0.9)
			b.leaks(1, 20, 8*time.Second)
			b.rule(set(killing("r", test.change)))
			b.until(40 * time.Second)
			b.programs[101].Uses(0, b.now)
			b.until(20 * time.Minute)
			if diff := cmp.Diff(test.want, b.ofRules); diff != "" {
				t.Errorf("said (-want +got):\n%s", diff)
			}
		})
	}
}

// The alerts go where those of the rule go, and of a rule without an alert to all receivers.
func TestReceiversOfRuleAlerts(t *testing.T) {
	to := func(names ...string) rules.Action {
		return rules.Action{Kind: rules.Alert, Alert: &rules.AlertOptions{To: names}}
	}
	for _, test := range []struct {
		name string
		then []rules.Action
		want []string // none: all
	}{
		{"no alert", nil, nil},
		{"one that names none", []rules.Action{to()}, nil},
		{"several", []rules.Action{to("chat"), to("oncall", "chat")}, []string{"chat", "oncall"}},
		{"one that names some, and one that names none", []rules.Action{to("chat"), to()}, nil},
	} {
		b := newBench(t)
		b.rule(set(killing("r", func(r *rules.Rule) { r.Then = slices.Concat(r.Then, test.then) })))
		b.step(harm{})
		b.until(time.Second)
		if diff := cmp.Diff(test.want, b.problems["r stopped"].To); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
