package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// canaries has a rule try its first kill of each program for ten seconds.
func canaries(change ...func(*rules.Canary)) func(*rules.Rule) {
	return func(r *rules.Rule) {
		c := &rules.Canary{First: 1, Wait: 10 * time.Second}
		for _, f := range change {
			f(c)
		}
		r.Then[0].Canary = c
		r.Then[0].Order = rules.Oldest
	}
}

func probing(c *rules.Canary) { c.Probe = "http://localhost/" }

// kills are the instants and sockets of what was killed.
func (b *bench) kills() (all []string) {
	for _, e := range b.events {
		if f := strings.Fields(e); f[2] == "kill" && f[3] == "done" {
			all = append(all, f[0]+" "+f[4])
		}
	}
	return all
}

// said is how many acts are reported with a result.
func (b *bench) said(result string) (n int) {
	for _, e := range b.events {
		if strings.Contains(e, " kill "+result+" ") {
			n++
		}
	}
	return n
}

func (b *bench) wantKills(want ...string) {
	b.t.Helper()
	if got := b.kills(); !slices.Equal(got, want) {
		b.t.Errorf("killed %q, want %q", got, want)
	}
}

// A program that spins after the first kill loses no other socket: the rule stops for all.
func TestCanaryStopsRule(t *testing.T) {
	b := newPrograms(t, 0.002, 0.002)
	b.spinsWhenKilled(101, 0.9)
	b.leaks(1, 20, 8*time.Second)
	b.leaks(101, 120, 12*time.Second)
	b.rule(set(killing("r", canaries())))
	b.until(40 * time.Second)
	if one, other := b.killedOf(1, 20), b.killedOf(101, 120); one != 1 || other > 1 {
		t.Errorf("%d sockets of the program that spins were killed, and %d of the other", one, other)
	}
	o := b.e.Overview(b.now).Rules[0]
	if o.Stopped == nil || o.Stopped.PID != 101 || o.Stopped.Reason != string(match.HolderSpins) || b.noted(RuleStopped, "pid=101") != 1 {
		t.Errorf("shown: %+v; the notes: %v", o.Stopped, b.notes)
	}
	if o.HeldBack[match.CanaryWaits] == 0 || o.HeldBack[match.RuleStopped] == 0 || o.Held < 30 {
		t.Errorf("held back: %v, %d now", o.HeldBack, o.Held)
	}
	b.programs[101].Uses(0, b.now)
	b.until(50 * time.Second)
	b.step(RuleReset{Rule: "r"})
	b.until(3 * time.Minute)
	if n := b.killedOf(1, 20) + b.killedOf(101, 120); n != 40 {
		t.Errorf("%d of 40 killed after the rule was reset", n)
	}
}

// A program that sleeps a moment between its loops uses less than half a core for spinning:
// how often it is woken tells.
func TestCanaryByWakeUps(t *testing.T) {
	for name, test := range map[string]struct {
		woken, cores float64
		stops        bool
	}{
		"woken often, and busier":      {50_000, 0.3, true},
		"busier":                       {500, 0.3, false},
		"woken often, for nothing":     {50_000, 0.02, false},
		"a few more requests a second": {5_000, 0.3, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newPrograms(t, 0.01)
			b.leaks(1, 20, 8*time.Second)
			first := true
			b.destroy = func(a *Action) Outcome {
				delete(b.sockets, a.Socket.ID.Cookie)
				if first {
					b.programs[101].Uses(test.cores, b.now)
					b.programs[101].Woken = test.woken
				}
				first = false
				return Outcome{Act: *a}
			}
			b.rule(set(killing("r", canaries())))
			b.until(time.Minute)
			if stopped := b.e.Overview(b.now).Rules[0].Stopped != nil; stopped != test.stops {
				t.Errorf("stopped %t after %d kills", stopped, len(b.kills()))
			}
		})
	}
}

// After the first kill of each program the others wait, in order, and no longer than for
// the verdict. What falls due then is killed on time.
func TestCanaryPasses(t *testing.T) {
	b := newPrograms(t, 0.1, 0.1)
	for c := range uint64(3) {
		b.add(1+c, 5*time.Second-time.Duration(c)*time.Second)
		b.add(101+c, 5*time.Second-time.Duration(c)*500*time.Millisecond)
	}
	b.add(4, -20*time.Second)
	b.rule(set(killing("r", canaries())))
	b.until(time.Minute)
	b.wantKills("5s 1", "5s 101", "15s 102", "15s 2", "15s 103", "15s 3", "30s 4")
	if n := b.noted(CanaryPassed); n != 2 {
		t.Errorf("said %d times that a canary passed: %v", n, b.notes)
	}
	if h := b.e.Overview(b.now).Rules[0]; h.HeldBack[match.CanaryWaits] != 4 || h.Held != 0 {
		t.Errorf("held back: %v, %d now", h.HeldBack, h.Held)
	}
}

// The first few kills are one canary, which is judged after the last of them.
func TestCanaryOfSeveral(t *testing.T) {
	b := newPrograms(t, 0.1)
	b.leaks(1, 5, 2*time.Second)
	b.rule(set(killing("r", canaries(func(c *rules.Canary) { c.First = 3 }))))
	b.until(time.Minute)
	b.wantKills("2s 1", "3s 2", "4s 3", "14s 4", "14s 5")
}

// Where nobody can tell what a kill does to the program, a tenth of the limit is killed,
// and that is said once. A socket that no process holds needs no canary.
func TestCanaryOfNobody(t *testing.T) {
	unseen := func(uint32) []sock.Holder { return nil }
	noStart := func(uint32) []sock.Holder { return []sock.Holder{{PID: 2, Comm: "leaky"}} }
	for name, holders := range map[string]func(uint32) []sock.Holder{"not found": unseen, "of an unknown life": noStart} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.partial, b.holders = true, holders
			for c := range uint64(30) {
				b.add(1+c, 0)
			}
			b.add(100, -30*time.Second, func(s *sim.Socket) { s.State, s.Inode = ssfilter.LastAck, 0 })
			r := killing("r", canaries(), limited(100, time.Minute))
			r.Match[0].States |= ssfilter.Of(ssfilter.LastAck)
			b.rule(set(r))
			b.until(69 * time.Second)
			if n := len(b.kills()); n != 11 || !slices.Contains(b.kills(), "40s 100") {
				t.Errorf("%d killed in the first minute, want a tenth of the limit and what nobody holds: %v", n, b.kills())
			}
			b.until(12 * time.Minute)
			if n := len(b.kills()); n != 31 {
				t.Errorf("%d of 31 killed in the end", n)
			}
			if n := b.noted(CanaryUntold); n != 1 {
				t.Errorf("said %d times: %v", n, b.notes)
			}
			if h := b.e.Overview(b.now).Rules[0].HeldBack[match.UnseenLimit]; h != 20 {
				t.Errorf("%d sockets counted as held back for that, want 20", h)
			}
		})
	}
}

// The probe decides where it was good before: what failed as the canary began shows nothing.
func TestCanaryProbe(t *testing.T) {
	bad := errors.New("503 Service Unavailable")
	for _, test := range []struct {
		name    string
		answers []error // the last one again and again
		partial bool
		stopped bool
		killed  int // in the two minutes after
	}{
		{name: "good", answers: []error{nil}, killed: 20},
		{name: "fails afterwards", answers: []error{nil, bad}, stopped: true, killed: 1},
		{name: "failed before, too", answers: []error{bad}, killed: 3},
		{name: "failed before", answers: []error{bad, nil}, killed: 20},
		{name: "good, and the holder is unknown", answers: []error{nil}, partial: true, killed: 20},
		{name: "fails, and the holder is unknown", answers: []error{nil, bad}, partial: true, stopped: true, killed: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newPrograms(t, 0.1)
			probes := 0
			b.probe = func(string) error {
				probes++
				return test.answers[min(probes, len(test.answers))-1]
			}
			if test.partial {
				b.partial, b.holders = true, func(uint32) []sock.Holder { return nil }
			}
			for c := range uint64(20) {
				b.add(1+c, 0)
			}
			b.rule(set(killing("r", canaries(probing), limited(20, 2*time.Minute))))
			b.until(110 * time.Second)
			o := b.e.Overview(b.now).Rules[0]
			if n := len(b.kills()); n != test.killed || (o.Stopped != nil) != test.stopped || probes != 2 {
				t.Errorf("%d killed, want %d; stopped: %+v; %d probes: %v", n, test.killed, o.Stopped, probes, b.notes)
			}
			if test.stopped && o.Stopped.Reason != string(match.ProbeFailed) {
				t.Errorf("stopped for %s", o.Stopped.Reason)
			}
		})
	}
}

// A first kill that comes to nothing is none: the next one goes on at once.
func TestCanaryThatComesToNothing(t *testing.T) {
	for name, came := range map[string]Outcome{
		"gone":    {Gone: true, Err: sock.ErrGone},
		"failed":  {Err: errors.New("no memory")},
		"changed": {Changed: match.NewRules},
	} {
		t.Run(name, func(t *testing.T) {
			b := newPrograms(t, 0.1)
			for c := range uint64(3) {
				b.add(1+c, 5*time.Second-time.Duration(c))
			}
			first := true
			b.destroy = func(a *Action) Outcome {
				if !first {
					delete(b.sockets, a.Socket.ID.Cookie)
					return Outcome{Act: *a}
				}
				first = false
				o := came
				o.Act = *a
				o.Last = b.answer(a.Socket.ID, b.now)
				return o
			}
			b.rule(set(killing("r", canaries())))
			b.until(time.Minute)
			if kills := b.kills(); len(kills) == 0 || kills[0] != "5s 2" {
				t.Errorf("killed %q, want the second at once", kills)
			}
		})
	}
}

// A canary begins anew with a new process, a changed rule and a restart, and goes on over
// a reload.
func TestCanaryAgain(t *testing.T) {
	r := killing("r", canaries())
	for _, test := range []struct {
		name string
		do   func(b *bench)
		want []string
	}{
		{"nothing happens", func(*bench) {}, []string{"5s 1", "15s 2", "15s 3"}},
		{"reload", func(b *bench) { b.rule(set(r)) }, []string{"5s 1", "15s 2", "15s 3"}},
		{"changed", func(b *bench) { b.rule(set(killing("r", canaries(), limited(999, time.Minute)))) }, []string{"5s 1", "10s 2", "20s 3"}},
		{"restart", func(b *bench) { b.restart(set(r)) }, []string{"5s 1", "11.2s 2", "21.2s 3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newPrograms(t, 0.1)
			for c := range uint64(3) {
				b.add(1+c, 5*time.Second-time.Duration(c))
			}
			b.rule(set(r))
			b.until(10 * time.Second)
			test.do(b)
			b.until(time.Minute)
			b.wantKills(test.want...)
		})
	}
}

// One process that ends in its canary shows nothing. When three have, one after the other,
// kills may well be why.
func TestCanaryEnds(t *testing.T) {
	b := newPrograms(t, 0.1, 0.1, 0.1, 0.1)
	b.destroy = func(a *Action) Outcome {
		delete(b.sockets, a.Socket.ID.Cookie)
		delete(b.programs, a.Holders[0].PID)
		return Outcome{Act: *a}
	}
	for i := range uint64(4) {
		b.add(1+100*i, 5*time.Second-time.Duration(i)*20*time.Second)
	}
	b.rule(set(killing("r", canaries())))
	b.until(2 * time.Minute)
	b.wantKills("5s 1", "25s 101", "45s 201")
	if o := b.e.Overview(b.now).Rules[0]; o.Stopped == nil || o.Stopped.Reason != string(match.HolderEnded) {
		t.Errorf("stopped: %+v; the notes: %v", o.Stopped, b.notes)
	}
}

// While the verdict is awaited at start-up, holders are looked for of those alone that the
// limit would let go on.
func TestCanaryLooksForFew(t *testing.T) {
	b := newPrograms(t, 0.1)
	asked := make(map[uint32]bool)
	b.holders = func(inode uint32) []sock.Holder {
		asked[inode] = true
		return []sock.Holder{{PID: 101, Start: 7, Comm: "leaky"}}
	}
	for c := range uint64(5000) {
		b.add(1+c, time.Minute)
	}
	b.rule(set(killing("r", canaries(), limited(50, time.Minute))))
	b.until(9 * time.Second)
	if len(b.kills()) != 1 || len(asked) > 110 {
		t.Errorf("%d killed, and holders of %d sockets were looked for: %s", len(b.kills()), len(asked), fmt.Sprint(b.kills()))
	}
	b.until(50 * time.Second)
	if n := len(b.kills()); n != 50 {
		t.Errorf("%d killed within the first minute, want what the limit allows", n)
	}
}

// A restart while a canary waits, or one after the other, lets a rule neither act without it nor
// wait for ever: each run begins with one kill of the process, and the wait.
func TestCanaryOverRestarts(t *testing.T) {
	r := killing("r", canaries())
	b := newPrograms(t, 0.1)
	for c := range uint64(20) {
		b.add(1+c, time.Minute)
	}
	b.rule(set(r))
	const runs, lives = 5, 8 * time.Second // the wait is ten
	for run := range runs {
		b.until(time.Duration(run+1) * lives)
		if n := len(b.kills()); n != run+1 {
			t.Fatalf("%d kills in %d runs, want one in each: %v", n, run+1, b.kills())
		}
		b.restart(set(r))
	}
	last := runs * lives
	b.until(last + 5*time.Second)
	if n := len(b.kills()); n != runs+1 {
		t.Errorf("%d kills before the last run had its verdict, want %d", n, runs+1)
	}
	b.until(last + 15*time.Second)
	if n := len(b.kills()); n != 20 {
		t.Errorf("%d of 20 killed after the last run had its verdict", n)
	}
}
