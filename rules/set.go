// Package rules reads the rules file: YAML from an io.Reader to a checked and
// typed Set, or every error at its line and column. It holds the built-in rules
// and the JSON Schema, and decides nothing about sockets.
package rules

import (
	"strconv"
	"time"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Set is one rules file, checked: nothing in it needs another check.
type Set struct {
	Settings  Settings
	Protect   []Match // any of these is never acted on
	Receivers []Receiver
	Rules     []Rule // in the order of the file, which is their priority
}

// Settings are the file's settings with their defaults filled in.
type Settings struct {
	Interval  time.Duration // 0: by the rules
	CPUBudget float64       // fraction of one core
	DryRun    bool
	Limit     Limit // destructive actions of all rules together

	Namespaces Namespaces
}

// Namespaces says in which network namespaces sockets are watched.
type Namespaces string

// The choices of settings.namespaces.
const (
	SelfNamespace Namespaces = "self" // the one that sockdog runs in
	AllNamespaces Namespaces = "all"  // every one of the host
)

// Limit is at most N actions in any stretch of Per.
type Limit struct {
	N   int
	Per time.Duration
}

// Rule is one rule: about single sockets or, with When, about groups of them.
type Rule struct {
	Name        string
	Description string
	Enabled     bool
	DryRun      bool    // its own or the settings'
	Match       []Match // any of
	Exclude     []Match // any of

	GroupBy []GroupKey // one group for each combination; empty: one group
	When    []Condition
	Until   []Condition   // empty: when When no longer holds
	For     time.Duration // how long When must hold before a group fires
	// Cooldown is how long after the last action on a group, of those that are done once for
	// a firing, a later firing of it brings none.
	Cooldown time.Duration
	Labels   map[string]string

	Then []Action
	Sum  string // fingerprint of what the rule says; equal means unchanged
}

// Match is one mapping of match, exclude or protect: all of it must hold.
type Match struct {
	States ssfilter.StateSet
	// Where holds the keys sport, dport, src, dst and filter as one expression;
	// nil holds for every socket.
	Where ssfilter.Expr
	Users []uint32 // any of; empty: every user

	Netns   []Netns  `json:",omitempty"` // any of; empty: every network namespace
	Cgroups []string `json:",omitempty"` // any of, and those below it; * and ? stand for text without a slash

	// What is asked of the processes that hold the socket, each any of, with wildcards;
	// empty: not asked.
	Processes  []string `json:",omitempty"` // names of programs
	Cmdlines   []string `json:",omitempty"` // regular expressions, without wildcards
	Units      []string `json:",omitempty"` // of systemd
	Containers []string `json:",omitempty"` // names, or the beginnings of ids (IsContainerID)
	Pods       []string `json:",omitempty"` // namespace/name, where no wildcard stands for the slash

	// IfKnown: what is asked of them does not hold where it is not known, and nobody looks for
	// them for its sake.
	IfKnown bool `json:",omitempty"`

	// Time bounds; 0: not asked.
	InStateFor time.Duration
	IdleFor    time.Duration
	StalledFor time.Duration
	SilentFor  time.Duration `json:",omitempty"`

	// Conditions that may change while the socket stays in its state.
	Unread    *Threshold // bytes in the receive queue
	InBacklog *bool
	Keepalive *bool     `json:",omitempty"` // whether its keepalive timer is armed; nil: not asked
	Verdicts  []Verdict // any of; empty: not asked
}

// Netns is a network namespace, by one of the two.
type Netns struct {
	Name  string `json:",omitempty"` // as ip-netns(8) has it
	Inode uint32 `json:",omitempty"`
}

// String is the name, or the number.
func (n Netns) String() string {
	if n.Name != "" {
		return n.Name
	}
	return strconv.FormatUint(uint64(n.Inode), 10)
}

// Threshold is a comparison with a number.
type Threshold struct {
	Op     Op
	Number uint64
}

// Op is a comparison operator.
type Op string

// The comparison operators of a threshold.
const (
	Less         Op = "<"
	LessEqual    Op = "<="
	Greater      Op = ">"
	GreaterEqual Op = ">="
	Equal        Op = "="
	NotEqual     Op = "!="
)

// Holds reports whether n compares to the threshold's number as its operator says.
func (t Threshold) Holds(n uint64) bool { return holds(n, t.Op, t.Number) }

func holds[N uint64 | float64](n N, op Op, number N) bool {
	switch op {
	case Less:
		return n < number
	case LessEqual:
		return n <= number
	case Greater:
		return n > number
	case GreaterEqual:
		return n >= number
	case Equal:
		return n == number
	default:
		return n != number
	}
}

// Verdict says why a socket is in CLOSE_WAIT.
type Verdict string

// The verdicts on a CLOSE_WAIT socket.
const (
	EOFUnread        Verdict = "eof-unread"          // the program never read the end of stream
	EOFReadNotClosed Verdict = "eof-read-not-closed" // it read it and did not close
	UnreadData       Verdict = "unread-data"
	StillSending     Verdict = "still-sending" // half-closed on purpose: in use
	InBacklog        Verdict = "in-backlog"    // the program has stopped accepting
)

// Action is one entry of a rule's then.
type Action struct {
	Kind  *Kind
	After time.Duration // beyond the instant at which the socket fell due, or the group fired
	Limit Limit         // of destructive actions, and of exec
	Order Order         // destructive actions only

	Most       float64 `json:",omitempty"` // share of the live connections of a holder, or a port, in ten minutes; 0: all
	MaxMatches int     `json:",omitempty"` // with more sockets the rule does nothing; 0: any number
	Canary     *Canary `json:",omitempty"` // destructive actions on sockets only; nil: off

	Alert   *AlertOptions  // alert only
	Exec    *ExecOptions   `json:",omitempty"` // exec only
	Signal  *SignalOptions `json:",omitempty"` // signal only
	Sysctls []Setting      `json:",omitempty"` // sysctl only: what it sets
	Options map[string]any `json:",omitempty"` // those of its kind alone, by name
}

// Canary is how the first acts of a rule on the sockets of a program are watched, before
// there are more.
type Canary struct {
	First int           // acts
	Wait  time.Duration // after them
	Probe string        `json:",omitempty"` // URL that must answer afterwards; empty: none
}

// Order is the order in which sockets that a limit holds back get their turn.
type Order string

// The orders.
const (
	Oldest Order = "oldest"
	Newest Order = "newest"
)
