package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// TestExamplesStayAsTold: another goroutine reads them.
func TestExamplesStayAsTold(t *testing.T) {
	b := newBench(t)
	b.slow = true
	b.many(1, 5, time.Minute)
	r := above(3, kills, func(r *rules.Rule) {
		r.For = 0
		r.Then[0].Limit = rules.Limit{N: 1, Per: time.Hour}
		r.Then = append(r.Then,
			rules.Action{Kind: rules.Alert, Notice: &rules.Notice{}},
			rules.Action{Kind: rules.Alert, After: 25 * time.Second, Notice: &rules.Notice{Severity: "critical"}})
	})
	s := set(r)
	s.Settings.Interval = 20 * time.Second
	b.rule(s)
	b.until(21 * time.Second)
	var first Alarm
	for _, a := range b.alarms {
		first = a
	}
	t.Log(b.events)
	in := Owned{Complete: true, Holders: map[uint32][]sock.Owner{}}
	for c := range b.sockets {
		in.Holders[uint32(c)] = []sock.Owner{{PID: 7, Comm: "leaky"}}
	}
	b.step(in)
	b.until(26 * time.Second)
	learnt := 0
	for _, a := range b.alarms {
		for _, x := range a.Examples {
			if x.Owners != nil {
				learnt++
			}
		}
	}
	if learnt == 0 {
		t.Error("what was learnt of the holders is not told")
	}
	t.Log(b.events)
	for _, x := range first.Examples {
		if x.Owners != nil {
			t.Fatalf("what was handed out at 20s was changed at 25s: %+v", x)
		}
	}
}

// TestHeldIsNotDone: what a limit held back for a while has become something else since.
func TestHeldIsNotDone(t *testing.T) {
	b := newBench(t)
	b.many(1, 5, time.Minute)
	b.rule(eachSecond(above(3, kills, func(r *rules.Rule) {
		r.For = 0
		r.Until = []rules.Condition{fewer(1)}
		r.Then[0].Limit = rules.Limit{N: 1, Per: 10 * time.Second}
		r.Then = append(r.Then, rules.Action{Kind: rules.Alert, Notice: &rules.Notice{KeepFiringFor: 5 * time.Minute}})
	})))
	b.until(2 * time.Minute)
	for k, a := range b.alarms {
		if a.Done[Held] > 0 && a.Count == 0 {
			t.Errorf("%s: no socket is left, and the alert says %v", k, a.Done)
		}
	}
}

// TestExamplesOfSmallGroups: those that fire have examples, however small beside others.
func TestExamplesOfSmallGroups(t *testing.T) {
	for name, when := range map[string]rules.Condition{
		"too few": fewer(5), "growth": {Metric: rules.Growth, Op: rules.Greater, Number: 1},
	} {
		b := newBench(t)
		for i := range 120 {
			b.many(uint64(1+100*i), 20, time.Minute, toPort(byte(i+1)))
		}
		b.rule(eachSecond(above(0, func(r *rules.Rule) { r.For, r.When = 0, []rules.Condition{when} })))
		b.until(500 * time.Millisecond)
		b.many(50_000, 4, 0, toPort(200), b.begun)
		b.until(2500 * time.Millisecond)
		b.many(50_010, 4, 0, toPort(201), b.begun)
		if name == "growth" {
			b.many(50_020, 10, 0, toPort(201), b.begun)
		}
		b.until(4500 * time.Millisecond)
		for k, a := range b.alarms {
			if len(a.Examples) == 0 {
				t.Errorf("%s: %s of %d sockets fires, and none of them is an example: nobody is asked who holds them", name, k, a.Count)
			}
		}
		if len(b.alarms) == 0 {
			t.Error(name, "no alarm", b.events)
		}
	}
}

// TestPeak: the alarm says how many there were at most since it fires, and anew where
// it fires again.
func TestPeak(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Minute)
	b.rule(eachSecond(above(3, func(r *rules.Rule) { r.For = 0 }, keepFiring(time.Hour))))
	peak := func(at time.Duration, count, want int) {
		t.Helper()
		b.until(at)
		for _, a := range b.alarms {
			if a.Count != count || a.Peak != want {
				t.Errorf("after %v: %d, at most %d, want %d and %d", at, a.Count, a.Peak, count, want)
			}
		}
	}
	b.many(11, 3, time.Minute)
	peak(1500*time.Millisecond, 7, 7)
	for c := range uint64(3) {
		delete(b.sockets, 11+c)
	}
	peak(2500*time.Millisecond, 4, 7)
	delete(b.sockets, 1)
	peak(3500*time.Millisecond, 3, 7)
	b.many(1, 2, time.Minute)
	peak(4500*time.Millisecond, 4, 4)
}
