package track

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// full is a socket with every field of tcp_info.
func full(state ssfilter.State, change ...func(*sock.Socket)) sock.Socket {
	s := sock.Socket{Conn: ssfilter.Conn{State: state}, ID: sock.ID{Cookie: 1}, Inode: 1, Info: sock.Info{
		Has: 1<<8 - 1, LastDataRecv: 30 * time.Second, LastAckRecv: 20 * time.Second, BytesAcked: 1, BytesReceived: 100, SegsIn: 5,
	}}
	for _, c := range change {
		c(&s)
	}
	return s
}

func TestKernelBounds(t *testing.T) {
	const unknown = -1
	timer := func(timer uint8) func(*sock.Socket) { return func(s *sock.Socket) { s.Timer = timer } }
	mini := func(expires time.Duration) func(*sock.Socket) {
		return func(s *sock.Socket) { s.Timer, s.Expires, s.Info = sock.TimerTimeWait, expires, sock.Info{} }
	}
	recent := func(s *sock.Socket) { s.Info.LastDataRecv = time.Second }
	tests := []struct {
		name       string
		s          sock.Socket
		age, quiet int // seconds
		lasting    bool
	}{
		{"close-wait", full(ssfilter.CloseWait), 20, 20, true},
		{"close-wait with keepalives", full(ssfilter.CloseWait, timer(sock.TimerKeepalive)), 20, 20, false},
		{"close-wait, sending", full(ssfilter.CloseWait, func(s *sock.Socket) { s.WQueue = 1 }), 20, 20, false},
		{"closing", full(ssfilter.Closing), 20, 20, true},
		{"established", full(ssfilter.Established), 20, 20, true},
		{"established, data on the fast path", full(ssfilter.Established, recent), 20, 1, true},
		{"fin-wait-2", full(ssfilter.FinWait2), 20, 20, false},
		{"fin-wait-2 minisocket", full(ssfilter.FinWait2, mini(time.Second)), unknown, unknown, false},
		{"time-wait", full(ssfilter.TimeWait, mini(40*time.Second)), 20, 20, true},
		{"time-wait that should be over", full(ssfilter.TimeWait, mini(0)), 60, 60, true},
		{"time-wait with a longer timer", full(ssfilter.TimeWait, mini(90*time.Second)), 0, 0, true},
		{"syn-sent", full(ssfilter.SynSent), unknown, unknown, false},
		{"syn-recv", full(ssfilter.SynRecv), unknown, unknown, false},
		{"fin-wait-1", full(ssfilter.FinWait1), unknown, unknown, false},
		{"last-ack", full(ssfilter.LastAck), unknown, unknown, false},
		{"an old kernel's tcp_info", full(ssfilter.CloseWait, func(s *sock.Socket) { s.Info.Has = 0 }), unknown, unknown, false},
		{"no last_data_recv", full(ssfilter.CloseWait, func(s *sock.Socket) { s.Info.Has &^= sock.HasLastDataRecv }), 20, unknown, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check := func(what string, got time.Duration, known bool, want int) {
				if known != (want != unknown) || known && got != time.Duration(want)*time.Second {
					t.Errorf("%s is %v, %v; want %d s", what, got, known, want)
				}
			}
			age, known := kernelAge(&test.s)
			check("age", age, known, test.age)
			quiet, known := kernelQuiet(&test.s)
			check("quiet", quiet, known, test.quiet)
			if got := Lasting(&test.s); got != test.lasting {
				t.Errorf("lasting is %v, want %v", got, test.lasting)
			}
		})
	}
}

func TestSince(t *testing.T) {
	const sent, got, jiffy = 1000, 1200, 10
	tests := []struct {
		name  string
		age   time.Duration
		known bool
		want  Bound
	}{
		{"known", 500, true, Bound{Safe: 710, Early: 500}},
		{"less than a jiffy", 5, true, Bound{Safe: 1200, Early: 995}},
		{"unknown", 500, false, Bound{Safe: 1200, Early: 1000}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if b := since(test.age, test.known, sent, got, jiffy); b != test.want {
				t.Errorf("got %+v, want %+v", b, test.want)
			}
		})
	}
}

func TestSameConnection(t *testing.T) {
	tests := []struct {
		name   string
		state  ssfilter.State
		change func(*sock.Socket) // ten seconds later, when all else has gone on
		want   bool
	}{
		{"nothing happened", ssfilter.CloseWait, func(*sock.Socket) {}, true},
		{"keepalive answered", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.LastAckRecv = 0; s.Info.SegsIn++ }, true},
		{"segs_in wrapped", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.SegsIn -= 1 << 31 }, true},
		{"another state", ssfilter.CloseWait, func(s *sock.Socket) { s.State = ssfilter.LastAck }, false},
		{"another tuple", ssfilter.CloseWait, func(s *sock.Socket) { s.ID.DPort[0] = 1 }, false},
		{"segs_in fell", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.SegsIn-- }, false},
		{"bytes_acked fell", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.BytesAcked-- }, false},
		{"bytes_received fell", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.BytesReceived-- }, false},
		{"younger than its age in state", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.LastDataRecv = 29 * time.Second }, false},
		{"younger by no more than a jiffy", ssfilter.CloseWait, func(s *sock.Socket) { s.Info.LastDataRecv = 30*time.Second - 10*time.Millisecond }, true},
		{"data received without a count of it", ssfilter.Established, func(s *sock.Socket) { s.Info.LastDataRecv = time.Second }, false},
		{"data received", ssfilter.Established, func(s *sock.Socket) { s.Info.LastDataRecv = time.Second; s.Info.BytesReceived++ }, true},
		{"syn-sent, retransmitted", ssfilter.SynSent, func(s *sock.Socket) { s.Retrans++; s.Info.LastDataRecv = 0 }, true},
		{"syn-sent, a first SYN again", ssfilter.SynSent, func(s *sock.Socket) { s.Retrans = 0 }, false},
		{"an older kernel's tcp_info", ssfilter.CloseWait, func(s *sock.Socket) { s.Info = sock.Info{} }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := full(test.state, func(s *sock.Socket) { s.Retrans = 1 })
			c := Begin(&s, TimesOf(&s, start, start, 0), start)
			s.Info.LastDataRecv += 10 * time.Second
			s.Info.LastAckRecv += 10 * time.Second
			test.change(&s)
			if got := c.Same(&s, start.Add(10*time.Second)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
