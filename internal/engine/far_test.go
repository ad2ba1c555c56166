package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// idle10m wants connections that are idle for ten minutes.
func idle10m() rules.Rule {
	return killing("idle", match10m)
}

func match10m(r *rules.Rule) {
	r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established), Where: where("dport = 80").Where, IdleFor: 10 * time.Minute}}
}

// probing is an established connection whose keepalives have just been answered.
func (b *bench) probing(cookie uint64, age time.Duration) *sim.Socket {
	return b.add(cookie, age, func(s *sim.Socket) {
		s.State = ssfilter.Established
		s.Keepalive, s.LastAck = time.Second, benchStart
	})
}

// TestFarConnections: healthy connections with keepalives, of which observation knows
// more than the kernel, are kept apart until they come near their instant, and are
// then killed on time; what has made progress is not, and what is gone is forgotten.
func TestFarConnections(t *testing.T) {
	b := newBench(t)
	for cookie := uint64(1); cookie <= 4; cookie++ {
		b.probing(cookie, 0)
	}
	b.rule(set(idle10m()))
	answer := func(s *sim.Socket) { s.Segs, s.LastAck = s.Segs+1, b.now } // a probe's
	for at := 15 * time.Second; at < 9*time.Minute; at += 15 * time.Second {
		b.later(at, func() {
			for _, s := range b.sockets {
				answer(s)
			}
		})
	}
	b.until(5 * time.Minute)
	if b.e.far.n != 4 || b.e.tracks.n != 0 {
		t.Fatalf("%d are far, %d near; want 4 and none", b.e.far.n, b.e.tracks.n)
	}
	if known, _ := b.e.Ages(10, nil); len(known) != 4 || b.now.Sub(known[0].Quiet) < 4*time.Minute {
		t.Errorf("told of %+v, want four that have been quiet since the start", known)
	}
	b.sockets[2].Acked++
	b.sockets[2].Progress, b.sockets[2].LastData = b.now, b.now
	delete(b.sockets, 3)
	b.sockets[4].Segs, b.sockets[4].Acked, b.sockets[4].Progress, b.sockets[4].LastData = 1, 0, b.now, b.now // connected anew
	b.until(9 * time.Minute)
	if b.e.Watched() != 3 {
		t.Errorf("%d are watched, want three: one is gone", b.e.Watched())
	}
	b.until(20 * time.Minute) // the scan at 5m30s showed what happened, and the kernel no more of it
	b.want("10m0s idle kill done 1", "15m30s idle kill done 2", "15m30s idle kill done 4")
}

// TestFarConnectionsWithoutScans: one that is far is near in time all the same where
// scans fail.
func TestFarConnectionsWithoutScans(t *testing.T) {
	b := newBench(t)
	b.probing(1, 0)
	b.rule(set(idle10m()))
	b.until(5 * time.Minute)
	b.scanErr = errors.New("no buffer space")
	b.until(11 * time.Minute)
	b.want("10m0s idle kill done 1")
}

// TestFarConnectionsTwice: a scan of a table that is put into meanwhile can come upon
// many sockets again, and nothing comes of that.
func TestFarConnectionsTwice(t *testing.T) {
	b := newBench(t)
	b.twice = true
	const n = 100
	for cookie := uint64(1); cookie <= n; cookie++ {
		b.probing(cookie, 0)
	}
	b.rule(set(idle10m()))
	b.until(time.Minute)
	if b.e.far.n != n || b.e.tracks.n != 0 {
		t.Fatalf("%d are far, %d near; want %d and none", b.e.far.n, b.e.tracks.n, n)
	}
	for cookie := uint64(n + 1); cookie <= 2*n; cookie++ { // others beside them
		b.probing(cookie, 0)
	}
	b.until(2 * time.Minute)
	for _, s := range b.sockets { // of which the kernel knows as much from now on
		s.Keepalive = 0
		s.Acked++
		s.Progress, s.LastData, s.LastAck = b.now, b.now, b.now
	}
	b.until(3 * time.Minute)
	if b.e.far.n+b.e.tracks.n != 0 {
		t.Errorf("%d are far, %d near; want none", b.e.far.n, b.e.tracks.n)
	}
	b.until(13 * time.Minute)
	if len(b.sockets) != 0 {
		t.Errorf("%d are still there", len(b.sockets))
	}
}

// TestFarConnectionsBesideAScan: one that is far is near in time all the same where a
// scan does not end, and is one connection again once it has.
func TestFarConnectionsBesideAScan(t *testing.T) {
	for _, scanErr := range []error{nil, errors.New("no buffer space")} {
		b := newBench(t)
		b.probing(1, 0)
		b.probing(2, 0)
		b.probing(3, -8*time.Minute)
		b.rule(set(idle10m()))
		b.until(8 * time.Minute)
		b.later(90*time.Second, func() { b.sockets[2].Acked, b.sockets[2].Progress, b.sockets[2].LastData = 2, b.now, b.now })
		b.scanErr, b.scanTime = scanErr, 3*time.Minute
		b.until(8*time.Minute + 59*time.Second)
		if b.e.far.n != 3 || b.e.scans.running == nil {
			t.Fatalf("%d are far; want three, and a scan that goes on", b.e.far.n)
		}
		b.scanErr, b.scanTime = nil, 0
		b.until(11 * time.Minute)
		b.want("10m0s idle kill done 1")
		b.until(25 * time.Minute)
		if n := b.e.Watched(); n != 0 || len(b.sockets) != 0 {
			t.Errorf("%d are watched, %d are there; want none: %v", n, len(b.sockets), b.events)
		}
	}
}

// TestFarThatAnotherRuleMatches: what comes to match a rule of another class, by its mark,
// is kept in mind for that one, too.
func TestFarThatAnotherRuleMatches(t *testing.T) {
	b := newBench(t)
	s := b.probing(1, 0)
	s.Marked = true
	few := killing("few", func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established), Where: where("fwmark = 5").Where, IdleFor: 20 * time.Minute}}
	})
	program := match.Compile(&rules.Set{Rules: []rules.Rule{idle10m(), few}, Settings: set().Settings})
	program.Rules[1].Class = match.Cheap // as if it were about few
	program.Intervals[match.Cheap] = 30 * time.Second
	b.step(RulesChanged{Program: program})
	b.until(2 * time.Minute)
	of := func() (of match.ClassSet) {
		for _, x := range []*tracks{&b.e.far, &b.e.tracks} {
			for f := range x.all() {
				of = f.of
			}
		}
		return of
	}
	if got := of(); got != 1<<match.Expensive {
		t.Fatalf("known for classes %b, want %b", got, 1<<match.Expensive)
	}
	s.Mark = 5
	b.until(4 * time.Minute)
	if got := of(); got != match.AllClasses {
		t.Errorf("known for classes %b, want both", got)
	}
}
