package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// harm has the first rule stop itself, as if its kills had done harm to a program.
type harm struct{}

func (harm) apply(e *Engine, now sock.Instant) {
	e.stopRule(e.rules[0], match.HolderSpins, sock.Holder{PID: 7, Comm: "leaky"}, now)
}

// A rule that has stopped itself kills nothing, and goes on counting and alerting. What it
// would kill waits, and goes on in order once it is reset.
func TestStoppedRule(t *testing.T) {
	b := newBench(t)
	b.leaks(1, 3, 8*time.Second)
	b.rule(set(killing("r", alsoAlerts)))
	b.until(5 * time.Second)
	b.step(harm{})
	b.until(30 * time.Second)
	held := []string{"8s r kill held 1", "8s r alert 1 count 1", "8s r firing count 1", "9s r kill held 2", "10s r kill held 3"}
	b.want(held...)
	o := b.e.Overview(b.now).Rules[0]
	if o.Stopped == nil || o.Stopped.PID != 7 || o.Held != 3 || o.Sockets != 3 || o.HeldBack[match.RuleStopped] != 3 || o.Firing != 1 {
		t.Errorf("shown: %+v", o)
	}
	if len(b.held) == 0 || b.held[0].Shut != match.RuleStopped {
		t.Errorf("summed up: %+v", b.held)
	}
	b.step(RuleReset{Rule: "other"})
	b.until(40 * time.Second)
	b.step(RuleReset{Rule: "r"})
	b.until(50 * time.Second)
	b.want(append(held, "40s r kill done 1", "40s r kill done 2", "40s r kill done 3", "40s r alert 1 ended", "40s r quiet count 0")...)
	if b.e.Overview(b.now).Rules[0].Stopped != nil || b.noted(RuleGoesOn) != 1 {
		t.Errorf("it is shown as stopped after it was reset; the notes: %v", b.notes)
	}
}

func alsoAlerts(r *rules.Rule) {
	r.Then = append(r.Then, rules.Action{Kind: rules.Alert, Alert: &rules.AlertOptions{}})
}

// A stopped rule stays stopped over reloads and restarts, also while other rules stand in
// for it or it is away, until it says something else.
func TestStoppedRuleStaysStopped(t *testing.T) {
	changed := set(killing("r", limited(999, time.Minute)))
	for _, test := range []struct {
		name  string
		do    func(b *bench)
		stays bool
	}{
		{"reload", func(b *bench) { b.rule(set(killing("r"))) }, true},
		{"removed and back", func(b *bench) { b.rule(set(killing("q"))); b.rule(set(killing("r"))) }, true},
		{"changed", func(b *bench) { b.rule(changed) }, false},
		{"changed and back", func(b *bench) { b.rule(changed); b.rule(set(killing("r"))) }, false},
		{"restart", func(b *bench) { b.restart(set(killing("r"))) }, true},
		{"restart with another rule", func(b *bench) { b.restart(changed) }, false},
		{"others stand in after a restart", func(b *bench) {
			b.restart(set())
			b.step(RulesChanged{Program: match.Compile(&changed), Fallback: true})
			b.restart(set(killing("r")))
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.rule(set(killing("r")))
			b.step(harm{})
			test.do(b)
			b.add(1, time.Minute)
			b.until(40 * time.Second)
			killed := strings.Contains(strings.Join(b.events, "\n"), "kill done")
			if killed == test.stays {
				t.Errorf("stopped %t, want %t: %v", !killed, test.stays, b.events)
			}
			if kept := len(b.stops) == 1; kept != test.stays {
				t.Errorf("on disk: %+v", b.stops)
			}
		})
	}
}

// What a stopped rule wants, a later rule may take.
func TestStoppedRuleYields(t *testing.T) {
	b := newBench(t)
	b.add(1, 5*time.Second)
	b.rule(set(killing("first"), killing("second")))
	b.step(harm{})
	b.until(10 * time.Second)
	want := []string{"5s first kill held 1", "5s first kill changed 1", "5s second kill done 1"}
	if diff := cmp.Diff(want, b.events); diff != "" {
		t.Errorf("reported (-want +got):\n%s", diff)
	}
}
