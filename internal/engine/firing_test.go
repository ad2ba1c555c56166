package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// oneAnHour limits the first action of a rule so far that what it does is counted
// with ease.
func oneAnHour(r *rules.Rule) { r.Then[0].Limit = rules.Limit{N: 1, Per: time.Hour} }

// untilFew has a group fire on long after its condition has ceased to hold.
func untilFew(r *rules.Rule) { r.Until = []rules.Condition{fewer(10)} }

// tenPorts are all the local ports that there are, and useTenPorts adds a socket on
// each of them.
var tenPorts = portsOf(ssfilter.PortRange{First: 10000, Last: 10009})

// portsOf are those of the only namespace that there is; free: all of the range.
func portsOf(ephemeral ssfilter.PortRange, free ...ssfilter.PortRange) map[uint32]sock.Ports {
	if free == nil {
		free = []ssfilter.PortRange{ephemeral}
	}
	return map[uint32]sock.Ports{0: {Ephemeral: ephemeral, Free: free}}
}

func (b *bench) useTenPorts(change ...func(*sim.Socket)) {
	for i := range uint16(10) {
		b.add(uint64(i+1), time.Minute, append(change, func(s *sim.Socket) { s.ID.SPort = [2]byte{byte((10000 + i) >> 8), byte(10000 + i)} })...)
	}
}

// TestFiringOfAnEarlierRun: a group that fired three hours ago is no reason to kill
// before a scan of this run has shown it; the first one fails, and the second is for
// another rule.
func TestFiringOfAnEarlierRun(t *testing.T) {
	leak := above(1000, func(r *rules.Rule) {
		r.Name = "leak"
		r.Match = []rules.Match{
			{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 5 * time.Minute},
			{States: ssfilter.Of(ssfilter.Established), IdleFor: 5 * time.Minute},
		}
		r.For = time.Minute
		r.Then = []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1, Per: time.Hour}, Order: rules.Oldest}}
	})
	watch := killing("watch", logging)
	s := set(leak, watch)
	before := newBench(t)
	before.many(1, 1200, 10*time.Minute)
	before.rule(s)
	before.until(3 * time.Minute)

	after := newBench(t)
	after.now = benchStart.Add(3 * time.Hour)
	after.add(5001, -(3*time.Hour - 10*time.Minute)) // one socket, ten minutes old
	after.step(Restored{Groups: before.kept})
	after.scanErr = errors.New("cut short")
	after.rule(s)
	after.scanErr = nil
	after.until(3*time.Hour + 20*time.Second)
	if after.sockets[5001] == nil {
		t.Errorf("killed for a group that nobody has seen for three hours: %v", after.events)
	}
}

// TestFiringOfAnEarlierRunWithoutPorts: nor where scans succeed, and what the rule
// measures cannot be measured.
func TestFiringOfAnEarlierRunWithoutPorts(t *testing.T) {
	leak := above(0, func(r *rules.Rule) {
		r.Name = "leak"
		r.When = []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 80}}
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second}}
		r.For = 10 * time.Second
		r.Then = []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1, Per: time.Hour}, Order: rules.Oldest}}
	})
	s := set(leak, killing("watch", logging))
	before := newBench(t)
	before.count = CountersRead{OK: true, Ports: tenPorts}
	before.useTenPorts()
	before.rule(s)
	before.until(30 * time.Second)
	after := newBench(t)
	after.now = benchStart.Add(3 * time.Hour)
	after.count = CountersRead{OK: true}
	after.add(5001, -(3*time.Hour - time.Minute))
	after.step(Restored{Groups: before.kept})
	after.rule(s)
	after.until(3*time.Hour + 2*time.Minute)
	if after.sockets[5001] == nil {
		t.Errorf("killed for port_usage that was last measured three hours ago: %v", after.events)
	}
}

// TestFiringAfterADay: what fired a day ago and has not ended since, by until, alerts
// on, and is acted on again once its condition has held anew.
func TestFiringAfterADay(t *testing.T) {
	rule := above(100, kills, oneAnHour, untilFew)
	before := newBench(t)
	before.many(1, 150, time.Minute)
	before.rule(eachSecond(rule))
	before.until(time.Minute)
	after := newBench(t)
	after.now = benchStart.Add(24 * time.Hour)
	after.many(1000, 50, -(24*time.Hour - time.Minute))
	after.step(Restored{Groups: before.kept})
	after.rule(eachSecond(rule))
	after.until(24*time.Hour + 5*time.Second)
	if len(after.sockets) < 50 {
		t.Error("50 sockets are half of what the rule fires at, and one was killed a day after that was last seen")
	}
	after.many(2000, 60, -(24*time.Hour - time.Minute))
	after.until(24*time.Hour + 12*time.Second)
	for i := range uint64(60) { // so that it does not hold for a moment
		after.missed[2000+i] = true
	}
	after.until(24*time.Hour + 14*time.Second)
	clear(after.missed)
	after.until(24*time.Hour + 20*time.Second)
	if len(after.sockets) < 110 {
		t.Error("killed before the condition has held for long enough again, without a break")
	}
	after.until(24*time.Hour + 30*time.Second)
	if len(after.sockets) != 109 {
		t.Errorf("%d sockets are left of 110, and one may be killed an hour", len(after.sockets))
	}
}

// TestKillsOnOldNumbers: while scans for its rule fail for an hour, and those for
// another succeed, a group that fired before is no reason to kill.
func TestKillsOnOldNumbers(t *testing.T) {
	leak := above(1000, func(r *rules.Rule) {
		r.Name, r.For = "leak", time.Minute
		r.Match = []rules.Match{
			{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 5 * time.Minute},
			{States: ssfilter.Of(ssfilter.Established), IdleFor: 5 * time.Minute},
		}
		r.Then = []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 2000, Per: time.Minute}, Order: rules.Oldest}}
	})
	s := set(leak, killing("watch", logging))
	b := newBench(t)
	failing := false
	step := func(in Input) {
		for inputs := []Input{in}; len(inputs) > 0; {
			p := b.e.Step(b.now, inputs[0])
			b.scanErr = nil
			if failing && p.Scan != nil && p.Scan.Query.States.Has(ssfilter.Established) {
				b.scanErr = errors.New("no buffer space")
			}
			inputs = append(inputs[1:], b.carryOut(&p)...)
			b.wake = p.Wake
			for _, turn := range p.Transitions {
				failing = failing || turn.To == group.Firing
			}
		}
	}
	b.many(1, 1200, 10*time.Minute)
	step(RulesChanged{Program: match.Compile(&s)})
	for b.wake < benchStart.Add(70*time.Minute) {
		b.now = b.wake
		step(nil)
		if b.sockets[5001] == nil && b.since(b.now) > 50*time.Minute && b.since(b.now) < 51*time.Minute {
			b.add(5001, -b.since(b.now))
		}
	}
	seen, killed := false, 0
	for _, e := range b.events {
		seen = seen || strings.HasSuffix(e, "watch log done 5001")
		if strings.Contains(e, "leak kill done") {
			killed++
		}
	}
	if b.sockets[5001] == nil || !seen || killed != 1200 {
		t.Errorf("%d were killed, and the last one was too, or was never due; seen %t", killed, seen)
	}
}

// TestPendingOverRestartsWithoutALook: a daemon that is restarted each minute for three
// hours, and never ends a scan, has not seen that a condition held.
func TestPendingOverRestartsWithoutAScan(t *testing.T) {
	s := eachSecond(above(3, func(r *rules.Rule) { r.For = 2 * time.Hour }))
	before := newBench(t)
	before.many(1, 4, time.Minute)
	before.rule(s)
	before.until(5 * time.Second)
	kept, now := before.kept, before.now
	for range 180 {
		now = now.Add(time.Minute)
		e := New(Config{Precision: benchJiffy, Self: 1})
		e.Step(now, Restored{Groups: kept})
		if p := e.Step(now, RulesChanged{Program: match.Compile(&s)}); p.Groups != nil {
			kept = p.Groups
		}
	}
	after := newBench(t)
	after.sockets, after.now = before.sockets, now
	after.step(Restored{Groups: kept})
	after.rule(s)
	after.until(after.since(now) + time.Second)
	after.want("3h0m5s r pending dport=80 count 4")
}

// TestUntilOutlivesTheLastSocket: too few towards a backend, and then none at all, is
// not over until that says so.
func TestUntilOutlivesTheLastSocket(t *testing.T) {
	b := newBench(t)
	b.many(1, 3, time.Minute)
	b.rule(eachSecond(above(0, func(r *rules.Rule) {
		r.When, r.Until, r.For = []rules.Condition{fewer(5)}, []rules.Condition{more(50)}, 0
	})))
	b.until(5500 * time.Millisecond)
	clear(b.sockets)
	b.until(20 * time.Second)
	b.want("0s r alert 0 dport=80 count 3", "0s r firing dport=80 count 3")
}

// TestOthersAfterRestart: nothing is begun by what an earlier run saw.
func TestOthersAfterRestart(t *testing.T) {
	before := newBench(t)
	for i := range 130 {
		before.many(uint64(1+2*i), 2, time.Minute, toPort(byte(i+1)))
	}
	s := eachSecond(above(1, func(r *rules.Rule) { r.For = 0 }))
	before.rule(s)
	before.until(5 * time.Second)
	after := newBench(t)
	after.sockets, after.now = before.sockets, before.now
	after.e.Step(after.now, Restored{Groups: before.kept})
	p := after.e.Step(after.now, RulesChanged{Program: match.Compile(&s)})
	for _, a := range p.Alerts {
		t.Errorf("before the first scan: others %d count %d", a.Overflow, a.Count)
	}
}

// TestAlertsThatEndedApart: of two alerts one ended with its group, and the other is
// kept firing: a restart ends only that one.
func TestAlertsThatEndedApart(t *testing.T) {
	rule := above(3, func(r *rules.Rule) {
		r.Then = []rules.Action{
			{Kind: rules.Alert, Alert: &rules.AlertOptions{}},
			{Kind: rules.Alert, Alert: &rules.AlertOptions{Severity: "page", KeepFiringFor: time.Minute}},
		}
	})
	before := newBench(t)
	before.many(1, 4, time.Minute)
	before.rule(eachSecond(rule))
	before.until(15500 * time.Millisecond)
	delete(before.sockets, 1)
	before.until(25 * time.Second)
	after := newBench(t)
	after.sockets, after.now, after.alarms = before.sockets, before.now, before.alarms
	after.step(Restored{Groups: before.kept})
	after.rule(eachSecond(rule))
	after.until(2 * time.Minute)
	after.want("1m16s r alert 1 dport=80 ended")
}

// TestAlmostTooManyGroups: as long as there is room, nothing is forgotten.
func TestAlmostTooManyGroups(t *testing.T) {
	s := eachSecond(above(0, growing(100), func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
		r.GroupBy = []rules.GroupKey{rules.ByDst}
	}))
	e := New(Config{Precision: benchJiffy})
	e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
	sockets := flood(95_000, 95_000)
	for i := range 2 {
		now := benchStart.Add(time.Duration(i) * time.Second)
		e.Step(now, nil)
		p := e.Step(now, CountersRead{})
		f := p.Scan.Begin(now)
		for j := range sockets {
			if i > 0 || j == 0 {
				f.Take(&sockets[j], now)
			}
		}
		for _, n := range e.Step(now, ScanDone{Result: f, Sent: now}).Notes {
			t.Error(n.Kind, n.Values)
		}
	}
	if n := remembered(e.rules[0].groups); n < 94_000 {
		t.Errorf("%d groups of 95,000 are remembered", n)
	}
}

// TestPortUsageAndExclude: what is excluded in one state takes up ports in others.
func TestPortUsageAndExclude(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Ports: tenPorts}
	b.useTenPorts(func(s *sim.Socket) { s.State = ssfilter.Established })
	b.rule(eachSecond(above(0, func(r *rules.Rule) {
		r.When, r.For = []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 80}}, 0
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established), Where: port(80)}}
		r.Exclude = []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait), Where: port(80)}}
	})))
	b.until(2 * time.Second)
	b.want("0s r alert 0 dport=80 count 10", "0s r firing dport=80 count 10")
}

// TestExcludeEndsWithoutASegment: sockets cease to be excluded because the program
// reads, and the next scan shows that.
func TestExcludeEndsWithoutASegment(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true}}
	b.many(1, 4, time.Minute, func(s *sim.Socket) { s.RQueue = 10 })
	b.rule(set(above(3, func(r *rules.Rule) {
		r.For = 10 * time.Minute // scans each 30 s
		r.Exclude = []rules.Match{{States: ssfilter.AllStates, Unread: &rules.Threshold{Op: rules.Greater, Number: 1}}}
	})))
	b.until(31 * time.Second)
	for _, s := range b.sockets {
		s.RQueue = 1
	}
	b.until(10 * time.Minute)
	if len(b.events) == 0 || b.events[0] != "1m0s r pending dport=80 count 4" {
		t.Errorf("want pending at 1m0s, at the next scan: %v (scans %d)", b.events, len(b.scans))
	}
}

// TestCountersBesideAnotherRule: timewait sockets are not looked for while their total
// is under the threshold, whatever other rules there are.
func TestCountersBesideAnotherRule(t *testing.T) {
	byPeer := above(20000, func(r *rules.Rule) {
		r.Name = "flood"
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
	})
	for _, interval := range []time.Duration{0, 15 * time.Second} {
		b := newBench(t)
		b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true, TimeWait: 3}}
		s := set(byPeer, killing("leak", func(r *rules.Rule) { r.Match[0].InStateFor = 5 * time.Minute }))
		s.Settings.Interval = interval
		b.rule(s)
		b.until(10 * time.Minute)
		n := 0
		for _, states := range b.scans {
			if states.Has(ssfilter.TimeWait) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("interval %v: %d of %d scans asked for timewait sockets, of which there are 3; want the first only", interval, n, len(b.scans))
		}
	}
}

// TestScansShareADump: rules that scan as often as each other scan at once, however
// far apart they began.
func TestScansShareADump(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true}}
	flood := above(10, func(r *rules.Rule) {
		r.Name, r.Match = "flood", []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
	})
	b.rule(eachSecond(flood, killing("leak", func(r *rules.Rule) { r.Match[0].InStateFor = time.Minute })))
	b.until(10600 * time.Millisecond)
	b.count.TimeWait = 100
	b.e.schedule.Hasten(match.Expensive, b.now) // as after a group that fires
	b.step(nil)
	b.until(11 * time.Second)
	before := len(b.scans)
	b.until(61 * time.Second)
	if n := len(b.scans) - before; n > 51 {
		t.Errorf("%d scans in 50 seconds, each for one rule: %v", n, b.scans[before:before+4])
	}
}

// TestNoSegmentBesideAnotherRule: nor established ones while no segment arrives.
func TestNoSegmentBesideAnotherRule(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true, InSegs: 7}}
	est := above(3, func(r *rules.Rule) { r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established)}} })
	s := set(est, killing("verdict", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Minute, Verdicts: []rules.Verdict{rules.EOFUnread}})))
	s.Settings.Interval = 15 * time.Second
	b.rule(s)
	b.until(10 * time.Minute)
	n := 0
	for _, states := range b.scans {
		if states.Has(ssfilter.Established) {
			n++
		}
	}
	if n > 5 {
		t.Errorf("%d of %d scans asked for established sockets, and no segment came", n, len(b.scans))
	}
}

// TestDoubtOverTwoRestarts: a run that has not seen the condition hold hands the doubt on.
func TestDoubtOverTwoRestarts(t *testing.T) {
	rule := above(100, kills, func(r *rules.Rule) {
		r.Until = []rules.Condition{fewer(10)}
		r.Then[0].Limit = rules.Limit{N: 1000, Per: time.Minute}
	})
	before := newBench(t)
	before.many(1, 150, time.Minute)
	before.destroy = func(a *Action) Outcome { return Outcome{Act: *a, Err: errors.New("x")} }
	before.rule(eachSecond(rule))
	before.until(time.Minute)
	mid := newBench(t)
	mid.now = benchStart.Add(24 * time.Hour)
	mid.many(1000, 50, -(24*time.Hour - time.Minute))
	mid.step(Restored{Groups: before.kept})
	mid.rule(eachSecond(rule))
	mid.until(24*time.Hour + 40*time.Second)
	if len(mid.sockets) != 50 {
		t.Fatalf("mid: %d left", len(mid.sockets))
	}
	after := newBench(t)
	after.sockets, after.now = mid.sockets, mid.now.Add(5*time.Second)
	after.step(Restored{Groups: mid.kept})
	after.rule(eachSecond(rule))
	after.until(24*time.Hour + 50*time.Second)
	if len(after.sockets) != 50 {
		t.Errorf("%d of 50 sockets left: killed for a group whose condition (count > 100) was last met a day ago", len(after.sockets))
	}
}

// TestScansThatFailForHours: what fired before them is acted on again once its
// condition is shown to hold anew.
func TestScansThatFailForHours(t *testing.T) {
	rule := above(100, kills, oneAnHour, untilFew)
	b := newBench(t)
	b.many(1, 150, time.Minute)
	b.rule(eachSecond(rule))
	b.until(time.Minute)
	b.scanErr = errors.New("cut short")
	b.until(2 * time.Hour)
	clear(b.sockets)
	b.many(1000, 50, -(3*time.Hour - time.Minute))
	b.until(3 * time.Hour)
	b.scanErr = nil
	b.until(3*time.Hour + 5*time.Second)
	if len(b.sockets) < 50 {
		t.Errorf("%d of 50: killed at the first good scan after three hours; when (count > 100) does not hold", len(b.sockets))
	}
}

// TestGroupsThatNeverEnd: those whose until never holds for want of a socket make room
// for such as have one.
func TestGroupsThatNeverEnd(t *testing.T) {
	s := eachSecond(above(0, func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
		r.GroupBy = []rules.GroupKey{rules.ByDst}
		r.When, r.Until, r.For = []rules.Condition{fewer(5)}, []rules.Condition{more(50)}, 0
	}))
	e := New(Config{Precision: benchJiffy})
	e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
	sockets := flood(130_000, 130_000)
	for i := range 4 {
		now := benchStart.Add(time.Duration(i) * 10 * time.Minute)
		e.Step(now, nil)
		p := e.Step(now, CountersRead{})
		f := p.Scan.Begin(now)
		part := sockets[40_000*i:]
		if i == 3 {
			part = sockets[120_000:]
		}
		for j := range part[:min(40_000, len(part))] {
			f.Take(&part[j], now)
		}
		began := time.Now()
		p = e.Step(now, ScanDone{Result: f, Sent: now})
		t.Logf("scan %d: loop %v, remembered %d, firing %d, alarms %d", i, time.Since(began), remembered(e.rules[0].groups), e.rules[0].groups.Firing(), len(p.Alerts))
		for _, n := range p.Notes {
			t.Log(n.Kind, n.Values)
		}
	}
	last := sockets[125_000]
	if e.rules[0].groups.Of(subject.Of(&last)) == nil {
		t.Error("a group of one socket, which is there, does not fire: there is no room beside those whose sockets are gone")
	}
}

// TestScansApart: a rule about any socket in few states is not looked for together with
// one about some sockets in many: all of the many would be told.
func TestScansApart(t *testing.T) {
	expensive := killing("expensive", logging, matching(rules.Match{States: ssfilter.Of(ssfilter.Established), Where: port(5432), IdleFor: 10 * time.Minute}))
	cheap := killing("cheap", logging, func(r *rules.Rule) { r.Match[0].InStateFor = 5 * time.Minute })
	s := set(expensive, cheap)
	p := match.Compile(&s)
	b := newBench(t)
	step := func(in Input) {
		for inputs := []Input{in}; len(inputs) > 0; {
			pl := b.e.Step(b.now, inputs[0])
			b.cost = time.Millisecond
			if pl.Scan != nil && pl.Scan.Query.States.Has(ssfilter.Established) && pl.Scan.Query.Where == nil {
				b.cost = 500 * time.Millisecond // 500,000 established sockets are told
			}
			inputs = append(inputs[1:], b.carryOut(&pl)...)
			b.wake = pl.Wake
		}
	}
	step(RulesChanged{Program: p})
	for b.wake < benchStart.Add(30*time.Minute) {
		b.now = b.wake
		step(nil)
	}
	both, alone := 0, 0
	for _, l := range b.scans {
		switch {
		case l.Has(ssfilter.Established) && l.Has(ssfilter.CloseWait):
			both++
		case l.Has(ssfilter.Established):
			alone++
		}
	}
	o := b.e.Overview(b.now)
	t.Logf("%d scans for both, %d for established alone, interval of the expensive %v, notes %v", both, alone, b.e.schedule.Interval(match.Expensive), b.notes)
	if b.e.schedule.Interval(match.Expensive) > 30*time.Second || o.Stretched {
		t.Errorf("established sockets to one port are looked for every %v, and the rule wants 30s: %d scans asked for all established sockets because of a rule about CLOSE_WAIT", b.e.schedule.Interval(match.Expensive), both)
	}
}

// TestDearLooksThatFail: they keep no cheap one from succeeding.
func TestDearScansThatFail(t *testing.T) {
	b := newBench(t)
	expensive := above(1000, func(r *rules.Rule) {
		r.Name = "expensive"
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established)}}
	})
	s := set(expensive, killing("leak"))
	s.Settings.Interval = 15 * time.Second
	step := func(in Input) {
		for inputs := []Input{in}; len(inputs) > 0; {
			p := b.e.Step(b.now, inputs[0])
			b.scanErr = nil
			if p.Scan != nil && p.Scan.Query.States.Has(ssfilter.Established) {
				b.scanErr = errors.New("no answer within 5s")
			}
			inputs = append(inputs[1:], b.carryOut(&p)...)
			b.wake = p.Wake
		}
	}
	b.many(1, 10, time.Minute)
	step(RulesChanged{Program: match.Compile(&s)})
	for b.wake < benchStart.Add(60*time.Minute) {
		b.now = b.wake
		step(nil)
	}
	if len(b.sockets) > 0 {
		t.Errorf("%d of 10 leaking sockets are alive after an hour: %d scans, all for both classes", len(b.sockets), len(b.scans))
	}
}

// TestFiringWithoutPorts: shortly after a restart, too, nothing is killed for what
// cannot be measured any more.
func TestFiringWithoutPorts(t *testing.T) {
	s := set(above(0, func(r *rules.Rule) {
		r.When = []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 80}}
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second}}
		r.Then = []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1, Per: time.Hour}, Order: rules.Oldest}}
	}), killing("watch", logging))
	before := newBench(t)
	before.count = CountersRead{OK: true, Ports: tenPorts}
	before.useTenPorts()
	before.rule(s)
	before.until(30 * time.Second)
	if len(before.sockets) != 9 {
		t.Fatalf("%d sockets left of 10, want one killed", len(before.sockets))
	}
	after := newBench(t)
	after.sockets, after.now = before.sockets, benchStart.Add(40*time.Second)
	after.count = CountersRead{OK: true}
	after.step(Restored{Groups: before.kept})
	after.rule(s)
	after.until(2 * time.Minute)
	if len(after.sockets) != 9 {
		t.Errorf("killed for port_usage that nobody can measure: %v", after.events)
	}
}

// TestFiringBetweenRareScans: where the budget puts scans far apart, what fires is
// acted on all the same: latecomers do not wait for the next scan to fall due.
func TestFiringBetweenRareScans(t *testing.T) {
	b := newBench(t)
	b.cost = 4 * time.Second // so that scans are minutes apart
	b.many(1, 4, time.Hour)
	b.rule(set(above(3, func(r *rules.Rule) {
		r.Match[0].InStateFor, r.For = time.Minute, 0
		r.Until = []rules.Condition{fewer(1)}
		r.Then = []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1, Per: 3 * time.Minute}, Order: rules.Oldest}}
	})))
	b.until(12 * time.Minute)
	if gap := b.e.schedule.Interval(match.Cheap); gap < 2*group.Outage {
		t.Fatalf("scans are made every %v: too often to show anything", gap)
	}
	b.want("0s r firing dport=80 count 4", "0s r kill held 2", "0s r kill held 3", "0s r kill held 4", "0s r kill done 1",
		"3m0s r kill done 2", "6m0s r kill done 3", "9m0s r kill done 4")
}

// TestEscalationAfterRestart: an escalation whose time came while nobody watched
// begins with what a scan shows.
func TestEscalationAfterRestart(t *testing.T) {
	s := eachSecond(above(3, func(r *rules.Rule) { r.For, r.Then[0].After = 0, 10*time.Second }))
	before := newBench(t)
	before.many(1, 4, time.Minute)
	before.rule(s)
	before.until(5 * time.Second)
	e := New(Config{Precision: benchJiffy, Self: 1})
	now := benchStart.Add(20 * time.Second)
	e.Step(now, Restored{Groups: before.kept})
	for _, a := range e.Step(now, RulesChanged{Program: match.Compile(&s)}).Alerts {
		t.Errorf("before the first scan: %+v", a)
	}
}
