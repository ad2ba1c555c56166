package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// idling has a rule kill established sockets that idle, and no more than a share of them.
func idling(most float64) func(*rules.Rule) {
	return func(r *rules.Rule) {
		r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.Established), IdleFor: 10 * time.Second}}
		r.Then[0].Most = most
	}
}

// pool adds established sockets to a port that have idled for so long.
func (b *bench) pool(from, n int, port byte, age time.Duration) {
	for c := range n {
		b.add(uint64(from+c), age, func(s *sim.Socket) {
			s.State, s.ID.DPort = ssfilter.Established, [2]byte{0, port}
			s.ID.SPort = [2]byte{byte(100 + (from+c)>>8), byte(from + c)}
		})
	}
}

// Of the live connections to a port a rule takes no more than its share in ten minutes, one
// at least; those to another port do not wait for that.
func TestShare(t *testing.T) {
	b := newBench(t)
	b.pool(1, 20, 80, time.Minute)
	b.pool(101, 5, 81, time.Minute)
	b.pool(201, 1, 82, time.Minute)
	b.pool(301, 100, 83, -time.Hour) // which do not idle
	b.pool(401, 4, 83, time.Minute)
	b.rule(set(killing("r", idling(0.5))))
	count := func(when string, want ...int) {
		t.Helper()
		got := []int{b.killedOf(1, 20), b.killedOf(101, 105), b.killedOf(201, 201), b.killedOf(401, 404)}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: killed %v, want %v", when, got, want)
		}
	}
	b.until(9 * time.Minute)
	count("within ten minutes", 10, 2, 1, 4)
	o := b.e.Overview(b.now).Rules[0]
	if o.HeldBack[match.Share] != 13 || o.Held != 13 {
		t.Errorf("held back: %v, %d now", o.HeldBack, o.Held)
	}
	b.until(19 * time.Minute)
	count("after ten minutes", 15, 3, 1, 4)
}

// What was taken of a share counts over a reload, a changed rule and a restart.
func TestShareStays(t *testing.T) {
	r := killing("r", idling(0.5))
	for name, do := range map[string]func(b *bench){
		"reload":  func(b *bench) { b.rule(set(r)) },
		"changed": func(b *bench) { b.rule(set(killing("r", idling(0.5), limited(999, time.Minute)))) },
		"restart": func(b *bench) { b.restart(set(r)) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pool(1, 20, 80, time.Minute)
			b.rule(set(r))
			b.until(time.Minute)
			do(b)
			b.until(9 * time.Minute)
			if n := b.killedOf(1, 20); n != 10 {
				t.Errorf("%d killed, want 10", n)
			}
			b.until(19 * time.Minute)
			if n := b.killedOf(1, 20); n != 15 {
				t.Errorf("%d killed after ten minutes, want half of what is left, too", n)
			}
		})
	}
}

// Where a rule asks who holds sockets, its share is one of those of a process.
func TestShareOfHolder(t *testing.T) {
	b := newPrograms(t, 0.1, 0.1)
	b.pool(1, 10, 80, time.Minute)
	b.pool(101, 20, 80, time.Minute)
	b.rule(set(killing("r", idling(0.5), func(r *rules.Rule) { r.Match[0].Processes = []string{"prog*"} })))
	b.until(9 * time.Minute)
	if one, other := b.killedOf(1, 10), b.killedOf(101, 120); one != 5 || other != 10 {
		t.Errorf("%d of 10 and %d of 20 killed, want half of each", one, other)
	}
}

// byProg has a rule ask who holds the sockets.
func byProg(r *rules.Rule) { r.Match[0].Processes = []string{"prog*"} }

// What was taken of a process counts while scans do not know yet what it holds: after a reload.
func TestShareOfHolderStays(t *testing.T) {
	s := set(killing("r", idling(0.5), byProg))
	for name, do := range map[string]func(b *bench){
		"reload":  func(b *bench) { b.rule(s) },
		"restart": func(b *bench) { b.restart(s) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newPrograms(t, 0.1, 0.1)
			b.pool(1, 10, 80, time.Minute)
			b.pool(101, 20, 80, time.Minute)
			b.rule(s)
			for range 6 {
				b.until(b.since(b.now) + 30*time.Second)
				do(b)
			}
			b.until(9 * time.Minute)
			if one, other := b.killedOf(1, 10), b.killedOf(101, 120); one != 5 || other != 10 {
				t.Errorf("%d of 10 and %d of 20 killed, want half of each", one, other)
			}
		})
	}
}

// What was taken counts for a rule that comes to ask who holds sockets, or does no more.
func TestShareByHolderOrPort(t *testing.T) {
	byPort, byHolder := set(killing("r", idling(0.5))), set(killing("r", idling(0.5), byProg))
	for _, test := range []struct {
		name        string
		first, then rules.Set
		change      func(b *bench, s rules.Set)
	}{
		{"asks for holders", byPort, byHolder, (*bench).rule},
		{"asks for none any more", byHolder, byPort, (*bench).rule},
		{"asks for holders after a restart", byPort, byHolder, (*bench).restart},
		{"asks for none after a restart", byHolder, byPort, (*bench).restart},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newPrograms(t, 0.1)
			b.pool(1, 20, 80, time.Minute)
			b.rule(test.first)
			b.until(time.Minute)
			test.change(b, test.then)
			b.until(9 * time.Minute)
			if n := b.killedOf(1, 20); n != 10 {
				t.Errorf("%d of 20 killed, want half", n)
			}
		})
	}
}

// A port from which connections were taken does not become another because fewer are left.
func TestSharePortStays(t *testing.T) {
	for name, do := range map[string]func(b *bench, s rules.Set){"reload": (*bench).rule, "restart": (*bench).restart} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			for c := range 4 {
				from := func(s *sim.Socket) { s.State, s.ID.SPort = ssfilter.Established, [2]byte{100, byte(c)} }
				b.add(uint64(1+c), time.Minute, from)
				for i := range 3 { // which do not idle
					b.add(uint64(100+10*c+i), -time.Hour, from, func(s *sim.Socket) { s.ID.DPort = [2]byte{1, byte(10*c + i)} })
				}
			}
			s := set(killing("r", idling(0.5)))
			b.rule(s)
			b.until(time.Minute)
			do(b, s)
			b.until(9 * time.Minute)
			if n := b.killedOf(1, 4); n != 2 {
				t.Errorf("%d of the 4 connections to a port killed, want half", n)
			}
		})
	}
}

// Sockets in close-wait, and those that no process holds, are no live connections.
func TestShareOfDead(t *testing.T) {
	b := newBench(t)
	b.many(1, 20, time.Minute)
	b.many(101, 20, time.Minute, func(s *sim.Socket) { s.State, s.Inode = ssfilter.LastAck, 0 })
	r := killing("r", idling(0.5))
	r.Match = []rules.Match{{States: ssfilter.Of(ssfilter.CloseWait, ssfilter.LastAck), InStateFor: 10 * time.Second}}
	b.rule(set(r))
	b.until(time.Minute)
	if n := len(b.kills()); n != 40 {
		t.Errorf("%d of 40 killed", n)
	}
}

// A rule that means more sockets than it may only alerts, and goes on once there are fewer.
func TestMaxMatches(t *testing.T) {
	for _, dry := range []bool{false, true} {
		t.Run(fmt.Sprint("dry run ", dry), func(t *testing.T) {
			b := newBench(t)
			b.many(1, 30, 0)
			r := killing("r", alsoAlerts, limited(100, time.Minute), func(r *rules.Rule) { r.Then[0].MaxMatches, r.DryRun = 20, dry })
			b.rule(set(r))
			b.until(time.Minute)
			acted := func() int { return len(b.kills()) + b.said("would") }
			o := b.e.Overview(b.now).Rules[0]
			if acted() > 0 || o.HeldBack[match.MaxMatches] != 30 || o.Held != 30 || o.Firing != 1 || b.noted(TooManyMatches, "sockets=30") != 1 {
				t.Errorf("%d acts; held back: %v, %d now; %d firing; the notes: %v", acted(), o.HeldBack, o.Held, o.Firing, b.notes)
			}
			for c := range uint64(10) {
				delete(b.sockets, 1+c)
			}
			b.until(2 * time.Minute)
			if acted() != 20 || b.noted(FewMatches) != 1 {
				t.Errorf("%d acts on the 20 that are left; the notes: %v", acted(), b.notes)
			}
		})
	}
}

// A rule that comes to say something else does nothing before a scan has counted what it means
// now, however well its sockets are known. What it then may take is on time.
func TestMaxMatchesOfChangedRule(t *testing.T) {
	most := func(n int) func(*rules.Rule) {
		return func(r *rules.Rule) { r.Then[0].MaxMatches, r.Match[0].InStateFor = n, 5*time.Minute }
	}
	others := killing("others", most(1000), dryRun, alsoAlerts) // for which all are watched
	for _, test := range []struct {
		name      string
		was, is   rules.Rule
		wantKills int
	}{
		{name: "another limit", was: killing("r", most(20), limited(100, time.Minute)), is: killing("r", most(20), limited(101, time.Minute))},
		{name: "it means more", was: killing("r", matching(where("dport = 81")), most(20)), is: killing("r", most(20))},
		{name: "it was a dry run", was: killing("r", most(20), dryRun), is: killing("r", most(20))},
		{name: "it is new", was: killing("q", matching(where("dport = 81")), most(20)), is: killing("r", most(20))},
		{name: "it asks who holds them", was: killing("r", most(20), byProg), is: killing("r", most(20), byProg, limited(101, time.Minute))},
		{name: "it may", was: killing("r", most(20)), is: killing("r", most(30)), wantKills: 30},
		{name: "it may, and asks who holds them", was: killing("r", most(20), byProg), is: killing("r", most(30), byProg), wantKills: 30},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newPrograms(t, 0.1)
			b.many(1, 30, 0)
			b.rule(set(test.was, others))
			b.until(6 * time.Minute)
			b.rule(set(test.is, others))
			b.until(6*time.Minute + time.Second)
			if n := b.killedOf(1, 30); n != test.wantKills {
				t.Errorf("%d killed at once, want %d", n, test.wantKills)
			}
			b.until(7 * time.Minute)
			if n := b.killedOf(1, 30); n != test.wantKills {
				t.Errorf("%d killed, want %d", n, test.wantKills)
			}
		})
	}
}

// What a rule that has not been counted yet would take, none after it in the file takes.
func TestUncountedRuleKeepsItsSockets(t *testing.T) {
	b := newBench(t)
	b.many(1, 3, time.Minute)
	second, log := killing("second"), killing("log", logging)
	b.step(Paused{Until: never})
	b.rule(set(log, second))
	b.until(time.Second)
	b.rule(set(log, killing("first", func(r *rules.Rule) { r.Then[0].MaxMatches = 10 }), second))
	b.step(Resumed{})
	b.until(time.Minute)
	if all := strings.Join(b.events, "\n"); strings.Count(all, " first kill done ") != 3 {
		t.Errorf("the first rule has not killed all 3:\n%s", all)
	}
}

// At a start with a storm of sockets that are due, no window ever holds more than its limit
// allows, the oldest come first, and all others wait.
func TestStorm(t *testing.T) {
	const n = 50_000
	b := newPrograms(t, 0.1)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{{PID: 101, Start: 7, Comm: "leaky"}} }
	for c := range uint64(n) {
		b.add(1+c, time.Minute+time.Duration(n-c)*time.Millisecond)
	}
	var killed []uint64
	var at []sock.Instant
	b.destroy = func(a *Action) Outcome {
		delete(b.sockets, a.Socket.ID.Cookie)
		killed, at = append(killed, a.Socket.ID.Cookie), append(at, b.now)
		return Outcome{Act: *a}
	}
	s := set(killing("r", canaries(), limited(1000, time.Minute), func(r *rules.Rule) { r.Then[0].MaxMatches = 2 * n }))
	s.Settings.Interval = 30 * time.Second
	b.rule(s)
	b.until(3*time.Minute - time.Second)
	if len(killed) != 3000 {
		t.Errorf("%d killed in three minutes, want the limit of each", len(killed))
	}
	for i, cookie := range killed {
		if cookie != uint64(i+1) {
			t.Fatalf("the %dth to be killed is number %d by age", i+1, cookie)
		}
		if i >= 1000 && at[i].Sub(at[i-1000]) < time.Minute {
			t.Fatalf("over 1000 killed in the minute before %v", b.since(at[i]))
		}
	}
	if o := b.e.Overview(b.now).Rules[0]; o.Held != n-len(killed) {
		t.Errorf("%d are held back, want %d", o.Held, n-len(killed))
	}
}

// Acts are confirmed before others are begun, however many are due: what is known of each
// act until then takes memory.
func TestConfirmedBeforeOthers(t *testing.T) {
	const n = 9 * askBatch
	b := newBench(t)
	for c := range uint64(n) {
		b.add(1+c, time.Minute)
	}
	most, killed := 0, 0
	b.destroy = func(a *Action) Outcome {
		delete(b.sockets, a.Socket.ID.Cookie)
		most = max(most, b.e.acts.unconfirmed)
		killed++
		b.now = b.now.Add(10 * time.Microsecond)
		return Outcome{Act: *a}
	}
	b.rule(set(killing("r", limited(2*n, time.Minute), func(r *rules.Rule) { r.Then[0].MaxMatches = 2 * n })))
	b.until(time.Minute)
	if killed != n || most > 2*askBatch {
		t.Errorf("%d of %d killed, and up to %d acts were not confirmed at once", killed, n, most)
	}
}
