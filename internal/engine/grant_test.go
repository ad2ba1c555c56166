package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// TestAGrantedPlaceIsKept: what a limit lets go on, and waits for its holders, is not
// overtaken by a younger one that waits for nothing.
func TestAGrantedPlaceIsKept(t *testing.T) {
	b := newBench(t)
	b.walkCost, b.reused = 900*time.Millisecond, map[uint32]bool{1: true} // whose holder only a walk finds
	b.add(1, time.Hour)
	b.add(2, 1500*time.Millisecond)
	b.rule(set(killing("r", matching(brief().Match[0]), limited(1, time.Minute))))
	b.until(3 * time.Minute)
	b.want("500ms r kill held 2", "900ms r kill done 1", "1m0.9s r kill done 2")
}

// TestAGrantedPlaceIsKeptFromOtherRules: nor by one of another rule, where the place is
// that of all rules.
func TestAGrantedPlaceIsKeptFromOtherRules(t *testing.T) {
	b := newBench(t)
	b.walkCost, b.reused = 900*time.Millisecond, map[uint32]bool{1: true}
	b.add(1, time.Hour)
	b.add(2, 1500*time.Millisecond)
	a, other := brief().Match[0], brief().Match[0]
	a.Where, other.Where = where("dport = 80").Where, where("dport = 81").Where
	b.sockets[1].ID.DPort, b.sockets[2].ID.DPort = [2]byte{0, 80}, [2]byte{0, 81}
	all := set(killing("a", matching(a)), killing("b", matching(other)))
	all.Settings.Limit = rules.Limit{N: 1, Per: time.Minute}
	b.rule(all)
	b.until(3 * time.Minute)
	b.want("500ms b kill held 2", "900ms a kill done 1", "1m0.9s b kill done 2")
}

// TestGrantsEnd: whatever becomes of sockets, of their holders and of the rules, the
// places that limits grant come back, and nothing waits for ever.
func TestGrantsEnd(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
		b := newBench(t)
		b.walkCost, b.reused = upTo(3*time.Second), make(map[uint32]bool)
		b.step(AccessExamined{Complete: r.IntN(2) == 0})
		for c := range uint64(5 + r.IntN(40)) {
			c++
			b.reused[uint32(c)] = r.IntN(2) == 0
			b.appear(c, c, upTo(20*time.Second), func(s *sim.Socket) { s.UID = uint32(r.IntN(2)) })
			switch r.IntN(5) {
			case 0:
				b.later(upTo(time.Minute), func() { delete(b.sockets, c) })
			case 1:
				b.later(upTo(time.Minute), func() {
					if s := b.sockets[c]; s != nil {
						reconnect(s, b.now)
					}
				})
			}
		}
		reload := func() {
			var list []rules.Rule
			for i := range 1 + r.IntN(3) {
				list = append(list, killing(fmt.Sprint(i), matching(brief().Match[0]), limited(1+r.IntN(4), time.Second+upTo(20*time.Second)), func(x *rules.Rule) { x.DryRun = r.IntN(3) == 0 }))
			}
			b.rule(set(list...))
		}
		for range 1 + r.IntN(4) {
			reload()
			b.until(b.since(b.now) + upTo(30*time.Second))
		}
		b.until(25 * time.Minute)
		for _, h := range b.e.histories {
			for _, x := range []*throttle{&h.real, &h.dry} {
				if x.Throttle[0].Granted() != 0 || !x.empty() || len(b.e.awaiting) > 0 {
					t.Errorf("seed %d, rule %s: %d places granted, %d sockets wait under the limit, %d for their holders", seed, h.name, x.Throttle[0].Granted(), len(x.numbers), len(b.e.awaiting))
				}
			}
		}
	}
}

// TestTheOldestKeepsItsPlaceWhileUsageIsSampled: two rules want two sockets of one process,
// which are due at once. What the first rule's limit leaves is for the older socket.
func TestTheOldestKeepsItsPlaceWhileUsageIsSampled(t *testing.T) {
	b := newBench(t)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(10, "leaky")} }
	b.add(1, 2*time.Hour)
	b.add(2, time.Hour)
	b.rule(set(killing("first", limited(1, 24*time.Hour)), killing("second")))
	b.until(time.Minute)
	if n := b.killedOf(1, 1); n != 1 || b.killedOf(2, 2) != 0 {
		t.Errorf("want 1 killed, and 2 held back: %v", b.events)
	}
}
