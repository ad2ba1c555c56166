package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// TestPause: while acting is paused, what falls due is decided and waits. Then it goes on
// in order and within the limit, without what has ended or come alive meanwhile.
func TestPause(t *testing.T) {
	b := newBench(t)
	for c := range uint64(5) {
		b.add(1+c, time.Duration(c)*time.Second) // 5 falls due first
	}
	b.step(Paused{Until: sock.Never})
	b.rule(set(killing("r", limited(2, time.Minute))))
	b.later(30*time.Second, func() {
		delete(b.sockets, 5)
		reconnect(b.sockets[4], b.now)
	})
	b.until(90 * time.Second)
	if o := b.e.Overview(b.now).Rules[0]; o.HeldBack[match.Paused] != 6 || len(o.HeldBack) != 1 || o.Held != 4 || o.Sockets < 4 {
		t.Errorf("held back %v, %d of %d wait", o.HeldBack, o.Held, o.Sockets)
	}
	b.step(Resumed{})
	b.until(4 * time.Minute)
	b.want("6s r kill held 5", "7s r kill held 4", "8s r kill held 3", "9s r kill held 2", "10s r kill held 1",
		"30s r kill changed 4", "30s r kill gone 5", "40s r kill held 4",
		"1m30s r kill done 3", "1m30s r kill done 2", "2m30s r kill done 1", "2m30s r kill done 4")
	for _, h := range b.held {
		if paused := h.at <= 90*time.Second; (h.Shut == match.Paused) != paused {
			t.Errorf("%v: paused %v: %+v", h.at, paused, h)
		}
	}
}

// TestPauseEndsByItself: at its instant, with nothing else to do then; a later one takes
// the place of an earlier one, and one whose time is over is none.
func TestPauseEndsByItself(t *testing.T) {
	for _, test := range []struct {
		name   string
		untils []time.Duration
		want   []string
	}{
		{"one", []time.Duration{15 * time.Second}, []string{"10s r kill held 1", "15s resumed", "15s r kill done 1"}},
		{"prolonged", []time.Duration{15 * time.Second, 40 * time.Second}, []string{"10s r kill held 1", "40s resumed", "40s r kill done 1"}},
		{"shortened", []time.Duration{40 * time.Second, 15 * time.Second}, []string{"10s r kill held 1", "15s resumed", "15s r kill done 1"}},
		{"over", []time.Duration{40 * time.Second, 0}, []string{"0s resumed", "10s r kill done 1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.add(1, 0)
			b.rule(set(killing("r")))
			for _, until := range test.untils {
				b.step(Paused{Until: benchStart.Add(until)})
			}
			b.until(time.Minute)
			b.want(test.want...)
		})
	}
}

// TestPauseLeavesDryRunsAndAlerts: what touches nothing goes on.
func TestPauseLeavesDryRunsAndAlerts(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Hour)
	b.step(Paused{Until: sock.Never})
	b.rule(set(killing("r", dryRun), killing("logs", logging)))
	b.until(time.Minute)
	b.want("0s r kill would 1", "0s logs log done 1")
}

// TestPauseKeepsActsUnderWay: the outcome of what was handed out before counts, and what
// was given back for the pause waits with the others.
func TestPauseKeepsActsUnderWay(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Hour)
	b.add(2, time.Minute)
	b.destroy = func(a *Action) Outcome {
		if a.Socket.ID.Cookie == 1 {
			b.e.Step(b.now, Paused{Until: sock.Never})
			delete(b.sockets, 1)
			return Outcome{Act: *a}
		}
		return Outcome{Act: *a, Changed: match.Paused, Last: b.answer(a.Socket.ID, b.now)}
	}
	b.rule(set(killing("r", limited(10, time.Minute))))
	b.until(time.Minute)
	b.destroy = nil
	b.step(Resumed{})
	b.until(2 * time.Minute)
	b.want("0s r kill changed 2", "0s r kill done 1", "1s r kill held 2", "1m0s r kill done 2")
}

// TestPauseGrantsNothing: what a limit has let go on before, and waits for its holders,
// is held back again, and no place is kept for it.
func TestPauseGrantsNothing(t *testing.T) {
	b := newBench(t)
	b.walkCost, b.reused = 900*time.Millisecond, map[uint32]bool{1: true}
	b.add(1, time.Hour)
	b.rule(set(killing("r", limited(1, time.Minute))))
	b.until(500 * time.Millisecond)
	b.step(Paused{Until: sock.Never})
	b.until(30 * time.Second)
	if h := b.e.rules[0].history; h.real.Throttle[0].Granted() != 0 {
		t.Errorf("%d places are granted", h.real.Throttle[0].Granted())
	}
	b.step(Resumed{})
	b.until(time.Minute)
	b.want("900ms r kill held 1", "30s r kill done 1")
}

// TestPauseHoldsGroups: of the next action on a group it is said once that it waits. It and
// those behind it are done when acting is resumed.
func TestPauseHoldsGroups(t *testing.T) {
	b := newBench(t)
	b.add(1, time.Hour)
	r := above(0, func(r *rules.Rule) {
		r.Then = []rules.Action{{Kind: rules.Exec, Exec: &rules.ExecOptions{}}, {Kind: rules.Exec, Exec: &rules.ExecOptions{}, After: 30 * time.Second}}
	})
	b.step(Paused{Until: sock.Never})
	b.rule(set(r))
	b.until(2 * time.Minute)
	if o := b.e.Overview(b.now).Rules[0]; o.HeldBack[match.Paused] != 1 {
		t.Errorf("held back %v", o.HeldBack)
	}
	b.step(Resumed{})
	b.until(3 * time.Minute)
	b.want("0s r pending dport=80 count 1", "10s r exec held", "10s r firing dport=80 count 1", "2m0s r exec done", "2m0s r exec done")
}

// TestPauseHoldsKeepalive: what takes nothing away waits, too, and is done when acting is
// resumed.
func TestPauseHoldsKeepalive(t *testing.T) {
	b, _ := reaching(t)
	b.destroy = func(a *Action) Outcome { return Outcome{Act: *a} }
	b.add(1, time.Hour)
	b.step(Paused{Until: sock.Never})
	b.rule(set(keptAlive("r")))
	b.until(90*time.Second + time.Millisecond)
	if o := b.e.Overview(b.now).Rules[0]; o.HeldBack[match.Paused] != 1 {
		t.Errorf("held back %v", o.HeldBack)
	}
	b.step(Resumed{})
	b.until(3 * time.Minute)
	b.want("1m30s r keepalive done 1")
}
