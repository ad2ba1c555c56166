package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func seenEntering(s *sim.Socket) { s.Seen = true }

// TestExactAges: what a source saw enter its state is killed by its true age, from the
// first scan on.
func TestExactAges(t *testing.T) {
	probed := func(b *bench, s *sim.Socket) { // answers keepalives, which reset what the kernel counts
		for at := time.Second; at < 2*time.Minute; at += time.Second {
			b.later(at, func() { s.LastAck, s.Segs = b.now, s.Segs+1 })
		}
	}
	lastAck := rules.Match{States: ssfilter.Of(ssfilter.LastAck), StalledFor: time.Minute}
	orphan := func(s *sim.Socket) { s.State, s.Queued, s.Inode = ssfilter.LastAck, s.Entered, 0 }
	for name, test := range map[string]struct {
		match  rules.Match
		change func(*sim.Socket)
		live   func(*bench, *sim.Socket)
		want   []string
	}{
		"close-wait with keepalives": {rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: time.Minute}, keepsAlive, probed, []string{"20s r kill done 1"}},
		"and idle":                   {rules.Match{States: ssfilter.Of(ssfilter.CloseWait), IdleFor: time.Minute}, keepsAlive, probed, []string{"20s r kill done 1"}},
		"a FIN without an answer":    {lastAck, orphan, nil, []string{"20s r kill done 1"}},
		"a FIN, and progress since": {lastAck, orphan, func(b *bench, s *sim.Socket) {
			b.later(5*time.Second, func() { s.Progress, s.LastAck, s.Acked, s.Segs = b.now, b.now, s.Acked+1, s.Segs+1 })
		}, []string{"1m7.5s r kill done 1"}}, // by the scan that showed it
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.add(1, 40*time.Second, test.change, seenEntering)
			b.rule(set(killing("r", matching(test.match))))
			if test.live != nil {
				test.live(b, s)
			}
			b.until(2 * time.Minute)
			b.want(test.want...)
		})
	}
}

// TestSourceChanges: an exact age outlives the source that told it, and a restart
// without it; where it comes back, the age is the same one.
func TestSourceChanges(t *testing.T) {
	b := newBench(t)
	s := b.add(1, 20*time.Second, keepsAlive, seenEntering)
	for at := time.Second; at < 2*time.Minute; at += time.Second {
		b.later(at, func() { s.LastAck, s.Segs = b.now, s.Segs+1 })
	}
	r := set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 2 * time.Minute})))
	entered := func() {
		t.Helper()
		all, _ := b.e.Ages(10, nil)
		if len(all) != 1 || all[0].Entered != s.Entered || all[0].Quiet != s.Entered {
			t.Errorf("at %v the ages are %+v, want one since %v", b.since(b.now), all, s.Entered)
		}
	}
	b.rule(r)
	b.until(10 * time.Second)
	entered()
	s.Seen = false
	b.until(20 * time.Second)
	entered()
	b.restart(r)
	b.until(40 * time.Second)
	entered()
	s.Seen = true
	b.until(time.Minute)
	entered()
	b.until(3 * time.Minute)
	b.want("1m40s r kill done 1")
}

// TestExactAgeIsOfOneStay: an act is not done to a socket that left its state and came
// back since it was decided, though nothing else tells the two stays apart; and its
// age counts from then.
func TestExactAgeIsOfOneStay(t *testing.T) {
	b := newBench(t)
	s := b.add(1, time.Hour, seenEntering, func(s *sim.Socket) { s.LastData = s.Entered.Add(-time.Hour) })
	b.beforeLast = func(*sim.Socket) {
		b.beforeLast = nil
		s.Entered, s.LastAck, s.Segs = b.now, b.now, s.Segs+1
	}
	b.rule(set(killing("r")))
	b.until(time.Minute)
	b.want("0s r kill changed 1", "10s r kill done 1")
}

// TestExactAgeInAnAcceptQueue: no time before a program has accepted the socket counts.
func TestExactAgeInAnAcceptQueue(t *testing.T) {
	b := newBench(t)
	s := b.add(1, time.Hour, seenEntering, func(s *sim.Socket) { s.Inode = 0 })
	b.later(30*time.Second, func() { s.Inode, s.Accepted = 1, b.now })
	b.rule(set(killing("r")))
	b.until(time.Minute)
	if len(b.events) != 1 || b.events[0] < "40s" || b.events[0] > "42" {
		t.Errorf("reported %v, want a kill within 2 s after 40 s", b.events)
	}
}

// TestExactAgesAreKept: memory is spent on what would be lost with the source alone.
func TestExactAgesAreKept(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*sim.Socket)
		kept   bool
	}{
		"the kernel knows as much": {func(*sim.Socket) {}, false},
		"keepalives":               {keepsAlive, true},
		"an ack since":             {func(s *sim.Socket) { s.LastAck = benchStart }, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.add(1, 9*time.Second, seenEntering, test.change)
			b.rule(set(killing("r", dryRun)))
			want := map[sock.Key]sock.Instant{}
			if test.kept {
				want[s.ID.Key()] = s.Entered
			}
			for key, m := range b.memories {
				if m.Entered != want[key] {
					t.Errorf("entered at %v is on disk, want %v", m.Entered, want[key])
				}
			}
			if len(b.memories) != len(want) {
				t.Errorf("%d are on disk, want %d", len(b.memories), len(want))
			}
		})
	}
}

// remember has scans show the socket as it is now.
func (b *bench) remember(s *sim.Socket) {
	if b.remembered == nil {
		b.remembered = make(map[uint64]sock.Answer)
	}
	b.remembered[s.ID.Cookie] = sock.Answer{Socket: s.Report(b.now, benchJiffy), Got: b.now}
}

// TestRememberedAnswers: what a source shows that it was told before a scan is about the
// same connection, for whatever time has passed since, and falls due when it does.
func TestRememberedAnswers(t *testing.T) {
	for _, seen := range []bool{true, false} {
		b := newBench(t)
		s := b.add(1, 20*time.Second, func(s *sim.Socket) { s.Seen, s.Keepalive = seen, time.Second })
		b.later(time.Second, func() { s.LastAck, s.Segs = b.now, s.Segs+1 })
		b.later(2*time.Second, func() { b.remember(s) })
		b.rule(set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: time.Minute}))))
		b.until(35 * time.Second)
		all, _ := b.e.Ages(10, nil)
		if len(all) != 1 || all[0].Entered.Sub(s.Entered) > benchJiffy {
			t.Errorf("the ages are %+v, want one since %v", all, s.Entered)
		}
		b.until(2 * time.Minute)
		b.want("40s r kill done 1")
	}
}

// TestRememberedAnswerIsNotTold: an answer that is older than the scan has a newer one
// asked for before anything is said of it.
func TestRememberedAnswerIsNotTold(t *testing.T) {
	idle := matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), IdleFor: 10 * time.Second})
	for name, then := range map[string]rules.Action{"log": {Kind: rules.Log}, "alert": {Kind: rules.Alert, Alert: &rules.AlertOptions{}}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.add(1, 20*time.Second, seenEntering)
			b.remember(s)
			b.later(20*time.Second, func() { s.Progress, s.LastAck, s.Acked, s.Segs = b.now, b.now, s.Acked+1, s.Segs+1 })
			b.until(25 * time.Second)
			b.rule(set(killing("r", idle, func(r *rules.Rule) { r.Then = []rules.Action{then} })))
			told := func() bool { return len(b.events) > 0 || len(b.alarms) > 0 }
			b.until(29 * time.Second)
			if told() {
				t.Errorf("told %v, %v of a socket that has made progress", b.events, b.alarms)
			}
			b.remember(s)
			b.until(40 * time.Second)
			if !told() {
				t.Error("nothing was told")
			}
		})
	}
}

// TestRememberedAnswersComeOfAge: a group counts a socket when it comes of age, though
// the source would have shown it as it was before.
func TestRememberedAnswersComeOfAge(t *testing.T) {
	b := newBench(t)
	for cookie := uint64(1); cookie <= 2; cookie++ {
		b.remember(b.add(cookie, 0, keepsAlive, seenEntering))
	}
	r := above(1, func(r *rules.Rule) {
		r.For = 0
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 30 * time.Second}}
	})
	b.rule(eachSecond(r))
	b.until(time.Minute)
	b.want("30s r alert 0 dport=80 count 2", "30s r firing dport=80 count 2")
}
