package schedule_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/schedule"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	start     = sock.Instant(1000 * time.Second)
	both      = match.AllClasses
	cheap     = match.ClassSet(1 << match.Cheap)
	expensive = match.ClassSet(1 << match.Expensive)
)

// wanting is a program whose rules want scans so far apart, in states that sockets
// enter by a segment.
func wanting(of ...time.Duration) *match.Program {
	states := []ssfilter.State{ssfilter.CloseWait, ssfilter.Established}
	set := rules.Set{Settings: rules.Settings{CPUBudget: 0.01}}
	for c, interval := range of {
		if interval > 0 {
			set.Rules = append(set.Rules, rules.Rule{Enabled: true, Match: []rules.Match{{States: ssfilter.Of(states[c]), InStateFor: 16 * interval}}})
		}
	}
	return match.Compile(&set)
}

// scan makes one now, which costs so much.
func scan(s *schedule.Schedule, now sock.Instant, cost time.Duration) match.ClassSet {
	s.Count(now)
	s.Counted()
	of := s.Due(now)
	s.Begin(sock.Counters{HasInSegs: true, InSegs: 7})
	s.Ended(of, now, cost)
	s.Succeeded(of, now, sock.Never, 0, 0, now)
	return of
}

// TestIntervals: scans come as often as is wanted, unless the CPU budget, of which each
// class has a share, puts them further apart.
func TestIntervals(t *testing.T) {
	for name, test := range map[string]struct {
		wanted []time.Duration
		cost   time.Duration
		want   [match.NumClasses]time.Duration
	}{
		"as wanted":            {[]time.Duration{4 * time.Second, 8 * time.Second}, 0, [2]time.Duration{4 * time.Second, 8 * time.Second}},
		"cheap enough":         {[]time.Duration{4 * time.Second}, 30 * time.Millisecond, [2]time.Duration{4 * time.Second}},
		"too expensive":        {[]time.Duration{4 * time.Second}, 100 * time.Millisecond, [2]time.Duration{10 * time.Second}},
		"charged to one class": {[]time.Duration{4 * time.Second, 4 * time.Second}, 100 * time.Millisecond, [2]time.Duration{4 * time.Second, 20 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			s := schedule.New()
			s.ChangeRules(wanting(test.wanted...), start)
			if wake := s.Wake(); wake != start {
				t.Errorf("the first scan comes after %v, want at once", wake.Sub(start))
			}
			scan(&s, start, test.cost)
			got := [match.NumClasses]time.Duration{s.Interval(match.Cheap), s.Interval(match.Expensive)}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("intervals (-want +got):\n%s", diff)
			}
			shortest := test.want[match.Cheap]
			if wake := s.Wake(); wake != start.Add(shortest) || s.Lookahead(cheap) != 2*shortest {
				t.Errorf("the next comes after %v, want %v; looked ahead for %v", wake.Sub(start), shortest, s.Lookahead(cheap))
			}
		})
	}
}

// TestASharedScanIsNotChargedToTheCheap: a cheap scan stays frequent beside an expensive
// one.
func TestASharedScanIsNotChargedToTheCheap(t *testing.T) {
	s := schedule.New()
	s.ChangeRules(wanting(time.Second, time.Second), start)
	s.Ended(cheap, start, time.Millisecond)
	s.Ended(both, start, time.Second)
	if c, e := s.Interval(match.Cheap), s.Interval(match.Expensive); c != time.Second || e != 200*time.Second {
		t.Errorf("intervals of %v and %v", c, e)
	}
}

// TestTogether: a scan that both classes want soon is made for both, and one that failed
// for both is made for each.
func TestTogether(t *testing.T) {
	s := schedule.New()
	s.ChangeRules(wanting(4*time.Second, 8*time.Second), start)
	var got []match.ClassSet
	for now := start; now <= start.Add(16*time.Second); now = s.Wake() {
		got = append(got, scan(&s, now, 0))
	}
	if diff := cmp.Diff([]match.ClassSet{both, cheap, both, cheap, both}, got); diff != "" {
		t.Errorf("scans (-want +got):\n%s", diff)
	}
	now := s.Wake()
	s.Failed(both, now)
	if got := []match.ClassSet{s.Due(now.Add(4 * time.Second)), s.Due(now.Add(8 * time.Second))}; got[0] != cheap || got[1] != cheap {
		t.Errorf("after a failure %v", got)
	}
	s.Succeeded(expensive, now, sock.Never, 0, 0, now)
	s.Failed(cheap, now)
	if of := s.Due(now.Add(8 * time.Second)); of != both {
		t.Errorf("after a success %v", of)
	}
}

// TestScansTakeTurns: of two classes that are better apart, the one that has been due
// the longer is scanned for first.
func TestScansTakeTurns(t *testing.T) {
	for _, test := range []struct {
		cheap, expensive sock.Instant // due
		want             match.ClassSet
	}{{5, 5, cheap}, {5, 4, expensive}, {4, 5, cheap}, {7, 5, expensive}, {5, 7, cheap}, {7, 7, 0}} {
		s := schedule.New()
		s.Hasten(match.Cheap, test.cheap)
		s.Hasten(match.Expensive, test.expensive)
		if of := s.Due(6); of != test.want {
			t.Errorf("due at %d and %d, at 6 the scan is for %b, want %b", test.cheap, test.expensive, of, test.want)
		}
	}
}

// TestBudget: scans that are wanted beside those that come by themselves may be two on
// credit, and no more.
func TestBudget(t *testing.T) {
	s := schedule.New()
	s.ChangeRules(wanting(64*time.Second), start)
	now, made := start, 0
	for now < start.Add(10*time.Minute) {
		scan(&s, now, 100*time.Millisecond) // 10 s of budget
		made++
		s.Hasten(match.Cheap, now)
		now = max(now, s.Wake())
	}
	if made < 60 || made > 62 {
		t.Errorf("%d scans in ten minutes, each of which uses up ten seconds of budget", made)
	}
}

// TestStretch: one expensive scan is no alarm: the machine was busy. Three in a row are,
// and one that is far too expensive is at once.
func TestStretch(t *testing.T) {
	s := schedule.New()
	s.ChangeRules(wanting(4*time.Second), start)
	for i, test := range []struct {
		cost        time.Duration
		began, over bool
	}{
		{cost: 100 * time.Millisecond}, {cost: time.Millisecond}, {cost: 100 * time.Millisecond}, {cost: 100 * time.Millisecond},
		{cost: 100 * time.Millisecond, began: true}, {cost: 70 * time.Millisecond}, {cost: time.Millisecond, over: true}, {cost: time.Second, began: true},
	} {
		if got := s.Ended(cheap, start, test.cost); got.Began != test.began || got.Over != test.over || s.Overview().Stretched != (got.Began || i == 5) {
			t.Errorf("after scan %d: %+v", i, got)
		}
	}
}

// TestCanFind: what the counters tell of a scan that is not made.
func TestCanFind(t *testing.T) {
	still := sock.Counters{HasInSegs: true, InSegs: 7}
	for name, test := range map[string]struct {
		counters sock.Counters
		change   func(s *schedule.Schedule, now sock.Instant)
		want     schedule.Finds
	}{
		"nothing came":                 {still, func(*schedule.Schedule, sock.Instant) {}, schedule.Departures},
		"a segment came":               {sock.Counters{HasInSegs: true, InSegs: 8}, func(*schedule.Schedule, sock.Instant) {}, schedule.Anything},
		"no counter":                   {sock.Counters{InSegs: 7}, func(*schedule.Schedule, sock.Instant) {}, schedule.Anything},
		"something falls due":          {still, func(s *schedule.Schedule, now sock.Instant) { s.Leave(cheap, now.Add(2*time.Second)) }, schedule.Anything},
		"something falls due later":    {still, func(s *schedule.Schedule, now sock.Instant) { s.Leave(cheap, now.Add(time.Minute)) }, schedule.Departures},
		"something counts by now":      {still, func(s *schedule.Schedule, now sock.Instant) { s.Matures(cheap, now) }, schedule.Anything},
		"there was no room for all":    {still, func(s *schedule.Schedule, now sock.Instant) { s.Succeeded(cheap, start, sock.Never, 1, 0, start) }, schedule.Anything},
		"skipped for too long":         {still, func(s *schedule.Schedule, now sock.Instant) { skip(s, 10) }, schedule.Anything},
		"skipped for not yet too long": {still, func(s *schedule.Schedule, now sock.Instant) { skip(s, 9) }, schedule.Departures},
	} {
		t.Run(name, func(t *testing.T) {
			s := schedule.New()
			s.ChangeRules(wanting(time.Second), start)
			if got := s.CanFind(match.Cheap, still, start, start); got != schedule.Anything {
				t.Errorf("before the first scan %d", got)
			}
			scan(&s, start, 0)
			now := start.Add(time.Second)
			test.change(&s, now)
			now = max(now, s.Wake())
			if got := s.CanFind(match.Cheap, test.counters, now, now.Add(2*time.Second)); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

func skip(s *schedule.Schedule, n int) {
	for range n {
		s.Skip(match.Cheap, s.Wake())
	}
}

// TestNoTimeWait: a counter of zero tells that there is none of the sockets that are
// wanted.
func TestNoTimeWait(t *testing.T) {
	s := schedule.New()
	s.ChangeRules(match.Compile(&rules.Set{Rules: []rules.Rule{{Enabled: true, Match: []rules.Match{{States: ssfilter.Of(ssfilter.TimeWait), InStateFor: 16 * time.Second}}}}}), start)
	scan(&s, start, 0)
	now := s.Wake()
	for n, want := range []schedule.Finds{schedule.Nothing, schedule.Anything} {
		if got := s.CanFind(match.Expensive, sock.Counters{HasTimeWait: true, TimeWait: uint64(n)}, now, now); got != want {
			t.Errorf("%d sockets: %d, want %d", n, got, want)
		}
	}
}
