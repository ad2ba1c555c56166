package sock_test

import (
	"testing"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestLive(t *testing.T) {
	live := ssfilter.AllStates &^ ssfilter.Of(ssfilter.CloseWait, ssfilter.TimeWait)
	for _, state := range ssfilter.AllStates.States() {
		if s := held(state); s.Live() != live.Has(state) {
			t.Errorf("%s is live %v", state, s.Live())
		}
	}
	s := held(ssfilter.FinWait2)
	if s.Inode = 0; s.Live() {
		t.Error("fin-wait-2 without an inode is live")
	}
}

func TestInUse(t *testing.T) {
	tests := []struct {
		name   string
		change func(*sock.Socket)
		want   bool
	}{
		{"at rest", func(*sock.Socket) {}, false},
		{"queued", func(s *sock.Socket) { s.WQueue = 1 }, true},
		{"not acknowledged", func(s *sock.Socket) { s.Info.Unacked = 1 }, true},
		{"not sent", func(s *sock.Socket) { s.Info.NotSent = 1 }, true},
		{"unread", func(s *sock.Socket) { s.RQueue = 1 }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := held(ssfilter.CloseWait)
			if test.change(&s); s.InUse() != test.want {
				t.Errorf("in use %v, want %v", s.InUse(), test.want)
			}
		})
	}
}

func held(state ssfilter.State) sock.Socket {
	return sock.Socket{Conn: ssfilter.Conn{State: state}, Inode: 1}
}
