package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// restart begins another run with what the one before has on disk.
func (b *bench) restart(s rules.Set) {
	b.t.Helper()
	r := Restored{Stops: b.stops, Spent: b.spent}
	for _, m := range b.memories {
		r.Memories = append(r.Memories, m)
	}
	b.e = New(b.e.config)
	b.step(r)
	b.rule(s)
}

// TestRestartedOften: a watchdog that never lives for longer than half a minute
// heals a leak of ten minutes on time, though the kernel forgets the ages every 15
// seconds, and whether it was told to stop or killed.
func TestRestartedOften(t *testing.T) {
	const bound, life, down = 10 * time.Minute, 30 * time.Second, time.Second
	for _, test := range []struct {
		name   string
		match  rules.Match
		change func(s *sim.Socket)
		busy   time.Duration // makes progress until then, every 7 s
	}{
		{"close-wait with keepalives", rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: bound}, func(*sim.Socket) {}, 0},
		{"established and idle, with keepalives", rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: bound}, func(s *sim.Socket) { s.State = ssfilter.Established }, 0},
		{"established, and idle after a while", rules.Match{States: ssfilter.Of(ssfilter.Established), IdleFor: bound}, func(s *sim.Socket) { s.State = ssfilter.Established }, 3 * time.Minute},
		{"established and stalled", rules.Match{States: ssfilter.Of(ssfilter.Established), StalledFor: bound}, func(s *sim.Socket) { s.State, s.Queued = ssfilter.Established, s.Entered }, 0},
		{"a state of which the kernel tells no age", rules.Match{States: ssfilter.Of(ssfilter.LastAck), InStateFor: bound}, func(s *sim.Socket) { s.State = ssfilter.LastAck }, 0},
	} {
		for _, stop := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, told to stop %t", test.name, stop), func(t *testing.T) {
				b := newBench(t)
				s := b.add(1, 0, test.change, func(s *sim.Socket) { s.Keepalive = 15 * time.Second })
				due := bound
				due += test.busy.Truncate(7 * time.Second)
				rule := set(killing("r", matching(test.match)))
				b.rule(rule)
				for now := time.Second; len(b.events) == 0 && now < 2*due; now += time.Second {
					if now%(15*time.Second) == 4*time.Second {
						s.LastAck = b.now
						s.Segs++
					}
					if now <= test.busy && now%(7*time.Second) == 0 {
						s.LastAck, s.LastData, s.Progress = b.now, b.now, b.now
						s.Acked++
						s.Segs++
					}
					switch {
					case now%(life+down) == life:
						b.wake = never // it is down
						if stop {
							b.step(Stop{})
						}
					case now%(life+down) == 0:
						b.restart(rule)
					}
					b.until(now)
				}
				// Of a socket that moved no more is lost than the time between two scans.
				late := 2 * time.Second
				if test.busy > 0 {
					late = life + 2*time.Second
				}
				if len(b.events) == 0 || b.since(b.now) < due || b.since(b.now) > due+late {
					t.Errorf("reported %v at %v, want a kill after %v", b.events, b.since(b.now), due)
				}
			})
		}
	}
}

// TestPersistOnce: what does not change is written once, and what moves all the
// time is not written all the time.
func TestPersistOnce(t *testing.T) {
	const total = 10_000
	for _, test := range []struct {
		name  string
		state ssfilter.State
		moves bool
		most  int // records in ten minutes
	}{
		{"stuck", ssfilter.CloseWait, false, total},
		{"idle", ssfilter.Established, false, total},
		// Scans are half a minute apart.
		{"busy", ssfilter.Established, true, total + 21*mostMoved},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := New(Config{Precision: benchJiffy, Self: 1})
			s := set(killing("r", matching(rules.Match{States: ssfilter.Of(test.state), IdleFor: 10 * time.Minute})))
			now, wrote := benchStart, 0
			sockets := make([]sim.Socket, total)
			for i := range sockets {
				sockets[i] = sim.Socket{
					ID: sock.ID{Family: 2, Cookie: uint64(i + 1), DPort: [2]byte{0, 80}}, State: test.state, Inode: uint32(i + 1),
					Entered: now, Progress: now, Queued: never, LastAck: now, LastData: now, Keepalive: 15 * time.Second,
				}
			}
			inputs := []Input{RulesChanged{Program: match.Compile(&s)}}
			for now < benchStart.Add(10*time.Minute-time.Second) {
				var in Input
				if len(inputs) > 0 {
					in, inputs = inputs[0], inputs[1:]
				}
				p := e.Step(now, in)
				wrote += len(p.Remember)
				if p.Count {
					inputs = append(inputs, CountersRead{})
				}
				if p.Scan != nil {
					f := p.Scan.Begin(now)
					for i := range sockets {
						s := &sockets[i]
						s.LastAck, s.Segs = now, s.Segs+1
						if test.moves {
							s.LastData, s.Acked = now, s.Acked+1
						}
						r := s.Report(now, benchJiffy)
						f.Take(&r, now)
					}
					inputs = append(inputs, ScanDone{Result: f, Sent: now})
				}
				if len(inputs) == 0 {
					now = p.Wake
				}
			}
			if wrote < total || wrote > test.most {
				t.Errorf("%d records were written of %d sockets, want at most %d", wrote, total, test.most)
			}
			left := len(e.Step(now, Stop{}).Remember)
			if test.moves && left != total-mostMoved {
				t.Errorf("at the end %d records are written, want those of all that moved since", left)
			}
			t.Logf("%d records, and %d at the end", wrote, left)
		})
	}
}

// TestConnectedAnewWhileDown: a socket in SYN_SENT that was connected anew from the same
// port, to the same peer, while nobody watched has not sent its SYN as often as one of
// the remembered age.
func TestConnectedAnewWhileDown(t *testing.T) {
	for _, test := range []struct {
		anew bool
		want string
	}{
		{false, "1s r kill done 1"}, // sent again after 1, 3 and 7 s
		{true, "10s r kill done 1"},
	} {
		b := newBench(t)
		s := b.add(1, 9*time.Second, synSent)
		shown := s.Report(b.now, benchJiffy)
		b.step(Restored{Memories: []sock.Memory{{Key: sock.Key{Cookie: 1}, ID: shown.ID.Sum(), State: s.State, Entered: s.Entered, Quiet: s.Entered, Queued: s.Entered}}})
		if test.anew {
			connectsAgain(b, s)
		}
		b.rule(set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.SynSent), StalledFor: 10 * time.Second}))))
		b.until(time.Minute)
		b.want(test.want)
	}
}

func synSent(s *sim.Socket) {
	s.State, s.Acked, s.Received, s.Segs, s.Queued = ssfilter.SynSent, 0, 0, 0, s.Entered
}

func connectsAgain(b *bench, s *sim.Socket) { s.Entered, s.Progress, s.Queued = b.now, b.now, b.now }

// TestConnectsAgainBetweenScans: so it is while scans are far apart, and nobody has seen how often
// its SYN was sent before. That tells one which is less than half as old.
func TestConnectsAgainBetweenScans(t *testing.T) {
	for _, test := range []struct {
		at   time.Duration // 0: it does not
		want string
	}{{0, "1m0s r kill done 1"}, {40 * time.Second, "1m40s r kill done 1"}, {50 * time.Second, "1m50s r kill done 1"}} {
		t.Run(fmt.Sprint("after ", test.at), func(t *testing.T) {
			b := newBench(t)
			s := b.add(1, 0, synSent)
			rules := set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.SynSent), StalledFor: time.Minute})))
			rules.Settings.Interval = 55 * time.Second
			b.rule(rules)
			if test.at > 0 {
				b.later(test.at, func() { connectsAgain(b, s) })
			}
			b.until(5 * time.Minute)
			if early := len(b.events) != 1 || b.events[0] < test.want; early {
				t.Errorf("%v, want %s or later", b.events, test.want)
			}
		})
	}
}

// TestConnectedElsewhereWhileDown: what is on disk of a socket that was connected
// elsewhere meanwhile makes room for what it is now.
func TestConnectedElsewhereWhileDown(t *testing.T) {
	b := newBench(t)
	s := b.add(1, 0, keepsAlive)
	b.rule(set(killing("r")))
	b.until(time.Second)
	if len(b.memories) != 1 {
		t.Fatalf("remembered %v, want the one socket", b.memories)
	}
	s.ID.SPort = [2]byte{0, 9}
	reconnect(s, b.now)
	b.restart(set(killing("r")))
	if m := b.memories[s.ID.Key()]; m.SegsIn != s.Segs {
		t.Errorf("remembered %+v, want what it is now", m)
	}
}
