// Package engine is the pure core: what to match, what to remember, when to
// scan, and what to do. It reads no clock, no file and no socket and logs
// nothing; time comes in as a value and all it wants comes out as one.
package engine

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Input is something that happened. A nil Input means that time has passed.
type Input interface {
	apply(e *Engine, now sock.Instant)
}

// RulesChanged says that new rules are in force.
type RulesChanged struct {
	Program *match.Program
	// Fallback says that they are in the place of rules that could not be read: what
	// an earlier run knew waits for those.
	Fallback bool
}

// CapabilitiesChanged says what the kernel and the privileges allow.
type CapabilitiesChanged struct{ match.Capabilities }

// Restored says what an earlier run remembered of sockets and groups, and which
// of its actions may still count against a limit, and which rules have stopped themselves.
type Restored struct {
	Memories []sock.Memory
	Spent    []sock.Spent
	Groups   []sock.Group
	Stops    []sock.RuleStop
}

// Stop says that the daemon is to end: what is under way is brought to its end,
// and nothing new is begun.
type Stop struct{}

// CountersRead says what the counters hold, or that they could not be read.
type CountersRead struct {
	OK bool
	sock.Counters
	Pressure *sock.Pressure        // nil: it was not wanted, or could not be read
	Ports    map[uint32]sock.Ports // of each network namespace, by its inode; in one that is absent, the usage of ports is not measured
}

// ScanDone says how a scan ended. With Err set it failed and nothing of it counts.
type ScanDone struct {
	Result *ScanResult
	Sent   sock.Instant
	Cost   time.Duration // of CPU
	Err    error
}

// LookupDone says what the kernel answered about single sockets.
type LookupDone struct {
	Answers []sock.Answer
	Err     error // nothing was learnt of those without an answer
	IDs     []sock.ID
}

// ActionsDone says how the acts ended that a plan asked for.
type ActionsDone struct {
	Outcomes []Outcome
}

// Outcome is how one act ended.
type Outcome struct {
	Act    Action
	Err    error // nil: the kernel did it
	Gone   bool  // there was nothing left to do it to
	Never  bool  // Err is permanent: the same act on such a socket will always fail
	Denied bool  // and on every other: the privilege is missing
	Unsure bool  // the kernel's answer was lost
	// Refused: Err is the kernel's refusal of the descriptors of who holds the socket.
	Refused bool
	// Changed says why nothing was done, where the last answer before the act showed
	// something else than it was decided on, or new rules came first.
	Changed match.Reason
	Last    sock.Answer // with Changed: that answer
	At      sock.Instant
}

// Plan is what the engine wants done. Each part may be empty.
type Plan struct {
	Count        bool            // read the counters
	Pressure     bool            // and what is short that all sockets share
	Scan         *Scan           // read the socket table
	Lookup       []sock.ID       // ask for these sockets by name
	Resolve      []uint32        // find the holders of these inodes
	Read         []uint32        // find the holders of these, by new descriptors
	Sample       []spin.Process  // read the CPU usage of these
	Probe        []string        // fetch these URLs
	Act          []Action        // do these, in this order
	Report       []Action        // say these: they are decided, and nothing is to be done
	Intend       []GroupAction   // record the intent of these
	ActOn        []GroupAction   // do these, each by itself: any of them may hang
	Undo         []GroupAction   // put back what these have done
	ReportGroups []GroupAction   // say these
	Remember     []sock.Memory   // keep these on disk
	Forget       []sock.Key      // drop what is kept of these sockets
	Held         []HeldBack      // say what the limits hold back
	Notes        []Note          // say these to whoever reads the log
	Transitions  []Transition    // groups that changed their phase
	Alerts       []Alert         // alerts that fire, or have ended
	RuleAlerts   []RuleAlert     // those about rules themselves
	Groups       []sock.Group    // keep these on disk, and no others; nil: no change
	Stops        []sock.RuleStop // and these
	Late         []time.Duration // how long after it fell due each act was done that was seen coming
	Resumed      bool            // a pause has ended by itself
	Stopped      bool            // after Stop: nothing is under way any more
	Wake         sock.Instant    // call again then, if nothing happens before
}

// Result is how an action ended, as the log and the journal name it.
type Result string

// The results.
const (
	Done        Result = "done"
	Gone        Result = "gone"    // the socket ended by itself first
	Changed     Result = "changed" // it is no longer what was matched
	Held        Result = "held"    // a limit holds it back, or its rule is stopped
	Would       Result = "would"   // a dry run
	Failed      Result = "failed"
	Unconfirmed Result = "unconfirmed" // the kernel said done, or nothing, and the socket is still there
)

// Results counts actions by their kind and how they ended.
type Results map[KindResult]uint64

// KindResult is how an action of a kind ended.
type KindResult struct {
	Kind   *rules.Kind
	Result Result
}

// Grounds are why a rule wants a socket. Package action has the words.
type Grounds struct {
	Match *rules.Match // of the rule, that the socket meets; nil: none in full

	InStateFor, IdleFor, StalledFor, SilentFor time.Duration

	ShutFor time.Duration     // since the rule has shut it down, and its peer has not ended it; 0: it has not
	When    []rules.Condition // of a rule about groups
	Group   group.Measured    // what its group measures then
}

// Action is one action of one rule on one socket: to be done, or decided.
type Action struct {
	Rule    string
	Kind    *rules.Kind
	Result  Result // empty in Plan.Act
	DryRun  bool
	Reason  match.Reason   // why it is not done after all, or in doubt; empty: there is nothing to add
	Err     error          // what the kernel said; with match.NotPossible: what is missing
	Options map[string]any // the rule's, that no other kind has
	Via     rules.Via      // by which way it is done; empty: it needs none, or none is possible
	Socket  sock.Socket
	Grounds
	Holders     []sock.Holder
	Due         sock.Instant // when it fell due, if that was seen coming; 0: it was not
	Decided     sock.Instant
	Window      time.Duration // how long it counts against a limit; 0: against none
	Before      string        // what it changed, as it was
	Shares      []uint64      // what it takes from for so long beside that, by their numbers; none: nothing
	ShareWindow time.Duration
	Waited      bool         // a limit held it back until it came to nothing
	Seq         uint64       // of the record of its intent, in Outcome and after
	At          sock.Instant // when it was done, or was not; 0: nothing was tried
	of          *ruleState
	basis       *basis // in Plan.Act: what it was decided on
}
