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
)

// newPrograms is a bench on which the sockets up to 100 are those of process 101,
// those up to 200 of process 102, and so on, each of which uses so many cores, and
// has for all its life.
func newPrograms(t *testing.T, cores ...float64) *bench {
	t.Helper()
	b := newBench(t)
	b.programs = make(map[int]*sim.Program)
	for i, c := range cores {
		b.programs[101+i] = &sim.Program{Start: 7, At: 0, Cores: c}
	}
	b.holders = func(inode uint32) []sock.Holder {
		pid := 101 + int(inode-1)/100
		return []sock.Holder{{PID: pid, Start: 7, Comm: fmt.Sprintf("prog%d", pid)}}
	}
	return b
}

// spinsWhenKilled has a process use so many cores from the first kill of its on.
func (b *bench) spinsWhenKilled(pid int, cores float64) {
	killed := false
	b.destroy = func(a *Action) Outcome {
		delete(b.sockets, a.Socket.ID.Cookie)
		if a.Holders[0].PID == pid && !killed {
			killed = true
			b.programs[pid].Uses(cores, b.now)
		}
		return Outcome{Act: *a}
	}
}

// leaks adds sockets, one that falls due each second from first on.
func (b *bench) leaks(from, to uint64, first time.Duration) {
	for c := from; c <= to; c++ {
		b.add(c, 10*time.Second-first-time.Duration(c-from)*time.Second)
	}
}

// killedOf counts the kills among some sockets.
func (b *bench) killedOf(from, to int) (n int) {
	for _, e := range b.events {
		var cookie int
		if f := strings.Fields(e); f[2] == "kill" && f[3] == "done" {
			fmt.Sscan(f[4], &cookie)
		}
		if from <= cookie && cookie <= to {
			n++
		}
	}
	return n
}

// A program that begins to spin when one of its sockets is killed loses few more of
// them: those of other programs go on being killed. Once it is quiet, so do its own.
func TestSpinStopsKills(t *testing.T) {
	b := newPrograms(t, 0.002, 0.002)
	b.spinsWhenKilled(101, 0.9)
	b.leaks(1, 40, 8*time.Second)
	b.leaks(101, 140, 8*time.Second)
	b.rule(set(killing("r")))
	b.until(60 * time.Second)
	if n := b.killedOf(1, 40); n < 1 || n > 4 {
		t.Errorf("%d sockets of the program that spins were killed, one each second, want 1 to 4", n)
	}
	if n := b.killedOf(101, 140); n != 40 {
		t.Errorf("%d of 40 sockets of the other program were killed", n)
	}
	if n := b.noted(SpinBegan); n != 1 {
		t.Errorf("said %d times that it spins: %v", n, b.notes)
	}
	o := b.e.Overview(b.now)
	if len(o.Spins) != 1 || o.Spins[0].Rule != "r" || o.Spins[0].PID != 101 || o.Spins[0].Comm != "prog101" || o.Spins[0].Before > 0.1 || o.Spins[0].After < 0.8 {
		t.Errorf("shown: %+v", o.Spins)
	}
	if n := o.Rules[0].HeldBack[match.HolderSpins]; n < 36 {
		t.Errorf("%d sockets counted as held back for that, want those that were not killed", n)
	}

	b.programs[101].Uses(0.002, b.now)
	b.until(80 * time.Second)
	if n := b.killedOf(1, 40); n != 40 {
		t.Errorf("%d of 40 sockets were killed after the program was quiet again", n)
	}
	if len(b.e.Overview(b.now).Spins) != 0 || b.noted(SpinOver) != 1 {
		t.Errorf("it is quiet, and shown is %+v; the notes: %v", b.e.Overview(b.now).Spins, b.notes)
	}
}

// Sockets that were due when they were first seen wait until it is known how much
// CPU their holder uses, and no longer; what was seen before it was due does not.
func TestWaitForUsage(t *testing.T) {
	for _, test := range []struct {
		name string
		age  time.Duration
		want string
	}{
		{"due when first seen", time.Minute, "1.2s r kill done 1"},
		{"seen well before it is due", 8400 * time.Millisecond, "1.6s r kill done 1"},
		{"seen just before it is due", 9900 * time.Millisecond, "100ms r kill done 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newPrograms(t, 0.01)
			b.add(1, test.age)
			b.rule(set(killing("r")))
			b.until(10 * time.Second)
			b.want(test.want)
		})
	}
	t.Run("of a holder that cannot be told from a later one of its PID", func(t *testing.T) {
		b := newPrograms(t, 0.01)
		b.holders = func(uint32) []sock.Holder { return []sock.Holder{{PID: 101}} }
		b.add(1, time.Minute)
		b.rule(set(killing("r")))
		b.until(10 * time.Second)
		b.want("0s r kill done 1")
	})
	t.Run("in a dry run", func(t *testing.T) {
		b := newPrograms(t, 0.01)
		b.add(1, time.Minute)
		b.rule(set(killing("r", dryRun)))
		b.until(10 * time.Second)
		b.want("0s r kill would 1")
		if b.sampled > 0 {
			t.Errorf("%d samples taken for a dry run", b.sampled)
		}
	})
}

// A burst is over before it shows, and what the limit has held back then goes the
// way of the rest: it is not killed, waits for no budget, and takes none.
func TestSpinWhileHeld(t *testing.T) {
	b := newPrograms(t, 0.01, 0.01)
	b.spinsWhenKilled(101, 0.95)
	for c := range uint64(20) {
		b.add(1+c, time.Minute)
	}
	b.add(101, 10*time.Second-40*time.Second) // of the other program, due in 40 s
	b.rule(set(killing("r", limited(5, 30*time.Second))))
	b.until(39 * time.Second)
	if n := b.killedOf(1, 20); n != 5 {
		t.Errorf("%d killed, want the 5 of the first burst", n)
	}
	b.until(50 * time.Second)
	if b.killedOf(101, 101) != 1 {
		t.Errorf("what waits for the spin to end has used up the limit: %v", b.events)
	}
	closed := 0
	for _, e := range b.events {
		if strings.Contains(e, "kill changed") {
			closed++
		}
	}
	if closed != 15 {
		t.Errorf("%d records of what the limit held were closed, want 15: %v", closed, b.events)
	}
	b.programs[101].Uses(0, b.now)
	b.until(4 * time.Minute)
	if n := b.killedOf(1, 20); n != 20 {
		t.Errorf("%d of 20 killed when it was quiet again", n)
	}
}

// A rule that says the same after a reload still leaves the holder alone; one that
// was changed begins anew. So does another rule.
func TestSpinAndReload(t *testing.T) {
	for name, test := range map[string]struct {
		next rules.Rule
		more bool
	}{
		"the same rule": {killing("r"), false},
		"changed":       {killing("r", limited(999, time.Minute)), true},
		"another rule":  {killing("q"), true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newPrograms(t, 0.01)
			b.spinsWhenKilled(101, 0.95)
			b.leaks(1, 40, 8*time.Second)
			b.rule(set(killing("r")))
			b.until(30 * time.Second)
			n := b.killedOf(1, 40)
			b.rule(set(test.next))
			b.until(70 * time.Second)
			if more := b.killedOf(1, 40) > n; more != test.more {
				t.Errorf("%d killed before the reload, %d after it", n, b.killedOf(1, 40)-n)
			}
		})
	}
}

// A socket of several processes is left alone while one of them spins; when that
// has ended, the rest is killed, also where its PID names another since.
func TestSpinOfOneHolder(t *testing.T) {
	for name, end := range map[string]func(b *bench){
		"ended":      func(b *bench) { delete(b.programs, 102) },
		"PID reused": func(b *bench) { b.programs[102] = &sim.Program{Start: 8, Cores: 1, At: b.now} },
	} {
		t.Run(name, func(t *testing.T) {
			b := newPrograms(t, 0.01, 0.01)
			ended := false
			b.holders = func(uint32) []sock.Holder {
				all := []sock.Holder{{PID: 101, Start: 7, Comm: "parent"}, {PID: 102, Start: 7, Comm: "child"}}
				if ended {
					all = all[:1]
				}
				return all
			}
			first := true
			b.destroy = func(a *Action) Outcome {
				delete(b.sockets, a.Socket.ID.Cookie)
				if first {
					b.programs[102].Uses(1, b.now)
				}
				first = false
				return Outcome{Act: *a}
			}
			b.leaks(1, 40, 8*time.Second)
			b.rule(set(killing("r")))
			b.until(60 * time.Second)
			if n := b.killedOf(1, 40); n > 4 {
				t.Errorf("%d killed", n)
			}
			if o := b.e.Overview(b.now); len(o.Spins) != 1 || o.Spins[0].PID != 102 {
				t.Errorf("shown: %+v", o.Spins)
			}
			end(b)
			ended = true
			b.until(100 * time.Second)
			if n := b.killedOf(1, 40); n != 40 || len(b.e.Overview(b.now).Spins) > 0 {
				t.Errorf("%d of 40 killed after it had ended; shown: %+v", n, b.e.Overview(b.now).Spins)
			}
		})
	}
}
