package action

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// words are what reasons say to people.
var words = map[match.Reason]string{
	match.NotConnected:   "not connected",
	match.Protected:      "protected",
	match.MPTCPSubflow:   "an MPTCP subflow",
	match.InAcceptQueue:  "in an accept queue",
	match.Orphan:         "closed by its program, and kernels before 6.11 would leak it for ever",
	match.HeldByKernel:   "held by the kernel",
	match.Own:            "sockdog's own",
	match.RuleLimit:      "the limit of the rule leaves no room yet",
	match.LimitOfAll:     "the limit of all rules leaves no room yet",
	match.CanaryWaits:    "what the first kills did to the program is still to be seen",
	match.UnseenLimit:    "nobody can tell what kills do to the program",
	match.MaxMatches:     "the rule means more sockets than max_matches",
	match.Share:          "as much is gone of the live connections that belong together as most allows in ten minutes",
	match.RuleStopped:    "the rule has stopped itself",
	match.Taken:          "an earlier rule in the file takes it",
	match.InUse:          "in use: something is left to send",
	match.GroupIsQuiet:   "its group must fire first",
	match.NotStalled:     "nothing waits to be sent or acknowledged: it has not stalled",
	match.NotIdle:        "something waits to be sent or acknowledged: it is not idle",
	match.Excluded:       "excluded",
	match.Unmet:          "a condition of the rule does not hold, or is not known to",
	match.HoldersUnknown: "not every process could be read: another may hold it",
	match.OwnerUnknown:   "what a process that holds it is called, or where it belongs, is not known",
	match.Unmatched:      "its rule does not match it any more",
	match.Replaced:       "another state or connection than was matched",
	match.Progressed:     "it made progress meanwhile",
	match.Paused:         "acting is paused",
	match.NewRules:       "new rules came first",
	match.NoHolder:       "no process holds the sockets of its group",
	match.GroupEnded:     "its group is not known to fire any more",
	match.Stopping:       "sockdog was told to stop",
	match.HoldersOld:     "who holds it was last looked for too long ago",
	match.HolderChanged:  "the process that held it does not any more",
	match.NoDescriptor:   "no process has a descriptor of it, by which alone it could be reached",
	match.HolderRefuses:  "the kernel refuses the descriptors of the process that holds it",
	match.StillThere:     "the kernel still shows it",
	match.AnswerLost:     "the kernel's answer was lost, and the socket has changed since",
}

// Words says to people what a reason means.
func Words(r match.Reason) string { return words[r] }

// WhyHeld says in one line why sockets are held back.
func WhyHeld(h *engine.HeldBack) string {
	if h.Shut != "" {
		return words[h.Shut]
	}
	var lines []string
	limited := func(why match.Reason) bool { return why == match.RuleLimit || why == match.LimitOfAll }
	if len(h.Why) == 0 || slices.ContainsFunc(h.Why, limited) {
		lines = append(lines, "the limits are "+h.Limit+" of the rule and "+h.LimitOfAll+" of all rules")
	}
	for _, why := range h.Why {
		if text := words[why]; text != "" && !limited(why) {
			lines = append(lines, text)
		}
	}
	return strings.Join(lines, "; ")
}

// Missing says why an action of the kind is not possible here.
func Missing(kind *rules.Kind, why error) string {
	if errors.As(why, new(match.SwitchedOff)) {
		return kind.Name + " is switched off: " + why.Error()
	}
	return why.Error()
}

// Why says in one line why the action is done, or is not.
func Why(a *engine.Action) string {
	wanted := Wanted(&a.Grounds, &a.Socket, false)
	switch {
	case a.Result == engine.Changed:
		return words[a.Reason]
	case a.Reason == match.NotPossible:
		return wanted + "; " + Missing(a.Kind, a.Err)
	case a.Reason != "":
		return wanted + "; " + words[a.Reason]
	case a.Err != nil:
		return wanted + ": " + a.Err.Error()
	default:
		return wanted
	}
}

// WhyGroup says in one line why the action on a group is done, or is not.
func WhyGroup(a *engine.GroupAction) string {
	text := When(a.When, &a.Measured)
	if a.Undo {
		text = "its group fires no more, or the rule or sockdog ends"
	}
	switch {
	case a.Reason != "":
		return words[a.Reason]
	case a.Err != nil:
		return text + ": " + a.Err.Error()
	case a.Found != "":
		return text + ": " + a.Found
	default:
		return text
	}
}

// When says what was measured of a group, and what its rule compares that with.
func When(when []rules.Condition, m *group.Measured) string {
	said := make([]string, len(when))
	for i, c := range when {
		said[i] = fmt.Sprintf("%s %s (%s)", c.Metric, m.Text(c.Metric), c)
	}
	return strings.Join(said, ", ")
}

// Wanted says in one line why a rule wants the socket; atLeast: its times are lower bounds.
func Wanted(g *engine.Grounds, s *sock.Socket, atLeast bool) string {
	inMs := func(d time.Duration) string {
		text := d.Truncate(time.Millisecond).String()
		if atLeast {
			return "≥" + text
		}
		return text
	}
	text := s.State.String() + " for " + inMs(g.InStateFor)
	if g.ShutFor > 0 {
		text += ", shut down " + inMs(g.ShutFor) + " ago"
	}
	if m := g.Match; m != nil && m.InStateFor > 0 {
		text += ", allowed " + m.InStateFor.String()
	}
	if m := g.Match; m != nil && m.IdleFor > 0 {
		text += ", idle for " + inMs(g.IdleFor) + ", allowed " + m.IdleFor.String()
	}
	if m := g.Match; m != nil && m.StalledFor > 0 {
		text += ", stalled for " + inMs(g.StalledFor) + ", allowed " + m.StalledFor.String()
	}
	if m := g.Match; m != nil && m.SilentFor > 0 {
		text += ", nothing received for " + inMs(g.SilentFor) + ", allowed " + m.SilentFor.String()
	}
	if v := match.Verdict(s); v != "" {
		text += ", " + string(v)
	}
	met := make([]string, len(g.When))
	for i, c := range g.When {
		met[i] = fmt.Sprintf("%s %s (fires at %s)", c.Metric, g.Group.Text(c.Metric), c)
	}
	if len(met) > 0 {
		text += ", one of a group with " + strings.Join(met, " and ")
	}
	return text
}
