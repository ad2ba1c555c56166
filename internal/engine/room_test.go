package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
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
