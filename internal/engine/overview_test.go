package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/schedule"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestOverview(t *testing.T) {
	b := newBench(t)
	b.many(1, 3, time.Minute)
	b.add(4, time.Second)
	b.add(5, time.Minute, toPort(22))
	b.add(6, time.Minute, func(s *sim.Socket) { s.Inode = 0 })
	b.add(7, time.Minute, func(s *sim.Socket) { s.Queued = benchStart })
	b.rule(eachSecond(
		killing("kill", limited(2, time.Hour)),
		above(5, func(r *rules.Rule) { r.Name, r.Description, r.For = "above", "Too many.", time.Hour }),
		above(9, func(r *rules.Rule) { r.Name = "far" }),
		killing("off", disabled), killing("dry", dryRun, matching(where("dport = 9"))),
	))
	o := b.e.Overview(b.now)
	want := []RuleOverview{
		{Name: "kill", Enabled: true, Sockets: 6, Candidates: 7, HeldBy: []ProcessSockets{{"none", 1}, {"unknown", 5}}, Oldest: time.Minute + benchJiffy, FirstDue: 9*time.Second + benchJiffy, Held: 1,
			Results:  Results{{rules.Kill, Done}: 2, {rules.Kill, Held}: 1},
			HeldBack: map[match.Reason]uint64{"limit": 1, "protected": 1, "in_accept_queue": 1, "in_use": 1}},
		{Name: "above", Description: "Too many.", Enabled: true, Sockets: 7, Candidates: 7, HeldBy: []ProcessSockets{{"none", 1}, {"unknown", 6}}, FirstDue: Never, When: []rules.Condition{more(5)}, Pending: 1,
			Groups: []group.Overview{
				{Group: []subject.Label{{Name: "dport", Value: "80"}}, Phase: group.Pending, Since: benchStart, Measured: group.Measured{Count: 6}},
				{Group: []subject.Label{{Name: "dport", Value: "22"}}, Phase: group.Quiet, Measured: group.Measured{Count: 1}},
			}},
		{Name: "far", Enabled: true, Sockets: 7, Candidates: 7, HeldBy: []ProcessSockets{{"none", 1}, {"unknown", 6}}, FirstDue: Never, When: []rules.Condition{more(9)},
			Groups: []group.Overview{
				{Group: []subject.Label{{Name: "dport", Value: "80"}}, Phase: group.Quiet, Measured: group.Measured{Count: 6}},
				{Group: []subject.Label{{Name: "dport", Value: "22"}}, Phase: group.Quiet, Measured: group.Measured{Count: 1}},
			}},
		{Name: "off", FirstDue: Never},
		{Name: "dry", Enabled: true, DryRun: true, FirstDue: Never},
	}
	for i := range o.Rules {
		r := &o.Rules[i]
		if i > 0 { // what follows from the others
			r.Oldest, r.Results, r.HeldBack = 0, nil, nil
		} else if r.Oldest < time.Minute-2*benchJiffy || r.Oldest > time.Minute {
			t.Errorf("the oldest is %v old", r.Oldest)
		} else {
			r.Oldest = want[0].Oldest
		}
		for j := range r.Groups {
			r.Groups[j].Oldest = 0
		}
	}
	if diff := cmp.Diff(want, o.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	o.Rules, o.Capabilities = nil, nil
	if diff := cmp.Diff(Overview{Overview: schedule.Overview{Scans: 1, Interval: time.Second, Wanted: time.Second}}, o); diff != "" {
		t.Errorf("overview (-want +got):\n%s", diff)
	}
	b.scanErr = fmt.Errorf("cut short")
	b.until(time.Second)
	if o := b.e.Overview(b.now); o.FailedScans != 1 || o.Failing {
		t.Errorf("after one scan that failed: %+v", o)
	}
	b.until(2 * time.Second)
	if o := b.e.Overview(b.now); o.FailedScans != 2 || !o.Failing || o.Rules[0].HeldBack["protected"] != 1 || o.Rules[0].Sockets != 6 {
		t.Errorf("after scans that failed: %+v", o)
	}
}

// What a reload leaves as it is counts no connection twice.
func TestSparedOnceOverReloads(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute)
	s := set(killing("same"), killing("other", newest))
	s.Protect = []rules.Match{where("dport = 80")}
	b.rule(s)
	b.until(time.Second)
	s.Rules = []rules.Rule{killing("same"), killing("other")}
	b.rule(s)
	b.until(2 * time.Minute)
	o := b.e.Overview(b.now)
	if same, other := o.Rules[0].HeldBack["protected"], o.Rules[1].HeldBack["protected"]; same != 1 || other != 2 {
		t.Errorf("protected %d times by the rule that stayed, and %d by the one that changed; want 1 and 2", same, other)
	}
}

// TestOverviewOfPhases: a group fires since it does, not since its condition holds.
func TestOverviewOfPhases(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Minute)
	b.rule(eachSecond(above(3)))
	for _, m := range []struct{ at, want time.Duration }{{5 * time.Second, 0}, {15 * time.Second, 10 * time.Second}} {
		b.until(m.at)
		if g := b.e.Overview(b.now).Rules[0].Groups; len(g) != 1 || b.since(g[0].Since) != m.want {
			t.Errorf("after %v: %+v, want it since %v", m.at, g, m.want)
		}
	}
}

// TestOverviewOfListeners: nothing tells since when a socket listens, and so no age
// is shown. A group that fires counts as logged, where its rule asks for that.
func TestOverviewOfListeners(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Hour, func(s *sim.Socket) { s.State = ssfilter.Listening })
	b.rule(eachSecond(above(3, func(r *rules.Rule) {
		r.Match, r.For = []rules.Match{{States: ssfilter.Of(ssfilter.Listening)}}, 0
		r.Then = []rules.Action{{Kind: rules.Log}}
	})))
	b.until(30500 * time.Millisecond)
	r := b.e.Overview(b.now).Rules[0]
	if r.Sockets != 4 || r.Oldest != 0 || len(r.Groups) != 1 || r.Groups[0].Oldest != 0 {
		t.Errorf("%+v, want four sockets of unknown age", r)
	}
	if diff := cmp.Diff(Results{{rules.Log, Done}: 1}, r.Results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

// TestLateness: an act is on time or late where the socket was seen coming, and
// was held back by nothing.
func TestLateness(t *testing.T) {
	b := newBench(t)
	b.add(1, 3*time.Second)
	b.add(2, 3*time.Second)  // held back
	b.add(3, 30*time.Second) // due when first seen, and held back
	s := set(killing("r", limited(2, time.Minute)))
	b.step(RulesChanged{Program: match.Compile(&s)})
	b.until(70 * time.Second)
	if len(b.events) != 4 || len(b.late) != 1 || b.late[0] > 10*time.Millisecond {
		t.Errorf("late by %v, want the one that was seen coming; %v", b.late, b.events)
	}
}

// BenchmarkSample is one sample of a rule about the total of timewait sockets,
// however many there are: the counters read, and a group's phase.
func BenchmarkSample(b *testing.B) {
	reader, err := counters.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer reader.Close()
	s := set(above(20000, func(r *rules.Rule) {
		r.Match, r.GroupBy = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}, nil
	}))
	e := New(Config{Precision: benchJiffy})
	now := benchStart
	p := e.Step(now, RulesChanged{Program: match.Compile(&s)})
	b.ReportAllocs()
	for b.Loop() {
		if !p.Count || p.Scan != nil {
			b.Fatalf("%+v: want the counters read, and no scan", p)
		}
		c, err := reader.Read()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := reader.Ports(); err != nil { // as the daemon does, whatever the rules ask for
			b.Fatal(err)
		}
		p = e.Step(now, CountersRead{OK: true, Counters: sock.Counters{TimeWait: c.TimeWait, HasTimeWait: true, InSegs: c.InSegs, HasInSegs: true}})
		now = p.Wake
		p = e.Step(now, nil)
	}
}
