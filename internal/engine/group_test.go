package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// hear takes in what a plan says of groups: each turn, and each alarm where it
// begins and ends.
func (b *bench) hear(p *Plan) {
	var lines []string
	text := func(labels []subject.Label) string {
		words := ""
		for _, l := range labels {
			words += " " + l.Name + "=" + l.Value
		}
		return words
	}
	now := b.since(b.now).Truncate(100 * time.Millisecond)
	for _, t := range p.Transitions {
		lines = append(lines, fmt.Sprintf("%v %s %s%s count %d", now, t.Rule, t.To, text(t.Group), t.Count))
	}
	for _, a := range p.Alerts {
		key := fmt.Sprintf("%s alert %d%s", a.Rule, a.Action, text(a.Group))
		if a.Overflow > 0 {
			key += " others"
		}
		_, fires := b.alarms[key]
		switch {
		case a.Ended != 0:
			lines = append(lines, fmt.Sprintf("%v %s ended", now, key))
			if !fires {
				b.t.Errorf("%v: %s ended, and did not fire", now, key)
			}
			delete(b.alarms, key)
			continue
		case !fires:
			lines = append(lines, fmt.Sprintf("%v %s count %d", now, key, a.Count))
		}
		b.alarms[key] = a
	}
	// An alert may wait for the names of holders, which come in the same instant here.
	if b.heard.at != b.now || b.heard.to != len(b.events) {
		b.heard.from = len(b.events)
	}
	b.events = append(b.events, lines...)
	slices.Sort(b.events[b.heard.from:])
	b.heard.at, b.heard.to = b.now, len(b.events)
	if p.Groups != nil {
		b.kept = p.Groups
	}
}

// above is a rule that alerts while more than n sockets in CLOSE_WAIT go to one
// port, and have for ten seconds. It scans each second.
func above(n int, change ...func(*rules.Rule)) rules.Rule {
	r := rules.Rule{
		Name: "r", Enabled: true,
		Match:   []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait)}},
		GroupBy: []rules.GroupKey{rules.ByDport},
		When:    []rules.Condition{more(n)}, For: 10 * time.Second,
		Then: []rules.Action{{Kind: rules.Alert, Alert: &rules.AlertOptions{}}},
	}
	for _, c := range change {
		c(&r)
	}
	r.Sum = fmt.Sprintf("%+v", r)
	return r
}

func more(n int) rules.Condition {
	return rules.Condition{Metric: rules.Count, Op: rules.Greater, Number: float64(n)}
}
func fewer(n int) rules.Condition {
	return rules.Condition{Metric: rules.Count, Op: rules.Less, Number: float64(n)}
}
func keepFiring(d time.Duration) func(*rules.Rule) {
	return func(r *rules.Rule) { r.Then[0].Alert = &rules.AlertOptions{KeepFiringFor: d} }
}
func lasting10s(r *rules.Rule) { r.Match[0].InStateFor = 10 * time.Second }
func kills(r *rules.Rule) {
	lasting10s(r)
	r.Then = []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1000, Per: time.Minute}, Order: rules.Oldest}}
}

// eachSecond makes a set that scans each second.
func eachSecond(list ...rules.Rule) rules.Set {
	s := set(list...)
	s.Settings.Interval = time.Second
	return s
}

// many adds n sockets from the cookie on.
func (b *bench) many(cookie uint64, n int, age time.Duration, change ...func(*sim.Socket)) {
	for i := range n {
		b.add(cookie+uint64(i), age, change...)
	}
}

func toPort(port byte) func(*sim.Socket) {
	return func(s *sim.Socket) { s.ID.DPort[1] = port }
}

// TestGroups shows the phases of groups, their alarms and what is done about
// their sockets.
func TestGroups(t *testing.T) {
	type moment struct {
		at time.Duration
		do func(b *bench)
	}
	remove := func(from, to uint64) func(*bench) {
		return func(b *bench) {
			for c := from; c <= to; c++ {
				delete(b.sockets, c)
			}
		}
	}
	adds := func(cookie uint64, n int) func(*bench) {
		return func(b *bench) {
			b.many(cookie, n, 0, func(s *sim.Socket) { s.Entered, s.Progress, s.LastAck, s.LastData = b.now, b.now, b.now, b.now })
		}
	}
	fails := func(b *bench) { b.scanErr = errors.New("cut short") }
	succeeds := func(b *bench) { b.scanErr = nil }
	until := func(c ...rules.Condition) func(*rules.Rule) { return func(r *rules.Rule) { r.Until = c } }
	when := func(c ...rules.Condition) func(*rules.Rule) { return func(r *rules.Rule) { r.When = c } }
	lasts := func(d time.Duration) func(*rules.Rule) { return func(r *rules.Rule) { r.For = d } }
	oneGroup := func(r *rules.Rule) { r.GroupBy = nil }

	tests := []struct {
		name    string
		rule    rules.Rule
		sockets int // in CLOSE_WAIT, to port 80, a minute old
		moments []moment
		want    []string
	}{
		{name: "under the threshold", rule: above(3), sockets: 3},
		{name: "above it for long enough", rule: above(3), sockets: 4,
			want: []string{"0s r pending dport=80 count 4", "10s r alert 0 dport=80 count 4", "10s r firing dport=80 count 4"}},
		{name: "at once", rule: above(3, lasts(0)), sockets: 4,
			want: []string{"0s r alert 0 dport=80 count 4", "0s r firing dport=80 count 4"}},
		{name: "not for long enough", rule: above(3), sockets: 4, moments: []moment{{9500 * time.Millisecond, remove(1, 1)}},
			want: []string{"0s r pending dport=80 count 4", "10s r quiet dport=80 count 3"}},
		{name: "failed scans neither count nor reset", rule: above(3), sockets: 4,
			moments: []moment{{2500 * time.Millisecond, fails}, {15500 * time.Millisecond, succeeds}},
			want:    []string{"0s r pending dport=80 count 4", "16s r alert 0 dport=80 count 4", "16s r firing dport=80 count 4"}},
		{name: "what nobody saw counts as held", rule: above(3), sockets: 4,
			moments: []moment{{2500 * time.Millisecond, fails}, {3 * time.Second, remove(1, 4)}, {5 * time.Second, adds(11, 4)}, {8500 * time.Millisecond, succeeds}},
			want:    []string{"0s r pending dport=80 count 4", "10s r alert 0 dport=80 count 4", "10s r firing dport=80 count 4"}},
		{name: "over", rule: above(3), sockets: 4, moments: []moment{{19500 * time.Millisecond, remove(1, 1)}},
			want: []string{"0s r pending dport=80 count 4", "10s r alert 0 dport=80 count 4", "10s r firing dport=80 count 4", "20s r alert 0 dport=80 ended", "20s r quiet dport=80 count 3"}},
		{name: "until has a threshold of its own", rule: above(3, until(fewer(2))), sockets: 4,
			moments: []moment{{19500 * time.Millisecond, remove(1, 2)}, {24500 * time.Millisecond, remove(3, 3)}},
			want:    []string{"0s r pending dport=80 count 4", "10s r alert 0 dport=80 count 4", "10s r firing dport=80 count 4", "25s r alert 0 dport=80 ended", "25s r quiet dport=80 count 1"}},
		{name: "the alert is kept firing", rule: above(3, keepFiring(8*time.Second)), sockets: 4, moments: []moment{{19500 * time.Millisecond, remove(1, 1)}},
			want: []string{"0s r pending dport=80 count 4", "10s r alert 0 dport=80 count 4", "10s r firing dport=80 count 4", "20s r quiet dport=80 count 3", "28s r alert 0 dport=80 ended"}},
		{name: "and goes on where the group fires again", rule: above(3, lasts(time.Second), keepFiring(8*time.Second)), sockets: 4,
			moments: []moment{{9500 * time.Millisecond, remove(1, 1)}, {14500 * time.Millisecond, adds(11, 1)}},
			want: []string{"0s r pending dport=80 count 4", "1s r alert 0 dport=80 count 4", "1s r firing dport=80 count 4",
				"10s r quiet dport=80 count 3", "15s r pending dport=80 count 4", "16s r firing dport=80 count 4"}},
		{name: "an alert as an escalation", rule: above(3, lasts(0), func(r *rules.Rule) { r.Then[0].After = 5500 * time.Millisecond }), sockets: 4,
			want: []string{"0s r firing dport=80 count 4", "5.5s r alert 0 dport=80 count 4"}},
		{name: "an escalation that does not come", rule: above(3, lasts(0), func(r *rules.Rule) { r.Then[0].After = 5 * time.Second }), sockets: 4,
			moments: []moment{{3500 * time.Millisecond, remove(1, 4)}},
			want:    []string{"0s r firing dport=80 count 4", "4s r quiet dport=80 count 0"}},
		{name: "groups apart", rule: above(1, lasts(0)), sockets: 1,
			moments: []moment{{500 * time.Millisecond, func(b *bench) { b.many(11, 2, time.Minute, toPort(81)) }}},
			want:    []string{"1s r alert 0 dport=81 count 2", "1s r firing dport=81 count 2"}},
		{name: "a dry run sends nothing", rule: above(3, lasts(0), dryRun), sockets: 4, want: []string{"0s r firing dport=80 count 4"}},
		{name: "disabled", rule: above(3, lasts(0), disabled), sockets: 4},
		{name: "too few", rule: above(0, oneGroup, lasts(0), when(fewer(2))), sockets: 2, moments: []moment{{4500 * time.Millisecond, remove(1, 2)}},
			want: []string{"5s r alert 0 count 0", "5s r firing count 0"}},
		{name: "a group without sockets is none", rule: above(0, lasts(0), when(fewer(2))), sockets: 2,
			moments: []moment{{4500 * time.Millisecond, remove(1, 1)}, {6500 * time.Millisecond, remove(2, 2)}},
			want:    []string{"5s r alert 0 dport=80 count 1", "5s r firing dport=80 count 1", "7s r alert 0 dport=80 ended", "7s r quiet dport=80 count 0"}},
		{name: "only those old enough count", rule: above(3, lasts(0), lasting10s), sockets: 3, moments: []moment{{500 * time.Millisecond, adds(11, 1)}},
			want: []string{"11s r alert 0 dport=80 count 4", "11s r firing dport=80 count 4"}},
		{name: "protected ones count", rule: above(3, lasts(0)), moments: []moment{{500 * time.Millisecond, func(b *bench) { b.many(1, 4, time.Minute, toPort(22)) }}},
			want: []string{"1s r alert 0 dport=22 count 4", "1s r firing dport=22 count 4"}},
		{name: "excluded ones do not", rule: above(3, lasts(0), exclude(rules.Match{States: ssfilter.AllStates, Users: []uint32{1000}})), sockets: 4},
		{name: "growth", rule: above(0, lasts(0), when(rules.Condition{Metric: rules.Growth, Op: rules.Greater, Number: 1})), sockets: 10,
			moments: []moment{{30500 * time.Millisecond, adds(11, 5)}, {40500 * time.Millisecond, adds(21, 1)}, {41 * time.Second, remove(1, 30)}},
			want: []string{"41s r alert 0 dport=80 count 16", "41s r firing dport=80 count 16",
				"5m25s r alert 0 dport=80 ended", "5m25s r quiet dport=80 count 0"}},
		{name: "kill waits for the group", rule: above(3, kills), sockets: 4, want: []string{"0s r pending dport=80 count 4",
			"10s r firing dport=80 count 4", "10s r kill done 1", "10s r kill done 2", "10s r kill done 3", "10s r kill done 4", "11s r quiet dport=80 count 0"}},
		{name: "and takes latecomers when they are due", rule: above(3, kills, lasts(0), until(fewer(1)), func(r *rules.Rule) { r.Then[0].After = 3 * time.Second }), sockets: 4,
			moments: []moment{{500 * time.Millisecond, adds(11, 1)}},
			want: []string{"0s r firing dport=80 count 4", "3s r kill done 1", "3s r kill done 2", "3s r kill done 3", "3s r kill done 4",
				"4s r quiet dport=80 count 0"}},
		{name: "an alert about single sockets", rule: killing("r", func(r *rules.Rule) {
			r.Then = []rules.Action{{Kind: rules.Alert, Alert: &rules.AlertOptions{KeepFiringFor: 5 * time.Second}}}
		}), moments: []moment{{500 * time.Millisecond, adds(1, 3)}, {20500 * time.Millisecond, remove(1, 2)}, {30500 * time.Millisecond, remove(3, 3)}},
			want: []string{"10.5s r alert 0 count 3", "10.5s r firing count 3", "31s r quiet count 0", "36s r alert 0 ended"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.many(1, test.sockets, time.Minute)
			b.rule(eachSecond(test.rule))
			for _, m := range test.moments {
				b.until(m.at)
				m.do(b)
			}
			b.until(6 * time.Minute)
			want := test.want
			slices.Sort(want)
			slices.Sort(b.events)
			b.want(want...)
		})
	}
}

// TestTotal shows that the number of timewait sockets comes from the counters:
// no scan is made.
func TestTotal(t *testing.T) {
	total := above(3, func(r *rules.Rule) {
		r.Match, r.GroupBy = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}, nil
	})
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true, TimeWait: 3}}
	b.rule(set(total))
	b.until(20 * time.Second)
	b.count.TimeWait = 4
	b.until(30 * time.Second)
	b.count.OK = false // neither counts nor resets
	b.until(32 * time.Second)
	b.count.OK = true
	b.until(60 * time.Second)
	if v := b.e.Overview(b.now).Rules[0]; v.Sockets != 4 || v.Firing != 1 {
		t.Errorf("overview %+v", v)
	}
	b.count.TimeWait = 1
	b.until(2 * time.Minute)
	b.want("21s r pending count 4", "33s r alert 0 count 4", "33s r firing count 4", "1m1s r alert 0 ended", "1m1s r quiet count 1")
	if len(b.scans) > 0 || b.counts > 2*60+1 {
		t.Errorf("%d scans and %d readings of the counters, want no scan", len(b.scans), b.counts)
	}
	if v := b.e.Overview(b.now).Rules[0]; v.Sockets != 1 || v.Firing != 0 || len(v.Groups) != 1 {
		t.Errorf("overview %+v", v)
	}
}

// TestCountersBoundACount shows that timewait sockets are not counted by peer
// while there are fewer in all than a group needs, unless a group fires.
func TestCountersBoundACount(t *testing.T) {
	byPeer := above(3, func(r *rules.Rule) { r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}} })
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true, TimeWait: 3}}
	b.rule(eachSecond(byPeer))
	b.until(100 * time.Second)
	if len(b.scans) != 1 {
		t.Fatalf("%d scans under the threshold, want only the first", len(b.scans))
	}
	b.many(1, 4, 0, func(s *sim.Socket) {
		s.State, s.Mini, s.Inode, s.Entered, s.Expires = ssfilter.TimeWait, true, 0, b.now, b.now.Add(time.Minute)
	})
	b.count.TimeWait = 4
	b.until(115 * time.Second)
	clear(b.sockets)
	b.count.TimeWait = 0
	b.until(3 * time.Minute)
	b.want("1m41s r pending dport=80 count 4", "1m51s r alert 0 dport=80 count 4", "1m51s r firing dport=80 count 4", "1m56s r alert 0 dport=80 ended", "1m56s r quiet dport=80 count 0")
	if n := len(b.scans); n > 18 {
		t.Errorf("%d scans, want none once it is over", n)
	}
}

// TestGroupsWithoutSegments shows that no scan is spared while a group is about
// to fire, nor where sockets come to count by their age alone.
func TestGroupsWithoutSegments(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true}}
	b.many(1, 4, 0)
	b.rule(eachSecond(above(3, func(r *rules.Rule) { r.Match[0].InStateFor = time.Minute })))
	b.until(90 * time.Second)
	b.want("1m1s r pending dport=80 count 4", "1m11s r alert 0 dport=80 count 4", "1m11s r firing dport=80 count 4")
	if n := len(b.scans); n > 40 {
		t.Errorf("%d scans, most of which could change nothing", n)
	}
}

// TestGroupsCountByTracks shows that sockets whose age only observation knows
// come to count, and are not asked for to that end.
func TestGroupsCountByTracks(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Minute, func(s *sim.Socket) {
		s.State, s.Mini, s.Inode, s.Expires = ssfilter.FinWait2, true, 0, benchStart.Add(time.Hour)
	})
	b.rule(eachSecond(above(3, func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.FinWait2), InStateFor: 20 * time.Second}}
		r.For = 0
	})))
	b.until(30 * time.Second)
	b.want("20s r alert 0 dport=80 count 4", "20s r firing dport=80 count 4")
	if b.asks > 0 {
		t.Errorf("%d questions, want none", b.asks)
	}
	clear(b.sockets)
	b.until(40 * time.Second)
	if n := b.e.Watched(); n > 0 {
		t.Errorf("%d watched that are gone", n)
	}
}

// TestPortUsage counts the ports of every state towards each peer, among those that
// are not reserved, and on every path those that listeners have bound.
func TestPortUsage(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{
		OK:    true,
		Ports: portsOf(ssfilter.PortRange{First: 10000, Last: 10010}, ssfilter.PortRange{First: 10000, Last: 10004}, ssfilter.PortRange{First: 10006, Last: 10010}), // of 11 the last is never chosen
	}
	from := func(port uint16) func(*sim.Socket) {
		return func(s *sim.Socket) { s.ID.SPort = [2]byte{byte(port >> 8), byte(port)} }
	}
	for i := range uint16(8) {
		if i != 2 {
			b.add(uint64(i+1), time.Minute, from(10000+i)) // 10005 is not one of them
		}
	}
	b.add(3, time.Minute, from(10008), func(s *sim.Socket) { s.State = ssfilter.Established })
	b.add(9, time.Minute, from(10008), toPort(81))
	b.add(10, time.Minute, from(10010), toPort(81))
	b.add(11, time.Minute, from(10002), func(s *sim.Socket) { s.State = ssfilter.Listening })
	usage := above(0, func(r *rules.Rule) {
		r.When = []rules.Condition{{Metric: rules.PortUsage, Op: rules.GreaterEqual, Number: 88}}
		r.For = 0
	})
	b.rule(eachSecond(usage))
	b.until(2 * time.Second)
	b.want("0s r alert 0 dport=80 count 7", "0s r firing dport=80 count 7")
	if a := b.alarms["r alert 0 dport=80"]; a.PortUsage != 100*float64(8)/9 {
		t.Errorf("alarm %+v, want 8 of 9 ports", a)
	}
	delete(b.sockets, 3)
	ports := b.count.Ports
	b.count.Ports, b.events = nil, nil
	b.until(4 * time.Second)
	b.want() // what is not measured changes nothing
	if n := b.noted(PortsUnknown); n != 1 {
		t.Errorf("%d notes that the ports are not known", n)
	}
	b.count.Ports = ports
	b.until(6 * time.Second)
	b.want("5s r alert 0 dport=80 ended", "5s r quiet dport=80 count 7")
}

// TestPortsThatAreNotKnown: that is said once, also where there are scans for other
// rules in between.
func TestPortsThatAreNotKnown(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true}
	usage := above(0, func(r *rules.Rule) {
		r.When, r.For = []rules.Condition{{Metric: rules.PortUsage, Op: rules.Greater, Number: 80}}, time.Hour
	})
	other := above(3, func(r *rules.Rule) { r.Name = "other" })
	b.rule(set(usage, other)) // looked for each 30 s, and each second
	b.until(10 * time.Minute)
	if n := b.noted(PortsUnknown); n != 1 {
		t.Errorf("said %d times that the ports are not known, want once", n)
	}
}

// TestGroupsKnowWhatTheKernelForgot shows that a socket of which observation knows more
// than the kernel, which knows it for good, counts by that, and is not asked for.
func TestGroupsKnowWhatTheKernelForgot(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Minute, keepsAlive)
	b.rule(eachSecond(above(3, func(r *rules.Rule) { r.Match[0].InStateFor, r.For = 20*time.Second, 0 })))
	b.until(10500 * time.Millisecond)
	for _, s := range b.sockets {
		s.Keepalive, s.LastAck = 0, b.now // the last answer to a probe
	}
	b.until(25 * time.Second)
	b.want("20s r alert 0 dport=80 count 4", "20s r firing dport=80 count 4")
	if b.asks > 0 {
		t.Errorf("%d questions, want none", b.asks)
	}
}

// TestGroupGrounds: of who is killed for its group it is known why.
func TestGroupGrounds(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Minute)
	var grounds Grounds
	b.destroy = func(a *Action) Outcome {
		grounds = a.Grounds
		delete(b.sockets, a.Socket.ID.Cookie)
		return Outcome{Act: *a}
	}
	b.rule(eachSecond(above(3, kills)))
	b.until(20 * time.Second)
	if len(grounds.When) != 1 || grounds.When[0].String() != "count > 3" || grounds.Group.Count != 4 {
		t.Errorf("the grounds are %+v, want a group of 4 and count > 3", grounds)
	}
}

// TestRestartTellsTheSame: of more groups than alert one by one, those that did
// before a restart do after it.
func TestRestartTellsTheSame(t *testing.T) {
	before := newBench(t)
	for port := range 2 * group.MaxAlerts {
		before.many(uint64(10*port+1), 1, time.Minute, toPort(byte(port)))
	}
	s := eachSecond(above(0, func(r *rules.Rule) { r.For = 0 }))
	before.rule(s)
	before.until(5 * time.Second)
	after := newBench(t)
	after.sockets, after.now = before.sockets, before.now
	after.step(Restored{Groups: before.kept})
	after.rule(s)
	after.until(10 * time.Second)
	told := slices.Sorted(maps.Keys(before.alarms))
	if len(told) != group.MaxAlerts+1 { // and the summary
		t.Errorf("%d alarms, want %d", len(told), group.MaxAlerts+1)
	}
	if diff := cmp.Diff(told, slices.Sorted(maps.Keys(after.alarms))); diff != "" {
		t.Errorf("alarms (-before +after):\n%s", diff)
	}
}

// TestAlarmThatIsOver: what keep_firing_for holds up does not pass for what is so.
func TestAlarmThatIsOver(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Minute)
	b.rule(eachSecond(above(3, keepFiring(30*time.Second))))
	over := func(at, want time.Duration) {
		t.Helper()
		b.until(at)
		a, fires := b.alarms["r alert 0 dport=80"]
		if got := b.since(a.Over); !fires || a.Over != 0 && got != want || a.Over == 0 && want != 0 {
			t.Errorf("after %v: fires %v, over since %v, want %v", at, fires, got, want)
		}
	}
	over(15500*time.Millisecond, 0)
	delete(b.sockets, 1)
	over(20500*time.Millisecond, 16*time.Second)
	b.many(11, 1, time.Minute)
	over(40500*time.Millisecond, 0) // again
}

// TestKilledGroupsDoNotFlap: a leak that is killed again and again keeps its one
// alert.
func TestKilledGroupsDoNotFlap(t *testing.T) {
	b := newBench(t)
	b.rule(eachSecond(above(3, kills, func(r *rules.Rule) {
		r.For = 5 * time.Second
		r.Then = append(r.Then, rules.Action{Kind: rules.Alert, Alert: &rules.AlertOptions{KeepFiringFor: time.Minute}})
	})))
	for i := range 20 {
		b.many(uint64(1+10*i), 4, 0, func(s *sim.Socket) { s.Entered, s.Progress, s.LastAck, s.LastData = b.now, b.now, b.now, b.now })
		b.until(time.Duration(i+1) * 20 * time.Second)
	}
	b.until(20 * time.Minute)
	began, ended, killed := 0, 0, 0
	for _, line := range b.events {
		switch {
		case strings.Contains(line, "alert 1 dport=80 ended"):
			ended++
		case strings.Contains(line, "alert 1"):
			began++
		case strings.Contains(line, "kill done"):
			killed++
		}
	}
	if began != 1 || ended != 1 || killed != 80 {
		t.Errorf("the alert began %d times and ended %d times, %d killed; want once each, and 80:\n%s", began, ended, killed, strings.Join(b.events, "\n"))
	}
}

// TestBacklogUsage reads the accept queues of listening sockets.
func TestBacklogUsage(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Minute, func(s *sim.Socket) { s.State, s.RQueue, s.Queued = ssfilter.Listening, 95, benchStart })
	b.rule(eachSecond(above(0, func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Listening)}}
		r.GroupBy = []rules.GroupKey{rules.BySport}
		r.When = []rules.Condition{{Metric: rules.BacklogUsage, Op: rules.Greater, Number: 90}}
		r.For = 0
	})))
	b.until(time.Second)
	if len(b.events) == 0 || b.e.Watched() > 0 {
		t.Errorf("reported %v; %d watched, want none", b.events, b.e.Watched())
	}
}

// TestManyGroupsAlertAsOne shows that beyond a hundred groups there is one alarm
// for the rest.
func TestManyGroupsAlertAsOne(t *testing.T) {
	b := newBench(t)
	for i := range 130 {
		b.many(uint64(1+2*i), 2, time.Minute, toPort(byte(i+1)))
	}
	b.rule(eachSecond(above(1, func(r *rules.Rule) { r.For = 0 })))
	if a := b.alarms["r alert 0 others"]; len(b.alarms) != 101 || a.Overflow != 30 || a.Count != 60 {
		t.Fatalf("%d alarms, and for the others %+v; want 101, one of them for 30 groups", len(b.alarms), a)
	}
	if n := b.noted(MoreTransitions); n != 1 {
		t.Errorf("%d notes on the groups that were not told one by one", n)
	}
	for c := range b.sockets {
		if c > 180 {
			delete(b.sockets, c)
		}
	}
	b.until(3 * time.Second)
	if _, others := b.alarms["r alert 0 others"]; len(b.alarms) != 90 || others {
		t.Errorf("%d alarms, others %t; want those of 90 groups", len(b.alarms), others)
	}
	clear(b.sockets)
	b.until(5 * time.Second)
	if len(b.alarms) > 0 {
		t.Errorf("alarms that go on: %v", b.alarms)
	}
}

// TestGroupsAndReload: a rule that says what it said keeps its groups; any other
// ends its alarms at once.
func TestGroupsAndReload(t *testing.T) {
	rule := above(3)
	other := killing("other", func(r *rules.Rule) { r.Match[0].Where = port(1) })
	for _, test := range []struct {
		name string
		to   []rules.Rule
		want []string
	}{
		{"unchanged", []rules.Rule{other, rule}, nil},
		{"changed", []rules.Rule{above(2)}, []string{"15s r alert 0 dport=80 ended", "15s r pending dport=80 count 4", "25s r alert 0 dport=80 count 4", "25s r firing dport=80 count 4"}},
		{"removed", []rules.Rule{other}, []string{"15s r alert 0 dport=80 ended"}},
		{"disabled", []rules.Rule{above(3, disabled)}, []string{"15s r alert 0 dport=80 ended"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.many(1, 4, time.Minute)
			b.rule(eachSecond(rule))
			b.until(15 * time.Second)
			b.events = nil
			b.rule(eachSecond(test.to...))
			b.until(30 * time.Second)
			b.want(test.want...)
		})
	}
}

// TestGroupsAndRestart: what is kept of groups makes an alert neither flap nor
// begin anew.
func TestGroupsAndRestart(t *testing.T) {
	for _, test := range []struct {
		name    string
		stop    time.Duration // a new run begins then
		outage  time.Duration
		sockets bool // are still there
		want    []string
	}{
		{"firing", 15 * time.Second, 10 * time.Second, true, []string{"25s r alert 0 dport=80 count 4"}},
		{"fired, and is over", 15 * time.Second, 10 * time.Second, false, []string{"25s r quiet dport=80 count 0", "33s r alert 0 dport=80 ended"}},
		{"pending", 5 * time.Second, 2 * time.Second, true, []string{"10s r alert 0 dport=80 count 4", "10s r firing dport=80 count 4"}},
		{"pending too long ago", 5 * time.Second, time.Hour, true, []string{"1h0m5s r pending dport=80 count 4", "1h0m15s r alert 0 dport=80 count 4", "1h0m15s r firing dport=80 count 4"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.many(1, 4, time.Minute)
			rule := above(3, keepFiring(8*time.Second))
			b.rule(eachSecond(rule))
			b.until(test.stop)
			kept := b.kept
			again := newBench(t)
			again.now, again.kept = benchStart.Add(test.stop+test.outage), kept
			if test.sockets {
				again.sockets = b.sockets
			} else {
				again.alarms = b.alarms
			}
			again.step(Restored{Groups: kept})
			again.rule(eachSecond(rule))
			again.until(test.stop + test.outage + 20*time.Second)
			if diff := cmp.Diff(test.want, again.events); diff != "" {
				t.Errorf("reported (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStandIn: what an earlier run knew waits for its rules, where the file could
// not be read at first and others stand in.
func TestStandIn(t *testing.T) {
	b := newBench(t)
	b.many(1, 4, time.Minute)
	rule := above(3, keepFiring(time.Minute))
	b.rule(eachSecond(rule))
	b.until(15 * time.Second)

	again := newBench(t)
	again.now, again.kept, again.sockets = benchStart.Add(20*time.Second), b.kept, b.sockets
	again.step(Restored{Groups: b.kept, Memories: []sock.Memory{{Key: sock.Key{Cookie: 77}, State: ssfilter.CloseWait}}})
	watching := eachSecond(above(1, func(r *rules.Rule) { r.Name, r.Then = "built-in", []rules.Action{{Kind: rules.Log}} }))
	again.step(RulesChanged{Program: match.Compile(&watching), Fallback: true})
	again.until(60 * time.Second)
	if !cmp.Equal(again.kept, b.kept) || again.e.earlier.memories == nil {
		t.Errorf("while others stand in, kept is %+v, want %+v; %d memories are left", again.kept, b.kept, len(again.e.earlier.memories))
	}
	again.events = nil
	again.rule(eachSecond(rule))
	again.until(80 * time.Second)
	again.want("1m0s r alert 0 dport=80 count 4")
	if again.e.earlier.memories != nil {
		t.Error("after so many scans for its rules a connection that none has shown is still remembered")
	}
}

// TestGrowthAndRestart: what grew before a restart goes on growing after it, and no
// longer than if there had been none.
func TestGrowthAndRestart(t *testing.T) {
	rule := above(0, func(r *rules.Rule) {
		r.For, r.When = 0, []rules.Condition{{Metric: rules.Growth, Op: rules.Greater, Number: 1}}
	})
	b := newBench(t)
	b.many(1, 10, time.Minute)
	b.rule(eachSecond(rule))
	b.until(30500 * time.Millisecond)
	b.many(11, 20, 0)
	b.until(60 * time.Second)
	again := newBench(t)
	again.sockets, again.now = b.sockets, benchStart.Add(70*time.Second)
	again.step(Restored{Groups: b.kept})
	again.rule(eachSecond(rule))
	again.until(2 * time.Minute)
	again.want("1m10s r alert 0 dport=80 count 30")
	again.events = nil
	again.until(6 * time.Minute)
	if len(again.events) != 2 || again.e.Overview(again.now).Rules[0].Firing != 0 {
		t.Errorf("six minutes after it grew: %v", again.events)
	}
}

// TestNoTimewaitsAtAll: a rule that wants few of them is looked for where the counter
// says that there are none.
func TestNoTimewaitsAtAll(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true, TimeWait: 4}}
	b.many(1, 4, 0, func(s *sim.Socket) {
		s.State, s.Mini, s.Inode, s.Entered, s.Expires = ssfilter.TimeWait, true, 0, b.now, b.now.Add(time.Minute)
	})
	b.rule(eachSecond(above(0, func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait), Where: port(80)}}
		r.GroupBy, r.When, r.For = nil, []rules.Condition{fewer(2)}, 0
	})))
	b.until(5 * time.Second)
	clear(b.sockets)
	b.count.TimeWait = 0
	b.until(20 * time.Second)
	b.want("6s r alert 0 count 0", "6s r firing count 0")
}

// TestSparedScansShowNothingOld: what the last scan found is not shown for ever
// where the counter says that it is gone.
func TestSparedScansShowNothingOld(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true, TimeWait: 3}}
	b.many(1, 3, 0, func(s *sim.Socket) {
		s.State, s.Mini, s.Inode, s.Entered, s.Expires = ssfilter.TimeWait, true, 0, b.now, b.now.Add(time.Minute)
	})
	b.rule(eachSecond(above(3, func(r *rules.Rule) { r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}} })))
	b.until(5 * time.Second)
	shown := func() RuleOverview { return b.e.Overview(b.now).Rules[0] }
	if v := shown(); v.Sockets != 3 || len(v.Groups) != 1 || v.Groups[0].Count != 3 {
		t.Fatalf("shown %+v, want 3 sockets", v)
	}
	b.count.TimeWait = 1
	b.until(10 * time.Second)
	if v := shown(); v.Sockets != 1 || v.Groups[0].Count != 1 {
		t.Errorf("one is left, and shown is %+v", v)
	}
	b.count.TimeWait = 0
	b.until(15 * time.Second)
	if v := shown(); v.Sockets+v.Candidates+len(v.Groups) != 0 || v.Oldest != 0 {
		t.Errorf("none is left, and shown is %+v", v)
	}
	if len(b.scans) != 1 {
		t.Errorf("%d scans, want only the first", len(b.scans))
	}
}

// TestFiringGroupsKeepToTheBudget: that new groups fire all the time does not have
// the table scanned all the time.
func TestFiringGroupsKeepToTheBudget(t *testing.T) {
	const cost, lasts = time.Second, time.Hour
	for _, held := range []time.Duration{0, 10 * time.Second} {
		s := set(above(1, func(r *rules.Rule) {
			r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait), InStateFor: time.Second}}
			r.GroupBy, r.For = []rules.GroupKey{rules.ByDst}, held
			r.Then = []rules.Action{{Kind: rules.Kill, Limit: rules.Limit{N: 1000, Per: time.Minute}, Order: rules.Oldest}}
		}))
		e := New(Config{Precision: benchJiffy})
		now := benchStart
		p := e.Step(now, RulesChanged{Program: match.Compile(&s)})
		busy, fired := time.Duration(0), 0
		for now < benchStart.Add(lasts) {
			switch {
			case p.Scan != nil:
				f := p.Scan.Begin(now)
				peers := 1 + int(now.Sub(benchStart)/time.Second) // one more each second
				for _, s := range flood(4*peers, peers) {
					f.Take(&s, now)
				}
				sent := now
				now, busy = now.Add(cost), busy+cost
				p = e.Step(now, ScanDone{Result: f, Sent: sent, Cost: cost})
			case p.Count:
				p = e.Step(now, CountersRead{OK: true})
			default:
				now = max(now.Add(time.Millisecond), p.Wake)
				p = e.Step(now, nil)
			}
			for _, turn := range p.Transitions {
				if turn.To == group.Firing {
					fired++
				}
			}
		}
		if most := lasts/100 + 4*cost; busy > most || fired < 50 {
			t.Errorf("for %v: scans took %v of %v, want %v at most; %d groups fired", held, busy, lasts, most, fired)
		}
	}
}

// TestTooManyGroups shows that what is beyond the bound is left out, and that
// this is said once.
func TestTooManyGroups(t *testing.T) {
	sockets := flood(group.MaxGroups+7, group.MaxGroups+7)
	s := eachSecond(above(0, func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
		r.GroupBy, r.When = []rules.GroupKey{rules.ByDst}, []rules.Condition{more(1)}
	}))
	e := New(Config{Precision: benchJiffy})
	e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
	said := 0
	for i := range 3 {
		now := benchStart.Add(time.Duration(i) * time.Second)
		e.Step(now, nil)
		p := e.Step(now, CountersRead{})
		f := p.Scan.Begin(now)
		for i := range sockets {
			f.Take(&sockets[i], now)
		}
		for _, n := range e.Step(now, ScanDone{Result: f, Sent: now}).Notes {
			if n.Kind == TooManyGroups {
				said++
			}
		}
	}
	if said != 1 || remembered(e.rules[0].groups) > 0 {
		t.Errorf("said %d times, want once; %d quiet groups remembered", said, remembered(e.rules[0].groups))
	}
}

// TestScansRepeatSockets: one that a scan comes upon twice counts once.
func TestScansRepeatSockets(t *testing.T) {
	s := eachSecond(above(3))
	e := New(Config{Precision: benchJiffy})
	e.Step(benchStart, RulesChanged{Program: match.Compile(&s)})
	f := e.Step(benchStart, CountersRead{}).Scan.Begin(benchStart)
	sockets := closeWaits(20)
	for i := range sockets {
		f.Take(&sockets[i], benchStart)
		f.Take(&sockets[max(0, i-3)], benchStart)
	}
	e.Step(benchStart, ScanDone{Result: f, Sent: benchStart})
	if n := e.Overview(benchStart).Rules[0].Sockets; n != 20 {
		t.Errorf("%d sockets counted, want 20", n)
	}
}

// TestFiringBeyondTheTold: where more groups change at once than are told one by one,
// the sockets of one that begins to fire are killed all the same.
func TestFiringBeyondTheTold(t *testing.T) {
	on := func(port int) func(*sim.Socket) {
		return func(s *sim.Socket) { s.ID.SPort = [2]byte{byte(port >> 8), byte(port)} }
	}
	leak := above(0, func(r *rules.Rule) {
		r.Name, r.For, r.GroupBy = "leak", 30*time.Second, []rules.GroupKey{rules.BySport}
		kills(r)
	})
	b := newBench(t)
	b.add(1, time.Minute, on(1))
	b.rule(eachSecond(leak, killing("watch", logging)))
	b.until(5 * time.Second)
	for cookie := uint64(2); cookie <= 2000; cookie++ {
		b.add(cookie, -5*time.Second, on(int(cookie)))
	}
	b.until(29*time.Second + 500*time.Millisecond)
	for cookie := uint64(2); cookie <= 2000; cookie++ {
		delete(b.sockets, cookie)
	}
	b.until(time.Minute)
	if b.sockets[1] != nil {
		t.Error("the socket of the group that fires is still there")
	}
}
