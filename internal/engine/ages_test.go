package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// What is told of a socket has who takes it in know it as the engine does; and the
// bound on how many are told counts those that it leaves out.
func TestAges(t *testing.T) {
	b := newBench(t)
	for cookie := range uint64(5) {
		b.add(cookie+1, time.Second, keepsAlive)
	}
	b.add(9, time.Second) // of which the kernel knows it all
	b.rule(set(killing("r")))
	b.until(8 * time.Second)
	all, left := b.e.Ages(10, nil)
	if len(all) != 5 || left != 0 {
		t.Fatalf("told of %+v, and %d left out; want five", all, left)
	}
	for _, m := range all {
		sim := b.sockets[m.Cookie]
		sim.LastAck = b.now // the last answer to a probe
		s := sim.Report(b.now, benchJiffy)
		if m.Cookie == 9 || m.ID != s.ID.Sum() || m.State != ssfilter.CloseWait {
			t.Errorf("told %+v", m)
		}
		alone, with := track.AgeOf(&s, nil, b.now, b.now, benchJiffy), track.AgeOf(&s, &m, b.now, b.now, benchJiffy)
		if alone.InState > time.Second || with.InState < 7*time.Second || with.InState > 9*time.Second || with.Exact {
			t.Errorf("by the kernel %+v, by what is told %+v", alone, with)
		}
	}
	if some, left := b.e.Ages(2, nil); len(some) != 2 || left != 3 {
		t.Errorf("told of %d, and %d left out; want 2 and 3", len(some), left)
	}
}

// Who is told nothing of a socket takes it for as old as the kernel does. That is too
// old for one that waited in an accept queue, so those are told of first.
func TestAgesAccepted(t *testing.T) {
	b := newBench(t)
	for cookie := range uint64(40) {
		b.add(cookie+1, time.Second, keepsAlive)
	}
	b.add(50, time.Minute, queued)
	b.add(51, time.Minute, queued)
	b.rule(set(killing("r")))
	b.until(4 * time.Second)
	b.sockets[51].Inode = 7
	b.until(8 * time.Second)
	told, left := b.e.Ages(2, nil)
	if len(told) != 2 || told[0].Cookie+told[1].Cookie != 101 || left != 40 {
		t.Fatalf("told of %+v, and %d left out; want 50 and 51, and 40", told, left)
	}
	s := b.sockets[51].Report(b.now, benchJiffy)
	for _, m := range told {
		if age := track.AgeOf(&s, &m, b.now, b.now, benchJiffy); m.Cookie == 51 && age.InState > 4*time.Second {
			t.Errorf("accepted 4 s ago, by what is told %+v", age)
		}
	}
}

// What the source knows of sockets that no rule means is told too, as exactly; what the
// engine knows of the others is no mere bound where the source says the same.
func TestAgesOfTheSource(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Second, keepsAlive, seenEntering)
	b.rule(set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: time.Minute}))))
	b.until(8 * time.Second)
	other := b.add(2, time.Hour, keepsAlive, seenEntering)
	other.State = ssfilter.LastAck
	stuck := func(each func(*sock.Socket, sock.Instant)) {
		for _, cookie := range []uint64{1, 2} {
			s := b.sockets[cookie].Report(b.now, benchJiffy)
			each(&s, b.now)
		}
		s := b.add(3, time.Hour).Report(b.now, benchJiffy) // whose entry nobody saw
		each(&s, b.now)
	}
	all, left := b.e.Ages(10, stuck)
	if len(all) != 2 || left != 0 {
		t.Fatalf("told of %+v, and %d left out; want two", all, left)
	}
	for _, m := range all {
		entered := b.sockets[m.Cookie].Entered
		b.sockets[m.Cookie].Seen = false // whoever asks has another source
		s := b.sockets[m.Cookie].Report(b.now, benchJiffy)
		b.sockets[m.Cookie].Seen = true
		age := track.AgeOf(&s, &m, b.now, b.now, benchJiffy)
		if !m.Exact || m.Entered != entered || !age.Exact || age.InState != b.now.Sub(entered) {
			t.Errorf("told %+v, which makes %+v; it is in its state since %v", m, age, entered)
		}
	}
	if some, left := b.e.Ages(1, stuck); len(some) != 1 || left != 1 {
		t.Errorf("told of %d, and %d left out; want 1 and 1", len(some), left)
	}
}

var agesSink []sock.Memory

// The loop makes the copy, and does nothing else meanwhile.
func BenchmarkAges(b *testing.B) {
	e := New(Config{})
	for i := range uint64(1 << 14) {
		e.tracks.add(&track.Connection{ID: sock.ID{Family: 2, Cookie: i + 1}, State: ssfilter.CloseWait})
	}
	for b.Loop() {
		agesSink, _ = e.Ages(1<<14, nil)
	}
}
