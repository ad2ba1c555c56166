package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestForgottenAfterAnAcceptQueue: a socket that was seen in an accept queue counts from
// its accept, whatever had it forgotten since, and whatever scans have shown or missed.
func TestForgottenAfterAnAcceptQueue(t *testing.T) {
	type bed struct {
		*bench
		s      *sim.Socket
		holder sock.Holder
		rules  rules.Set
	}
	byLeaky := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 5 * time.Minute, Processes: []string{"leaky"}}
	few := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 5 * time.Minute, Unread: &rules.Threshold{Op: rules.LessEqual, Number: 1}}
	marked := where("fwmark = 1")
	marked.InStateFor = 5 * time.Minute
	stalled := killing("s", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), StalledFor: time.Hour}))
	established := killing("e", matching(rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: time.Hour}))
	accepted := func(b *bed) { b.s.Inode, b.s.UID, b.s.Accepted = 1, 1000, b.now }
	passed := func(b *bed) { b.holder = process(2, "leaky") }
	missed := func(b *bed) { b.missed[1] = true }
	shown := func(b *bed) { delete(b.missed, 1) }
	restarted := func(b *bed) { b.restart(b.rules) }
	unmarked := func(b *bed) { b.s.Mark = 2 }
	again := func(b *bed) { b.s.Mark = 1 }
	type moment struct {
		at time.Duration
		do func(*bed)
	}
	for name, test := range map[string]struct {
		match   rules.Match
		also    []rules.Rule
		socket  func(*sim.Socket)
		moments []moment // it is accepted after ten seconds
		watched bool     // after 20 seconds
	}{
		"passed on": {match: byLeaky, moments: []moment{{20 * time.Second, passed}}},
		"passed on, and another rule of its class may mean it": {
			match: byLeaky, also: []rules.Rule{stalled}, moments: []moment{{20 * time.Second, passed}},
		},
		"passed on, and a rule of the other class scans": {
			match: byLeaky, also: []rules.Rule{established}, moments: []moment{{20 * time.Second, passed}},
		},
		"passed on long after": {match: byLeaky, moments: []moment{{4 * time.Minute, passed}}},
		"passed on, and scans miss it": {
			match: byLeaky, moments: []moment{{15 * time.Second, missed}, {20 * time.Second, passed}, {23 * time.Second, shown}},
		},
		"forgotten while it waited, and passed on": {
			match: byLeaky, moments: []moment{{8 * time.Second, missed}, {20 * time.Second, passed}, {23 * time.Second, shown}},
		},
		"passed on after a restart":      {match: byLeaky, moments: []moment{{15 * time.Second, restarted}, {21 * time.Second, passed}}},
		"passed on long after a restart": {match: byLeaky, moments: []moment{{15 * time.Second, restarted}, {4 * time.Minute, passed}}},
		"its mark changes": {
			match: marked, socket: func(s *sim.Socket) { s.Mark, s.Marked = 1, true },
			moments: []moment{{15 * time.Second, unmarked}, {21 * time.Second, again}},
		},
		"data comes, and is read": {
			match: few, moments: []moment{{15 * time.Second, func(b *bed) { b.s.RQueue = 100 }}, {21 * time.Second, func(b *bed) { b.s.RQueue = 0 }}}, watched: true,
		},
		"an acknowledgement came with the accept, and a source tells since when it is in its state": {
			match: few, socket: seenEntering, watched: true,
			moments: []moment{{10 * time.Second, func(b *bed) { b.s.LastAck, b.s.Segs = b.now, b.s.Segs+1 }}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bed{bench: newBench(t), holder: process(3, "other")}
			b.holders = func(uint32) []sock.Holder { return []sock.Holder{b.holder} }
			b.s = b.add(1, time.Hour, func(s *sim.Socket) { s.Inode, s.UID = 0, 0 })
			if test.socket != nil {
				test.socket(b.s)
			}
			b.rules = eachSecond(append(test.also, killing("r", matching(test.match)))...)
			b.rule(b.rules)
			b.later(10*time.Second, func() { accepted(b) })
			for _, m := range test.moments {
				b.later(m.at, func() { m.do(b) })
			}
			b.until(20*time.Second - 1)
			if got := b.e.Watches(b.s.ID.Key()); got != test.watched {
				t.Errorf("watched: %v", got)
			}
			b.until(5*time.Minute + 9900*time.Millisecond)
			if len(b.sockets) == 0 {
				t.Fatalf("killed before a program had it for five minutes: %v", b.events)
			}
			b.until(5*time.Minute + 15*time.Second)
			if len(b.sockets) > 0 {
				t.Error("late, or forgotten")
			}
		})
	}
}

// TestStateAfterAnAcceptQueue: what a socket became with its program counts from when it did,
// as the source says that comes to know.
func TestStateAfterAnAcceptQueue(t *testing.T) {
	b := newBench(t)
	holder := process(3, "other")
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{holder} }
	s := b.add(1, time.Hour, queued, func(s *sim.Socket) { s.State = ssfilter.Established })
	m := rules.Match{States: ssfilter.Of(ssfilter.Established, ssfilter.CloseWait), InStateFor: 5 * time.Minute, Processes: []string{"leaky"}}
	b.rule(eachSecond(killing("r", matching(m))))
	b.later(10*time.Second, func() { s.Inode, s.Accepted = 1, b.now })
	b.later(30*time.Second, func() {
		s.State, s.Entered, s.LastAck, s.Keepalive = ssfilter.CloseWait, b.now, b.now, time.Second
		s.Segs++
		holder = process(2, "leaky")
	})
	b.later(time.Minute, func() { s.LastAck, s.Segs = b.now, s.Segs+1 })
	b.later(2*time.Minute, func() { s.Seen = true })
	b.until(5*time.Minute + 29900*time.Millisecond)
	if len(b.sockets) == 0 {
		t.Fatalf("killed before it was in its state for five minutes: %v", b.events)
	}
	b.until(5*time.Minute + 35*time.Second)
	if len(b.sockets) > 0 {
		t.Error("late")
	}
}

// TestSilentAfterAnAcceptQueue: what the peer has acknowledged since the accept does not
// tell since when it is silent.
func TestSilentAfterAnAcceptQueue(t *testing.T) {
	b := newBench(t)
	s := b.add(1, time.Hour, queued, func(s *sim.Socket) { s.State = ssfilter.Established })
	b.later(10*time.Second, func() { s.Inode, s.Accepted = 1, b.now })
	b.later(15*time.Second, func() { s.Acked, s.Segs, s.Progress, s.LastAck = s.Acked+1, s.Segs+1, b.now, b.now })
	b.rule(eachSecond(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.Established), SilentFor: 5 * time.Minute}))))
	b.until(5*time.Minute + 9900*time.Millisecond)
	if len(b.sockets) == 0 {
		t.Fatalf("killed before a program had it for five minutes: %v", b.events)
	}
	b.until(5*time.Minute + 15*time.Second)
	if len(b.sockets) > 0 {
		t.Error("late, or forgotten")
	}
}

// TestWaitsAreForgotten: what was in an accept queue is not remembered for ever.
func TestWaitsAreForgotten(t *testing.T) {
	b := newBench(t)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(3, "other")} }
	b.many(1, 50, time.Hour, queued)
	m := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 5 * time.Minute, Processes: []string{"leaky"}}
	b.rule(eachSecond(killing("r", matching(m))))
	b.until(5 * time.Second)
	for _, s := range b.sockets {
		s.Inode, s.Accepted = uint32(s.ID.Cookie), b.now
	}
	b.until(time.Minute)
	if n := len(b.e.scans.waits.known); n != 50 {
		t.Errorf("%d are remembered, want the 50 that are there", n)
	}
	if n := len(b.memories); n != 50 {
		t.Errorf("%d are on disk, want those", n)
	}
	clear(b.sockets)
	b.add(99, 0)
	b.until(3 * time.Minute)
	if n := len(b.memories); n != 0 {
		t.Errorf("%d are on disk that are gone", n)
	}
	if n := len(b.e.scans.waits.known) + len(b.e.scans.waits.fresh); n != 0 {
		t.Errorf("%d are remembered that are gone", n)
	}
}

// TestWaitsOfAnAbandonedScan: what a scan showed in an accept queue waited there, though
// the scan came to nothing.
func TestWaitsOfAnAbandonedScan(t *testing.T) {
	for name, abandon := range map[string]func(b *bench, set rules.Set){
		"cut short": func(b *bench, _ rules.Set) { b.scanErr = errors.New("cut short") },
		"new rules": func(b *bench, set rules.Set) {
			b.scanTime = 500 * time.Millisecond
			b.later(100*time.Millisecond, func() { b.rule(set) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.add(1, time.Hour, queued)
			set := eachSecond(killing("r"))
			abandon(b, set)
			b.later(200*time.Millisecond, func() { s.Inode, s.Accepted, b.scanErr = 1, b.now, nil })
			b.rule(set)
			b.until(10 * time.Second)
			if len(b.sockets) == 0 {
				t.Fatalf("killed before a program had it for ten seconds: %v", b.events)
			}
			b.until(15 * time.Second)
			if len(b.sockets) > 0 {
				t.Error("late, or forgotten")
			}
		})
	}
}
