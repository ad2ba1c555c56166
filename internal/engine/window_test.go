package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/rules"
)

// TestLimitMadeLonger: what was done under a shorter limit counts in the longer one that a
// reload brings, also where other rules were in force meanwhile.
func TestLimitMadeLonger(t *testing.T) {
	short, long := limited(2, time.Second), limited(2, time.Minute)
	ofAll := func(s rules.Set, per time.Duration) rules.Set {
		s.Settings.Limit = rules.Limit{N: 2, Per: per}
		return s
	}
	for _, test := range []struct {
		name  string
		rules []rules.Set // ten seconds each
	}{
		{"of the rule", []rules.Set{set(killing("r", short)), set(killing("r", long))}},
		{"of its dry run", []rules.Set{set(killing("r", short, dryRun)), set(killing("r", long, dryRun))}},
		{"of the rule, with another for a while", []rules.Set{set(killing("r", short)), set(killing("q", logging)), set(killing("r", long))}},
		{"of all rules", []rules.Set{ofAll(set(killing("r", short)), time.Second), ofAll(set(killing("r", short)), time.Minute)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			for c := range uint64(2) {
				b.add(1+c, time.Minute)
			}
			for i, s := range test.rules {
				b.rule(s)
				b.until(time.Duration(i+1) * 10 * time.Second)
				if i == 0 {
					for c := range uint64(4) {
						b.add(11+c, time.Minute)
					}
					s.Rules = nil
					b.rule(s) // so that those are left for the next
				}
			}
			acted := func() int { return len(b.kills()) + b.said("would") }
			b.until(55 * time.Second)
			if n := acted(); n != 2 {
				t.Errorf("%d acts within the first minute, want 2: %v", n, b.events)
			}
			b.until(100 * time.Second)
			if n := acted(); n != 4 {
				t.Errorf("%d acts in the next minute, too, want 4: %v", n, b.events)
			}
		})
	}
}

// signalling has three processes leak, and a rule that sends TERM to two of them in ten minutes
// and KILL to one in one.
func signalling(t *testing.T) (*bench, rules.Set) {
	b := newPrograms(t, 0.1, 0.1, 0.1)
	for c := range uint64(3) {
		b.add(1+100*c, time.Minute)
	}
	return b, set(above(0, func(r *rules.Rule) {
		r.GroupBy = []rules.GroupKey{rules.ByPID}
		r.Then = []rules.Action{
			{Kind: rules.Signal, Signal: &rules.SignalOptions{Signal: "TERM"}, Limit: rules.Limit{N: 2, Per: 10 * time.Minute}},
			{Kind: rules.Signal, Signal: &rules.SignalOptions{Signal: "KILL"}, Limit: rules.Limit{N: 1, Per: time.Minute}, After: time.Minute},
		}
	}))
}

// reported is when actions on groups were reported so.
func (b *bench) reported(words string) (at []string) {
	for _, e := range b.events {
		if when, is := strings.CutSuffix(e, " r "+words); is {
			at = append(at, when)
		}
	}
	return at
}

// TestLimitsOfSignals: where the signals of a rule have limits of different length, each keeps
// its own, by all signals that were sent. Each counts on disk for as long as the longest.
func TestLimitsOfSignals(t *testing.T) {
	for result, dry := range map[string]bool{"done": false, "would": true} {
		t.Run(result, func(t *testing.T) {
			b, rule := signalling(t)
			rule.Rules[0].DryRun = dry
			b.rule(rule)
			b.until(20 * time.Minute)
			// TERM to two processes and KILL to both, and only when the first KILL is ten minutes ago
			// TERM to the third, for all of them count.
			want := []string{"10s", "10s", "1m10s", "2m10s", "11m10s", "12m10s"}
			if got := b.reported("signal " + result); !slices.Equal(got, want) {
				t.Errorf("sent at %v, want %v", got, want)
			}
			for _, spent := range b.spent {
				if lasts := spent.Expires.Sub(spent.At); lasts < 10*time.Minute {
					t.Errorf("a signal counts on disk for %v", lasts)
				}
			}
		})
	}
}

// TestLimitOfExec: programs that are run count in the limit of their rule, also where they fail,
// after a reload and a restart, and in no other.
func TestLimitOfExec(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		dry  bool
		do   func(b *bench, s rules.Set)
		want string // what is reported
		at   []string
	}{
		{"they end well", nil, false, nil, "exec done", []string{"10s", "10s", "10m10s"}},
		{"they fail", errors.New("exit status 1"), false, nil, "exec failed", []string{"10s", "10s", "10m10s"}},
		{"a dry run", nil, true, nil, "exec would", []string{"10s", "10s", "10m10s"}},
		{"a reload", nil, false, (*bench).rule, "exec done", []string{"10s", "10s", "10m10s"}},
		{"a restart", nil, false, (*bench).restart, "exec done", []string{"10s", "10s", "10m16s", "10m16s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := signalling(t)
			b.groupErr = test.err
			s := set(above(0, func(r *rules.Rule) {
				r.GroupBy, r.DryRun = []rules.GroupKey{rules.ByPID}, test.dry
				r.Then = []rules.Action{{Kind: rules.Exec, Exec: &rules.ExecOptions{}, Limit: rules.Limit{N: 2, Per: 10 * time.Minute}}}
			}))
			b.rule(s)
			b.until(5 * time.Minute)
			if test.do != nil {
				test.do(b, s)
			}
			b.until(11 * time.Minute)
			if got := b.reported(test.want); !slices.Equal(got, test.at) {
				t.Errorf("run at %v, want %v", got, test.at)
			}
			if !b.e.limit.Idle(b.now) {
				t.Error("they count in the limit of all rules")
			}
		})
	}
}

// TestLimitsOfGroupsAreSaid: of an action on a group that a limit holds back it is said once, and
// nothing of what waits behind it.
func TestLimitsOfGroupsAreSaid(t *testing.T) {
	for name, dry := range map[string]bool{"in force": false, "a dry run": true} {
		t.Run(name, func(t *testing.T) {
			b, rule := signalling(t)
			rule.Rules[0].DryRun = dry
			b.rule(rule)
			b.until(5 * time.Minute)
			// TERM to the third process, and KILL to the second.
			if n := len(b.reported("signal held")); n != 2 {
				t.Errorf("said %d times, want 2: %v", n, b.events)
			}
			if o := b.e.Overview(b.now).Rules[0]; o.HeldBack[match.RuleLimit] != 2 {
				t.Errorf("held back %v", o.HeldBack)
			}
		})
	}
}

// TestGentlestSignalFirst: a signal that a limit holds back comes before the harder ones after it,
// whatever these have limits of.
func TestGentlestSignalFirst(t *testing.T) {
	b, rule := signalling(t)
	sent := make(map[int]string) // to each process
	b.signal = func(a *GroupAction) { sent[a.Process.PID] += " " + a.Action.Signal.Signal }
	b.rule(rule)
	b.until(40 * time.Minute)
	want := map[int]string{101: " TERM KILL", 102: " TERM KILL", 103: " TERM KILL"}
	if diff := cmp.Diff(want, sent); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}
