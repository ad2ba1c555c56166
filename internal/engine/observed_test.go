package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// observed says since when a socket is in its state, as it is now.
func (b *bench) observed(s *sim.Socket, since time.Duration) {
	shown := s.Report(b.now, benchJiffy)
	b.step(Observed{Answer: sock.Answer{ID: s.ID, Socket: shown, Sent: b.now, Got: b.now}, Since: benchStart.Add(since)})
}

// TestObserved: what somebody saw of a socket counts from then, to the instant; without a
// rule it is nothing.
func TestObserved(t *testing.T) {
	lastAck := killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.LastAck), InStateFor: 64 * time.Second})) // scanned for each 4 s
	for name, test := range map[string]struct {
		rule  rules.Rule
		state ssfilter.State
		since time.Duration
		want  []string
		kept  int // in mind, right after
	}{
		"a state that the kernel keeps no time of": {lastAck, ssfilter.LastAck, 0, []string{"1m5s r kill done 1"}, 1},
		"one that no rule is about":                {lastAck, ssfilter.FinWait1, 0, nil, 0},
		"one whose time the kernel keeps":          {killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: time.Minute})), ssfilter.CloseWait, time.Second, []string{"1m1s r kill done 1"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.rule(set(test.rule))
			b.until(time.Second)
			s := b.add(1, 0, func(s *sim.Socket) { s.State, s.UID = test.state, 1000 })
			s.Entered, s.Progress, s.LastAck, s.LastData = b.now, b.now, b.now, b.now
			b.observed(s, time.Second)
			if n := b.e.Watched(); n != test.kept {
				t.Errorf("%d are watched, want %d", n, test.kept)
			}
			b.until(2 * time.Minute)
			b.want(test.want...)
		})
	}
}

// TestObservedAge: an exact time is taken as it is, for a tracked socket, too; a later one
// than the kernel tells says that a program accepted it then.
func TestObservedAge(t *testing.T) {
	b := newBench(t)
	s := b.add(1, 0, keepsAlive)
	b.rule(set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: time.Hour}))))
	b.until(30 * time.Second)
	entered := func() time.Duration {
		t.Helper()
		all, _ := b.e.Ages(10)
		if len(all) != 1 {
			t.Fatalf("the ages of %d are known, want one", len(all))
		}
		return all[0].Entered.Sub(benchStart)
	}
	for _, since := range []time.Duration{-time.Minute, -2 * time.Minute, 10 * time.Second} {
		b.observed(s, since)
		if got := entered(); got != since {
			t.Errorf("in its state since %v, want %v", got, since)
		}
	}
	b.until(time.Minute)
	if got := entered(); got != 10*time.Second {
		t.Errorf("in its state since %v after further scans", got)
	}
}

// TestObservedBesideWhatIsUnderWay: it comes beside a scan that reads what is known, a
// question and an act, and disturbs none.
func TestObservedBesideWhatIsUnderWay(t *testing.T) {
	b := newBench(t)
	b.probing(1, 0)
	b.probing(2, 0)
	b.rule(set(idle10m()))
	b.until(5 * time.Minute)
	if b.e.far.n != 2 {
		t.Fatalf("%d are far, want two", b.e.far.n)
	}
	b.scanTime = 3 * time.Minute
	for b.e.scans.running == nil {
		b.until(b.since(b.wake))
	}
	b.observed(b.sockets[1], -time.Minute)
	if b.e.far.n != 2 || b.e.tracks.n != 1 {
		t.Errorf("%d are far, %d near, while a scan reads the far ones", b.e.far.n, b.e.tracks.n)
	}
	b.scanTime = 0
	b.until(9 * time.Minute)
	acts := 0
	b.destroy = func(a *Action) Outcome {
		acts++
		b.e.Step(b.now, Observed{Answer: sock.Answer{ID: a.Socket.ID, Socket: a.Socket, Sent: b.now, Got: b.now}, Since: benchStart})
		if b.e.acts.underWay == 0 {
			t.Error("the act under way is forgotten")
		}
		delete(b.sockets, a.Socket.ID.Cookie)
		return Outcome{Act: *a, At: b.now}
	}
	b.until(11 * time.Minute)
	if acts != 2 || b.e.acts.underWay+b.e.acts.unconfirmed != 0 || b.e.Watched() != 0 {
		t.Errorf("%d acts, %+v, %d watched; want two, and nothing left", acts, b.e.acts, b.e.Watched())
	}
}

// TestObservedWhileAScanFindsIt: what a scan shows for the first time that was seen
// meanwhile is one connection.
func TestObservedWhileAScanFindsIt(t *testing.T) {
	for _, far := range []int{0, 1} { // known before
		b := newBench(t)
		for cookie := range far {
			b.probing(uint64(cookie)+1, 0)
		}
		b.rule(set(idle10m()))
		b.until(time.Minute)
		s := b.probing(9, 0)
		b.scanTime = 10 * time.Second
		for b.e.scans.running == nil {
			b.until(b.since(b.wake))
		}
		b.observed(s, 0)
		b.scanTime = 0
		for b.e.scans.running != nil {
			b.until(b.since(b.wake))
		}
		if n := b.e.Watched(); n != far+1 {
			t.Errorf("%d are watched, want %d", n, far+1)
		}
		b.until(15 * time.Minute)
		if n := b.e.Watched(); n != 0 || len(b.sockets) != 0 {
			t.Errorf("%d are watched, %d alive; want none", n, len(b.sockets))
		}
	}
}
