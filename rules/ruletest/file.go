// Package ruletest reads files of unit tests for rules: sockets, what happens to them, and
// what the rules are to do, when. Every mistake is reported at its line and column, as in a
// rules file. It runs nothing.
package ruletest

import (
	"net/netip"
	"time"

	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// File is a file of tests without mistakes.
type File struct {
	RulesFile string // as it is written; "": the rules stand in the file itself
	Rules     *rules.Set
	Cases     []Case
}

// Case is one test. All instants in it count from its beginning, at which sockdog starts.
type Case struct {
	Name    string
	Line    int // where it stands
	Ports   ssfilter.PortRange
	Sockets []Socket
	Changes []Change // in the order of time
	Until   time.Duration
	Expect  []Expectation // in the order of time
}

// Socket describes sockets: Count of the same, which differ by their ports.
type Socket struct {
	Name  string // "": nothing refers to it
	Count int
	At    time.Duration // when it appears
	Every time.Duration // how long after each the next does; 0: they come together

	State        ssfilter.State
	Src, Dst     netip.Addr
	Sport, Dport uint16 // 0: one of the local port range, each time another

	InState, Idle, Silent time.Duration // for so long, when it appears
	Stalled               time.Duration // something is queued for so long; 0: see Queued

	Unread    uint32 // bytes to read
	Queued    uint32 // bytes to send and to be acknowledged
	InBacklog bool
	Keepalive time.Duration // how far its probes are apart; 0: it sends none
	MPTCP     bool

	// Of a listener:
	AcceptQueue, Backlog uint32

	Owner
}

// Owner is who holds a socket.
type Owner struct {
	Holder  Holder
	Process string
	PID     int // 0: any
	User    uint32
	Cmdline string
	Unit    string
	Cgroup  string // "": by the unit

	Container string // name or id
	Pod       string // namespace/name

	Netns   rules.Netns // of the socket
	FDUsage float64     // in percent; 0: hardly any
}

// Holder is who holds a socket, if it is no process that can be read.
type Holder string

// The holders of sockets.
const (
	Process Holder = "process"
	Kernel  Holder = "kernel"
	Sockdog Holder = "sockdog"
	Nobody  Holder = "nobody"  // the program has closed it
	Unknown Holder = "unknown" // a process that cannot be read
)

// Change is something that happens.
type Change struct {
	At, Every time.Duration // Every 0: once
	Socket    int           // in Case.Sockets; -1: it happens to the host

	State          ssfilter.State // 0: it stays as it is
	Sent, Received uint32         // bytes, of which the peer has acknowledged those that were sent
	Queued, Unread *uint32
	AcceptQueue    *uint32
	Accepted       bool
	Closed         bool // it is gone

	ListenDrops *float64 // a minute
	Orphans     *float64 // percent
	TCPMemory   *float64 // percent
}

// Expectation is what is to happen, at that time or up to Within later.
type Expectation struct {
	Line       int
	At, Within time.Duration // Within 0: as long as it may take

	Rule   string
	Action *rules.Kind
	Result string
	Socket int // in Case.Sockets; -1: any
	Count  int
	Group  map[string]string // what the group has that it is about, by the rule's group_by

	// KeptBy is why the rule does nothing to the socket at that time; "": something is to
	// happen.
	KeptBy string
}
