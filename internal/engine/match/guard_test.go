package match

import (
	"errors"
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
		want         Reason
	}{
		{"a leak", full(ssfilter.CloseWait), Capabilities{}, byOthers, ""},
		{"nobody has looked for its holders", full(ssfilter.CloseWait), Capabilities{}, nil, ""},
		{"listening", full(ssfilter.Listening), Capabilities{}, nil, NotConnected},
		{"closed", full(ssfilter.Close), Capabilities{}, nil, NotConnected},
		{"bound", full(ssfilter.BoundInactive), Capabilities{}, nil, NotConnected},
		{"protected by its port", full(ssfilter.CloseWait, func(s *sock.Socket) { s.Dst = netip.MustParseAddrPort("10.0.0.1:22") }), Capabilities{}, nil, Protected},
		{"protected by its user", full(ssfilter.CloseWait, func(s *sock.Socket) { s.UID = 7 }), Capabilities{}, nil, Protected},
		{"perhaps protected by its user", full(ssfilter.LastAck, orphaned), Capabilities{}, nil, Protected},
		{"an MPTCP subflow", full(ssfilter.CloseWait, func(s *sock.Socket) { s.MPTCP = true }), Capabilities{}, nil, MPTCPSubflow},
		{"held by the kernel", full(ssfilter.Established), Capabilities{}, &subject.Holders{Kernel: true}, HeldByKernel},
		{"the watchdog's own", full(ssfilter.Established), Capabilities{}, &subject.Holders{Processes: []sock.Holder{{PID: 2}, {PID: self}}}, Own},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Guard(subject.Subject{Socket: &test.s, Holders: test.held}, protect, test.capabilities, self); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	for want, state := range map[Reason]ssfilter.State{InAcceptQueue: ssfilter.CloseWait, Orphan: ssfilter.LastAck} {
		t.Run(string(want), func(t *testing.T) {
			s := full(state, orphaned)
			if got := Guard(subject.Of(&s), nil, Capabilities{DestroyOrphan: errors.New("it would leak")}, self); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestCannot(t *testing.T) {
	notPermitted, tooOld := errors.New("not permitted"), errors.New("too old")
	capabilities := Capabilities{rules.Destroy: notPermitted, DestroyTimeWait: tooOld}
	for state, want := range map[ssfilter.State]error{ssfilter.CloseWait: notPermitted, ssfilter.TimeWait: tooOld} {
		if s := full(state); capabilities.Cannot(rules.Kill, &s) != want {
			t.Errorf("%s: %q, want %q", state, capabilities.Cannot(rules.Kill, &s), want)
		}
	}
	if s := full(ssfilter.TimeWait); (Capabilities{}).Cannot(rules.Kill, &s) != nil {
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
