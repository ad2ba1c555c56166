package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// growing has a rule fire at once where more sockets than that come in a minute.
func growing(perMinute float64) func(*rules.Rule) {
	return func(r *rules.Rule) {
		r.For, r.When = 0, []rules.Condition{{Metric: rules.Growth, Op: rules.Greater, Number: perMinute}}
	}
}

// begun has sockets begin now.
func (b *bench) begun(s *sim.Socket) {
	s.Entered, s.Progress, s.LastAck, s.LastData = b.now, b.now, b.now, b.now
}

// timeWaits adds n timewait sockets that begin now, from the cookie on.
func (b *bench) timeWaits(cookie uint64, n int) {
	b.many(cookie, n, 0, func(s *sim.Socket) {
		s.State, s.Mini, s.Inode, s.Entered, s.Expires = ssfilter.TimeWait, true, 0, b.now, b.now.Add(time.Minute)
	})
	b.count.TimeWait = uint64(len(b.sockets))
}

// reap has the kernel take the timewait sockets whose minute is over.
func (b *bench) reap() {
	for c, s := range b.sockets {
		if s.Expires <= b.now {
			delete(b.sockets, c)
		}
	}
	b.count.TimeWait = uint64(len(b.sockets))
}

// TestGrowthOfWhatMatchesAgain: connections that are there all the time, and match
// now and then, are seen for the first time once.
func TestGrowthOfWhatMatchesAgain(t *testing.T) {
	b := newBench(t)
	b.many(1, 20, time.Minute, func(s *sim.Socket) { s.State = ssfilter.Established })
	b.rule(eachSecond(above(0, growing(10), func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established), Unread: &rules.Threshold{Op: rules.Greater, Number: 0}}}
	})))
	for i := range 40 {
		b.until(time.Duration(i*15)*time.Second + 500*time.Millisecond)
		for _, s := range b.sockets {
			s.RQueue = uint32(i % 2)
		}
	}
	b.want()
}

// TestGrowthOfAnIdlePool: nor is one new that is idle again.
func TestGrowthOfAnIdlePool(t *testing.T) {
	b := newBench(t)
	b.many(1, 20, time.Hour, func(s *sim.Socket) { s.State = ssfilter.Established })
	b.rule(eachSecond(above(0, growing(10), func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established), IdleFor: time.Minute}}
	})))
	for i := range 20 {
		b.until(time.Duration(i*90)*time.Second + 500*time.Millisecond)
		for _, s := range b.sockets {
			s.Acked, s.Received, s.LastAck, s.LastData, s.Progress = s.Acked+1, s.Received+1, b.now, b.now, b.now
		}
	}
	b.want()
}

// TestGrowthOfAnOldLeak: what was there at the start does not grow when only
// observation, later on, shows how old it is.
func TestGrowthOfAnOldLeak(t *testing.T) {
	b := newBench(t)
	b.many(1, 1000, time.Hour, keepsAlive)
	b.rule(eachSecond(above(0, growing(10), func(r *rules.Rule) { r.Match[0].InStateFor = 5 * time.Minute })))
	b.until(20 * time.Minute)
	b.want()
}

// TestGrowthOfALeakInTime: what begins after the start counts when it has become
// old enough, once.
func TestGrowthOfALeakInTime(t *testing.T) {
	b := newBench(t)
	b.many(1, 10, time.Hour)
	b.rule(eachSecond(above(0, growing(3), func(r *rules.Rule) { r.Match[0].InStateFor = time.Minute })))
	b.until(30500 * time.Millisecond)
	b.many(11, 20, 0, b.begun)
	b.until(4 * time.Minute)
	b.want("1m31s r alert 0 dport=80 count 30", "1m31s r firing dport=80 count 30")
}

// TestGrowthAndALookThatMisses: what one scan misses is not new to the next.
func TestGrowthAndAScanThatMisses(t *testing.T) {
	b := newBench(t)
	b.many(1, 100, time.Minute)
	b.rule(eachSecond(above(0, growing(0))))
	for i := range 120 {
		b.until(time.Duration(i)*time.Second + 500*time.Millisecond)
		clear(b.missed)
		if i > 0 {
			b.missed[uint64(1+i%100)] = true
		}
	}
	b.want()
}

// TestGrowthWhileLooksFail: 60 sockets that came in half an hour of scans that fail are
// two a minute, in a group that was known, and in one that nobody has seen before.
func TestGrowthWhileScansFail(t *testing.T) {
	for name, known := range map[string]bool{"known": true, "new": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.many(1, 1, time.Minute)
			b.rule(eachSecond(above(0, growing(5))))
			b.until(10500 * time.Millisecond)
			if known {
				b.many(2, 1, time.Minute, toPort(81))
			}
			b.until(30500 * time.Millisecond)
			b.scanErr = errors.New("cut short")
			for i := range 60 {
				b.until(31*time.Second + time.Duration(i)*30*time.Second)
				b.many(uint64(11+i), 1, 0, toPort(81), b.begun)
			}
			b.scanErr = nil
			b.until(35 * time.Minute)
			b.want()
		})
	}
}

// TestGrowthAfterSparedLooks: timewait sockets are of the last minute, however long
// the counter has spared scans for them.
func TestGrowthAfterSparedScans(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true}}
	b.rule(eachSecond(above(0, func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
		r.For, r.When = 0, []rules.Condition{more(30), {Metric: rules.Growth, Op: rules.Greater, Number: 15}}
	})))
	b.until(2 * time.Second)
	b.timeWaits(1, 40) // makes the group known, by 8 a minute
	b.until(5 * time.Second)
	for at := 6 * time.Second; at < 30*time.Minute; at += time.Second { // few for half an hour
		b.until(at)
		b.reap()
	}
	b.timeWaits(1000, 100) // 100 in a moment are 20 a minute
	b.until(30*time.Minute + 10*time.Second)
	if len(b.events) == 0 {
		t.Errorf("100 sockets first seen within five minutes, and no growth of more than 15/m: %+v", b.e.Overview(b.now).Rules[0].Groups)
	}
}

// TestGrowthAndTwoRestarts: what grew is not forgotten by a run that ends before its
// first scan.
func TestGrowthAndTwoRestarts(t *testing.T) {
	rule := above(0, growing(1), func(r *rules.Rule) { r.Until = []rules.Condition{{Metric: rules.Growth, Op: rules.Less, Number: 1}} })
	s := eachSecond(rule)
	before := newBench(t)
	before.many(1, 10, time.Minute)
	before.rule(s)
	before.until(30500 * time.Millisecond)
	before.many(11, 20, 0)
	before.until(60 * time.Second)
	short := New(Config{Precision: benchJiffy, Self: 1})
	short.Step(before.now, Restored{Groups: before.kept})
	p := short.Step(before.now, RulesChanged{Program: match.Compile(&s)})
	after := newBench(t)
	after.sockets, after.now, after.alarms = before.sockets, before.now, before.alarms
	after.step(Restored{Groups: p.Groups})
	after.rule(s)
	after.until(65 * time.Second)
	after.want()
}

// TestSteadyGrowthOverARestart: a leak goes on at an even pace while nobody watches
// for a while, and so does its alert.
func TestSteadyGrowthOverARestart(t *testing.T) {
	s := eachSecond(above(0, growing(15)))
	before := newBench(t)
	leak := func(b *bench, from, to int) { // one each 3 s
		for i := from; i < to; i += 3 {
			b.until(time.Duration(i) * time.Second)
			b.many(uint64(1+i), 1, 0, b.begun)
		}
	}
	before.rule(s)
	leak(before, 1, 900)
	after := newBench(t)
	after.sockets, after.alarms = before.sockets, before.alarms
	after.wake = never
	leak(after, 900, 990) // nobody scans
	after.step(Restored{Groups: before.kept})
	after.rule(s)
	leak(after, 990, 1800)
	after.want()
}

// TestGrowthAfterReloadAndSparedLooks: new rules have a scan of their own before any is
// spared, or all that comes next would seem to have been there.
func TestGrowthAfterReloadAndSparedScans(t *testing.T) {
	for _, reload := range []bool{false, true} {
		b := newBench(t)
		b.count = CountersRead{OK: true, Counters: sock.Counters{HasTimeWait: true}}
		r := above(0, func(r *rules.Rule) {
			r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait)}}
			r.For, r.When = 0, []rules.Condition{more(30), {Metric: rules.Growth, Op: rules.Greater, Number: 15}}
		})
		if reload {
			b.rule(eachSecond(killing("other")))
			b.until(500 * time.Millisecond)
		}
		b.rule(eachSecond(r))
		b.until(30 * time.Minute)
		b.timeWaits(1000, 100) // 100 in a moment are 20 a minute
		b.until(30*time.Minute + 10*time.Second)
		if len(b.events) == 0 {
			t.Errorf("reload %t: 100 sockets within five minutes, half an hour after the rules were loaded, and no growth > 15/m: %+v", reload, b.e.Overview(b.now).Rules[0].Groups)
		}
	}
}

// TestGrowthAfterLooksSparedBySegments: nothing came while no segment did.
func TestGrowthAfterScansSparedBySegments(t *testing.T) {
	for _, gap := range []time.Duration{15 * time.Second, time.Minute} {
		b := newBench(t)
		b.count = CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true, InSegs: 1}}
		b.many(1, 3, time.Hour)
		s := eachSecond(above(0, growing(15)))
		s.Settings.Interval = gap
		b.rule(s)
		b.until(11*gap - gap/2)
		n := len(b.scans)
		b.many(1000, 100, 0, b.begun)
		b.count.InSegs++
		b.until(11*gap + gap/2)
		if len(b.events) == 0 {
			t.Errorf("gap %v (%d scans before): 100 sockets began at once after scans were spared: want 20/m: %+v", gap, n, b.e.Overview(b.now).Rules[0].Groups)
		}
	}
}

// TestGrowthOfAnEarlierRun: what grew before a long pause is no reason to kill after it.
func TestGrowthOfAnEarlierRun(t *testing.T) {
	rule := above(0, kills, growing(15), func(r *rules.Rule) {
		r.Until = []rules.Condition{{Metric: rules.Growth, Op: rules.Less, Number: 1}}
		r.Match[0].InStateFor = time.Second
		r.For = 20 * time.Second
		r.Then[0].Limit = rules.Limit{N: 1000, Per: time.Minute}
		r.Then[0].After = time.Hour
	})
	before := newBench(t)
	before.rule(eachSecond(rule))
	for i := range 400 {
		before.until(time.Duration(i) * time.Second)
		if i > 1 {
			before.many(uint64(i), 1, 0, before.begun)
		}
	}
	before.until(400 * time.Second)
	rule.Then[0].After = 0
	after := newBench(t)
	after.sockets = before.sockets
	after.now = before.now.Add(4 * time.Minute) // and nothing comes
	after.step(Restored{Groups: before.kept})
	n := len(after.sockets)
	after.rule(eachSecond(rule)) // same Sum
	after.until(400*time.Second + 4*time.Minute + 25*time.Second)
	for _, e := range after.events[:min(3, len(after.events))] {
		t.Log(e)
	}
	if len(after.sockets) < n {
		t.Errorf("%d of %d killed; growth is known to be nought for as long as anybody in this run has looked", n-len(after.sockets), n)
	}
}
