package rules

import (
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// Signal signals the process that a group is of.
var Signal = &Kind{Name: "signal", On: OnProcess, Destructive: true, Explicit: true}

// SignalOptions are what a signal action sends.
type SignalOptions struct {
	Signal string // its name without SIG
	// AllowPID1 says that process 1 may be meant: in a container, its program.
	AllowPID1 bool `json:",omitempty"`
}

// Signals are those that may be sent: they ask a program to end, to log or to read its
// configuration, or end it.
var Signals = []string{"TERM", "INT", "HUP", "QUIT", "ABRT", "USR1", "USR2", "KILL"}

var defaultSignalLimit = Limit{N: 1, Per: 10 * time.Minute}

// leastSignalFor is how long a condition must hold at least before a process is signalled.
const leastSignalFor = time.Minute

var signalTable = document.Table[act]{What: "signal", Keys: []document.Key[act]{
	document.Field("signal", signalName, func(a *act) *string { return &a.signal().Signal }),
	document.Field("limit", rate, func(a *act) *Limit { return &a.Limit }),
	document.Field("allow_pid_1", document.Boolean, func(a *act) *bool { return &a.signal().AllowPID1 }),
	after,
}}

func (a *act) signal() *SignalOptions {
	if a.Signal == nil {
		a.Signal = &SignalOptions{}
	}
	return a.Signal
}

var signalName = document.Scalar("the name of a signal", func(text string) (string, error) {
	if slices.Contains(Signals, text) {
		return text, nil
	}
	if short := strings.TrimPrefix(strings.ToUpper(text), "SIG"); slices.Contains(Signals, short) {
		return "", message.Errorf("write %s for the signal %q", message.Phrase(short), text)
	}
	return "", message.Unknown("signal", text, "signal", Signals)
})

// readSignal reads the short form, signal: TERM.
func readSignal(r *document.Reader, n *yaml.Node, a *act) {
	a.given = document.Given{"signal": a.at}
	a.signal().Signal = signalName(r, n)
}

// checkSignal refuses a rule that could signal a process for what only happens to be so, and
// fills in the action's defaults.
func checkSignal(r *document.Reader, d *draft, a *act) {
	if a.lacks("signal") {
		r.Report(a.at, "signal needs the name of one: write - signal: TERM")
	}
	if !a.given.Has("limit") {
		a.Limit = defaultSignalLimit
	}
	a.signal()
	if first := slices.IndexFunc(d.then, func(a act) bool { return a.Kind == Signal }); &d.then[first] != a || !d.given.Has("when") {
		return // it is reported, once, or that it needs when
	}
	byPID := func(k document.Placed[GroupKey]) bool { return k.Value == ByPID || k.Value == "" }
	unread := d.given.Has("group_by") && len(d.groupBy) == 0
	if !unread && !slices.ContainsFunc(d.groupBy, byPID) {
		r.Report(a.at, "signal is sent to the process that a group is of: write group_by: [pid]")
	}
	switch {
	case !d.given.Has("for"):
		r.Report(a.at, "a rule with signal must say for how long its condition holds: add for, of at least 1m")
	case d.given.Wrote("for") && d.For > 0 && d.For < leastSignalFor:
		r.Report(d.given["for"], "a rule with signal waits for at least 1m: what lasts for less is no reason to signal a process")
	}
	for _, s := range d.match {
		if s.given != nil && !s.given.Has("state") {
			r.Report(s.at, "a rule with signal must name the states here, such as state: close-wait")
		}
	}
}
