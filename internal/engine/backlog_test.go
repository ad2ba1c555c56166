package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// queued puts a socket into an accept queue.
func queued(s *sim.Socket) { s.Inode = 0 }

// TestAcceptQueue: the time of a socket that was seen in an accept queue counts from
// when a program has it, which a scan each second shows.
func TestAcceptQueue(t *testing.T) {
	type moment struct {
		at time.Duration
		do func(b *bench, s *sim.Socket, set rules.Set)
	}
	accepted := func(_ *bench, s *sim.Socket, _ rules.Set) { s.Inode = 7 }
	closed := func(b *bench, s *sim.Socket, _ rules.Set) {
		s.State, s.Entered, s.LastAck = ssfilter.CloseWait, b.now, b.now
		s.Segs++
	}
	restarted := func(b *bench, _ *sim.Socket, set rules.Set) { b.restart(set) }
	ruled := func(b *bench, _ *sim.Socket, set rules.Set) { b.rule(set) }
	established := func(s *sim.Socket) { s.State = ssfilter.Established }
	keepsAlive := func(s *sim.Socket) { s.Keepalive = time.Second }
	closeWait := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 10 * time.Second}
	idle := rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: 10 * time.Second}
	either := rules.Match{States: ssfilter.Of(ssfilter.Established, ssfilter.CloseWait), IdleFor: 10 * time.Second}
	slow := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 5 * time.Minute}

	for _, test := range []struct {
		name    string
		match   rules.Match
		age     time.Duration
		socket  func(*sim.Socket)
		moments []moment
		want    time.Duration // of the kill, or up to a second later
	}{
		{"due while it waits", closeWait, time.Minute, queued, []moment{{5500 * time.Millisecond, accepted}}, 15 * time.Second},
		{"accepted before it would be due", closeWait, 0, queued, []moment{{5500 * time.Millisecond, accepted}}, 15 * time.Second},
		{"accepted long before it would be due", slow, time.Second, queued, []moment{{100 * time.Second, accepted}}, 400 * time.Second},
		{"idle in established", idle, 3 * time.Second, func(s *sim.Socket) { queued(s); established(s) }, []moment{{5500 * time.Millisecond, accepted}}, 15 * time.Second},
		{"closed by its peer, and accepted between two scans", either, 3 * time.Second, func(s *sim.Socket) { queued(s); established(s) }, []moment{{5100 * time.Millisecond, closed}, {5500 * time.Millisecond, accepted}}, 15 * time.Second},
		{"with keepalives", closeWait, 3 * time.Second, func(s *sim.Socket) { queued(s); keepsAlive(s) }, []moment{{5500 * time.Millisecond, accepted}}, 15 * time.Second},
		{"accepted, and then restarted", closeWait, 5 * time.Second, queued, []moment{{5500 * time.Millisecond, accepted}, {8 * time.Second, restarted}}, 15 * time.Second},
		{"restarted, and then accepted", closeWait, 5 * time.Second, queued, []moment{{3 * time.Second, restarted}, {5500 * time.Millisecond, accepted}}, 15 * time.Second},
		{"accepted while nobody watched", closeWait, 5 * time.Second, queued, []moment{{5500 * time.Millisecond, accepted}, {5600 * time.Millisecond, restarted}}, 15 * time.Second},
		{"accepted in another state while nobody watched", either, 5 * time.Second, func(s *sim.Socket) { queued(s); established(s) }, []moment{{5100 * time.Millisecond, closed}, {5500 * time.Millisecond, accepted}, {5600 * time.Millisecond, restarted}}, 15 * time.Second},
		{"restarted twice", closeWait, 5 * time.Second, queued, []moment{{5500 * time.Millisecond, accepted}, {8 * time.Second, restarted}, {12 * time.Second, restarted}}, 15 * time.Second},
		{"new rules", closeWait, 5 * time.Second, queued, []moment{{3 * time.Second, ruled}, {5500 * time.Millisecond, accepted}, {8 * time.Second, ruled}}, 15 * time.Second},
		{"never seen waiting: the kernel's word", closeWait, 3 * time.Second, nil, nil, 7 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.count = CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true}} // which stands still
			s := b.add(7, test.age)
			if test.socket != nil {
				test.socket(s)
			}
			rules := eachSecond(killing("r", matching(test.match)))
			b.rule(rules)
			for _, m := range test.moments {
				b.until(m.at)
				m.do(b, s, rules)
			}
			b.until(test.want - time.Millisecond)
			if b.sockets[7] == nil {
				t.Fatalf("killed early: %v", b.events)
			}
			b.until(test.want + 1050*time.Millisecond)
			if b.sockets[7] != nil {
				t.Fatalf("not killed: %v", b.events)
			}
		})
	}
}

// TestAcceptQueueInGroups: what a program has just accepted does not count as old in
// a group either, and is forgotten once the kernel knows as much.
func TestAcceptQueueInGroups(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Counters: sock.Counters{HasInSegs: true}}
	b.many(1, 20, time.Second, queued)
	b.rule(eachSecond(above(15, lasting10s, func(r *rules.Rule) { r.For = 0 })))
	b.until(2500 * time.Millisecond)
	for _, s := range b.sockets {
		s.Inode = uint32(s.ID.Cookie)
	}
	b.until(12 * time.Second)
	if len(b.alarms) != 0 {
		t.Errorf("alarms before any program had the sockets for ten seconds: %v", b.alarms)
	}
	if oldest := b.now.Sub(b.e.rules[0].stats.oldest); oldest > 10*time.Second {
		t.Errorf("the oldest is %v old", oldest)
	}
	b.until(14 * time.Second)
	if len(b.alarms) != 1 {
		t.Errorf("%d alarms, want one", len(b.alarms))
	}
	for _, s := range b.sockets {
		s.State, s.Acked, s.Progress, s.LastAck, s.LastData = ssfilter.CloseWait, s.Acked+1, b.now, b.now, b.now
	}
	b.until(20 * time.Second)
	if n := b.e.Watched(); n != 0 {
		t.Errorf("%d sockets are watched of which the kernel knows all", n)
	}
}

// TestAcceptQueueWithoutRoom: what waits to be accepted is watched, though the oldest
// take up all the room there is for others.
func TestAcceptQueueWithoutRoom(t *testing.T) {
	b := newBench(t)
	b.e = New(Config{Precision: benchJiffy, Self: 1, MaxTracks: 16})
	b.many(1, 100, time.Hour)
	s := b.add(200, 9*time.Second, queued)
	b.rule(eachSecond(killing("r", limited(1, time.Hour))))
	b.until(2 * time.Second)
	if n := b.e.Watched(); n > 16 {
		t.Errorf("%d sockets are watched, want 16 at most", n)
	}
	if b.e.tracks.get(sock.Key{Cookie: 200}) == nil {
		t.Fatal("the one that waits is not watched")
	}
	s.Inode = 200
	clear(b.sockets) // and then there is room
	b.sockets[200] = s
	b.rule(eachSecond(killing("r")))
	b.until(11 * time.Second)
	if b.sockets[200] == nil {
		t.Error("killed for the time that it waited")
	}
}

// TestLongAcceptQueue: what waited to be accepted where there was no room to watch it
// is not killed for that time, once a program has it and there is room.
func TestLongAcceptQueue(t *testing.T) {
	b := newBench(t)
	b.e = New(Config{Precision: benchJiffy, Self: 1, MaxTracks: 16})
	b.many(1, 100, time.Hour)
	var waiting []*sim.Socket
	for cookie := uint64(201); cookie <= 220; cookie++ {
		waiting = append(waiting, b.add(cookie, 9*time.Second, queued))
	}
	b.rule(eachSecond(killing("r", limited(1, time.Hour))))
	b.until(2 * time.Second)
	clear(b.sockets) // then there is room
	for _, s := range waiting {
		s.Inode = uint32(s.ID.Cookie)
		b.sockets[s.ID.Cookie] = s
	}
	b.rule(eachSecond(killing("r")))
	b.until(11 * time.Second)
	if n := len(b.sockets); n != len(waiting) {
		t.Errorf("%d of %d were killed for the time that they waited", len(waiting)-n, len(waiting))
	}
	b.until(time.Minute)
	if n := len(b.sockets); n != 0 {
		t.Errorf("%d are left, want them killed once a program has had them for long", n)
	}
}
