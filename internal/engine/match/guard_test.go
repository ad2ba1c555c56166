package match

import (
	"errors"
	"fmt"
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
	protect = append(protect, rules.Match{States: ssfilter.AllStates, Processes: []string{"sshd"}, IfKnown: true})
	sshd, java := sock.Holder{PID: 3, Comm: "sshd", Exe: "sshd"}, sock.Holder{PID: 4, Comm: "java"} // whose file cannot be read
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
		{"held by a program that is protected", full(ssfilter.CloseWait), Capabilities{}, &subject.Holders{Processes: []sock.Holder{sshd}, Complete: true}, Protected},
		{"and others, who are not all known", full(ssfilter.CloseWait), Capabilities{}, &subject.Holders{Processes: []sock.Holder{java, sshd}}, Protected},
		{"held by nobody who is seen", full(ssfilter.CloseWait), Capabilities{}, &subject.Holders{}, ""},
		{"held by another, who is half known", full(ssfilter.CloseWait), Capabilities{}, &subject.Holders{Processes: []sock.Holder{java}}, ""},
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
	notPermitted, tooOld, noCall := errors.New("not permitted"), errors.New("too old"), errors.New("no pidfd_getfd")
	notBuiltIn := fmt.Errorf("not built in: %w", errors.ErrUnsupported)
	noKernel, noHolder := Capabilities{rules.Destroy: notBuiltIn}, Capabilities{rules.Descriptor: noCall}
	neither := Capabilities{rules.Destroy: notPermitted, rules.Descriptor: noCall, DestroyTimeWait: tooOld}
	for _, test := range []struct {
		name         string
		capabilities Capabilities
		via          rules.Via // as the rule has it
		state        ssfilter.State
		want         rules.Via
		err          error
	}{
		{"all is possible", nil, "", ssfilter.CloseWait, rules.ViaKernel, nil},
		{"all is possible, in time-wait", nil, "", ssfilter.TimeWait, rules.ViaKernel, nil},
		{"an old kernel", Capabilities{DestroyTimeWait: tooOld}, "", ssfilter.CloseWait, rules.ViaKernel, nil},
		{"an old kernel, in time-wait", Capabilities{DestroyTimeWait: tooOld}, "", ssfilter.TimeWait, rules.ViaKernel, tooOld},
		{"no SOCK_DESTROY", noKernel, "", ssfilter.CloseWait, rules.ViaHolder, nil},
		{"no SOCK_DESTROY, and no other way wanted", noKernel, rules.ViaKernel, ssfilter.CloseWait, rules.ViaKernel, notBuiltIn},
		{"no SOCK_DESTROY any more", Capabilities{rules.Destroy: SwitchedOff{notBuiltIn}}, "", ssfilter.CloseWait, rules.ViaHolder, nil},
		{"no CAP_NET_ADMIN", Capabilities{rules.Destroy: notPermitted}, "", ssfilter.CloseWait, rules.ViaKernel, notPermitted},
		{"no CAP_NET_ADMIN, and the holder's way", Capabilities{rules.Destroy: notPermitted}, rules.ViaHolder, ssfilter.CloseWait, rules.ViaHolder, nil},
		{"the holder's way", nil, rules.ViaHolder, ssfilter.CloseWait, rules.ViaHolder, nil},
		{"the holder's way, and only another", noHolder, rules.ViaHolder, ssfilter.CloseWait, rules.ViaHolder, noCall},
		{"only another, and any way", noHolder, rules.ViaAny, ssfilter.CloseWait, rules.ViaKernel, nil},
		{"nothing is possible", neither, "", ssfilter.CloseWait, rules.ViaKernel, notPermitted},
		{"nothing is possible, in time-wait", neither, "", ssfilter.TimeWait, rules.ViaKernel, tooOld},
	} {
		a, s := rules.Action{Kind: rules.Kill}, full(test.state)
		if test.via != "" {
			a.Options = map[string]any{"via": test.via}
		}
		if got, _ := test.capabilities.Way(&a); got != test.want {
			t.Errorf("%s: by way of %s, want %s", test.name, got, test.want)
		}
		if got := test.capabilities.Cannot(&a, &s); got != test.err {
			t.Errorf("%s: %v, want %v", test.name, got, test.err)
		}
	}
}

// A kernel that cannot destroy sockets in time-wait cannot those in fin-wait-2 that have become
// minisockets, either; others in that state it can.
func TestCannotMinisocket(t *testing.T) {
	tooOld := errors.New("too old")
	c := Capabilities{DestroyTimeWait: tooOld}
	s := full(ssfilter.FinWait2)
	if err := c.Cannot(&rules.Action{Kind: rules.Kill}, &s); err != nil {
		t.Errorf("held by a program: %v", err)
	}
	s.Inode, s.Timer = 0, sock.TimerTimeWait
	if err := c.Cannot(&rules.Action{Kind: rules.Kill}, &s); err != tooOld {
		t.Errorf("a minisocket: %v, want %v", err, tooOld)
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
