package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// brief is a rule with a bound that is shorter than a slow walk.
func brief() rules.Rule {
	return killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 2 * time.Second}))
}

// latest is how long after its bound of two seconds the last of some sockets was
// killed, which went into CLOSE_WAIT one each second from first after the start on.
func (b *bench) latest(from, to uint64, first time.Duration) (latest time.Duration) {
	b.t.Helper()
	killed := make(map[uint64]time.Duration)
	for _, e := range b.events {
		var at time.Duration
		var text, rule, kind, result string
		var cookie uint64
		if fmt.Sscan(e, &text, &rule, &kind, &result, &cookie); result == "done" {
			at, _ = time.ParseDuration(text)
			killed[cookie] = at
		}
	}
	for c := from; c <= to; c++ {
		at, ok := killed[c]
		if !ok {
			b.t.Errorf("socket %d was not killed", c)
		}
		latest = max(latest, at-(first+time.Duration(c-from)*time.Second+2*time.Second))
	}
	return latest
}

// appear has sockets go into CLOSE_WAIT, one each second.
func (b *bench) appear(from, to uint64, first time.Duration, change ...func(*sim.Socket)) {
	for c := from; c <= to; c++ {
		b.later(first+time.Duration(c-from)*time.Second, func() { b.add(c, -b.since(b.now), change...) })
	}
}

// A walk through /proc that takes longer than the bound of a rule does not stand
// between due and done.
func TestKillsBeforeAWalkEnds(t *testing.T) {
	const punctual = 100 * time.Millisecond // as events are told
	t.Run("of users", func(t *testing.T) {
		b := newBench(t)
		b.walkCost = 20 * time.Second
		b.appear(1, 30, time.Second)
		b.rule(set(brief()))
		b.until(60 * time.Second)
		if late := b.latest(1, 30, time.Second); late > punctual {
			t.Errorf("killed %v late", late)
		}
	})
	t.Run("due when first seen", func(t *testing.T) {
		b := newBench(t)
		b.walkCost = 20 * time.Second
		b.add(1, time.Minute)
		b.rule(set(brief()))
		b.until(10 * time.Second)
		b.want("1s r kill done 1")
	})
	t.Run("of root, from the second walk on", func(t *testing.T) {
		b := newBench(t)
		b.walkCost = 1400 * time.Millisecond
		b.appear(1, 1, time.Second, ofRoot)
		b.appear(2, 60, 10*time.Second, ofRoot)
		b.rule(set(brief()))
		b.until(90 * time.Second)
		if late := b.latest(1, 1, time.Second); late > 2*time.Second {
			t.Errorf("the first was killed %v late", late)
		}
		if late := b.latest(2, 60, 10*time.Second); late > punctual {
			t.Errorf("killed %v late", late)
		}
		if b.walks > 90/14+2 { // one each 14 s, and those that know nobody yet
			t.Errorf("%d walks of %v in 90 s", b.walks, b.walkCost)
		}
	})
	t.Run("behind descriptors that were another's", func(t *testing.T) {
		b := newBench(t)
		b.walkCost = 1400 * time.Millisecond
		b.reused = make(map[uint32]bool)
		for inode := range uint32(31) {
			b.reused[inode] = inode%5 == 0
		}
		b.appear(1, 30, time.Second, ofRoot)
		b.rule(set(brief()))
		b.until(90 * time.Second)
		if late := b.latest(1, 30, time.Second); late > 8*time.Second {
			t.Errorf("killed %v late", late)
		}
	})
	t.Run("not all may be read", func(t *testing.T) {
		b := newBench(t)
		b.walkCost, b.partial = 20*time.Second, true
		b.step(AccessExamined{})
		b.appear(1, 30, time.Second, ofRoot2)
		b.rule(set(brief()))
		b.until(60 * time.Second)
		if late := b.latest(1, 30, time.Second); late > punctual {
			t.Errorf("killed %v late", late)
		}
	})
}

// ofRoot2 has a socket be root's where the watchdog is not.
func ofRoot2(s *sim.Socket) { s.UID = 65534 }

// What the kernel may hold, and what may be the watchdog's own, waits for a walk,
// however slow; reading new descriptors shows nothing of it.
func TestSparedUntilAWalkEnds(t *testing.T) {
	for name, test := range map[string]struct {
		uid     uint32
		partial bool
		holders []sock.Holder
	}{
		"the kernel's":                       {0, false, nil},
		"the kernel's, seen from within":     {65534, false, nil},
		"its own":                            {990, false, []sock.Holder{{PID: 1, Comm: "sockdog"}}},
		"its own, where not all may be read": {990, true, []sock.Holder{{PID: 1, Comm: "sockdog"}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.e = New(Config{Precision: benchJiffy, Self: 1, UID: 990})
			b.walkCost, b.partial = 5*time.Second, test.partial
			b.step(AccessExamined{Complete: !test.partial})
			spared := []uint32{10, 11, 12, 13, 14, 15}
			b.holders = func(inode uint32) []sock.Holder {
				if slices.Contains(spared, inode) {
					return test.holders
				}
				return []sock.Holder{{PID: 2, Comm: "leaky"}}
			}
			b.appear(1, 3, time.Second) // others, so that somebody is known
			b.appear(10, 15, 12*time.Second, func(s *sim.Socket) { s.UID = test.uid })
			b.rule(set(brief()))
			b.until(5 * time.Minute)
			if n := b.killedOf(10, 15); n > 0 {
				t.Errorf("%d killed: %v", n, b.events)
			}
			if b.killedOf(1, 3) != 3 {
				t.Errorf("the others: %v", b.events)
			}
		})
	}
}

// Who has not closed the descriptors of killed sockets is named, and how many there
// are.
func TestStillHeld(t *testing.T) {
	b := newPrograms(t, 0, 0)
	closed := false
	holders := b.holders
	b.holders = func(inode uint32) []sock.Holder {
		if inode == 3 && closed {
			return nil
		}
		return holders(inode)
	}
	for c := range uint64(6) {
		b.add(1+c, 8*time.Second)
	}
	b.add(101, 8*time.Second)
	b.rule(set(killing("r")))
	b.until(5 * time.Second)
	closed = true
	b.until(30 * time.Second)
	for values, n := range map[string]int{"pid=101 comm=prog101 descriptors=5]": 1, "pid=102 comm=prog102 descriptors=1]": 1, "": 2} {
		if b.noted(StillOpen, values) != n {
			t.Errorf("noted %d times, want %d: %s; all: %v", b.noted(StillOpen, values), n, values, b.notes)
		}
	}
}

// A walk that does not end is said once, and once that it has.
func TestWalkHangs(t *testing.T) {
	b := newBench(t)
	b.slow = true
	b.add(1, time.Minute, ofRoot)
	b.rule(set(killing("r")))
	b.until(29 * time.Second)
	if b.e.Overview(b.now).WalkHangs {
		t.Error("taken for one that hangs after 29 s")
	}
	b.until(5 * time.Minute)
	if b.noted(WalkHangs) != 1 || !b.e.Overview(b.now).WalkHangs {
		t.Errorf("notes %v, shown %v", b.notes, b.e.Overview(b.now).WalkHangs)
	}
	b.step(HoldersFound{Complete: true})
	if b.noted(WalkEnded) != 1 || b.e.Overview(b.now).WalkHangs {
		t.Errorf("notes %v, shown %v", b.notes, b.e.Overview(b.now).WalkHangs)
	}
}

func TestHolders(t *testing.T) {
	holder := []sock.Holder{{PID: 2}}
	tests := []struct {
		name   string
		owned  HoldersFound
		inode  uint32
		kernel bool
	}{
		{"held by a process", HoldersFound{Complete: true, Holders: map[uint32][]sock.Holder{5: holder}}, 5, false},
		{"held by none", HoldersFound{Complete: true}, 5, true},
		{"held by none that could be read", HoldersFound{}, 5, false},
		{"no inode", HoldersFound{Complete: true}, 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.owned.Of(test.inode).Kernel; got != test.kernel {
				t.Errorf("held by the kernel %v, want %v", got, test.kernel)
			}
		})
	}
}

// TestHoldersOfWhatIsLetGo: the holders are looked for of those alone that a limit lets go
// on, the next ones before their turn comes, so that they are no later for it.
func TestHoldersOfWhatIsLetGo(t *testing.T) {
	for _, cost := range []time.Duration{0, 500 * time.Millisecond} {
		b := newBench(t)
		b.walkCost = cost
		for cookie := uint64(1); cookie <= 300; cookie++ {
			b.add(cookie, time.Hour)
		}
		b.rule(set(killing("r", limited(100, time.Minute))))
		for i, want := range []struct {
			at           time.Duration
			known, alive int
		}{
			{30 * time.Second, 0, 200}, {59 * time.Second, 100, 200}, {61 * time.Second, 0, 100}, {100 * time.Second, 0, 100}, {119 * time.Second, 100, 100}, {121 * time.Second, 0, 0},
		} {
			b.until(want.at)
			known := 0
			for tr := range b.e.tracks.all() {
				if b.e.knowsHolders(tr, b.now) {
					known++
				}
			}
			if known != want.known || len(b.sockets) != want.alive {
				t.Errorf("a walk takes %v, %d: after %v %d are alive, of which the holders of %d are known, or will be; want %d and %d", cost, i, want.at, len(b.sockets), known, want.alive, want.known)
			}
		}
		if reads := b.walks + b.reads; reads > 14 {
			t.Errorf("looked for holders %d times", reads)
		}
	}
}
