package ruletest

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// socketDraft is a socket as it stands.
type socketDraft struct {
	Socket
	at    *yaml.Node
	given document.Given
}

var socketTable = document.Table[socketDraft]{What: "a socket", Keys: slices.Concat([]document.Key[socketDraft]{
	document.Field("name", document.Text, func(s *socketDraft) *string { return &s.Name }),
	document.Field("count", number[int](1, maxSockets), func(s *socketDraft) *int { return &s.Count }),
	document.Field("at", at, func(s *socketDraft) *time.Duration { return &s.At }),
	document.Field("every", duration, func(s *socketDraft) *time.Duration { return &s.Every }),

	document.Field("state", state, func(s *socketDraft) *ssfilter.State { return &s.State }).Required("one that ss shows, such as close-wait"),
	document.Field("src", address, func(s *socketDraft) *netip.Addr { return &s.Src }),
	document.Field("sport", number[uint16](1, 65535), func(s *socketDraft) *uint16 { return &s.Sport }),
	document.Field("dst", address, func(s *socketDraft) *netip.Addr { return &s.Dst }),
	document.Field("dport", number[uint16](1, 65535), func(s *socketDraft) *uint16 { return &s.Dport }),

	document.Field("in_state_for", at, func(s *socketDraft) *time.Duration { return &s.InState }),
	document.Field("idle_for", at, func(s *socketDraft) *time.Duration { return &s.Idle }),
	document.Field("stalled_for", at, func(s *socketDraft) *time.Duration { return &s.Stalled }),
	document.Field("silent_for", at, func(s *socketDraft) *time.Duration { return &s.Silent }),

	document.Field("unread", number[uint32](0, maxQueue), func(s *socketDraft) *uint32 { return &s.Unread }),
	document.Field("queued", number[uint32](0, maxQueue), func(s *socketDraft) *uint32 { return &s.Queued }),
	document.Field("in_backlog", document.Boolean, func(s *socketDraft) *bool { return &s.InBacklog }),
	document.Field("keepalive", duration, func(s *socketDraft) *time.Duration { return &s.Keepalive }),
	document.Field("mptcp", document.Boolean, func(s *socketDraft) *bool { return &s.MPTCP }),
	document.Field("accept_queue", number[uint32](0, maxQueue), func(s *socketDraft) *uint32 { return &s.AcceptQueue }),
	document.Field("backlog", number[uint32](1, maxQueue), func(s *socketDraft) *uint32 { return &s.Backlog }),
}, ownerKeys), Synonyms: map[string][]string{
	"port": {"sport", "dport"}, "peer": {"dst", "dport"}, "local": {"src", "sport"}, "age": {"in_state_for"}, "idle": {"idle_for"}, "recv_q": {"unread"}, "send_q": {"queued"},
	"owner": {"process", "holder"}, "comm": {"process"}, "uid": {"user"},
}}

// maxQueue bounds what waits in a queue.
const maxQueue = 1 << 30

var ownerKeys = []document.Key[socketDraft]{
	document.Field("holder", document.OneOf("holder", Process, Kernel, Sockdog, Nobody, Unknown), func(s *socketDraft) *Holder { return &s.Holder }),
	document.Field("process", document.Text, func(s *socketDraft) *string { return &s.Process }),
	document.Field("pid", number[int](2, 1<<22), func(s *socketDraft) *int { return &s.PID }),
	document.Field("user", document.Scalar("a user", rules.ParseUser), func(s *socketDraft) *uint32 { return &s.User }),
	document.Field("cmdline", document.Text, func(s *socketDraft) *string { return &s.Cmdline }),
	document.Field("unit", document.Text, func(s *socketDraft) *string { return &s.Unit }),
	document.Field("cgroup", document.Text, func(s *socketDraft) *string { return &s.Cgroup }),
	document.Field("container", document.Text, func(s *socketDraft) *string { return &s.Container }),
	document.Field("pod", document.Text, func(s *socketDraft) *string { return &s.Pod }),
	document.Field("netns", document.Scalar("a network namespace", rules.ParseNetns), func(s *socketDraft) *rules.Netns { return &s.Netns }),
	document.Field("fd_usage", percent, func(s *socketDraft) *float64 { return &s.FDUsage }),
}

var (
	local = netip.AddrFrom4([4]byte{10, 0, 0, 1})
	peer  = netip.AddrFrom4([4]byte{10, 0, 0, 2})
)

// FirstPeerPort is the first port of peers where a test names none.
const FirstPeerPort = 1024

// defaultUser is somebody, and not root, whose sockets the kernel itself may hold.
const defaultUser = 1000

func socket(r *document.Reader, n *yaml.Node) *socketDraft {
	before := r.Reports()
	s := &socketDraft{at: n, Socket: Socket{Count: 1, Owner: Owner{Holder: Process, User: defaultUser}}}
	s.given = document.ReadMapping(r, n, socketTable, s)
	if s.given == nil || r.Reports() > before {
		return s
	}
	s.checkEnds(r)
	s.checkState(r)
	if r.Reports() == before {
		s.checkTimes(r)
	}
	return s
}

// refuse reports keys that have no meaning for the socket.
func (s *socketDraft) refuse(r *document.Reader, why string, keys ...string) {
	for _, key := range keys {
		if s.given.Has(key) {
			r.Report(s.given[key], "%s: remove %s", message.Phrase(why), message.Phrase(key))
		}
	}
}

// checkEnds completes the addresses and ports.
func (s *socketDraft) checkEnds(r *document.Reader) {
	if s.given.Has("every") && s.Count == 1 {
		r.Report(s.given["every"], "every is how long after each socket the next one appears: say in count how many there are")
	}
	if s.State == ssfilter.Listening {
		s.refuse(r, "a listening socket has no peer", "dst", "dport")
		if !s.given.Has("sport") {
			r.Report(s.at, "a listening socket needs its port: write it in sport")
		}
	} else {
		if s.Sport == 0 && s.Dport == 0 {
			r.Report(s.at, "a connection needs a port: write that of the peer in dport, or its own in sport")
		}
		if s.Sport != 0 && s.Dport != 0 && s.Count > 1 {
			r.Report(s.given["count"], "connections between the same addresses and ports are one: leave out sport, or dport")
		}
		s.refuse(r, "only a listening socket has an accept queue", "accept_queue", "backlog")
	}
	if !s.Src.IsValid() {
		s.Src = local
		if s.Dst.Is6() {
			s.Src = netip.AddrFrom16([16]byte{0xfd, 15: 1})
		}
	}
	if !s.Dst.IsValid() {
		s.Dst = peer
		if s.Src.Is6() {
			s.Dst = netip.AddrFrom16([16]byte{0xfd, 15: 2})
		}
	}
	if s.Src.Is4() != s.Dst.Is4() {
		r.Report(s.given["dst"], "src and dst must both be IPv4, or both IPv6")
	}
	if s.State == ssfilter.Listening {
		s.Dst = netip.IPv4Unspecified()
		if s.Src.Is6() {
			s.Dst = netip.IPv6Unspecified()
		}
	}
}

var (
	ownerNames = []string{"process", "pid", "cmdline", "unit", "container", "pod", "fd_usage"}
	queueNames = []string{"unread", "queued", "stalled_for", "keepalive", "in_backlog"}

	// In these states a SYN or a FIN waits to be acknowledged from the first instant to the
	// last.
	unacknowledged = ssfilter.Of(ssfilter.SynSent, ssfilter.FinWait1, ssfilter.Closing, ssfilter.LastAck)
)

// checkState reports what no socket in that state has.
func (s *socketDraft) checkState(r *document.Reader) {
	if s.Holder != Process {
		s.refuse(r, "it is held by no process that can be read", ownerNames...)
	}
	switch state := s.State; {
	case state == ssfilter.SynRecv:
		s.refuse(r, "no program holds a socket before it has accepted it", slices.Concat(ownerNames, []string{"holder", "user"})...)
		s.InBacklog = true
	case state == ssfilter.TimeWait:
		s.refuse(r, "no program holds a socket in time-wait, and nothing is queued in it", slices.Concat(ownerNames, queueNames, []string{"user", "idle_for", "silent_for"})...)
		s.Holder = Nobody
	case state == ssfilter.Listening:
		s.refuse(r, "a listening socket carries no data, and its time is not known", slices.Concat(queueNames, []string{"in_state_for", "idle_for", "silent_for"})...)
	case s.InBacklog && !ssfilter.Of(ssfilter.Established, ssfilter.CloseWait).Has(state):
		r.Report(s.given["in_backlog"], "a socket in the state %s waits in no accept queue", state)
	case s.InBacklog:
		s.refuse(r, "no program holds a socket in an accept queue", slices.Concat(ownerNames, []string{"holder", "user"})...)
	case s.Holder == Nobody && ssfilter.Of(ssfilter.SynSent, ssfilter.SynRecv, ssfilter.Established, ssfilter.CloseWait).Has(state):
		r.Report(s.given["holder"], "a program that closes a socket has it leave the state %s", state)
	case state == ssfilter.FinWait2 && s.Holder == Nobody:
		s.refuse(r, "the kernel keeps nothing of a socket in fin-wait-2 that its program has closed", queueNames...)
	case unacknowledged.Has(state):
		s.refuse(r, "its SYN or FIN waits to be acknowledged, so that it is never idle, but stalled", "idle_for")
	}
}

// timeNames are for how long a socket has been as it is when a test begins.
var timeNames = []string{"in_state_for", "idle_for", "stalled_for", "silent_for"}

// checkTimes completes the times, and reports those that contradict each other.
func (s *socketDraft) checkTimes(r *document.Reader) {
	if s.At > 0 || s.Every > 0 {
		s.refuse(r, "what appears during a test is new", timeNames...)
	}
	minisocket := s.State == ssfilter.TimeWait || s.State == ssfilter.FinWait2 && s.Holder == Nobody
	if minisocket && s.InState >= ssfilter.TimeWaitLen {
		r.Report(s.given["in_state_for"], "the kernel removes such a socket after %v", ssfilter.TimeWaitLen)
	}
	if !hears.Has(s.State) {
		s.refuse(r, "its peer sends nothing in this state", "silent_for")
	}
	if !s.given.Has("in_state_for") {
		s.InState = max(s.Idle, s.Stalled)
		if s.State == ssfilter.Established {
			s.InState = max(s.InState, s.Silent)
		}
	}
	if unacknowledged.Has(s.State) && !s.given.Has("stalled_for") {
		s.Stalled = s.InState
	}
	if !s.given.Has("idle_for") {
		s.Idle = s.InState
		switch {
		case s.Stalled > 0:
			s.Idle = s.Stalled
		case s.given.Has("silent_for"):
			s.Idle = min(s.Idle, s.Silent)
		}
	}
	if !s.given.Has("silent_for") {
		s.Silent = s.Idle
	}
	switch began := s.State == ssfilter.Established || unacknowledged.Has(s.State); {
	case s.given.Has("idle_for") && (s.given.Has("stalled_for") || s.Queued > 0):
		r.Report(s.given["idle_for"], "a socket with something queued is not idle: remove one of the two")
	case began && s.InState < max(s.Idle, s.Silent):
		r.Report(s.given["in_state_for"], "it cannot have been idle, stalled or silent for longer than it has been in its state")
	case s.Silent < s.Idle:
		r.Report(s.given["silent_for"], "what its peer sends is progress: it cannot be silent for less time than it is idle or stalled")
	}
	if s.Stalled > 0 && s.Queued == 0 {
		s.Queued = 1
	}
}

// hears are the states in which a time without a word from the peer counts by itself.
var hears = ssfilter.Of(ssfilter.Established, ssfilter.FinWait1, ssfilter.FinWait2)

// connection is what no two sockets of a network namespace have in common. A port that is
// chosen for each is 0.
type connection struct {
	src, dst     netip.Addr
	sport, dport uint16
	netns        rules.Netns
}

// checkPorts reports connections for which there are not enough ports.
func (c *caseDraft) checkPorts(r *document.Reader) {
	first, total := map[connection]*socketDraft{}, map[connection]int{}
	for _, s := range c.sockets {
		if s.State == 0 {
			continue // something is wrong with it
		}
		to := connection{s.Src, s.Dst, s.Sport, s.Dport, s.Netns}
		total[to] += s.Count
		if first[to] == nil {
			first[to] = s
		}
		ports := 1
		switch {
		case s.State == ssfilter.Listening || s.Sport != 0 && s.Dport != 0:
		case s.Sport == 0:
			ports = int(c.Ports.Last) - int(c.Ports.First) + 1
		default:
			ports = 1<<16 - FirstPeerPort
		}
		switch {
		case total[to] <= ports:
		case ports == 1:
			r.Report(s.at, "this connection is on line %d already: it needs another port, or address", first[to].at.Line)
		case total[to]-s.Count <= ports:
			r.Report(s.at, "these are %d connections between the same addresses, and there are %d ports: see ip_local_port_range, or use more addresses", total[to], ports)
		}
	}
}

// checkOwners reports a process that is said to be two things.
func checkOwners(r *document.Reader, all []*socketDraft) {
	first := map[int]*socketDraft{}
	for _, s := range all {
		if s.PID == 0 {
			continue
		}
		other := first[s.PID]
		if other == nil {
			first[s.PID] = s
			continue
		}
		if a, b := s.process(), other.process(); a != b {
			r.Report(s.given["pid"], "the process %d is another one on line %d: a process is one program in one place", s.PID, other.at.Line)
		}
	}
}

// process is the part of an owner that one process has one of.
func (s *socketDraft) process() Owner {
	o := s.Owner
	o.User, o.Netns, o.Cgroup = 0, rules.Netns{}, ""
	return o
}

// state is one state, and no group of them.
var state = document.Scalar("the name of a TCP state", func(text string) (ssfilter.State, error) {
	set, err := ssfilter.ParseState(text)
	if err != nil {
		return 0, err
	}
	states := set.States()
	if len(states) != 1 {
		return 0, message.Errorf("%q stands for several states: a socket is in one", text)
	}
	if states[0] == ssfilter.Close || states[0] == ssfilter.BoundInactive || states[0] == ssfilter.NewSynRecv {
		return 0, message.Errorf("a socket in the state %q is no connection, and nothing is ever done to it", text)
	}
	return states[0], nil
})

var address = document.Scalar("an address", func(text string) (netip.Addr, error) {
	if end, err := netip.ParseAddrPort(text); err == nil {
		return netip.Addr{}, message.Errorf("the port has its own keys: write %s here and %d in sport or dport", end.Addr(), end.Port())
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, message.Errorf("%q is not an address: write one such as 10.0.0.7 or fd00::7", text)
	}
	return a.Unmap(), nil
})

// percent is a percentage that may be more than 100.
var percent = document.Scalar("a percentage", func(text string) (float64, error) {
	digits, ok := strings.CutSuffix(text, "%")
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !document.IsDecimal(digits) || n > 1000 {
		return 0, message.Errorf("%q is not a percentage: write one such as 80%%", text)
	}
	return n, nil
})
