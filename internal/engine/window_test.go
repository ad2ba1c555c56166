package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// signalled is when signals were sent.
func (b *bench) signalled() (at []string) {
	for _, e := range b.events {
		if when, done := strings.CutSuffix(e, " r signal done"); done {
			at = append(at, when)
		}
	}
	return at
}

// TestLimitsOfSignals: where the signals of a rule have limits of different length, each keeps
// its own, by all signals that were sent. Each counts on disk for as long as the longest.
func TestLimitsOfSignals(t *testing.T) {
	b, rule := signalling(t)
	b.rule(rule)
	b.until(20 * time.Minute)
	// TERM to two processes and KILL to both, and only when the first KILL is ten minutes ago TERM
	// to the third, for all of them count.
	if want := []string{"10s", "10s", "1m10s", "2m10s", "11m10s", "12m10s"}; !slices.Equal(b.signalled(), want) {
		t.Errorf("sent at %v, want %v", b.signalled(), want)
	}
	for _, spent := range b.spent {
		if lasts := spent.Expires.Sub(spent.At); lasts < 10*time.Minute {
			t.Errorf("a signal counts on disk for %v", lasts)
		}
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
