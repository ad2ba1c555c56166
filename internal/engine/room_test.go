package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestRoomForWhatCanBeKilled: where memory bounds how many sockets are watched, those
// that nothing can be done to leave room for the others.
func TestRoomForWhatCanBeKilled(t *testing.T) {
	at := func(port uint8) func(*sim.Socket) {
		return func(s *sim.Socket) { s.ID.DPort = [2]byte{0, port} }
	}
	for _, test := range []struct {
		name   string
		change []func(*sim.Socket)
	}{
		{"in use", []func(*sim.Socket){func(s *sim.Socket) { s.Queued = s.Entered }}},
		{"protected", []func(*sim.Socket){at(22)}},
		{"of a dry run", []func(*sim.Socket){at(81)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.e = New(Config{Precision: benchJiffy, Self: 1, MaxTracks: 16})
			for cookie := uint64(1); cookie <= 40; cookie++ {
				b.add(cookie, time.Hour, test.change...)
			}
			for cookie := uint64(101); cookie <= 105; cookie++ {
				b.add(cookie, time.Minute)
			}
			dry, wet := where("dport = 81"), where("dport = 80 or dport = 22")
			b.rule(set(killing("dry", matching(dry), dryRun), killing("wet", matching(wet))))
			b.until(2 * time.Minute)
			for cookie := uint64(101); cookie <= 105; cookie++ {
				if b.sockets[cookie] != nil {
					t.Errorf("%d is still there", cookie)
				}
			}
			if n := b.e.Watched(); n > 16 {
				t.Errorf("%d sockets are watched, want 16 at most", n)
			}
		})
	}
}

// TestRoomForWhatIsDue: connections that do not fall due for long leave room for
// those that do.
func TestRoomForWhatIsDue(t *testing.T) {
	told := killing("told", match10m, logging)
	other := killing("other", match10m, func(r *rules.Rule) { r.Match[0].Where = where("dport = 81").Where })
	for _, test := range []struct {
		name  string
		port  byte
		rules rules.Set
	}{
		{"would be killed", 80, set(idle10m())},
		{"is told of", 81, set(told, other)},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.e = New(Config{Precision: benchJiffy, Self: 1, MaxTracks: 16})
			for cookie := uint64(1); cookie <= 100; cookie++ {
				b.probing(cookie, 0)
			}
			for cookie := uint64(101); cookie <= 105; cookie++ {
				b.add(cookie, 20*time.Minute, toPort(test.port), func(s *sim.Socket) { s.State = ssfilter.Established })
			}
			b.rule(test.rules)
			b.until(time.Minute)
			for cookie := uint64(101); cookie <= 105; cookie++ {
				if b.sockets[cookie] != nil {
					t.Errorf("%d is still there", cookie)
				}
			}
			if n := b.e.Watched(); n > 16 {
				t.Errorf("%d sockets are watched, want 16 at most", n)
			}
		})
	}
}
