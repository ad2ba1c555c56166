package match

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestGuard(t *testing.T) {
	const self = 1
	protect := []rules.Match{{States: ssfilter.AllStates, Where: ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: 22, Last: 22})}, {States: ssfilter.AllStates, Users: []uint32{7}}}
	orphaned := func(s *sock.Socket) { s.Inode = 0 }
	byOthers := &subject.Holders{Processes: []sock.Holder{{PID: 2}}}
	tests := []struct {
		name         string
		s            sock.Socket
		capabilities Capabilities
		held         *subject.Holders
		want         string
	}{
		{"a leak", full(ssfilter.CloseWait), Capabilities{}, byOthers, ""},
		{"nobody has looked for its holders", full(ssfilter.CloseWait), Capabilities{}, nil, ""},
		{"listening", full(ssfilter.Listening), Capabilities{}, nil, "not connected"},
		{"closed", full(ssfilter.Close), Capabilities{}, nil, "not connected"},
		{"bound", full(ssfilter.BoundInactive), Capabilities{}, nil, "not connected"},
		{"protected by its port", full(ssfilter.CloseWait, func(s *sock.Socket) { s.Dst = netip.MustParseAddrPort("10.0.0.1:22") }), Capabilities{}, nil, "protected"},
		{"protected by its user", full(ssfilter.CloseWait, func(s *sock.Socket) { s.UID = 7 }), Capabilities{}, nil, "protected"},
		{"perhaps protected by its user", full(ssfilter.LastAck, orphaned), Capabilities{}, nil, "protected"},
		{"an MPTCP subflow", full(ssfilter.CloseWait, func(s *sock.Socket) { s.MPTCP = true }), Capabilities{}, nil, "an MPTCP subflow"},
		{"held by the kernel", full(ssfilter.Established), Capabilities{}, &subject.Holders{Kernel: true}, "held by the kernel"},
		{"the watchdog's own", full(ssfilter.Established), Capabilities{}, &subject.Holders{Processes: []sock.Holder{{PID: 2}, {PID: self}}}, "sockdog's own"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Guard(subject.Subject{Socket: &test.s, Holders: test.held}, protect, test.capabilities, self); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	for name, state := range map[string]ssfilter.State{"in an accept queue": ssfilter.CloseWait, "it would leak": ssfilter.LastAck} {
		t.Run(name, func(t *testing.T) {
			s := full(state, orphaned)
			if got := Guard(subject.Of(&s), nil, Capabilities{KillOrphan: "it would leak"}, self); got != name {
				t.Errorf("got %q, want %q", got, name)
			}
		})
	}
}

func TestCannot(t *testing.T) {
	capabilities := Capabilities{Kill: "not permitted", KillTimeWait: "too old"}
	for state, want := range map[ssfilter.State]string{ssfilter.CloseWait: "not permitted", ssfilter.TimeWait: "too old"} {
		if s := full(state); capabilities.Cannot(rules.Kill, &s) != want {
			t.Errorf("%s: %q, want %q", state, capabilities.Cannot(rules.Kill, &s), want)
		}
	}
	if s := full(ssfilter.TimeWait); (&Capabilities{}).Cannot(rules.Kill, &s) != "" {
		t.Error("nothing is in the way, and it cannot")
	}
}

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
