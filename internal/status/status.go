// Package status is the vocabulary in which the daemon reports on itself: one value that
// its loop makes, and that the metrics, the page and the command status read. It
// measures nothing and decides nothing.
package status

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Status is how things stand at one instant. Its JSON form is what
// /api/v1/status serves: times are RFC 3339, durations are seconds.
type Status struct {
	Version string `json:"version"`
	Host    string `json:"host"`
	Netns   string `json:"netns,omitempty"`
	// Time is when the loop made this value. If it is old, the loop hangs.
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"` // rules are in force, and one scan is done

	Paused   *Pause    `json:"paused"` // nil: it acts
	Problems Problems  `json:"problems"`
	Notes    Problems  `json:"notes"` // what is worth knowing, and keeps sockdog from nothing that it must do
	File     RulesFile `json:"rules_file"`
	Rules    []Rule    `json:"rules"`
	Source   Source    `json:"source"`

	Sockets             Sockets   `json:"sockets"`
	SocketsAt           time.Time `json:"sockets_at,omitzero"`   // when they were counted; zero: they could not be
	SocketsEverySeconds float64   `json:"sockets_every_seconds"` // between two counts, stretched by cpu_budget; 0: there was none
	History             *History  `json:"history"`               // nil: nothing was ever read

	Actions        []journal.Record `json:"actions"` // the last ones, newest first: at most MostActions
	ActionPossible map[string]bool  `json:"action_possible"`
	Lateness       Histogram        `json:"lateness_seconds"` // of actions, after the instant they fell due
	Scans          Scans            `json:"scans"`
	// WriteStalledSeconds is how long a write to the state directory has been under way,
	// beyond a second; else 0.
	WriteStalledSeconds float64    `json:"write_stalled_seconds"`
	Receivers           []Receiver `json:"receivers"`
}

// NotReady says what a sockdog waits for that is not ready.
const NotReady = "no rules are in force yet, or the socket table was not read yet"

// ReadyBut stands between that it is ready and which rules are in force, where those of the file
// are not.
const ReadyBut = ", but with "

// Pause is that nothing is acted on for now, whatever falls due.
type Pause struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"` // who paused: "uid 0"
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // when it ends by itself; zero: it does not
	File   string    `json:"file,omitempty"` // that keeps it over a restart, for as long as it is there; empty: none does
}

// Over reports whether it has ended by itself.
func (p *Pause) Over(now time.Time) bool { return !p.Until.IsZero() && !now.Before(p.Until) }

// Words says who paused and until when, after the reason.
func (p *Pause) Words() string {
	text := p.Reason + " (" + p.By
	if !p.Until.IsZero() {
		text += ", until " + p.Until.Format(time.RFC3339)
	}
	return text + ")"
}

// NowFor is how long after it was counted a number of sockets passes for the present
// one: not until the next count, since an action may have ended them meanwhile.
const NowFor = time.Second

// MostActions is how many of the last actions a Status holds.
const MostActions = 50

// MarshalJSON writes empty lists and maps as such, and not as null.
func (s *Status) MarshalJSON() ([]byte, error) {
	type plain Status
	p := plain(*s)
	p.Problems, p.Notes = append(Problems{}, p.Problems...), append(Problems{}, p.Notes...)
	p.Actions, p.Receivers = append([]journal.Record{}, p.Actions...), append([]Receiver{}, p.Receivers...)
	p.Sockets, p.ActionPossible = table(p.Sockets), table(p.ActionPossible)
	p.Rules = append([]Rule{}, p.Rules...)
	for i := range p.Rules {
		r := &p.Rules[i]
		r.Groups, r.Actions, r.HeldBack = append([]Group{}, r.Groups...), table(r.Actions), table(r.HeldBack)
		r.HeldBy = append([]ProcessSockets{}, r.HeldBy...)
	}
	return json.Marshal(&p)
}

func table[M ~map[K]V, K comparable, V any](m M) M {
	if m == nil {
		return M{}
	}
	return m
}

// RulesFile is the file that the rules come from, and how its last reading went.
type RulesFile struct {
	Path    string    `json:"path"`            // empty: there is none
	BuiltIn bool      `json:"built_in"`        // the built-in rules are in force, and no file was so far
	OK      bool      `json:"ok"`              // what the file says is in force, or there is none
	Error   string    `json:"error,omitempty"` // a mistake a line: the first few
	Loaded  time.Time `json:"loaded"`          // when the rules in force were
}

// Instead says which rules are in force in the place of those of the file, and why; empty:
// what the file says is.
func (f *RulesFile) Instead() string {
	if f.Error == "" {
		return ""
	}
	which := "the rules from before"
	if f.BuiltIn {
		which = "the built-in rules"
	}
	mistake, _, _ := strings.Cut(f.Error, "\n")
	return which + ": " + mistake
}

// Mode is what a rule may do.
type Mode string

// The modes.
const (
	Enabled  Mode = "enabled"
	DryRun   Mode = "dry_run" // it decides everything, and touches nothing
	Stopped  Mode = "stopped" // by itself, until it is reset or changed
	Disabled Mode = "disabled"
)

// Rule is what a rule holds now.
type Rule struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Text        string `json:"text"` // what it says, in one line
	Mode        Mode   `json:"mode"`
	Stop        *Stop  `json:"stop,omitempty"`  // nil: it has not stopped itself
	Whole       bool   `json:"whole,omitempty"` // it is about no sockets, but about a network namespace or the host

	Sockets       int              `json:"sockets"`            // that match in full
	Candidates    int              `json:"candidates"`         // that match in all but their age
	HeldBy        []ProcessSockets `json:"held_by"`            // who holds those that match in full, most first: at most ten, then "other" and "unknown"
	InNetns       []NetnsSockets   `json:"in_netns,omitempty"` // where those are, if several network namespaces are watched, most first: at most ten, then "other"
	OldestSeconds float64          `json:"oldest_seconds"`     // of those, the longest in its state; 0: none
	Held          int              `json:"held"`               // that a limit holds back now
	// FirstDueSeconds is how long it takes until the first of those falls due that match
	// in all but their age; nil: none will.
	FirstDueSeconds *float64 `json:"first_due_seconds,omitempty"`

	Firing  int     `json:"firing"`  // groups
	Pending int     `json:"pending"` // groups
	Groups  []Group `json:"groups"`  // those firing, then the nearest to it: at most 20

	Actions     map[string]Tally  `json:"actions"`     // by kind: one for each that the rule has
	Descriptors Descriptors       `json:"descriptors"` // of the sockets that it had killed, ten seconds later
	LeaksBack   int               `json:"leaks_back"`  // processes whose leaks came back three times within an hour, or more
	HeldBack    map[string]uint64 `json:"held_back"`   // by one of HeldReasons; an absent one is 0
}

// Descriptors is what became of the descriptors of killed sockets.
type Descriptors struct {
	Closed  uint64 `json:"closed"` // by their programs
	Open    uint64 `json:"open"`   // they count against RLIMIT_NOFILE still
	Unknown uint64 `json:"unknown"`
}

// Stop says why a rule has stopped itself.
type Stop struct {
	Reason string    `json:"reason"`        // one word
	PID    int       `json:"pid,omitempty"` // of the program that it did harm to; 0: none is known
	Comm   string    `json:"comm,omitempty"`
	Since  time.Time `json:"since"`
}

// ProcessSockets is how many sockets processes of one name hold, as far as that is known:
// "none" stands for those that no process holds.
type ProcessSockets struct {
	Process string `json:"process"`
	Sockets int    `json:"sockets"`
}

// NetnsSockets is how many sockets are in one network namespace.
type NetnsSockets struct {
	Netns     string `json:"netns"`                // its inode; OtherNetns
	NetnsName string `json:"netns_name,omitempty"` // that ip-netns(8) has for it
	Sockets   int    `json:"sockets"`
}

// OtherNetns stands for the network namespaces that are not named.
const OtherNetns = "other"

// UnknownProcess stands for who holds those of which that is not known.
const UnknownProcess = "unknown"

// Group is a group of sockets, and how near it is to the thresholds of its rule.
type Group struct {
	Labels     map[string]string `json:"labels"` // by group_by; empty: the rule has one group
	Phase      Phase             `json:"phase"`
	Since      time.Time         `json:"since,omitzero"` // of its phase; zero where it is quiet
	Conditions []Condition       `json:"conditions"`     // all must hold
}

// Cannot is an action that a rule in force has, and that the kernel or the privileges
// do not allow; empty: there is none.
func (s *Status) Cannot(r *Rule) string {
	if r.Mode != Enabled {
		return ""
	}
	for _, action := range slices.Sorted(maps.Keys(r.Actions)) {
		if possible, known := s.ActionPossible[action]; known && !possible {
			return action
		}
	}
	return ""
}

// Phase is how far a group has come.
type Phase string

// The phases of a group.
const (
	Quiet   Phase = "quiet"
	Pending Phase = "pending" // its conditions hold, and not yet for long enough
	Firing  Phase = "firing"
)

// Condition is one comparison of a rule's when, with the value of now.
type Condition struct {
	Metric    string  `json:"metric"`
	Op        string  `json:"op"`
	Threshold float64 `json:"threshold"`
	Unit      string  `json:"unit,omitempty"` // of both numbers: "%", "/m", or none
	Value     float64 `json:"value"`
	Near      float64 `json:"near"` // how much of the way to the threshold is gone: 0 to 1, where it holds
}

// nearFrom is how near to all its thresholds a quiet group must be to be shown.
const nearFrom = 0.5

// Shown reports whether a group is worth a line: it is pending, firing, or near that.
func (g *Group) Shown() bool {
	far := func(c Condition) bool { return c.Near < nearFrom }
	return g.Phase != Quiet || !slices.ContainsFunc(g.Conditions, far)
}

// Verdict sums the status up in a few words.
func (s *Status) Verdict() string {
	firing := 0
	for i := range s.Rules {
		firing += s.Rules[i].Firing
	}
	problems := len(s.Problems)
	var words []string
	if s.Paused != nil {
		words = append(words, "paused")
		problems-- // which is one of them
	}
	switch {
	case problems == 1:
		words = append(words, "1 problem")
	case problems > 1:
		words = append(words, fmt.Sprint(problems, " problems"))
	case s.Paused != nil:
	case !s.Ready:
		return "starting"
	case firing == 0:
		return "all well"
	default:
		words = append(words, "no problems")
	}
	if firing > 0 {
		words = append(words, fmt.Sprint(firing, " firing"))
	}
	return strings.Join(words, " · ")
}

// Tally counts actions by result; an absent one is 0. An alert is done once it is
// raised: Receiver counts what became of it.
type Tally map[journal.Result]uint64

// Results are what may become of an action.
var Results = []journal.Result{
	journal.Done, journal.Gone, journal.Changed, journal.Held, journal.Would, journal.Failed, journal.Unconfirmed, journal.Interrupted,
}

// HeldReasons are the keys of Rule.HeldBack. What is held back waits, and counts as held
// in the tally of its action, too; what is skipped for another reason is counted once a
// connection.
var HeldReasons = slices.Concat(waiting, []string{
	"protected", "in_use", "in_accept_queue", "held_by_kernel", "mptcp_subflow", "not_connected", "orphan", "own", "holder_spins",
	"holders_unknown", "owner_unknown", "no_descriptor", "holder_refuses",
})

// waiting are those for which an action waits.
var waiting = []string{"limit", "limit_of_all_rules", "limit_of_unseen", "share", "max_matches", "canary", "paused", "stopped"}

// Waits reports whether what one of HeldReasons keeps a rule from is done later.
func Waits(reason string) bool { return slices.Contains(waiting, reason) }

// Scans sums up the scans of the socket table.
type Scans struct {
	OK              uint64    `json:"ok"`
	Failed          uint64    `json:"failed"`
	Duration        Histogram `json:"duration_seconds"`
	IntervalSeconds float64   `json:"interval_seconds"` // between scans; 0: none are wanted
	WantedSeconds   float64   `json:"wanted_seconds"`   // what it would be, had scans no cost
	StalledSeconds  float64   `json:"stalled_seconds"`  // how long the present one has been under way, beyond a second; else 0
}

// Receiver is what became of the alerts to one receiver.
type Receiver struct {
	Name    string `json:"name"`
	Sent    uint64 `json:"sent"`
	Failed  uint64 `json:"failed"`
	Dropped uint64 `json:"dropped"` // there was no room to keep them
}

// Sockets is how many sockets there are in each state, under ss's name of it. A
// state that was not read is absent: that is not zero.
type Sockets map[string]uint64

// States are the states that are counted, in the order in which to show them:
// those that sockets get stuck in come first.
var States = stateNames(
	ssfilter.CloseWait, ssfilter.TimeWait, ssfilter.Established, ssfilter.FinWait1, ssfilter.FinWait2,
	ssfilter.LastAck, ssfilter.Closing, ssfilter.SynSent, ssfilter.SynRecv, ssfilter.Listening, ssfilter.Close,
)

func stateNames(states ...ssfilter.State) []string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.String()
	}
	return names
}

// Problem is something that keeps sockdog from its work and has a cure.
type Problem struct {
	Kind  string    `json:"kind"` // as docs/watching.md has it, the same each time
	Text  string    `json:"text"` // in lines
	Cure  string    `json:"cure,omitempty"`
	Since time.Time `json:"since"`
}

// Problems are those of now, oldest first.
type Problems []Problem

// With returns the problems with p in the place of the one of its kind, whose Since it
// keeps, or at the end.
func (all Problems) With(p Problem) Problems {
	list := slices.Clone(all)
	i := slices.IndexFunc(list, func(q Problem) bool { return q.Kind == p.Kind })
	if i < 0 {
		return append(list, p)
	}
	p.Since = list[i].Since
	list[i] = p
	return list
}

// Without returns the problems but the one of a kind.
func (all Problems) Without(kind string) Problems {
	return slices.DeleteFunc(slices.Clone(all), func(p Problem) bool { return p.Kind == kind })
}

// String returns the labels in one line: "dport=5432 dst=10.0.0.7".
func (g *Group) String() string {
	if len(g.Labels) == 0 {
		return "all sockets"
	}
	words := make([]string, 0, len(g.Labels))
	for _, name := range slices.Sorted(maps.Keys(g.Labels)) {
		words = append(words, name+"="+g.Labels[name])
	}
	return strings.Join(words, " ")
}
